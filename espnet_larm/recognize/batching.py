"""Which utterances are decoded together."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby


def batches_by_length(lengths: Sequence[int], max_padded: float, max_count: int | None = None) -> list[list[int]]:
    """Batches of utterances of similar length, the longest first, so that too little memory shows at once.

    Args:
        lengths: Of each utterance, in any unit.
        max_padded: Longest length x number of utterances that a batch may have; a longer utterance goes alone.
        max_count: Utterances that a batch may have, 1 or more; without bound by default.

    Returns:
        Indices into `lengths`, each once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        batch = batches[-1] if batches else []
        fits = bool(batch) and lengths[batch[0]] * (len(batch) + 1) <= max_padded
        if fits and (max_count is None or len(batch) < max_count):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def same_length(lengths: Mapping[int, int]) -> Iterator[list[int]]:
    """The keys in groups of equal length, which need no padding."""
    for _, group in groupby(sorted(lengths, key=lengths.__getitem__), key=lengths.__getitem__):
        yield list(group)
