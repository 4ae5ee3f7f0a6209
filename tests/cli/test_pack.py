"""The packing program: what is in a pack, ESPnet's arguments, and what is refused before a pack is there."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm.train.learning import learning_parts, sum_of
from tests.packs import read


@pytest.fixture
def exp_dir(tiny_experiment, tmp_path):
    folder = tmp_path / "exp/asr_tiny"
    folder.mkdir(parents=True)
    data = [["dump/raw/train_nodev/wav.scp", "speech", "sound"], ["dump/raw/train_nodev/text", "text", "text"]]
    tiny_experiment.with_config(folder / "config.yaml", train_data_path_and_name_and_type=data)
    shutil.copy(tiny_experiment.model, folder / "valid.loss.ave.pth")
    return folder


@pytest.fixture
def pack(larm_task):
    from espnet_larm.cli.pack import main

    def pack(*options):
        return main([str(option) for option in options])

    return pack


def test_experiment_becomes_one_file_with_a_card(pack, exp_dir, capsys):
    assert pack("--exp_dir", exp_dir) == 0
    content = read(exp_dir / "asr_tiny_valid.loss.ave.zip")
    assert list(content) == ["meta.yaml", "config.yaml", "README.md", "valid.loss.ave.pth"]
    assert content["valid.loss.ave.pth"] == (exp_dir / "valid.loss.ave.pth").read_bytes()
    meta = yaml.safe_load(content["meta.yaml"])
    assert meta["yaml_files"] == {"asr_train_config": "config.yaml"}
    assert meta["files"] == {"asr_model_file": "valid.loss.ave.pth"}
    assert meta["espnet_larm"]["plugins"][0]["name"] == "larm"
    card = content["README.md"].decode()
    assert "# asr_tiny" in card and "- trained on: train_nodev" in card
    assert "asr_tiny_valid.loss.ave.zip: " in capsys.readouterr().out


def test_a_note_stands_in_the_card(pack, exp_dir):
    assert pack("--exp_dir", exp_dir, "--note", "Unfit for whispers.") == 0
    assert "## Note\n\nUnfit for whispers.\n" in read(exp_dir / "asr_tiny_valid.loss.ave.zip")["README.md"].decode()


def test_card_counts_parameters_as_the_training_does(pack, exp_dir, larm_task):
    from espnet2.torch_utils.model_summary import get_human_readable_count, model_summary

    args = argparse.Namespace(**yaml.safe_load((exp_dir / "config.yaml").read_text()))
    model = larm_task.build_model(args)
    number = sum_of(learning_parts(model)).total
    summary = model_summary(model)
    assert f"Total Number of model parameters: {get_human_readable_count(number)}\n" in summary
    # The file also holds buffers, such as the front end's filters.
    assert number < sum(tensor.numel() for tensor in torch.load(exp_dir / "valid.loss.ave.pth").values())
    pack("--exp_dir", exp_dir)
    assert (
        f"encoder `larm`, {number:,} parameters\n"
        in read(exp_dir / "asr_tiny_valid.loss.ave.zip")["README.md"].decode()
    )


def test_no_path_of_the_machine_is_in_the_texts(pack, exp_dir, tmp_path):
    pack("--exp_dir", exp_dir)
    content = read(exp_dir / "asr_tiny_valid.loss.ave.zip")
    for name in ("meta.yaml", "config.yaml", "README.md"):
        assert str(tmp_path.parent) not in content[name].decode() and str(Path.home()) not in content[name].decode()


def test_same_experiment_gives_the_same_bytes(pack, exp_dir, tmp_path):
    for name in ("a.zip", "b.zip"):
        pack("--exp_dir", exp_dir, "--outpath", tmp_path / name)
        (exp_dir / "config.yaml").touch()
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_espnets_arguments_are_taken(pack, exp_dir, tmp_path):
    (exp_dir / "RESULTS.md").write_text("# results")
    (exp_dir / "images").mkdir()
    (exp_dir / "images/loss.png").write_bytes(b"png")
    files = ("--asr_train_config", exp_dir / "config.yaml", "--asr_model_file", exp_dir / "valid.loss.ave.pth")
    options = ("--option", exp_dir / "RESULTS.md", "--option", exp_dir / "images")
    assert pack("asr", *files, *options, "--outpath", tmp_path / "sub/out.zip") == 0
    content = read(tmp_path / "sub/out.zip")
    assert content["RESULTS.md"] == b"# results" and content["images/loss.png"] == b"png"


def test_scored_sets_are_in_the_card(pack, exp_dir):
    folder = exp_dir / "decode/test/score_wer"
    folder.mkdir(parents=True)
    scores = {
        "units": 10, "correct": 8, "substitutions": 2, "deletions": 0, "insertions": 0, "sentences": 2,
        "error_percent": 20.0, "sentence_error_percent": 50.0, "interval_percent": [10.0, 30.0],
    }  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(scores))
    (exp_dir / "RESULTS.md").write_text("# results")
    pack("--exp_dir", exp_dir, "--license", "cc-by-4.0", "--language", "en")
    content = read(exp_dir / "asr_tiny_valid.loss.ave.zip")
    card = content["README.md"].decode()
    assert "|decode/test|" in card and "license: cc-by-4.0" in card and "- en" in card
    assert "RESULTS.md" in content


def test_weights_of_another_configuration_leave_no_pack(pack, exp_dir):
    weights = torch.load(exp_dir / "valid.loss.ave.pth", weights_only=True)
    weights.pop("ctc.ctc_lo.bias")
    torch.save(weights, exp_dir / "valid.loss.ave.pth")
    with pytest.raises(ValueError, match=r"1 missing \(ctc.ctc_lo.bias\)"):
        pack("--exp_dir", exp_dir)
    assert not list(exp_dir.glob("*.zip")) and not list(exp_dir.glob(".part*"))


def test_checkpoints_are_no_weights(pack, exp_dir):
    torch.save({"model": {}, "epoch": 3}, exp_dir / "checkpoint.pth")
    with pytest.raises(ValueError, match=r"checkpoint.pth holds no tensors by name"):
        pack("--exp_dir", exp_dir, "--asr_model_file", exp_dir / "checkpoint.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["tts", "--outpath", "a.zip", "--license", "mit"],
            "task is tts: .*own pack, but --license is an option of ours",
        ),
        (["asr"], "name --exp_dir, or both"),
        (["asr", "--asr_train_config", "config.yaml"], "name --exp_dir, or both"),
    ],
)
def test_misuse_is_told(pack, options, message):
    with pytest.raises(ValueError, match=message):
        pack(*options)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["tts", "--train_config", "config.yaml", "--model_file", "model.pth"], {}),
        (["asr", "--lm_train_config", "lm.yaml", "--lm_file", "lm.pth"], {}),
        (["asr"], {"input_size": 80}),
        (["asr"], {"decoder": "transformer", "model_conf": {"ctc_weight": 0.0}}),
    ],
)
def test_what_ours_cannot_pack_is_handed_over(pack, exp_dir, monkeypatch, options, changes):
    calls = []
    monkeypatch.setattr("espnet2.bin.pack.main", calls.append)
    config = exp_dir / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **changes}))
    files = ["--asr_train_config", config, "--asr_model_file", exp_dir / "valid.loss.ave.pth"]
    pack(*options, *([] if options[0] == "tts" else files), "--outpath", exp_dir / "a.zip")
    assert calls[0][: len(options)] == options and not (exp_dir / "a.zip").exists()


def test_missing_files_and_clashing_names_are_told(pack, exp_dir):
    with pytest.raises(FileNotFoundError, match=r"none.md is missing"):
        pack("--exp_dir", exp_dir, "--option", exp_dir / "none.md")
    (exp_dir / "README.md").touch()
    with pytest.raises(ValueError, match=r"README.md has a name that packs need for themselves"):
        pack("--exp_dir", exp_dir, "--option", exp_dir / "README.md")
    (exp_dir / "sub").mkdir()
    (exp_dir / "sub/valid.loss.ave.pth").touch()
    with pytest.raises(ValueError, match=r"is called valid.loss.ave.pth in the pack already"):
        pack("--exp_dir", exp_dir, "--option", exp_dir / "sub/valid.loss.ave.pth")


def test_experiments_with_foreign_models_are_refused(pack, exp_dir):
    config = yaml.safe_load((exp_dir / "config.yaml").read_text()) | {"frontend": "s3prl"}
    (exp_dir / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="frontend: s3prl cannot be in a pack"):
        pack("--exp_dir", exp_dir)


def test_a_folder_is_no_name_of_a_pack(pack, exp_dir):
    with pytest.raises(IsADirectoryError, match=r"is a folder; name a file to write"):
        pack("asr", "--exp_dir", exp_dir, "--outpath", exp_dir)
