"""Joining of overlapping pieces: no word twice, none lost."""

import pytest

from espnet_larm.recognize.long.joining import join
from espnet_larm.recognize.output.words import Word


def word(text, start_s, end_s=None):
    return Word(text, start_s, start_s + 0.2 if end_s is None else end_s, 1.0, tuple(map(ord, text)))


def texts(words):
    return " ".join(word.text for word in words)


def heard(sentence, start_s, end_s, shift_s=0.0):
    """The words of a sentence, one every half second, that begin in a stretch of time."""
    words = [word(text, 0.5 * index + shift_s) for index, text in enumerate(sentence.split())]
    return [one for one in words if start_s <= one.start_s < end_s]


def test_pieces_without_overlap_are_put_together():
    assert texts(join([word("A", 0)], [word("B", 5)], 5.0, 5.0)) == "A B"


@pytest.mark.parametrize("shift_s", [-0.08, 0.0, 0.08])
def test_words_heard_twice_are_taken_once(shift_s):
    sentence = "ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE TEN"
    before, after = heard(sentence, 0, 3.4), heard(sentence, 1.6, 5, shift_s)
    assert texts(join(before, after, 1.4, 3.4)) == sentence


def test_halves_of_words_at_the_edges_of_the_overlap_are_left_out():
    before = [*heard("A B C D E F", 0, 2.4), word("F", 2.5, 2.6), word("GA", 2.8, 2.9)]
    after = [word("AR", 1.0, 1.1), *heard("A B C D E F G", 1.4, 4)]
    assert texts(join(before, after, 1.0, 3.0)) == "A B C D E F G"


def test_repeated_words_are_not_merged():
    before = [word("NO", 0.0), word("NO", 1.0), word("NO", 2.0)]
    after = [word("NO", 1.02), word("NO", 2.02), word("NO", 3.02)]
    assert texts(join(before, after, 0.8, 2.6)) == "NO NO NO NO"


@pytest.mark.parametrize("shift_s", [-0.04, 0.0, 0.04])
def test_equal_tokens_in_a_row_are_not_doubled(shift_s):
    spelt = [
        word(letter, 0.1 * index, 0.1 * index + 0.06)
        for index, letter in enumerate("HELLO BALLOON ALL SEEN".replace(" ", ""))
    ]
    after = [one._replace(start_s=one.start_s + shift_s, end_s=one.end_s + shift_s) for one in spelt]
    for middle in range(4, 15):
        joined = join(spelt[: middle + 4], after[middle - 4 :], 0.1 * (middle - 4), 0.1 * (middle + 4))
        assert "".join(one.text for one in joined) == "HELLOBALLOONALLSEEN"


def test_without_agreement_the_change_is_where_neither_has_a_word():
    before = [word("A", 0.2), word("B", 1.2), word("X", 2.3)]
    after = [word("Y", 0.4), word("Z", 1.3), word("C", 2.4)]
    assert texts(join(before, after, 0.0, 3.6)) == "A B C"


def test_words_at_the_seam_do_not_overlap():
    joined = join([word("A", 0.0, 2.2)], [word("B", 1.8, 4.0)], 0.5, 3.5)
    assert [(one.text, one.start_s, one.end_s) for one in joined] == [("A", 0.0, 1.8), ("B", 1.8, 4.0)]


def test_silent_overlap_keeps_both_sides():
    assert texts(join([word("A", 0.0)], [word("B", 9.0)], 4.0, 8.0)) == "A B"
    assert join([], [], 1.0, 2.0) == []
