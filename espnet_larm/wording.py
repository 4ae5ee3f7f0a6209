"""Words that messages share."""

from collections.abc import Sequence


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
