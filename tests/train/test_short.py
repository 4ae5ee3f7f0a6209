"""Utterances too short for the encoder are left out of their batches, named and counted."""

import logging

import pytest
import torch

from espnet2.asr.frontend.default import DefaultFrontend

from espnet_larm.errors import DataError
from espnet_larm.looped.encoder import LarmEncoder
from espnet_larm.pooling.frontend import AffinityPoolingFrontend
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.train.batches.short import Fewest, LongEnough, fewest_of
from espnet_larm.upstream import TooShortUttError
from tests.pretrained.models import save_encoder


def batch(*lens):
    speech = torch.arange(float(max(lens))).expand(len(lens), -1)
    text = torch.tensor([[index, -1] for index in range(len(lens))])
    lengths = {"speech_lengths": torch.tensor(lens), "text_lengths": torch.ones(len(lens), dtype=torch.long)}
    return [f"u{length}" for length in lens], {"speech": speech, "text": text, **lengths}


class Model(torch.nn.Module):
    def __init__(self, factor=8, **frontend):
        super().__init__()
        self.frontend = DefaultFrontend(fs="16k", **frontend)
        self.preencoder = None
        small = {"num_blocks": 1, "num_loops": 1, "checkpoint_period": 1, "subsampling_channels": 2}
        self.encoder = LarmEncoder(80, 8, 2, 8, subsampling_factor=factor, **small)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    "frontend", [{"n_fft": 512, "hop_length": 160}, {"n_fft": 400, "hop_length": 100, "center": False}]
)
def test_the_bound_is_the_shortest_that_the_model_takes(factor, frontend):
    model = Model(factor, **frontend)
    fewest = fewest_of(model).samples
    xs, lens = model.frontend(torch.zeros(1, fewest), torch.tensor([fewest]))
    assert model.encoder(xs, lens)[1].tolist() == [1]
    with pytest.raises(TooShortUttError):
        model.encoder(*model.frontend(torch.zeros(1, fewest - 1), torch.tensor([fewest - 1])))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["whisper", "hubert", "parakeet"])
def test_the_bound_of_a_pretrained_front_end_is_exact(tmp_path, kind, wrapped):
    model = Model()
    model.frontend = PretrainedFrontend(str(save_encoder(kind, tmp_path)), stack=3)
    if wrapped:
        model.frontend = AffinityPoolingFrontend(1.1, "pretrained", {"model": str(tmp_path), "stack": 3})
    samples, frames = fewest_of(model)
    least = model.encoder.min_input_length
    for given, is_enough in ((samples, True), (samples - 1, False)):
        assert (int(model.frontend(torch.zeros(1, given), torch.tensor([given]))[1]) >= least) == is_enough
    stored = torch.zeros(1, frames, 16)
    for given, is_enough in ((frames, True), (frames - 1, False)):
        assert (int(model.frontend(stored, torch.tensor([given]))[1]) >= least) == is_enough


def test_stored_frames_are_counted_as_frames():
    utt_ids, values = batch(5, 7)
    values["speech"] = values["speech"].unsqueeze(-1)
    ((kept, _),) = LongEnough([(utt_ids, values)], Fewest(1000, 6))
    assert kept == ["u7"]


def test_the_bound_holds_inside_a_distributed_model_too():
    wrapped = torch.nn.Module()
    wrapped.module = Model()
    assert fewest_of(wrapped) == fewest_of(wrapped.module)


def test_encoders_that_do_not_tell_have_no_bound():
    model = Model()
    model.encoder = torch.nn.Linear(1, 1)
    assert fewest_of(model) == (None, None)


def test_short_utterances_leave_their_batch_and_are_named(caplog):
    found = LongEnough([batch(900, 50, 700, 99), batch(10), batch(800)], Fewest(100, None))
    (first_ids, first), (second_ids, _) = list(found)
    assert first_ids == ["u900", "u700"] and second_ids == ["u800"]
    assert first["speech_lengths"].tolist() == [900, 700] and first["text"][:, 0].tolist() == [0, 2]
    assert len(first["speech"]) == 2 and first["text_lengths"].tolist() == [1, 1]
    assert found.left_out == ["u50", "u99", "u10"]
    assert "u50 (50 samples), u99 (99 samples)" in caplog.text and "needs 100" in caplog.text
    assert "--min_wav_duration" in caplog.text


def test_batches_without_short_utterances_are_untouched(caplog):
    given = batch(900, 100)
    with caplog.at_level(logging.INFO):
        assert next(iter(LongEnough([given], Fewest(100, None)))) is given
    assert caplog.text == ""


def test_every_pass_counts_for_itself():
    found = LongEnough([batch(10), batch(200)], Fewest(100, None))
    assert len(found) == 2
    for _ in range(2):
        assert len(list(found)) == 1 and found.left_out == ["u10"]


def test_a_model_that_does_not_tell_its_bound_names_the_batch_that_it_refuses():
    found = LongEnough([batch(900, 50, 700)], Fewest(None, None))

    def train():
        with found.named():
            for _ in found:
                raise TooShortUttError("3 frames", 3, 7)

    with pytest.raises(ValueError, match=r"u50 \(50 samples\), u700 .*: 3 frames\. .* --min_wav_duration"):
        train()


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_training_and_validation_go_on_without_short_utterances(trainings, tmp_path, num_processes):
    # 7 frames of features make one of the encoder: 6 hops are more than the 6000 samples of u0.
    options = ["--max_epoch", "1", "--frontend_conf", "hop_length=1040"]
    folder = tmp_path / "run"
    assert trainings.run(folder, *options, num_processes=num_processes) == 0, trainings.log(folder)
    logs = [folder.with_suffix(".log"), folder.with_suffix(".log.1")][:num_processes]
    log = "".join(path.read_text() for path in logs)
    assert log.count("the encoder needs 6240: u0 (6000 samples)") == 2


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_samples_that_are_no_numbers_end_the_pass_with_their_utterance(value):
    speech = torch.zeros(3, 8)
    speech[1, 5] = value
    batch = (["first", "second", "third"], {"speech": speech, "speech_lengths": torch.tensor([8, 8, 8])})
    with pytest.raises(DataError, match="^second: the audio holds samples that are NaN or infinite"):
        list(LongEnough([batch], Fewest(None, None)))
    frames = {"speech": batch[1]["speech"].unsqueeze(-1)}
    with pytest.raises(DataError, match="^second: the stored frames, or features, hold numbers that are NaN"):
        list(LongEnough([(batch[0], {**batch[1], **frames})], Fewest(None, None)))
