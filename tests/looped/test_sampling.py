"""loop_sampling: what is drawn, alike for all and again after a resumption, and what a drawn step is."""

import copy
import math
from collections import Counter

import pytest
import torch

from espnet2.asr.ctc import CTC

from espnet_larm.looped.encoder import LarmEncoder
from espnet_larm.looped.sampling import DEVIATION, LoopSampling
from tests.looped.test_encoder import SIZE, VOCAB, batch, new_encoder


def drawn(sampling: LoopSampling, number: int) -> list[int]:
    return [sampling.draw() for _ in range(number)]


def checkpoints(encoder: LarmEncoder, ctc: CTC) -> list[int]:
    output = encoder(*batch(60, 33), ctc=ctc)[0]
    return [loop for loop, _ in output[1]] if isinstance(output, tuple) else []


@pytest.fixture
def ctc() -> CTC:
    torch.manual_seed(3)
    return CTC(VOCAB, SIZE)


def test_uniform_draws_each_checkpoint_loop_alike():
    counts = Counter(drawn(LoopSampling("uniform", (2, 4, 5), 5.0), 3000))
    assert set(counts) == {2, 4, 5}
    # Five standard deviations of a binomial.
    assert all(abs(count - 1000) < 5 * math.sqrt(3000 * 2 / 9) for count in counts.values())


def test_poisson_has_its_mean_and_the_wide_spread_of_a_log_normal():
    loops = torch.tensor(drawn(LoopSampling("poisson", range(1, 1000), 8.0), 4000), dtype=torch.float)
    variance = 7 + 49 * math.expm1(DEVIATION**2)
    assert loops.mean().item() == pytest.approx(8, abs=5 * math.sqrt(variance / 4000))
    assert loops.var().item() == pytest.approx(variance, rel=0.2)


def test_poisson_is_rounded_to_the_checkpoint_loops_up_to_twice_the_trained_number():
    encoder = new_encoder(num_loops=5, checkpoint_period=2, loop_sampling="poisson")
    assert encoder.sampling.loops == (2, 4, 5, 6, 8, 10) and encoder.sampling.mean == 5
    assert set(drawn(encoder.sampling, 500)) == {2, 4, 5, 6, 8, 10}


def test_draws_are_those_of_the_seed_and_go_on_from_a_checkpoint():
    torch.manual_seed(7)
    one, same = (LoopSampling("uniform", range(1, 9), 8.0) for _ in range(2))
    assert drawn(one, 20) == drawn(same, 20)
    resumed = LoopSampling("uniform", range(1, 9), 8.0)
    resumed.load_state_dict(copy.deepcopy(one.state_dict()))
    torch.rand(100)
    assert drawn(resumed, 20) == drawn(one, 20)
    torch.manual_seed(8)
    other = LoopSampling("uniform", range(1, 9), 8.0)
    assert drawn(other, 40) != [same.at(7, number) for number in range(40)]


def test_no_other_random_number_changes():
    encoder = new_encoder(loop_sampling="uniform")
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    drawn(encoder.sampling, 3)
    assert torch.equal(torch.rand(3), before)


def test_training_runs_what_is_drawn_and_validation_all_loops(ctc):
    encoder = new_encoder(checkpoint_period=1, loop_sampling="uniform").train()
    seed, _ = encoder.sampling.draws.tolist()
    wanted = [encoder.sampling.at(seed, number) for number in range(12)]
    assert [len(checkpoints(encoder, ctc)) + 1 for _ in range(12)] == wanted and len(set(wanted)) == 4
    assert checkpoints(encoder.eval(), ctc) == [1, 2, 3] and encoder.sampling.draws[1] == 12


def gradients(encoder: LarmEncoder, ctc: CTC) -> dict[str, torch.Tensor | None]:
    output = encoder(*batch(60, 33), ctc=ctc)[0]
    last, others = output if isinstance(output, tuple) else (output, [])
    sum((hs**3).sum() for hs in (last, *(hs for _, hs in others))).backward()
    return {name: parameter.grad for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_a_draw_of_the_trained_number_has_the_gradients_of_an_encoder_that_always_runs_it(
    activation_checkpointing, ctc, monkeypatch
):
    options = {"dropout_rate": 0.0, "activation_checkpointing": activation_checkpointing}
    fixed, sampled = new_encoder(**options).train(), new_encoder(**options, loop_sampling="uniform").train()
    sampled.load_state_dict({**sampled.state_dict(), **fixed.state_dict()})
    monkeypatch.setattr(sampled.sampling, "draw", lambda: 4)
    wanted, found = gradients(fixed, ctc), gradients(sampled, ctc)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("loops", [1, 2, 3, 8])
def test_every_weight_has_a_gradient_whatever_is_drawn(loops, ctc, monkeypatch):
    encoder = new_encoder(checkpoint_period=1, loop_sampling="poisson", coda_blocks=1).train()
    monkeypatch.setattr(encoder.sampling, "draw", lambda: loops)
    found = gradients(encoder, ctc)
    assert [name for name, gradient in found.items() if gradient is None] == []
    # One loop hands no state on.
    without = {name.split(".")[0] for name, gradient in found.items() if not gradient.any()}
    assert without <= ({"state", "conditioning_layer", "film"} if loops == 1 else {"film"})


def test_without_sampling_nothing_is_added_to_a_checkpoint_and_one_with_draws_can_begin_it():
    plain, sampled = new_encoder(), new_encoder(loop_sampling="uniform")
    assert sampled.state_dict().keys() - plain.state_dict().keys() == {"sampling.draws"}
    with torch.no_grad():
        sampled.film.out.bias.fill_(0.5)
    plain.load_state_dict(sampled.state_dict())
    assert torch.equal(plain.film.out.bias, sampled.film.out.bias)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop_sampling": "often"}, "loop_sampling is often; allowed: none, uniform, poisson"),
        (
            {"loop_sampling": "uniform", "share_blocks": False},
            "is uniform; allowed: none without a stack",
        ),
        ({"loop_sampling": "poisson", "num_loops": 1, "checkpoint_period": 1}, "allowed: none without a stack"),
        ({"loop_sampling": "uniform", "checkpoint_period": 4}, "checkpoint_period 4 leaves one checkpoint loop"),
        ({"loop_sampling": "uniform", "loop_mean": 3.0}, "loop_mean is 3.0; allowed: none, since loop_sampling is uni"),
        ({"loop_sampling": "poisson", "loop_mean": 1.0}, "loop_mean is 1.0; allowed: above 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_encoder(**options)
