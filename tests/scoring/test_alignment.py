"""Counts beside a plain dynamic programme, and edge cases of texts."""

import numpy as np
import pytest

from espnet_larm.scoring.alignment import add_counts, align, split_characters, split_words


def edit_distance(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for number, unit in enumerate(reference, 1):
        previous, row = row, [number]
        for index, other in enumerate(hypothesis, 1):
            row.append(min(previous[index] + 1, row[-1] + 1, previous[index - 1] + (unit != other)))
    return row[-1]


def random_texts(number):
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(list("abcd"), size=generator.integers(0, 9))) for _ in range(number)]


@pytest.mark.parametrize("split", [split_words, split_characters])
def test_errors_are_the_edit_distance(split):
    references, hypotheses = random_texts(60)[:30], random_texts(60)[30:]
    for alignment, reference, hypothesis in zip(
        align(references, hypotheses, split), references, hypotheses, strict=True
    ):
        counts = alignment.counts
        assert counts.errors == edit_distance(split(reference), split(hypothesis))
        assert [ref for ref, _ in alignment.pairs if ref is not None] == split(reference)
        assert [hyp for _, hyp in alignment.pairs if hyp is not None] == split(hypothesis)
        assert counts.units == len(split(reference))


def test_kinds_of_errors_are_told_apart():
    counts = align(["a b c d"], ["a x c d e f"], split_words)[0].counts
    assert (counts.correct, counts.substitutions, counts.deletions, counts.insertions) == (3, 1, 0, 2)
    assert align(["a b c"], ["a"], split_words)[0].counts.deletions == 2


def test_empty_texts_are_insertions_or_deletions():
    first, second, third = align(["", "a b", ""], ["a b", "", ""], split_words)
    assert (first.counts.insertions, second.counts.deletions, third.counts.errors) == (2, 2, 0)
    assert third.counts.wrong_sentences == 0


def test_no_utterances_have_no_rate():
    assert align([], [], split_words) == []
    assert np.isnan(add_counts([]).error_percent)


def test_space_is_a_character():
    assert split_characters("a  bc") == ["a", "<space>", "b", "c"]


def test_counts_add_up():
    counts = [alignment.counts for alignment in align(["a b", "c"], ["a", "d e"], split_words)]
    total = add_counts(counts)
    assert (total.units, total.errors, total.sentences, total.wrong_sentences) == (3, 3, 2, 2)
    assert total.error_percent == 100.0
