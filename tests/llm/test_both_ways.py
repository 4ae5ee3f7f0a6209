"""A pass that reads a row both ways: beside Hugging Face's own, with windows and padding, and causal again after it."""

import pytest
import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.windows import both_ways_mask
from tests.llm.test_backbone import CLOSE, all_of, logits_of, ours, positions_of, random_rows
from tests.llm.test_windows import disturbed


def read(backbone, ids, lens=None):
    given = backbone.embed(ids), positions_of(ids), all_of(ids) if lens is None else lens
    return backbone(*given, both_ways=True).hidden


@torch.no_grad()
@pytest.mark.parametrize("length", [6, 24])
def test_layers_with_and_without_a_window_are_those_of_hugging_faces_bidirectional_gemma(hf_model, length):
    """24 positions are four windows; HF's counts half a window to each side."""
    plain = disturbed(hf_model("gemma3_text"))
    both = hf_model("gemma3_text", use_bidirectional_attention=True, sliding_window=2 * (6 - 1))
    assert both.config.sliding_window == 6
    both.load_state_dict(plain.state_dict())
    backbone, ids = ours(plain), random_rows(length=length)
    found = backbone.logits(read(backbone, ids))
    torch.testing.assert_close(found, both(ids).logits, **CLOSE)
    assert not torch.allclose(found, plain(ids).logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_padding_changes_nothing_and_all_numbers_are_finite(hf_model, kind):
    backbone, ids = ours(disturbed(hf_model(kind))), random_rows(length=24)
    lens = torch.tensor([24, 3, 11])
    together = read(backbone, ids, lens)
    assert together.isfinite().all()
    for row, length in enumerate(lens.tolist()):
        alone = read(backbone, ids[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_what_is_read_in_order_is_the_same_bit_for_bit_before_and_after(hf_model, kind):
    backbone, ids = ours(disturbed(hf_model(kind))), random_rows(length=24)
    before = logits_of(backbone, ids)
    read(backbone, ids)
    assert torch.equal(logits_of(backbone, ids), before)


def test_the_first_position_sees_the_last_and_no_further_than_a_window(hf_model):
    options = {"layer_types": ["sliding_attention"], "num_hidden_layers": 1}
    for kind, changes, expected in (("llama", {}, range(24)), ("gemma3_text", options, range(6))):
        backbone, ids = ours(hf_model(kind, **changes)), random_rows(num_rows=1, length=24)
        given = backbone.embed(ids).detach().requires_grad_()
        backbone(given, positions_of(ids), all_of(ids), both_ways=True).hidden[0, 0].square().sum().backward()
        assert [place for place, each in enumerate(given.grad[0]) if each.any()] == list(expected)


def test_a_window_spans_positions_on_both_sides_and_no_padding_but_itself():
    found = both_ways_mask(torch.tensor([[0, 2, 4, 7, 8, 20]]), torch.tensor([4]), 4)
    assert found[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert both_ways_mask(torch.arange(4).unsqueeze(0), torch.tensor([3]), 4).tolist() == [
        [[[True, True, True, False]]]
    ]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "bound"), [("llama", None), ("gemma3_text", 1.5)])
def test_logits_of_some_tokens_are_those_of_all(tiny_config, kind, bound):
    options = {"final_logit_softcapping": bound} if bound else {}
    backbone, ids = Backbone.from_config(tiny_config(kind, **options)).eval(), random_rows()
    hidden, some = read(backbone, ids), torch.tensor([3, 0, 36, 7])
    torch.testing.assert_close(backbone.logits(hidden, some), backbone.logits(hidden)[..., some])


def test_a_head_of_its_own_is_told(tiny_config):
    assert Backbone.from_config(tiny_config("llama")).is_tied
    assert not Backbone.from_config(tiny_config("llama", tie_word_embeddings=False)).is_tied
