"""Utterances whose transcripts have no room in the frames that the encoder leaves them are named."""

import logging

import pytest
import torch

from espnet2.asr.ctc import CTC

from espnet_larm.train.batches.frames import CtcRoom, frames_needed

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
