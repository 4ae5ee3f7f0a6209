"""What the page is told of a recording: texts as transcribe has them, changed words, merged frames."""

import itertools

import pytest

from espnet_larm.listen.engine import WHOLE, Job, Merged
from espnet_larm.listen.segments import Segment
from espnet_larm.listen.transcriber import Progress
from espnet_larm.recognize.output.words import Word
from espnet_larm.serve.demo.recording import picture_line, text_lines


def segment(text, start_s=0.0):
    words = [Word(each, start_s + place, start_s + place + 0.5, 1.0, (0,)) for place, each in enumerate(text.split())]
    return Segment(start_s, start_s + len(words), text, tuple(words))


def job_of(*loops):
    return Job(loops, None, None, lambda words: " ".join(word.text for word in words))


def result_of(texts, **more):
    """The last line for texts by loop, all known at once."""
    job = job_of(*texts)
    segments = {loop: (segment(text),) if text else () for loop, text in texts.items()}
    return list(text_lines(job, [Progress(3.0, segments, dict.fromkeys(texts, 0.5), **more)]))[-1]


def changed(result, place):
    return [word["text"] for word in result["loops"][place]["words"] if word["is_changed"]]


def test_lines_tell_what_is_added_and_at_last_all():
    job = job_of(2, 4)
    parts = [
        Progress(1.0, {2: (segment("A B"),), 4: ()}, {2: 0.25, 4: 0.5}),
        Progress(2.0, {2: (segment("C", 2.0),), 4: (segment("D C"),)}, {2: 0.25, 4: 0.5}),
    ]
    *progress, result = text_lines(job, parts)
    assert [(line["kind"], line["end_s"], line["added"]) for line in progress] == [
        ("progress", 1.0, {2: "A B", 4: ""}),
        ("progress", 2.0, {2: "C", 4: "D C"}),
    ]
    assert result["kind"] == "result" and result["merged"] == [] and result["mean_loops"] is None
    assert [(each["loop"], each["text"], each["seconds"]) for each in result["loops"]] == [
        (2, "A B C", 0.5),
        (4, "D C", 1.0),
    ]
    assert result["loops"][0]["words"][2] == {"text": "C", "start_s": 2.0, "end_s": 2.5, "is_changed": False}


@pytest.mark.parametrize(
    ("before", "text", "wanted", "num_gone"),
    [
        ("A B C", "A B C", [], 0),
        ("A B C", "A X C", ["X"], 0),
        ("A C", "A B C", ["B"], 0),
        ("A B C", "A C", [], 1),
        ("", "A", ["A"], 0),
        ("A", "", [], 1),
    ],
)
def test_words_are_compared_with_those_of_the_loop_before(before, text, wanted, num_gone):
    result = result_of({1: "Q", 2: before, 3: text})
    assert changed(result, 2) == wanted and result["loops"][2]["num_gone"] == num_gone
    assert changed(result, 0) == [] and result["loops"][0]["num_gone"] == 0


def test_a_model_without_loops_has_one_text():
    (only,) = result_of({WHOLE: "A B"})["loops"]
    assert only["loop"] == WHOLE and only["text"] == "A B" and len(only["words"]) == 2


def test_loops_that_were_chosen_are_told_as_their_mean_over_speech():
    # 2 s of speech with 4 loops, and 1 s with 1.
    assert result_of({WHOLE: "A B"}, used=(3.0, 9.0))["mean_loops"] == 3.0


def test_merged_frames_are_told_with_their_edges():
    result = result_of({2: "A"}, merged=(Merged((0.0, 0.01, 0.0312345), 3),))
    assert result["merged"] == [{"edges_s": [0.0, 0.01, 0.0312], "num_frames": 3}]


def test_a_picture_is_of_a_file_that_can_be_read_and_is_not_too_long(make_audio, tmp_path):
    from pathlib import Path

    line = picture_line(Path(make_audio(seconds=1.5, rate=8000)), 16000, 2.0)
    assert line["kind"] == "sound" and line["seconds"] == pytest.approx(1.5, abs=0.001)
    with pytest.raises(ValueError, match=r"lasts 3 s; allowed: up to 2 s\."):
        picture_line(Path(make_audio("long.flac", seconds=3.0)), 16000, 2.0)
    (tmp_path / "text.mp3").write_text("no audio")
    with pytest.raises(ValueError, match=r"text\.mp3 is no audio"):
        picture_line(tmp_path / "text.mp3", 16000, 2.0)


def test_pooled_frames_reach_from_the_recogniser_to_the_line(pooled, tiny_experiment):
    from espnet_larm.listen.engine import Request

    path = tiny_experiment.data / "u1.wav"
    job = pooled.prepare(Request(pooled.loops))
    ((merged),) = list(text_lines(job, pooled.follow(job, path, vad=False)))[-1]["merged"]
    edges = merged["edges_s"]
    # 1.6 s in hops of 10 ms, with a frame at both ends.
    assert merged["num_frames"] == 161 > len(edges) - 1
    assert edges[0] == 0.0 and edges[-1] == pytest.approx(1.605)
    lengths = [after - before for before, after in itertools.pairwise(edges)]
    assert max(lengths) == pytest.approx(0.04) and all(round(1000 * each) % 5 == 0 for each in lengths)
