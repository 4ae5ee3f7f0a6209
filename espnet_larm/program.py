"""Code that our programs share: errors that end in a sentence, and hand-over to ESPnet's own program."""

import argparse
import difflib
import functools
import importlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espnet_larm import registry
from espnet_larm.errors import is_stated
from espnet_larm.files.disk import OUTPUT, FullDiskError, names_full_disk
from espnet_larm.files.reading import read_yaml
from espnet_larm.process import drop_output_without_room, ends_with_its_reader, set_up

logger = logging.getLogger(__name__)

# Clients of huggingface_hub, whose loggers say at INFO what each request was.
LINE_A_REQUEST = ("httpx", "httpx2")


def run_program(main: Callable[[], int]) -> int:
    """Run a program's main.

    Returns:
        The exit status; 1 after a wrong input, with the message on stderr. Its traceback comes first if no `raise` of
        the package made the error, which may be a bug. Errors of other kinds are raised.

    Raises:
        SystemExit: The reader of stdout is gone.
    """
    set_up()
    # ESPnet's format, which its recipes read times from.
    logging.basicConfig(level="INFO", format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s")
    for name in LINE_A_REQUEST:
        logging.getLogger(name).setLevel("WARNING")
    try:
        with names_full_disk(OUTPUT), ends_with_its_reader():
            return main()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if isinstance(error, FullDiskError):
            drop_output_without_room()
        if not is_stated(error):
            traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr)
        return 1


def hand_over(name: str, cmd: list[str] | None, reason: str, asked: Sequence[str]) -> int:
    """Run ESPnet's own program, with the plugins registered, for a task that ours cannot do.

    Args:
        name: Name of the program, `asr_inference` for example.
        cmd: Its arguments; by default those of this process.
        reason: Why our program cannot do it.
        asked: Given options of ours, which ESPnet's program does not know.

    Raises:
        ValueError: Such options were given, or ESPnet's program fails.
    """
    if asked:
        raise ValueError(
            f"{reason}: that needs ESPnet's own {name}, but --{asked[0]} is an option of ours; leave one of both out."
        )
    logger.info("%s: ESPnet's own %s takes over.", reason, name)
    registry.register()
    try:
        importlib.import_module(f"espnet2.bin.{name}").main(cmd)
    except OSError:
        raise
    except Exception as error:
        logger.debug("Where it failed:", exc_info=True)
        said = " ".join(str(error).split())
        raise ValueError(
            f"{reason}, and ESPnet's own {name} fails: {type(error).__name__}: {said} (--log_level DEBUG tells where)."
        ) from error
    return 0


def given(args: argparse.Namespace, actions: Sequence[argparse.Action]) -> list[str]:
    """Names of options whose values differ from the defaults."""
    return [action.dest for action in actions if getattr(args, action.dest) != action.default]


def check_config_first(parser: argparse.ArgumentParser) -> None:
    """Have one of ESPnet's parsers end at a wrong file of --config with a sentence, and name all its unknown keys."""
    # The doctor imports this file where nothing is installed yet.
    import yaml

    parse = parser.parse_known_args
    for action in parser._actions:
        if "parse_size" in getattr(action.type, "__name__", ""):
            action.type = _as_argparse_expects(action.type)

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        try:
            _check_config(parser, args)
        except (OSError, ValueError) as error:
            parser.exit(2, f"{parser.prog}: error: --config {error}\n")
        try:
            return parse(args, namespace)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            parser.exit(2, f"{parser.prog}: error: a section is no YAML: {said}; write NAME=VALUE.\n")

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def _as_argparse_expects(read: Any) -> Callable[[str], Any]:
    """The same reader of a word, with errors that argparse turns into a sentence; humanfriendly has its own."""

    @functools.wraps(read)
    def read_or_refuse(word: str) -> Any:
        try:
            return read(word)
        except Exception as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read_or_refuse


def _check_config(parser: argparse.ArgumentParser, cmd: Sequence[str] | None) -> None:
    only_config = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    only_config.add_argument("--config", nargs="?", help="YAML file of options")
    path = vars(only_config.parse_known_args(cmd)[0]).get("config")
    if path is None:
        return
    known = [action.dest for action in parser._actions]
    if unknown := [name for name in read_yaml(Path(path)) if name not in known]:
        near = ((name, difflib.get_close_matches(name, known, n=1)) for name in unknown)
        listed = ", ".join(f"{name} (did you mean {found[0]}?)" if found else name for name, found in near)
        raise ValueError(f"{path}: {listed}: no option of this program; --help lists them.")
