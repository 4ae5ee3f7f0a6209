"""What our programs share: errors that the package states end them with a sentence instead of a traceback."""

import logging
import sys
import traceback
from collections.abc import Callable

from espnet_larm.process import ends_with_its_reader, set_up
from espnet_larm.stated import is_stated


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
