"""Stage 4: what is unfit for training is dropped with a reason."""

from pathlib import Path

import pytest

from espnet_larm.data.kaldi_dir import Utterance, read_dir, read_table
from espnet_larm.recipe.filter_lengths import filter_utterances, main
from espnet_larm.recipe.format_audio import main as format_main


def utterance(name: str, text: str = "X") -> Utterance:
    return Utterance(name, "s", f"{name}.flac", text)


def test_each_reason_is_given() -> None:
    listed = [utterance("good"), utterance("mute", ""), utterance("short"), utterance("long")]
    lengths = {"good": 16000, "mute": 16000, "short": 800, "long": 500000}
    kept, dropped = filter_utterances(listed, lengths, 16000, 0.1, 20.0)
    assert kept == listed[:1]
    assert dropped == {
        "mute": "its transcript is empty",
        "short": "it lasts 0.05 s, below --min_wav_duration 0.1",
        "long": "it lasts 31.25 s, above --max_wav_duration 20",
    }


def test_bounds_are_kept() -> None:
    kept, _ = filter_utterances([utterance("a"), utterance("b")], {"a": 1600, "b": 320000}, 16000, 0.1, 20.0)
    assert len(kept) == 2


def test_an_empty_transcript_is_dropped_and_printed_and_the_input_stays(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "text").write_text("ann-1 WORD 1\nann-2\nbob-1 WORD 1\n")
    org, out = data_dir.parent / "org", data_dir.parent / "out"
    format_main(["--in_dir", str(data_dir), "--output_dir", str(org)])
    assert main(["--in_dir", str(org), "--output_dir", str(out)]) == 0
    assert [kept.id for kept in read_dir(out)] == ["ann-1", "bob-1"]
    assert read_table(out / "dropped") == {"ann-2": "its transcript is empty"}
    assert "2 of 3 utterances kept\n  dropped ann-2: its transcript is empty" in capsys.readouterr().out
    assert len(read_dir(org)) == 3


def test_an_utterance_that_is_too_short_is_dropped_and_printed(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    org, out = data_dir.parent / "org", data_dir.parent / "out"
    format_main(["--in_dir", str(data_dir), "--output_dir", str(org)])
    lengths = (org / "utt2num_samples").read_text().replace("ann-2 16000", "ann-2 400")
    (org / "utt2num_samples").write_text(lengths)
    assert main(["--in_dir", str(org), "--output_dir", str(out)]) == 0
    assert "dropped ann-2: it lasts 0.03 s" in capsys.readouterr().out


def test_a_set_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="all 1 utterances would be dropped, a because it lasts 0.00 s"):
        filter_utterances([utterance("a")], {"a": 1}, 16000, 0.1, 20.0)


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="--min_wav_duration 20.0 must be at least 0 and below"):
        filter_utterances([utterance("a")], {"a": 1}, 16000, 20.0, 0.1)
