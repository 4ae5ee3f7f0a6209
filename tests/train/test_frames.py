"""Frames that CTC needs and that a pooling front end leaves."""

import argparse
import logging
import re

import pytest
import torch
import yaml

from espnet2.asr.ctc import CTC

from espnet_larm.pooling.frontend import NEEDED_FRAMES, AffinityPoolingFrontend
from espnet_larm.train.batches.frames import CtcRoom, frames_needed, needed_frames_told, retention_logged

YS_PAD, YS_LENS = torch.tensor([[2, 2, 3, 3, 3], [2, 3, 2, -1, -1], [2, -1, -1, -1, -1]]), torch.tensor([5, 3, 1])


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.ctc = CTC(5, 4)

    def forward(self, hlens):
        return self.ctc(torch.randn(3, 10, 4), torch.tensor(hlens), YS_PAD, YS_LENS)


def test_a_frame_a_token_and_one_between_equal_ones_are_needed():
    assert frames_needed(YS_PAD, YS_LENS).tolist() == [8, 3, 1]


@pytest.mark.parametrize(("hlen", "is_finite"), [(8, True), (7, False)])
def test_the_bound_is_that_of_torchs_loss(hlen, is_finite):
    log_probs = torch.randn(10, 1, 5).log_softmax(-1)
    loss = torch.nn.CTCLoss(reduction="none")(log_probs, YS_PAD[:1], torch.tensor([hlen]), torch.tensor([5]))
    assert bool(torch.isfinite(loss)) == is_finite


def test_utterances_without_room_are_named_once_and_counted_and_the_loss_stays_finite(caplog):
    room, model = CtcRoom(lambda: ["a", "b", "c"]), Model()
    with room.watched(model):
        losses = [model([7, 3, 9]), model([7, 3, 9])]
    assert all(bool(torch.isfinite(loss)) for loss in losses)
    assert room.without_room == ["a"]
    assert caplog.text.count("a has 7 frames, and its transcript needs 8. CTC learns nothing of it") == 1
    assert "min_frames_per_second" in caplog.text and "1 utterances of this epoch" in caplog.text


def test_enough_room_and_no_ctc_head_are_silent_and_the_watch_ends(caplog):
    model = Model()
    with caplog.at_level(logging.INFO):
        with CtcRoom(lambda: ["a", "b", "c"]).watched(model):
            model([8, 3, 1])
        model([1, 1, 1])
        model.ctc = None
        with CtcRoom(list).watched(model):
            pass
    assert caplog.text == ""


def test_part_of_a_batch_is_told_without_names(caplog):
    wrapped = torch.nn.Module()
    wrapped.module = Model()
    with CtcRoom(lambda: ["a", "b", "c", "d"]).watched(wrapped):
        wrapped.module([7, 3, 9])
    assert "An utterance of the batch has 7 frames" in caplog.text


@pytest.mark.slow
def test_training_and_validation_name_them(trainings, tmp_path):
    # A hop of 800 samples leaves u0 (6000 samples) one frame of the encoder's.
    options = ["--max_epoch", "1", "--frontend_conf", "hop_length=800"]
    folder = tmp_path / "run"
    assert trainings.run(folder, *options) == 0, trainings.log(folder)
    assert trainings.log(folder).count("u0 has 1 frames, and its transcript needs") == 2


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


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_mean_over_the_batches_of_an_epoch_is_logged(caplog, is_wrapped):
    model, wrapped = torch.nn.Module(), torch.nn.Module()
    model.frontend = AffinityPoolingFrontend(tau=-1.0, min_frames_per_second=0.0, max_group=4)
    wrapped.module = model
    with caplog.at_level(logging.INFO):
        with retention_logged(wrapped if is_wrapped else model):
            # 101 and 201 frames in groups of 4.
            model.frontend(torch.randn(1, 12800), torch.tensor([12800]))
            model.frontend(torch.randn(1, 25600), torch.tensor([25600]))
        model.frontend(torch.randn(1, 12800), torch.tensor([12800]))
    assert f"left {(26 / 101 + 51 / 201) * 50:.1f} % of the frames, on average of 2 batches" in caplog.text
    assert len(caplog.records) == 1


def test_front_ends_that_pool_nothing_are_silent(caplog):
    model = torch.nn.Module()
    model.frontend = torch.nn.Linear(1, 1)
    with caplog.at_level(logging.INFO), retention_logged(model):
        model.frontend(torch.ones(1))
    assert caplog.text == ""
