"""Files of a transcription."""

import json

import pytest

from espnet_larm.listen.formats import FORMATS, Written
from espnet_larm.listen.segments import Segment
from espnet_larm.recognize.output.words import Word

WORDS = (Word("Hello", 0.5, 0.9, 0.75, (1,)), Word("you", 3661.0, 3661.25, float("nan"), (2,)))
SEGMENTS = (
    Segment(0.5, 1.5, "Hello", WORDS[:1]),
    Segment(3661.0, 3662.0, "you & <them>, who read what does not fit into one line", WORDS[1:]),
)


def written(**changes):
    return Written("a.wav", "model.zip", 4, 3700.0, None, "Hello you", SEGMENTS, words=False)._replace(**changes)


def test_text_is_a_paragraph_or_a_line_a_word():
    assert FORMATS["txt"](written()) == "Hello you\n"
    assert FORMATS["txt"](written(words=True)) == "0.50\t0.90\tHello\n3661.00\t3661.25\tyou\n"


def test_subrip_has_numbers_commas_and_an_empty_line_between():
    assert FORMATS["srt"](written()) == (
        "1\n00:00:00,500 --> 00:00:01,500\nHello\n\n"
        "2\n01:01:01,000 --> 01:01:02,000\nyou & <them>, who read what\ndoes not fit into one line\n"
    )


def test_webvtt_has_a_head_points_and_no_bare_markup():
    assert FORMATS["vtt"](written()) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nHello\n\n"
        "01:01:01.000 --> 01:01:02.000\nyou &amp; &lt;them>, who read what\ndoes not fit into one line\n"
    )


def test_the_table_is_in_milliseconds():
    assert FORMATS["tsv"](written()).splitlines()[:2] == ["start\tend\ttext", "500\t1500\tHello"]
    assert FORMATS["tsv"](written(words=True)).splitlines()[2] == "3661000\t3661250\tyou"


def test_json_has_all_that_is_known_and_no_more():
    found = json.loads(FORMATS["json"](written()))
    assert found["segments"][0] == {"start": 0.5, "end": 1.5, "text": "Hello"}
    assert (found["loop"], found["duration"], found["text"], "language" in found) == (4, 3700.0, "Hello you", False)
    words = [each["words"] for each in json.loads(FORMATS["json"](written(words=True)))["segments"]]
    assert words[0] == [{"word": "Hello", "start": 0.5, "end": 0.9, "confidence": 0.75}]
    assert "confidence" not in words[1][0]


@pytest.mark.parametrize("name", FORMATS)
def test_a_recording_without_speech_has_valid_files(name):
    found = FORMATS[name](written(text="", segments=()))
    assert found in {"\n", "", "WEBVTT\n", "start\tend\ttext\n"} or json.loads(found)["segments"] == []
