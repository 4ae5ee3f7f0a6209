"""Drafts by a recogniser: of real speech, with and without dropout and SpecAugment, and of text that eSpeak reads."""

import argparse

import pytest
import torch

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recipe.drafts import draft_speech, simulate


def files_of(tiny):
    return ["--asr_train_config", str(tiny.config), "--asr_model_file", str(tiny.model)]


@pytest.fixture
def recogniser(tiny_experiment):
    from espnet_larm.recipe.drafts.recognised import load_recogniser

    files = {"asr_train_config": tiny_experiment.config, "asr_model_file": tiny_experiment.model}
    return load_recogniser(argparse.Namespace(**files, llm=None, encoder=None, ngpu=0))


def test_plain_drafts_are_those_of_decoding_in_a_batch_as_alone(recogniser, tiny_experiment):
    from espnet_larm.recipe.drafts.recognised import drafts_of
    from espnet_larm.recognize.audio import AudioTable

    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000)
    waveforms = table.load(table.keys(None)).waveforms
    expected = {key: one.text for key, one in zip(waveforms, recogniser.recognize([*waveforms.values()]), strict=True)}
    assert drafts_of(recogniser, waveforms, errs=False) == expected and len({*expected.values()}) > 1
    for key, waveform in waveforms.items():
        assert drafts_of(recogniser, {key: waveform}, errs=False) == {key: expected[key]}
    assert drafts_of(recogniser, {"short": waveforms[key][:10]}, errs=False) == {"short": ""}


def test_dropout_makes_other_drafts_and_leaves_the_model_as_it_was(recogniser, tiny_experiment):
    from espnet_larm.recipe.drafts.recognised import drafts_of
    from espnet_larm.recognize.audio import AudioTable

    for layer in recogniser.model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.4
    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000)
    waveforms = table.load(table.keys(None)).waveforms
    plain = drafts_of(recogniser, waveforms, errs=False)
    torch.manual_seed(0)
    one, other = (drafts_of(recogniser, waveforms, errs=True) for _ in range(2))
    assert one != other != plain != one
    assert drafts_of(recogniser, waveforms, errs=False) == plain


def test_the_program_goes_on_behind_the_last_whole_line(tiny_experiment, tmp_path, capsys):
    words = [*files_of(tiny_experiment), "--data_dir", str(tiny_experiment.data), "--copies", "2", "--batch_size", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert draft_speech.main([*words, "--output_dir", str(whole)]) == 0
    assert "text2: 7 drafts of" in capsys.readouterr().out
    assert draft_speech.main([*words, "--output_dir", str(killed)]) == 0
    text = (killed / "text1").read_text().splitlines(keepends=True)
    (killed / "text1").write_text("".join(text[:4]) + text[4][:3])
    (killed / "text2").unlink()
    assert draft_speech.main([*words, "--output_dir", str(killed)]) == 0
    for copy in ("text1", "text2"):
        assert read_table(killed / copy) == read_table(whole / copy) and len(read_table(whole / copy)) == 7
    with pytest.raises(ValueError, match="has drafts of another model or other options"):
        draft_speech.main([*words, "--seed", "1", "--output_dir", str(killed)])
    with pytest.raises(ValueError, match="--copies is 2: with --plain all would be the same"):
        draft_speech.main([*words, "--plain", "--output_dir", str(killed)])


def test_text_is_read_aloud_and_written_down(tiny_experiment, tmp_path, capsys):
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed (extra `mini`)")
    (tmp_path / "lines").write_text("one two three\nfour five six\nseven eight nine\n")
    words = ["--text", str(tmp_path / "lines"), *files_of(tiny_experiment), "--lines_per_shard", "2"]
    folder = tmp_path / "spoken"
    assert simulate.main([*words, "--output_dir", str(folder)]) == 0
    drafts = [read_table(folder / "draft" / f"split.{number}") for number in (0, 1)]
    assert [*map(len, drafts)] == [2, 1] and any(drafts[0].values()) and "2 shards" in capsys.readouterr().out
    texts = [read_table(folder / "text" / f"split.{number}") for number in (0, 1)]
    assert [[*each] for each in texts] == [[*each] for each in drafts]
    with pytest.raises(ValueError, match="holds shards of other options"):
        simulate.main([*words, "--plain", "--output_dir", str(folder)])
