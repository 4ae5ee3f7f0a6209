"""Batches by length."""

import pytest

from espnet_larm.recognize.model.features import batches_by_length, same_length


def test_every_utterance_is_in_one_batch_the_longest_first():
    batches = batches_by_length([3, 9, 4, 9, 1, 6], max_padded=18)
    assert batches == [[1, 3], [5, 2, 0], [4]]


@pytest.mark.parametrize("most", [1, 10, 25, 1000])
def test_padded_length_is_bounded_but_for_one_utterance_alone(most):
    lengths = [3, 9, 4, 9, 1, 6, 30]
    batches = batches_by_length(lengths, most)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= most for batch in batches)


def test_count_is_bounded():
    assert [len(batch) for batch in batches_by_length([5] * 7, 1000, max_count=3)] == [3, 3, 1]


def test_no_utterances_are_no_batches():
    assert batches_by_length([], 10) == []


def test_same_length_groups_by_equality():
    assert list(same_length({0: 5, 1: 3, 2: 5, 4: 3})) == [[1, 4], [0, 2]]
