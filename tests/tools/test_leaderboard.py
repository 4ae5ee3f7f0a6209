"""tools/bench/leaderboard.py: sets are read, normalised, recognised in batches, timed and written as there."""

import json
import sys

import leaderboard as tool
import pytest

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recognize.config import DecodeConfig


@pytest.fixture
def manifest(tiny_experiment, tmp_path):
    """Seven utterances in NeMo's form, one without words and one that is not scored."""
    texts = ["AB C", "AB C", "", "Ignore Time Segment in scoring", "AB C", "AB C", "AB C"]
    paths = read_table(tiny_experiment.data / "wav.scp").values()
    rows = [{"audio_filepath": path, "text": text} for path, text in zip(paths, texts, strict=True)]
    path = tmp_path / "sets/noise.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def run(tiny_pack, manifest, tmp_path, monkeypatch, capsys):
    """Run the program on sets with the tiny model, and return its table."""

    def run(*options, manifests=(manifest,)):
        command = ["--model_id", tiny_pack, "--output_dir", tmp_path / "out", "--manifests", *manifests]
        monkeypatch.setattr(sys, "argv", ["leaderboard.py", *map(str, [*command, "--normaliser", "none", *options])])
        tool.main()
        return [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]

    return run


def results(folder):
    (path,) = folder.glob("*.jsonl")
    return path.name, [json.loads(line) for line in path.read_text().splitlines()]


def test_references_are_normalised_and_those_without_words_left_out(manifest):
    samples = tool.read_set(manifest, str.lower, None)
    assert [each.reference for each in samples] == ["ab c"] * 5
    assert tool.read_set(manifest, str.lower, 2) == samples[:2]
    with pytest.raises(ValueError, match=r"noise.jsonl has no transcript that holds a word"):
        tool.read_set(manifest, lambda text: "", None)


def test_a_set_has_a_row_and_a_file_in_the_leaderboards_form(run, tmp_path, tiny_pack):
    rows = run("--batch_size", "3")
    name, lines = results(tmp_path / "out")
    assert name == f"MODEL_{str(tiny_pack).strip('/').replace('/', '-')}_DATASET_sets_noise_test.jsonl"
    assert len(lines) == 6 and set(lines[0]) == {"audio_filepath", "duration", "time", "text", "pred_text"}
    assert rows[-1][:2] == ["noise", "6"]
    audio, time = (sum(line[key] for line in lines) for key in ("duration", "time"))
    assert float(rows[-1][4]) == pytest.approx(audio / time, abs=0.06) and time > 0
    assert lines[0]["time"] == lines[2]["time"] != lines[3]["time"], "a batch's time is shared out alike"


def test_the_batch_size_changes_no_hypothesis_and_options_of_decoding_count(run, tmp_path):
    found = []
    for options in (["--batch_size", "1"], ["--batch_size", "4"], ["--decode", "num_loops=2"]):
        run(*options, "--warmup_steps", "0")
        found.append([line["pred_text"] for line in results(tmp_path / "out")[1]])
    assert found[0] == found[1] != found[2]


def test_several_sets_have_the_mean_of_their_rates_and_the_whole_speed(run, manifest, tmp_path):
    other = manifest.with_name("more.jsonl")
    other.write_text(manifest.read_text().splitlines()[0])
    first, second, mean = run("--warmup_steps", "0", manifests=(manifest, other))[-3:]
    assert mean[0] == "mean of sets" and int(mean[1]) == int(first[1]) + int(second[1])
    assert float(mean[3]) == pytest.approx((float(first[3]) + float(second[3])) / 2, abs=0.01)


def test_words_are_counted_over_the_set():
    def result(reference, hypothesis):
        return tool.Result(tool.Sample("a.wav", reference), hypothesis, 3.0, 0.5)

    figures = tool.figures_of([result("a b c d", "a b c"), result("e", "f g")])
    assert (figures.wer_percent, figures.rtfx) == (60.0, 6.0)


def test_wrong_options_are_said_in_a_sentence(run):
    with pytest.raises(SystemExit, match="--batch_size is 0; allowed: 1 or more"):
        run("--batch_size", "0")
    for option in ("loops=2", "num_loops"):
        with pytest.raises(ValueError, match=f"--decode {option.split('=')[0]}: allowed: NAME=VALUE"):
            tool.decode_config([option])
    assert tool.decode_config(["num_loops=2", "ctc_weight=0.5"]) == DecodeConfig(num_loops=2, ctc_weight=0.5)


def test_english_is_normalised_as_whisper_does():
    pytest.importorskip("whisper_normalizer", reason="pip install whisper-normalizer")
    normalise = tool.english_normaliser()
    assert normalise("Mr. Brown's colour, um, twenty-one dollars!") == "mister brown is color $21"


def test_a_missing_normaliser_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ImportError, match="pip install whisper-normalizer, or --normaliser none"):
        tool.english_normaliser()
