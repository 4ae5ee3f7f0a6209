"""tools/bench/planned.py: what it tells the plan and the training of a folder's utterances."""

import numpy as np
import planned as tool
import pytest
import soundfile


def test_plan_and_training_are_told_of_the_same_utterances(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "made"
    for each in (data, folder):
        each.mkdir()
    for key, length in (("a", 16000), ("b", 48000)):
        soundfile.write(data / f"{key}.wav", np.zeros(length), 16000)
    (data / "wav.scp").write_text(f"a {data}/a.wav\nb {data}/b.wav\n")
    (data / "text").write_text("a NO\nb NO ONE\n")
    made = tool.Data(data, folder)
    assert (made.hours * 3600, made.mean_s, made.tokens_per_second) == pytest.approx((4.0, 2.0, 2.0))
    assert made.planned() == ["--seconds", "2.0000", "--tokens_per_second", "2.0000"]
    # Four characters, and the blank, the unknown and the last token.
    assert (folder / "train/text_shape").read_text() == "a 2,7\nb 6,7\n"
    assert (folder / "train/speech_shape").read_text() == "a 16000\nb 48000\n"
    assert (folder / "tokens.txt").read_text().split() == ["<blank>", "<unk>", "N", "O", "<space>", "E", "<sos/eos>"]
