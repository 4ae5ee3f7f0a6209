"""Where blanks stand in a draft."""

import pytest
import torch

from espnet_larm.speech_llm.editing.layout import LEAST_POSITIONS, lay_out, num_needed

BLANK = 0


def rows_of(layout):
    return [row[:length] for row, length in zip(layout.tokens.tolist(), layout.lens.tolist(), strict=True)]


def test_blanks_stand_before_between_and_behind_the_tokens():
    layout = lay_out([[5, 6, 7, 8], [4, 4, 4, 4, 4]], BLANK)
    assert rows_of(layout) == [[0, 5, 0, 6, 0, 7, 0, 8, 0], [0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0]]
    assert layout.mask.sum(1).tolist() == [9, 11] and layout.tokens[0, 9:].tolist() == [BLANK, BLANK]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (2, [0, 1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 0]),
        (3, [0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 0]),
        (9, [0, 1, 2, 3, 4, 5, 6, 7, 0]),
    ],
)
def test_a_blank_may_stand_behind_every_few_tokens(every, expected):
    assert rows_of(lay_out([[1, 2, 3, 4, 5, 6, 7]], BLANK, every)) == [expected]


def test_a_short_draft_has_eight_positions_and_its_blanks_are_spread():
    layout = lay_out([[], [5], [5, 6]], BLANK)
    assert layout.lens.tolist() == [LEAST_POSITIONS] * 3 and not layout.is_widened.any()
    assert rows_of(layout) == [[0] * 8, [0, 0, 0, 5, 0, 0, 0, 0], [0, 0, 5, 0, 0, 6, 0, 0]]


@pytest.mark.parametrize("every", [1, 3])
def test_a_reference_that_would_not_fit_has_room_and_is_counted(every):
    """CTC needs a position a token, and one between equal ones: its loss is finite, and was not without."""
    drafts, long = [[5, 6, 7, 8], [5, 6, 7, 8]], [5, 5, 6, 6, 7, 7, 8, 8]
    assert num_needed(long) == 12 and num_needed([]) == 0 and num_needed([5, 6, 5]) == 3
    plain, layout = lay_out(drafts, BLANK, every), lay_out(drafts, BLANK, every, [[5, 6], long])
    assert layout.is_widened.tolist() == [False, True] and layout.lens.tolist() == [int(plain.lens[0]), 12]
    assert [token for token in rows_of(layout)[1] if token] == drafts[1]
    log_probs = torch.randn(layout.tokens.size(1), 1, 9).log_softmax(-1)

    def loss(length):
        given = torch.tensor([long]), torch.tensor([length]), torch.tensor([len(long)])
        return torch.nn.functional.ctc_loss(log_probs[:length], *given)

    assert loss(12).isfinite() and loss(int(plain.lens[1])).isinf()
