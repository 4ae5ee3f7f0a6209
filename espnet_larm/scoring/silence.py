"""What is said of hypotheses without words, in place of a table of 100 %."""

from collections.abc import Mapping
from typing import Any


def is_silent(scores: Mapping[str, Any]) -> bool:
    """Whether hypotheses hold hardly any word, as those of a CTC head that has learned nothing but its blank.

    Args:
        scores: Word errors, as `scores.json` has them: at most a word in ten is written, and one in a hundred right.
    """
    written = scores["correct"] + scores["substitutions"] + scores["insertions"]
    return bool(scores["units"]) and 10 * written <= scores["units"] and 100 * scores["correct"] <= scores["units"]


def describe_silence(scores: Mapping[str, Any]) -> str:
    """A sentence for `is_silent` hypotheses, in place of a table of 100 %."""
    written = scores["correct"] + scores["substitutions"] + scores["insertions"]
    return (
        f"nothing was recognised: {written} words were written where {scores['units']} were said. A CTC head that "
        "writes nothing is still on the blank plateau that its training begins on: train it for longer, or begin with "
        "smaller batches and without SpecAugment (docs/howto/training.md, the blank plateau)."
    )
