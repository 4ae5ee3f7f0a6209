"""Windows of words among speech tokens, beside brute force and by hand."""

import pytest
import torch

from espnet_larm.speech_llm.projector import CtcEmbeddings, Projector
from studies.pooling_oracle.windows import (
    DROP,
    MERGE,
    METHODS,
    RANDOM,
    parts_of,
    reduction_mask,
    window_starts,
    word_edges,
)


def heard_frames(kind, frames, num_frames):
    """Frames that change each token of a projector, by gradients."""
    projector = Projector(kind, 3, 4, frames)
    torch.nn.init.normal_(projector.out.weight)
    hs_pad = torch.randn(1, num_frames, 3, requires_grad=True)
    heard = CtcEmbeddings(torch.zeros(1, num_frames, 4), torch.zeros(1, num_frames)) if kind == "posterior" else None
    tokens = projector(hs_pad, torch.tensor([num_frames]), heard).embeddings[0]
    grads = [torch.autograd.grad(token.sum(), hs_pad, retain_graph=True)[0][0] for token in tokens]
    return [grad.abs().sum(1).nonzero().flatten().tolist() for grad in grads]


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("kind", ["linear", "stack", "conv", "posterior"])
def test_a_token_is_in_the_window_of_the_middle_frame_that_it_hears(kind, frames):
    if kind == "linear" and frames > 1:
        return
    # Long enough that no token before the tenth frame hears less than whole windows, but at the very start.
    heard = heard_frames(kind, frames, 24)
    middles = [(min(each) + max(each)) // 2 for each in heard]
    middles[0] = 0 if kind == "conv" else middles[0]
    for edges in ([0], [0, 1], [0, 4, 5, 9], [0, 2, 7, 8], [0, 3, 6]):
        owner = [max(index for index, edge in enumerate(edges) if edge <= middle) for middle in middles]
        expected = [token for token, own in enumerate(owner) if token == 0 or own != owner[token - 1]]
        assert window_starts(edges, len(heard), kind, frames) == expected


def test_windows_end_in_the_middle_between_words_and_cover_all():
    assert word_edges([(2, 5), (8, 9), (12, 13)]) == [0, 6, 10]
    assert word_edges([(7, 8)]) == [0]
    # Next to each other, with a frame between, and the same frame twice.
    assert word_edges([(0, 3), (3, 4), (5, 6)]) == [0, 3, 4]


def test_a_word_without_the_middle_of_a_token_has_no_window():
    # Tokens of three frames have their middles at 1, 4 and 7.
    assert window_starts([0, 5, 6, 7], 3, "stack", 3) == [0, 2]
    # The last word has one frame, behind all middles.
    assert window_starts([0, 8], 3, "stack", 3) == [0]


def test_masks_of_a_hand_made_alignment():
    """Three words in 16 frames, two a token: windows of 3, 2 and 3 tokens."""
    starts = window_starts(word_edges([(2, 5), (8, 9), (12, 13)]), 8, "stack", 2)
    assert starts == [0, 3, 5]

    def places(tokens_per_word, method):
        return reduction_mask(starts, 8, tokens_per_word, method).nonzero().flatten().tolist()

    assert places(1, MERGE) == [0, 3, 5]
    assert places(2, MERGE) == [0, 1, 3, 4, 5, 6]
    assert places(1, DROP) == [1, 3, 6]
    assert places(2, DROP) == [0, 1, 3, 4, 5, 6]
    for count, kept in ((1, [1, 1, 1]), (2, [2, 2, 2]), (3, [3, 2, 3])):
        mask = reduction_mask(starts, 8, count, RANDOM)
        assert [int(mask[window].sum()) for window in (slice(0, 3), slice(3, 5), slice(5, 8))] == kept


def test_parts_differ_by_a_token_at_most():
    assert parts_of(range(4, 11), 3) == [range(4, 6), range(6, 8), range(8, 11)]
    assert parts_of(range(4, 6), 3) == [range(4, 5), range(5, 6)]


def test_all_methods_leave_as_many_tokens_and_all_of_them_if_there_are_no_more():
    starts = [0, 4, 5, 12]
    for count, left in ((1, 4), (2, 7), (4, 13), (7, 16), (99, 16)):
        assert [int(reduction_mask(starts, 16, count, method).sum()) for method in METHODS] == [left] * 3


def test_random_tokens_depend_on_utterance_and_seed_alone():
    def mask(*given):
        return reduction_mask([0, 9], 40, 3, RANDOM, *given)

    assert torch.equal(mask(0, "a"), mask(0, "a"))
    assert not torch.equal(mask(0, "a"), mask(0, "b")) and not torch.equal(mask(0, "a"), mask(1, "a"))
