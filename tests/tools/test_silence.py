"""tools/bench/silence.py: silences are where and what it says, and errors are counted at each read-out."""

import sys

import numpy as np
import pytest
import silence as tool

from espnet_larm.listen.speech import Stretch
from espnet_larm.recognize.output.results import EMPTY, Transcript


def said(text):
    return EMPTY._replace(text=text)


SPEECH = np.full(100, 0.5)


def test_no_seconds_leave_the_speech_as_it_is():
    assert np.array_equal(tool.surround(SPEECH, 0.0, 16000, None), SPEECH)


def test_digital_silence_is_zero_on_both_sides():
    samples = tool.surround(SPEECH, 0.1, 1000, None)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, np.concatenate([np.zeros(100), SPEECH, np.zeros(100)]))


def test_faint_noise_is_of_its_level_and_another_one_on_each_side():
    samples = tool.surround(SPEECH, 2.0, 1000, np.random.default_rng(0))
    before, after = samples[:2000], samples[2100:]
    for side in (before, after):
        assert 20 * np.log10(np.sqrt(np.mean(side**2))) == pytest.approx(tool.FAINT_NOISE_DB, abs=0.5)
    assert np.array_equal(samples[2000:2100], SPEECH) and not np.array_equal(before, after)


def test_each_kind_and_length_is_decoded_and_told_by_loop(larm_task, tiny_experiment, monkeypatch, capsys):
    options = ["--exp_dir", tiny_experiment.config.parent, "--asr_model_file", tiny_experiment.model.name]
    options += ["--data_dir", tiny_experiment.data, "--seconds", "0", "0.3"]
    monkeypatch.setattr(sys, "argv", ["silence.py", *map(str, options)])
    monkeypatch.setattr(tool.logging, "disable", lambda _: None)
    tool.main()
    head, _, *rows = (line.strip("|").split("|") for line in capsys.readouterr().out.splitlines())
    assert [cell.strip() for cell in head[2:]] == ["WER %, loop 2", "errors", "WER %, loop 4", "errors"]
    assert [tuple(cell.strip() for cell in row[:2]) for row in rows] == [
        ("digital", "0"), ("digital", "0.3"), ("faint noise", "0"), ("faint noise", "0.3")
    ]  # fmt: skip
    assert rows[0][2:] == rows[2][2:]


def texts_of(transcripts):
    return [[each.text for each in transcript.hypotheses.values()] for transcript in transcripts]


def test_with_the_gate_silence_around_the_speech_changes_no_text(tiny_experiment, monkeypatch):
    """A detector that hears all but zeros stands for the real one, which hears nothing in the tiny set's noise."""

    def find(samples, _):
        loud = np.flatnonzero(samples)
        return [Stretch(int(loud[0]), int(loud[-1]) + 1)] if len(loud) else []

    monkeypatch.setattr(tool, "find_speech", find)
    options = ["--exp_dir", tiny_experiment.config.parent, "--asr_model_file", tiny_experiment.model.name, "--vad"]
    args = tool.get_parser().parse_args([str(each) for each in (*options, "--data_dir", tiny_experiment.data)])
    bench = tool.Bench(args)
    samples = list(bench.audio.values())
    texts = [texts_of(bench.recognize(samples))]
    for seconds in tool.SECONDS:
        around = [tool.surround(each, seconds, 16000, None) for each in samples]
        texts.append(texts_of(bench.recognize_speech(around)))
    assert texts[1:] == texts[:1] * len(tool.SECONDS)
    assert texts_of(bench.recognize(around)) != texts[0]
    silence = bench.recognize_speech([np.zeros(16000, np.float32)])
    assert texts_of(silence) == [["", ""]]


def test_texts_of_stretches_are_joined_at_each_loop():
    joined = tool.join_transcripts(
        [Transcript({2: said("a"), 4: said("b")}), Transcript({2: said("c"), 4: said("d")})], [2, 4]
    )
    assert [each.text for each in joined.hypotheses.values()] == ["a c", "b d"]


def test_words_are_counted_over_all_utterances_at_each_loop():
    heard = [Transcript({2: said("a"), 4: said("a b")}), Transcript({2: said("x c d"), 4: said("c")})]
    counts = tool.count_errors(["a b", "c"], heard)
    assert {number: (one.errors, one.units) for number, one in counts.items()} == {2: (3, 3), 4: (0, 3)}
    assert (
        list(tool.format_rows([tool.Row("digital", 0.25, counts)]))[2] == "| digital | 0.25 | 100.00 | 3 | 0.00 | 0 |"
    )


def test_negative_seconds_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["silence.py", "--exp_dir", "x", "--data_dir", "x", "--seconds", "-1"])
    with pytest.raises(SystemExit, match="--seconds -1 is not allowed; allowed: 0 or more"):
        tool.main()
