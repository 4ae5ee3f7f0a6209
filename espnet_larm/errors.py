"""Which errors were written for whoever runs a program; what others say needs its traceback."""

import traceback
from pathlib import Path

import espnet_larm

PACKAGE = Path(espnet_larm.__file__).parent


class OptionError(ValueError):
    """An option is wrong; the message says which, and what to do."""


def is_stated(error: BaseException, others: tuple[str, ...] = ()) -> bool:
    """Whether an error was made by the system, is of a class of this package, or by a `raise` in the package.

    Args:
        error: As it was caught.
        others: Further packages or modules whose `raise` counts.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith(f"{espnet_larm.__name__}."):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not (last.line or "").startswith("raise "):
        return False
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    # By its file, since the module of the program that runs is named __main__.
    is_ours = Path(last.filename).is_relative_to(PACKAGE)
    return is_ours or f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in others))
