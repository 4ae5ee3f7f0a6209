"""Code that our programs share: errors that end in a sentence, and hand-over to ESPnet's own program."""

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from espnet_larm import registry
from espnet_larm.errors import is_stated
from espnet_larm.files import OUTPUT, FullDiskError, names_full_disk
from espnet_larm.process import drop_output_without_room, ends_with_its_reader, set_up

logger = logging.getLogger(__name__)


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
        ValueError: Such options were given.
    """
    if asked:
        raise ValueError(
            f"{reason}: that needs ESPnet's own {name}, but --{asked[0]} is an option of ours; leave one of both out."
        )
    logger.info("%s: ESPnet's own %s takes over.", reason, name)
    registry.register()
    importlib.import_module(f"espnet2.bin.{name}").main(cmd)
    return 0


def given(args: argparse.Namespace, actions: Sequence[argparse.Action]) -> list[str]:
    """Names of options whose values differ from the defaults."""
    return [action.dest for action in actions if getattr(args, action.dest) != action.default]
