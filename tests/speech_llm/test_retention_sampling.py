"""Retentions drawn in training: alike in a step, again after a resumption, and in neither validation nor decoding."""

import copy

import pytest
import torch

from espnet_larm.draws import Draws
from espnet_larm.pooling.sampling import RetentionSampling, pooling_of_step

SAMPLED = {"input": {"method": "uniform_mean", "retention": 0.5, "retention_sampling": [0.25, 0.5, 1.0]}}
BOTH = {**SAMPLED, "deep": {"layer": 1, "method": "uniform_mean", "retention": 0.5, "retention_sampling": [0.3, 0.6]}}


def batch():
    torch.manual_seed(0)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 9000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


def steps(model, number):
    """What sites left in steps of training."""
    found = [model(**batch())[1] for _ in range(number)]
    return [[round(float(stats[f"retention_{site}"]), 1) for site in ("input", "deep")] for stats in found]


@pytest.fixture
def build(build_speech_llm):
    return lambda pooling=BOTH: build_speech_llm(decoder_conf={"pooling": pooling, "projector_frames": 1})


def test_training_draws_a_retention_a_site_and_step_and_validation_takes_that_of_the_options(build):
    model = build().train()
    found = steps(model, 12)
    seed, number = model.decoder.sampling.draws.tolist()
    assert number == 12
    drawn = [model.decoder.pooling.drawn(model.decoder.sampling.generator_at(seed, step)) for step in range(12)]
    assert len({(each.at_input.retention, each.behind.retention) for each in drawn}) > 3
    for (at_input, deep), each in zip(found, drawn, strict=True):
        # Both round up in each of two short utterances.
        assert at_input == pytest.approx(each.at_input.retention, abs=0.1)
        assert deep == pytest.approx(each.behind.retention, abs=0.2)
    assert steps(model.eval(), 1)[0][0] == pytest.approx(0.5, abs=0.1)
    assert model.decoder.sampling.draws[1] == 12
    assert model.decoder.pooling.at_input.retention == 0.5


def test_a_resumed_training_draws_what_an_undisturbed_one_does(build):
    model = build().train()
    first = steps(model, 5)
    saved = copy.deepcopy(model.state_dict())
    rest = steps(model, 8)
    resumed = build().train()
    assert steps(resumed, 5) == first
    steps(resumed, 3)
    resumed.load_state_dict(saved)
    torch.rand(10)
    assert steps(resumed, 8) == rest and len({tuple(each) for each in first + rest}) > 3


def test_a_step_draws_once_however_often_it_reads_the_speech(build):
    model = build().train()
    with model.decoder.drawn_pooling():
        drawn = pooling_of_step(model.decoder.pooling)
        assert all(pooling_of_step(model.decoder.pooling) is drawn for _ in range(3))
    assert pooling_of_step(model.decoder.pooling) is model.decoder.pooling
    assert model.decoder.sampling.draws[1] == 1


def test_two_things_that_are_drawn_are_not_drawn_alike():
    torch.manual_seed(3)
    loops, retentions = Draws(), RetentionSampling()
    pairs = [
        [int(torch.randint(4, (), generator=each.next_generator())) for each in (loops, retentions)] for _ in range(99)
    ]
    assert len({tuple(pair) for pair in pairs}) == 16


def test_weights_of_a_sampled_training_begin_one_without_and_the_other_way_round(build):
    sampled, plain = build(), build({"input": {"method": "uniform_mean", "retention": 0.5}})
    assert sampled.state_dict().keys() - plain.state_dict().keys() == {"decoder.sampling.draws"}
    plain.load_state_dict(sampled.state_dict())
    sampled.load_state_dict({**sampled.state_dict(), **plain.state_dict()})


def test_options_for_decoding_have_no_sampling_and_are_refused_with_it(build):
    from espnet_larm.recognize.config import DecodeConfig
    from espnet_larm.recognize.recognizer import Recognizer

    model = build().eval()
    assert model.decoder.pooling.options["input"] == {"method": "uniform_mean", "retention": 0.5}
    recognizer = Recognizer(model, " ".join)
    with pytest.raises(ValueError, match="retention_sampling is of training alone"):
        recognizer.plan(DecodeConfig(pooling=SAMPLED))
