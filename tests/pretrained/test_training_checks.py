"""A training refuses stored frames that its front end would not make so, and masks over learned features."""

import argparse
import json

import pytest
import torch

from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.recipe.store_frames import record_of
from espnet_larm.train.checks.pretrained import check_masks, check_stored_frames


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


@pytest.mark.parametrize("conf", [{}, None, {"apply_freq_mask": True}])
def test_masks_over_learned_features_are_refused(conf):
    args = argparse.Namespace(frontend="pretrained", specaug="specaug", specaug_conf=conf)
    with pytest.raises(ValueError, match="apply_freq_mask is true, but .* set apply_freq_mask: false"):
        check_masks(args)
    args.frontend = "default"
    check_masks(args)


def test_masks_over_time_are_taken():
    conf = {"apply_freq_mask": False}
    check_masks(argparse.Namespace(frontend="pretrained", specaug="specaug", specaug_conf=conf))
    check_masks(argparse.Namespace(frontend="pretrained", specaug=None, specaug_conf={}))
