"""What the data programs share: expected errors end them with a sentence instead of a traceback."""

import logging
import sys
from collections.abc import Callable


def run_program(main: Callable[[], int]) -> int:
    """Run a program's main.

    Returns:
        Its exit status; 1 after a wrong input, with the message on stderr. Bugs keep their traceback.
    """
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s: %(message)s")
    try:
        return main()
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
