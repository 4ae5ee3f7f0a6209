"""What our programs share: errors that end with a sentence, and handing over to ESPnet's program of the same name."""

import argparse
import importlib
import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from espnet_larm import registry
from espnet_larm.errors import is_stated
from espnet_larm.process import ends_with_its_reader, set_up

logger = logging.getLogger(__name__)


def run_program(main: Callable[[], int]) -> int:
    """Run a program's main.

    Returns:
        Its exit status; 1 after a wrong input, with the message on stderr. An error of these kinds that no `raise` of
        the package made may be a bug: its traceback stands before the message. Errors of other kinds are raised.

    Raises:
        SystemExit: Nobody reads stdout any more.
    """
    set_up()
    # ESPnet's format, which its recipes read times from.
    logging.basicConfig(level="INFO", format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s")
    try:
        with ends_with_its_reader():
            return main()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if not is_stated(error):
            traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr)
        return 1


def hand_over(name: str, cmd: list[str] | None, reason: str, asked: Sequence[str]) -> int:
    """Let ESPnet's own program do what ours cannot, with the plugins registered.

    Args:
        name: Of the program, `asr_inference` for example.
        cmd: Its arguments; those of this process by default.
        reason: What ours cannot do.
        asked: Options of ours that were given, which ESPnet's program does not know.

    Raises:
        ValueError: There are such options.
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
    """Names of those options whose values are not the defaults."""
    return [action.dest for action in actions if getattr(args, action.dest) != action.default]
