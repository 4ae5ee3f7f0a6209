"""A training refuses stored frames that its front end would not make so, and masks over learned features."""

import argparse
import json

import numpy as np
import pytest
import soundfile
import torch

from espnet_larm import registry
from espnet_larm.pooling.frontend import AffinityPoolingFrontend
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.recipe.store_frames import record_of
from espnet_larm.train.checks.pretrained import check_masks, check_rate, check_stored_frames


@pytest.fixture
def args(tmp_path, encoders):
    """Options of a training on stored frames of the tiny Whisper's last layer."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "store.json").write_text(json.dumps(record_of(PretrainedFrontend(encoders("whisper")))))
    (tmp_path / "frames.scp").write_text(f"a {folder}/0000.npy:0:1\n")
    tables = [(str(tmp_path / "frames.scp"), "speech", "frames"), ("text", "text", "text")]
    names = {"train_data_path_and_name_and_type": tables, "valid_data_path_and_name_and_type": tables}
    return argparse.Namespace(**names, frontend_conf={}, rir_scp=None, noise_scp=None, speech_volume_normalize=None)


def check(args, frontend):
    model = torch.nn.Module()
    model.frontend = frontend
    check_stored_frames(args, model)


def test_its_own_frames_are_taken(args, encoders):
    check(args, PretrainedFrontend(encoders("whisper")))


def test_nothing_is_asked_of_waveforms(args):
    tables = [("wav.scp", "speech", "sound")]
    args.train_data_path_and_name_and_type = args.valid_data_path_and_name_and_type = tables
    check(args, torch.nn.Identity())


def test_other_frames_are_refused(args, encoders):
    with pytest.raises(ValueError, match=r"frames.scp holds frames of another model; run store-frames"):
        check(args, PretrainedFrontend(encoders("wavlm")))
    with pytest.raises(ValueError, match=r"holds frames of layers \[3\] instead of \[0, 3\]"):
        check(args, PretrainedFrontend(encoders("whisper"), layers=[0, 3]))
    with pytest.raises(ValueError, match=r"stored frames, which frontend: pretrained alone reads; train on wav.scp"):
        check(args, torch.nn.Identity())


def test_a_front_end_that_learns_is_refused(args, encoders):
    args.frontend_conf = {"train": "last_n"}
    with pytest.raises(ValueError, match="train is last_n, and .*frames.scp holds frames; train on wav.scp"):
        check(args, PretrainedFrontend(encoders("whisper"), train="last_n"))


@pytest.mark.parametrize("name", ["rir_scp", "noise_scp", "speech_volume_normalize"])
def test_a_changed_waveform_is_refused(args, encoders, name):
    setattr(args, name, "1.0")
    with pytest.raises(ValueError, match=f"{name} changes the waveform, and .*frames.scp holds frames"):
        check(args, PretrainedFrontend(encoders("whisper")))


def test_every_store_of_a_table_is_looked_at(args, tmp_path, encoders):
    other = tmp_path / "other"
    other.mkdir()
    with (tmp_path / "frames.scp").open("a") as file:
        file.write(f"b {other}/0000.npy:0:1\n")
    with pytest.raises(FileNotFoundError, match=r"other/store.json is missing"):
        check(args, PretrainedFrontend(encoders("whisper")))
    (other / "store.json").write_text(json.dumps(record_of(PretrainedFrontend(encoders("wavlm")))))
    with pytest.raises(ValueError, match=r"frames.scp holds frames of another model"):
        check(args, PretrainedFrontend(encoders("whisper")))


@pytest.mark.parametrize("frontend", ["pretrained", "affinity_pooling"])
@pytest.mark.parametrize(
    ("conf", "name"),
    [
        ({}, "apply_freq_mask"),
        (None, "apply_freq_mask"),
        ({"apply_freq_mask": True, "apply_time_warp": False}, "apply_freq_mask"),
        ({"apply_freq_mask": False}, "apply_time_warp"),
        ({"apply_freq_mask": False, "apply_time_warp": True}, "apply_time_warp"),
    ],
)
def test_masks_over_learned_features_and_time_warp_are_refused(frontend, conf, name):
    inner = {"frontend": "pretrained"} if frontend == "affinity_pooling" else {}
    args = argparse.Namespace(frontend=frontend, frontend_conf=inner, specaug="specaug", specaug_conf=conf)
    with pytest.raises(ValueError, match=f"{name} is true, but .* set {name}: false"):
        check_masks(args)
    args.frontend, args.frontend_conf = "default", {}
    check_masks(args)
    args.frontend = "affinity_pooling"
    check_masks(args)


@pytest.mark.parametrize("is_pooled", [False, True])
def test_waveforms_of_another_rate_are_refused(tmp_path, encoders, is_pooled):
    for name, rate_hz in (("right", 16000), ("wrong", 8000)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(800), rate_hz)
        (tmp_path / f"{name}.scp").write_text(f"a {tmp_path}/{name}.wav\n")
    conf = {"frontend": "pretrained", "frontend_conf": {"model": encoders("whisper")}}
    registry.register()
    model = torch.nn.Module()
    model.frontend = AffinityPoolingFrontend(**conf) if is_pooled else PretrainedFrontend(encoders("whisper"))
    tables = {name: [(str(tmp_path / f"{name}.scp"), "speech", "sound")] for name in ("right", "wrong")}
    names = ("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type")
    check_rate(argparse.Namespace(**dict.fromkeys(names, tables["right"])), model)
    args = argparse.Namespace(**dict(zip(names, (tables["right"], tables["wrong"]), strict=True)))
    with pytest.raises(ValueError, match=r"wrong.scp: a has 8000 Hz, but the model of .* reads 16000 Hz"):
        check_rate(args, model)
    check_rate(args, torch.nn.Identity())


def test_masks_over_time_are_taken():
    conf = {"apply_freq_mask": False, "apply_time_warp": False}
    check_masks(argparse.Namespace(frontend="pretrained", specaug="specaug", specaug_conf=conf))
    check_masks(argparse.Namespace(frontend="pretrained", specaug=None, specaug_conf={}))
