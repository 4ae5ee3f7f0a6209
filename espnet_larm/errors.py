"""Errors written for whoever runs a program (others need their traceback), and words that their messages share."""

import traceback
from collections.abc import Sequence
from pathlib import Path

NAME = __name__.partition(".")[0]
PACKAGE = Path(__file__).parent


class OptionError(ValueError):
    """An option is wrong; the message says which, and what to do."""


class DataError(ValueError):
    """Data is wrong; the message names the utterance, and what to do."""


def is_stated(error: BaseException, others: tuple[str, ...] = ()) -> bool:
    """Whether the message is meant for users: from the system, of a class of ours, or from a `raise` of ours.

    Args:
        error: The error, as it was caught.
        others: Further packages or modules whose `raise` counts.
    """
    if isinstance(error, OSError) or type(error).__module__.startswith(f"{NAME}."):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    if not (last.line or "").startswith("raise "):
        return False
    frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    # The file counts, since the module of the program that runs is named __main__.
    is_ours = Path(last.filename).is_relative_to(PACKAGE)
    return is_ours or f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in others))


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
