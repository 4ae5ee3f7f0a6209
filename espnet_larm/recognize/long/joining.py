"""Joins hypotheses of overlapping pieces of audio: no word twice, none lost.

A word that both pieces have at about the same time is an anchor: what comes before is taken from the first piece, what
comes after from the second. Without an anchor the change is made where neither has a word, or where it cuts least.
Both rules stay near the middle of the overlap: at its edges one of the pieces has half a word.
"""

from collections.abc import Sequence

from espnet_larm.recognize.output.words import Word

# Peaks of one word in two pieces differ by a frame or two.
SAME_TIME_S = 0.2
STEP_S = 0.02
# Beyond this, nearness to the middle counts more.
ENOUGH_ROOM_S = 0.5


def join(before: Sequence[Word], after: Sequence[Word], start_s: float, end_s: float) -> list[Word]:
    """Words of both pieces together.

    Args:
        before: Words of the first piece, in order.
        after: Words of the second piece, in order; times on the same scale.
        start_s: Where the overlap starts.
        end_s: Where it ends.

    Returns:
        Words in order.
    """
    if start_s >= end_s:
        return [*before, *after]
    middle_s = (start_s + end_s) / 2
    near = [index for index, word in enumerate(before) if word.end_s > start_s]
    # Of equal tokens in a row, those of one moment are one: the other pair would double a token.
    anchors = [
        (abs(first.middle_s - middle_s), abs(first.middle_s - second.middle_s), i, j)
        for i in near
        for j, second in enumerate(after)
        if (first := before[i]).token_ids == second.token_ids and abs(first.middle_s - second.middle_s) <= SAME_TIME_S
    ]
    if anchors:
        *_, i, j = min(anchors)
        return _meet(before[: i + 1], after[j + 1 :])
    seam_s = _seam(before, after, start_s, end_s)
    return _meet(
        [word for word in before if word.middle_s < seam_s], [word for word in after if word.middle_s >= seam_s]
    )


def _meet(before: Sequence[Word], after: Sequence[Word]) -> list[Word]:
    """One after the other, the words at the seam trimmed so that they do not overlap."""
    if not before or not after or before[-1].end_s <= after[0].start_s:
        return [*before, *after]
    seam_s = max(before[-1].start_s, after[0].start_s)
    return [*before[:-1], before[-1]._replace(end_s=seam_s), after[0]._replace(start_s=seam_s), *after[1:]]


def _seam(before: Sequence[Word], after: Sequence[Word], start_s: float, end_s: float) -> float:
    """The moment of the overlap's inner half that is farthest from all words of both, near its middle."""
    middle_s, quarter = (start_s + end_s) / 2, (end_s - start_s) / 4
    near = [word for word in (*before, *after) if word.end_s > start_s and word.start_s < end_s]
    steps = int(quarter / STEP_S)
    moments = [middle_s + STEP_S * step for step in range(-steps, steps + 1)]
    return max(moments, key=lambda moment: (round(_clearance(near, moment), 3), -abs(moment - middle_s)))


def _clearance(words: Sequence[Word], moment: float) -> float:
    """Seconds to the nearest word; below 0 inside one, the distance to its nearer edge."""
    return min([ENOUGH_ROOM_S, *(max(word.start_s - moment, moment - word.end_s) for word in words)])
