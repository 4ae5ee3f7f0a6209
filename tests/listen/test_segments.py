"""Words to segments: bounds of subtitles, and pieces that overlap."""

import itertools
import math

import pytest

from espnet_larm.listen.segments import Phrases, spread, wrap
from espnet_larm.recognize.output.words import Word


def say(text, start_s=0.0, each_s=0.3):
    """Words one after the other, each of `each_s`."""
    return [
        Word(word, start_s + each_s * place, start_s + each_s * (place + 1), 1.0, tuple(map(ord, word)))
        for place, word in enumerate(text.split())
    ]


def text_of(words):
    return " ".join(word.text for word in words)


def segments(words, overlap_s=4.0):
    phrases = Phrases(text_of, overlap_s)
    return [*phrases.add(words, 0.0, 0.0, 1000.0), *phrases.finish()]


def test_a_pause_and_the_end_of_a_sentence_end_a_segment():
    words = [*say("one two three four"), *say("five six seven eight.", 3.0), *say("nine ten eleven twelve", 4.2)]
    assert [each.text for each in segments(words)] == [
        "one two three four",
        "five six seven eight.",
        "nine ten eleven twelve",
    ]


def test_segments_are_subtitles_of_two_lines_and_one_to_seven_seconds():
    words = say("supercalifragilistic and some more of it " * 40, each_s=0.4) + say("end.", 200.0)
    found = segments(words)
    assert text_of(words) == " ".join(each.text for each in found)
    for each, following in zip(found, [*found[1:], None], strict=True):
        assert len(wrap(each.text)) <= 2 and max(map(len, wrap(each.text))) <= 42
        assert 1.0 <= each.end_s - each.start_s <= 7.0
        assert following is None or each.end_s <= following.start_s


def test_short_sentences_share_a_segment_until_a_second_has_passed():
    found = segments([*say("Yes. No. Yes. No. Maybe.", each_s=0.4)])
    assert [each.text for each in found] == ["Yes. No. Yes.", "No. Maybe."]
    assert found[-1].end_s == found[-1].start_s + 1.0


def test_lines_are_about_as_long_as_each_other():
    assert wrap("a short one") == ["a short one"]
    assert wrap("Philip snatched at the letter that Gregson held out") == [
        "Philip snatched at the",
        "letter that Gregson held out",
    ]


def test_pieces_give_what_the_whole_gives_and_no_word_twice():
    words = say("this is a long story that goes on and on. " * 12)
    whole = segments(words)
    phrases = Phrases(text_of, 4.0)
    found = []
    for start_s, end_s, overlap_s in ((0.0, 15.0, 0.0), (11.0, 26.0, 4.0), (22.0, 37.0, 4.0)):
        part = [word for word in words if start_s <= word.start_s and word.end_s <= end_s]
        before = len(found)
        found += phrases.add(part, start_s, overlap_s, end_s)
        # What a later piece may change is held back, and the rest is not.
        assert len(found) > before and all(each.end_s <= end_s - 4.0 for each in found)
    assert [*found, *phrases.finish()] == whole


def test_words_without_times_share_them_by_letters():
    first, second = spread("a abc", 1.0, 4.0)
    assert (first.text, first.start_s, first.end_s) == ("a", 1.0, 2.0)
    assert (second.text, second.start_s, second.end_s) == ("abc", 2.0, 4.0)
    assert first.token_ids != second.token_ids and math.isnan(first.confidence)
    assert spread(" ", 0.0, 1.0) == ()


def test_nothing_said_is_no_segment():
    assert segments([]) == []


@pytest.mark.parametrize("gap_s", [0.2, 3.0])
def test_a_segment_that_is_read_on_never_covers_the_next(gap_s):
    found = segments([*say("One."), *say("Two.", 0.3 + gap_s), *say("Three.", 8.0)])
    assert all(one.end_s <= two.start_s for one, two in itertools.pairwise(found))
