"""Training of the halting head: labels by hand, what a layer can foretell, and sets that teach nothing."""

import numpy as np
import pytest
import torch

from espnet_larm.calibrate.halting import Examples, fit
from espnet_larm.scoring.bootstrap import Grouping

NUM_UTTS, SIZE = 400, 6


def examples(losses, pooled=None) -> Examples:
    """A set with losses at three loops."""
    losses = np.array(losses, dtype=float)
    keys = [f"u{index}" for index in range(len(losses))]
    pooled = torch.zeros(len(losses), 2, SIZE, dtype=torch.float64) if pooled is None else pooled
    return Examples(keys, (2, 4, 6), pooled, losses, 100, 0)


def alone(found: Examples) -> Grouping:
    return Grouping("utterance", np.arange(len(found.keys)))


def test_a_label_is_whether_any_deeper_loop_is_better_by_delta():
    found = examples([[1.0, 0.5, 0.9], [0.5, 0.6, 0.495], [0.5, 0.6, 0.4], [1.0, 2.0, 3.0]])
    assert found.labels(0.01).tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert found.labels(0.0).tolist() == [[1, 0], [1, 1], [1, 1], [0, 0]]


def foretold(noise: float) -> Examples:
    """A set whose second pooled number says, beside noise, whether deeper loops are better."""
    generator = torch.Generator().manual_seed(0)
    pooled = torch.randn(NUM_UTTS, 2, SIZE, generator=generator, dtype=torch.float64) * 3 + 5
    said = pooled[:, :, 1] - 5 + noise * torch.randn(NUM_UTTS, 2, generator=generator, dtype=torch.float64)
    losses = torch.zeros(NUM_UTTS, 3, dtype=torch.float64)
    # From the deepest on upwards: better or worse than the next by 0.1.
    for loop in (1, 0):
        losses[:, loop] = losses[:, loop + 1 :].min(dim=1).values + torch.where(said[:, loop] > 0, 0.1, -0.1)
    return examples(losses.numpy(), pooled)


def test_a_layer_foretells_what_can_be_foretold_of_held_out_utterances():
    found = foretold(noise=1.0)
    fitted = fit(found, 0.01, alone(found))
    assert (fitted.held_out < 0.4).all() and (fitted.base > 0.6).all()
    # The layer reads numbers as they are, whatever was done to fit it.
    says = (found.pooled @ fitted.weight + fitted.biases > 0).double()
    assert (says == found.labels(0.01)).double().mean() > 0.85
    assert fitted.weight.abs().argmax() == 1


def test_what_cannot_be_foretold_is_no_better_than_the_loops_rate():
    found = foretold(noise=1000.0)
    fitted = fit(found, 0.01, alone(found))
    assert (fitted.held_out > fitted.base - 0.02).all() and fitted.penalty == 1.0


def test_groups_are_held_out_whole():
    """A number that is each speaker's own foretells nothing of other speakers."""
    speakers = np.repeat(np.arange(20), 20)
    generator = np.random.default_rng(0)
    pooled = torch.nn.functional.one_hot(torch.from_numpy(speakers)).double().unsqueeze(1).repeat(1, 2, 1)
    losses = np.zeros((400, 3))
    losses[:, :2] = np.where(generator.random(20)[speakers] > 0.5, 0.1, -0.1)[:, None]
    found = examples(losses, pooled)
    by_speaker = fit(found, 0.01, Grouping("speaker", speakers))
    mixed = fit(found, 0.01, Grouping("utterance", generator.permutation(400)))
    assert mixed.held_out.mean() < 0.5 < by_speaker.held_out.mean()


def test_a_loop_whose_labels_are_all_alike_has_a_bias():
    losses = np.zeros((40, 3))
    losses[:, 0], losses[::2, 1] = 1.0, 0.5
    found = examples(losses)
    fitted = fit(found, 0.01, alone(found))
    assert fitted.biases.isfinite().all() and fitted.biases[0] > 3 and abs(fitted.biases[1]) < 0.2


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([[0.0, 0.0, 0.1]] * 10, "delta is 0.01, at which no utterance gains from deeper.* gains are -0.1 to 0 n"),
        ([[0.2, 0.1, 0.0]] * 10, "delta is 0.01, at which every utterance gains from deeper loops"),
        ([[0.0, 0.1, 0.0]] * 3, "the set has 3 utterances; allowed: 5 or more"),
    ],
)
def test_sets_that_teach_nothing_are_refused(losses, message):
    found = examples(losses)
    with pytest.raises(ValueError, match=message):
        fit(found, 0.01, alone(found))
