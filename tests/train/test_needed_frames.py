"""In training, a front end that pools leaves each transcript the frames that CTC needs, and no more for its sake."""

import argparse
import re

import pytest
import torch
import yaml

from espnet_larm.pooling.frontend import NEEDED_FRAMES
from espnet_larm.train.batches.frames import needed_frames_told

LENGTHS = torch.tensor([16000, 12000, 8000])
# CTC needs 9, 1 and 20 frames of the encoder: 4 * 9 + 3, 4 + 3 and 83 of the front end's 101, 76 and 51.
TEXT, TEXT_LENGTHS = torch.tensor([[3, 3, 4, 4, 5, 5], [3] + 5 * [-1], [3] * 6]), torch.tensor([6, 1, 6])
NEEDED = [39, 7, 47]


def pooling_conf(**more):
    inner = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160}
    return {"frontend_conf": inner, "tau": -1.0, "max_group": None, "min_frames_per_second": 0.0, **more}


@pytest.fixture
def build(larm_task, tiny_experiment):
    """conf/tiny's looped encoder behind a front end that leaves one frame."""

    def build(encoder="larm", encoder_conf=None, **conf):
        args = argparse.Namespace(**yaml.safe_load(tiny_experiment.config.read_text()))
        args.frontend, args.frontend_conf = "affinity_pooling", pooling_conf(**conf)
        if encoder != "larm":
            args.encoder, args.encoder_conf, args.model_conf["interctc_weight"] = encoder, encoder_conf, 0.0
        return larm_task.build_model(args)

    return build


def left_by(model, is_training=True):
    """Frames of the front end in a pass of the model."""
    found = []
    handle = model.frontend.register_forward_hook(lambda _module, _given, output: found.append(output[1].tolist()))
    generator = torch.Generator().manual_seed(0)
    model.train(is_training)
    model(torch.randn(3, 16000, generator=generator), LENGTHS, text=TEXT.clone(), text_lengths=TEXT_LENGTHS)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("is_training", [True, False])
def test_each_utterance_is_left_what_its_transcript_needs_and_no_more(build, is_training):
    model = build()
    with needed_frames_told(model):
        assert left_by(model, is_training) == NEEDED
    assert NEEDED_FRAMES.get() is None


def test_a_copy_for_several_processes_is_told_too(build):
    wrapped = torch.nn.Module()
    wrapped.module = build()
    with needed_frames_told(wrapped):
        assert left_by(wrapped.module) == NEEDED


def test_where_the_rate_leaves_more_nothing_changes(build):
    model = build(min_frames_per_second=80.0)
    plain = left_by(model)
    assert all(share > needed for share, needed in zip(plain[:2], NEEDED, strict=False))
    with needed_frames_told(model):
        assert left_by(model)[:2] == plain[:2]


def test_no_more_frames_are_asked_than_there_are(build):
    model = build()
    token = NEEDED_FRAMES.set(torch.tensor([39, 500, 7]))
    try:
        assert model.frontend(torch.randn(3, 16000), LENGTHS)[1].tolist() == [39, 76, 7]
    finally:
        NEEDED_FRAMES.reset(token)


def test_the_promise_ends_with_the_batch_and_with_the_training(build):
    model = build()
    with needed_frames_told(model):
        left_by(model)
        # As decoding calls it.
        assert model.frontend(torch.randn(1, 16000), LENGTHS[:1])[1].tolist() == [1]
        with pytest.raises(RuntimeError):
            model(torch.randn(3, 0), torch.zeros(3, dtype=torch.long), TEXT.clone(), TEXT_LENGTHS)
        assert NEEDED_FRAMES.get() is None
    assert not model._forward_pre_hooks and not model._forward_hooks


def test_encoders_that_do_not_tell_their_lengths_leave_the_rate_alone(build):
    conf = {"output_size": 8, "attention_heads": 2, "linear_units": 8, "num_blocks": 1}
    model = build("transformer", conf, min_frames_per_second=20.0)
    plain = left_by(model)
    with needed_frames_told(model):
        assert left_by(model) == plain


def test_the_ctc_heads_own_text_is_what_counts(build):
    model = build()
    model.has_own_ctc_tokens = True
    with needed_frames_told(model):
        seen = []
        model.frontend.register_forward_pre_hook(lambda *_: seen.append(NEEDED_FRAMES.get().tolist()))
        own = {"ctc_text": TEXT[:, :2].clamp(min=0), "ctc_text_lengths": torch.tensor([2, 1, 2])}
        model(torch.randn(3, 16000), LENGTHS, TEXT.clone(), TEXT_LENGTHS, **own)
    assert seen == [[15, 7, 15]]


@pytest.mark.slow
def test_training_and_validation_leave_room_though_the_rate_floor_is_zero(trainings, tmp_path):
    # Utterances have 38 frames or more, of which groups of 9 leave the encoder's convolutions less than one.
    conf = yaml.safe_load(trainings._config.read_text()) | {
        "frontend": "affinity_pooling",
        "frontend_conf": pooling_conf(max_group=9),
    }
    (tmp_path / "pooled.yaml").write_text(yaml.safe_dump(conf))
    folder = tmp_path / "run"
    assert trainings.run(folder, "--max_epoch", "1", "--config", str(tmp_path / "pooled.yaml")) == 0, trainings.log(
        folder
    )
    log = trainings.log(folder)
    assert "its transcript needs" not in log
    assert float(re.search(r"The front end left ([0-9.]+) %", log)[1]) < 50
