"""Guards of growing texts."""

import pytest

from espnet_larm.search.hypotheses import LONGEST_PART, MIN_COPIES, MIN_LOOP, Bounds, Ended, TokenHypothesis, loop_start

EOS = 2


@pytest.mark.parametrize("part", [1, 2, 3, 7, 8, 31, LONGEST_PART])
def test_a_loop_is_found_at_the_token_that_makes_it_one(part):
    start, loop = [90, 91, 92], list(range(part))
    copies = max(MIN_COPIES, -(-MIN_LOOP // part))
    text = start + loop * copies
    assert loop_start(text) == len(start) + part
    assert all(loop_start(text[:length]) is None for length in range(len(text)))


@pytest.mark.parametrize(
    "text",
    [
        [],
        [4] * (MIN_LOOP - 1),
        [4, 5] * (MIN_LOOP // 2 - 1),
        list(range(LONGEST_PART)) * (MIN_COPIES - 1),
        list(range(LONGEST_PART + 1)) * MIN_COPIES,
        [*[4] * (MIN_LOOP - 1), 5],
    ],
)
def test_what_people_say_is_no_loop(text):
    assert loop_start(text) is None


def test_of_ended_texts_that_spell_the_same_the_best_is_kept():
    ended = Ended(2, len)
    for tokens, score in (([4], -3.0), ([5], -2.0), ([6], -4.0)):
        text = TokenHypothesis(Bounds(9))
        for token in tokens:
            text.add(token, score, -9.0, EOS)
        text.add(EOS, 0.0, 0.0, EOS)
        ended.add(text)
    assert [text.token_ids for text in ended.best()] == [[5]] and ended.least == float("-inf")
    empty = TokenHypothesis(Bounds(9))
    empty.add(EOS, -1.0, -1.0, EOS)
    ended.add(empty)
    assert [text.token_ids for text in ended.best()] == [[], [5]] and ended.least == -2.0
