"""Log-probabilities of given hypotheses: those of an exact beam, in a batch as alone, and of none."""

import pytest
import torch

from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.scoring import NO_PATH, log_probs_of


@pytest.mark.parametrize("blank", [0, 2])
def test_hypotheses_have_the_scores_of_an_exact_beam(blank):
    torch.manual_seed(0)
    log_probs, lens = torch.randn(3, 5, 4).log_softmax(-1), torch.tensor([5, 3, 1])
    found = prefix_beam(log_probs, lens, 1000, blank)
    texts = found.to_lists()
    scores = log_probs_of(log_probs, lens, texts, blank)
    for row, expected in zip(scores, found.scores.tolist(), strict=True):
        assert row == pytest.approx(expected[: len(row)], abs=1e-4)
    for row in range(3):
        alone = log_probs_of(log_probs[row : row + 1, : lens[row]], lens[row : row + 1], texts[row : row + 1], blank)
        assert alone[0] == pytest.approx(scores[row], abs=1e-4)


def test_what_has_no_alignment_or_is_no_token_has_none():
    log_probs = torch.randn(2, 3, 4).log_softmax(-1)
    (repeated, unknown, empty), (none,) = log_probs_of(
        log_probs, torch.tensor([3, 2]), [[[1, 1, 1], [1, -1], []], [[1, 1]]]
    )
    assert repeated == unknown == none == NO_PATH and empty == pytest.approx(float(log_probs[0, :, 0].sum()), abs=1e-5)
    assert log_probs_of(log_probs, torch.tensor([3, 2]), [[], []]) == [[], []]
