"""What our programs share: errors that the package states end them with a sentence instead of a traceback."""

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import espnet_larm

PACKAGE = Path(espnet_larm.__file__).parent


def run_program(main: Callable[[], int]) -> int:
    """Run a program's main.

    Returns:
        Its exit status; 1 after a wrong input, with the message on stderr. An error of these kinds that no `raise` of
        the package made may be a bug: its traceback stands before the message. Errors of other kinds are raised.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s: %(message)s")
    try:
        return main()
    except (ValueError, TypeError, OSError, ImportError) as error:
        if not is_stated(error):
            traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr)
        return 1


def is_stated(error: BaseException) -> bool:
    """Whether the message was written for whoever runs the program: by the package's `raise`, or by the system."""
    if isinstance(error, OSError) or type(error).__module__.startswith(f"{espnet_larm.__name__}."):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE) and (last.line or "").startswith("raise ")
