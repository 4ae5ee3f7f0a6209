"""result.txt: the lines that other tools and people look for."""

from espnet_larm.scoring.alignment import align, split_words
from espnet_larm.scoring.sclite import format_result

REFERENCES = {"s1-a": "ONE TWO THREE", "s1-b": "FOUR", "s2-c": "FIVE SIX"}
HYPOTHESES = ["ONE TOO THREE FOUR", "FOUR", "SIX"]


def result(references=REFERENCES, hypotheses=HYPOTHESES):
    alignments = dict(zip(references, align(list(references.values()), hypotheses, split_words), strict=True))
    return format_result("test: WER", alignments, {key: key.partition("-")[0] for key in references})


def rows(text):
    lines = [line.strip("|").replace("|", " ").split() for line in text.splitlines() if line.startswith("| ")]
    return {words[0]: words[1:] for words in lines}


def test_speakers_and_sum_have_a_row():
    found = rows(result())
    assert found["s1"] == ["2", "4", "75.0", "25.0", "0.0", "25.0", "50.0", "50.0"]
    assert found["s2"] == ["1", "2", "50.0", "0.0", "50.0", "0.0", "50.0", "100.0"]
    assert found["Sum/Avg"] == ["3", "6", "66.7", "16.7", "16.7", "16.7", "50.0", "66.7"]
    assert found["Mean"] == ["1.5", "3.0", "62.5", "12.5", "25.0", "12.5", "50.0", "75.0"]


def test_table_is_a_rectangle():
    table = result().split("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1


def test_long_names_of_speakers_fit():
    long = {"a-very-long-speaker-name": "ONE"}
    alignments = dict(zip(long, align(["ONE"], ["ONE"], split_words), strict=True))
    table = format_result("x", alignments, {key: key for key in long}).split("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1


def test_alignment_stands_in_columns():
    lines = result().splitlines()
    start = lines.index("id: (s1-a)")
    assert lines[start + 1 : start + 5] == [
        "Scores: (#C #S #D #I) 2 1 0 1",
        "REF:  ONE TWO THREE ****",
        "HYP:  ONE TOO THREE FOUR",
        "Eval:     S         I",
    ]
    start = lines.index("id: (s2-c)")
    assert lines[start + 2 : start + 5] == ["REF:  FIVE SIX", "HYP:  **** SIX", "Eval: D"]


def test_speaker_without_words_is_written():
    text = result({"s1-a": "", "s2-b": "ONE"}, ["TWO", "ONE"])
    assert rows(text)["Sum/Avg"][:2] == ["2", "1"]


def test_no_utterances_are_an_empty_table():
    assert "Sum/Avg" in format_result("x", {}, {})
