"""Clock, FiLM, state and feedback, each alone."""

import pytest
import torch

from espnet_larm.encoder.loop import Clock, DepthFilm, LoopState, project_posteriors

SIZE, VOCAB = 8, 12


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


def test_state_is_the_sum_of_its_scaled_parts():
    torch.manual_seed(0)
    state = LoopState(skip=True, feedback=True, feedback_shift=1)
    output, start, feedback = torch.randn(3, 1, 5, SIZE)
    mask = torch.ones(1, 5, dtype=torch.bool)
    delayed = torch.cat([torch.zeros(1, 1, SIZE), feedback[:, :-1]], dim=1)
    torch.testing.assert_close(state(output, start, feedback, mask), output + 0.1 * start + 0.1 * delayed)


def test_state_without_skip_and_feedback_is_the_output_itself():
    state = LoopState(skip=False, feedback=False, feedback_shift=1)
    output = torch.randn(1, 5, SIZE)
    assert state(output, torch.randn(1, 5, SIZE), None, torch.ones(1, 5, dtype=torch.bool)) is output
    assert list(state.parameters()) == []


def test_feedback_ignores_padding():
    state = LoopState(skip=False, feedback=True, feedback_shift=1)
    output, feedback = torch.zeros(1, 5, SIZE), torch.randn(1, 5, SIZE)
    mask = torch.tensor([[True, True, True, False, False]])
    result = state(output, output, feedback, mask)
    # Frame 3 is padding and still gets the last valid frame's feedback; frame 4 would get a padded one.
    assert result[0, 3].any()
    assert not result[0, 4].any()


def test_feedback_without_shift_stays_at_its_frame():
    state = LoopState(skip=False, feedback=True, feedback_shift=0)
    output, feedback = torch.zeros(1, 4, SIZE), torch.randn(1, 4, SIZE)
    mask = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(state(output, output, feedback, mask), 0.1 * feedback)


def test_top_k_of_all_tokens_is_the_projection():
    torch.manual_seed(0)
    layer = torch.nn.Linear(VOCAB, SIZE)
    posteriors = torch.randn(2, 3, VOCAB).softmax(-1)
    # Summed in the order of probability: rounding, no more.
    torch.testing.assert_close(
        project_posteriors(posteriors, layer, VOCAB), project_posteriors(posteriors, layer, None), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_keeps_the_most_probable_tokens(top_k):
    torch.manual_seed(0)
    layer = torch.nn.Linear(VOCAB, SIZE)
    posteriors = torch.randn(2, 3, VOCAB).softmax(-1)
    kept = torch.where(posteriors >= posteriors.topk(top_k).values[..., -1:], posteriors, 0.0)
    torch.testing.assert_close(project_posteriors(posteriors, layer, top_k), layer(kept), rtol=1e-5, atol=1e-6)


def test_top_k_gradient_reaches_weights_and_posteriors():
    layer = torch.nn.Linear(VOCAB, SIZE)
    logits = torch.randn(1, 3, VOCAB, requires_grad=True)
    project_posteriors(logits.softmax(-1), layer, 2).sum().backward()
    assert logits.grad.any() and layer.weight.grad.any() and layer.bias.grad.any()
