"""Clock, FiLM, state and feedback, each alone."""

import pytest
import torch

from espnet_larm.looped.loop import Clock, Depth, DepthFilm, LoopState

SIZE, VOCAB = 8, 12
ALL_VALID = torch.ones(1, 5, dtype=torch.bool)


def test_clock_starts_as_zero_and_repeats_with_its_period():
    clock = Clock(period=3, size=SIZE)
    assert not clock(1).any()
    torch.nn.init.normal_(clock.table)
    assert torch.equal(clock(2), clock(5))
    assert not torch.equal(clock(2), clock(3))


def test_film_starts_as_a_no_op_at_any_depth():
    film = DepthFilm(SIZE)
    for loop in (1, 7, 100):
        gamma, beta = film(loop)
        assert not gamma.any() and not beta.any()


def test_film_tells_depths_apart_once_trained():
    torch.manual_seed(0)
    film = DepthFilm(SIZE)
    torch.nn.init.normal_(film.out.weight)
    codes = torch.stack([film(loop)[0] for loop in range(1, 25)])
    distances = torch.pdist(codes)
    assert distances.min() > 1e-3


def test_depth_is_film_of_state_and_clock():
    clock, film, state = Clock(period=3, size=SIZE), DepthFilm(SIZE), torch.randn(2, 5, SIZE)
    for parameter in (clock.table, film.out.weight, film.out.bias):
        torch.nn.init.normal_(parameter)
    gamma, beta = film(4)
    # One affine map rounds differently from two.
    expected = (1 + gamma) * (state + clock(4)) + beta
    torch.testing.assert_close(Depth.of(4, clock, film)(state), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Depth.of(4, None, film)(state), (1 + gamma) * state + beta, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Depth.of(4, clock, None)(state), state + clock(4))
    assert Depth.of(4, None, None) is None


def new_feedback():
    torch.manual_seed(0)
    return torch.randn(1, 5, VOCAB).softmax(-1), torch.nn.Linear(VOCAB, SIZE)


def test_state_is_the_sum_of_its_scaled_parts():
    state = LoopState(skip=True, feedback=True, feedback_shift=1)
    output, start = torch.randn(2, 1, 5, SIZE)
    posteriors, layer = new_feedback()
    depth = Depth(torch.randn(SIZE), torch.randn(SIZE))
    delayed = torch.cat([torch.zeros(1, 1, SIZE), layer(posteriors)[:, :-1]], dim=1)
    expected = depth.gain * (output + 0.1 * start + 0.1 * delayed) + depth.offset
    found = state(output, start, depth, (posteriors, layer), ALL_VALID)
    # Scales are folded into the projection: rounding, no more.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_state_without_skip_and_feedback_is_the_output_itself():
    state = LoopState(skip=False, feedback=False, feedback_shift=1)
    output = torch.randn(1, 5, SIZE)
    assert state(output, torch.randn(1, 5, SIZE), None, None, ALL_VALID) is output
    assert list(state.parameters()) == []


def test_feedback_ignores_padding():
    state = LoopState(skip=False, feedback=True, feedback_shift=1)
    zeros = torch.zeros(1, 5, SIZE)
    mask = torch.tensor([[True, True, True, False, False]])
    result = state(zeros, zeros, None, new_feedback(), mask)
    # Nothing comes before frame 0; frame 3 takes from the last valid frame, frame 4 would take from padding.
    assert [bool(frame.any()) for frame in result[0]] == [False, True, True, True, False]


def test_feedback_without_shift_stays_at_its_frame():
    state = LoopState(skip=False, feedback=True, feedback_shift=0)
    zeros = torch.zeros(1, 5, SIZE)
    posteriors, layer = new_feedback()
    found = state(zeros, zeros, None, (posteriors, layer), ALL_VALID)
    torch.testing.assert_close(found, 0.1 * layer(posteriors), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("shift", [5, 6, 50])
def test_feedback_delayed_beyond_the_utterance_is_none(shift, top_k):
    state = LoopState(skip=False, feedback=True, feedback_shift=shift, feedback_top_k=top_k)
    output = torch.randn(1, 5, SIZE)
    torch.testing.assert_close(state(output, output, None, new_feedback(), ALL_VALID), output, rtol=0, atol=0)


def fed_back(posteriors, layer, top_k):
    state = LoopState(skip=False, feedback=True, feedback_shift=1, feedback_top_k=top_k)
    zeros = torch.zeros(1, 5, SIZE)
    return state(zeros, zeros, None, (posteriors, layer), ALL_VALID)


def test_top_k_of_all_tokens_is_the_projection():
    feedback = new_feedback()
    # Summed in the order of probability: rounding, no more.
    torch.testing.assert_close(fed_back(*feedback, VOCAB), fed_back(*feedback, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_keeps_the_most_probable_tokens(top_k):
    posteriors, layer = new_feedback()
    kept = torch.where(posteriors >= posteriors.topk(top_k).values[..., -1:], posteriors, 0.0)
    torch.testing.assert_close(fed_back(posteriors, layer, top_k), fed_back(kept, layer, None), rtol=1e-5, atol=1e-6)


def test_top_k_gradient_reaches_weights_and_posteriors():
    _, layer = new_feedback()
    logits = torch.randn(1, 5, VOCAB, requires_grad=True)
    fed_back(logits.softmax(-1), layer, 2).square().sum().backward()
    assert logits.grad.any() and layer.weight.grad.any() and layer.bias.grad.any()
