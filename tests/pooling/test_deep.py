"""Speech merged behind a layer of an LM: which positions are left, beside an LM that is run in two halves."""

import copy
from functools import partial

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import wrap
from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.stream import Stream
from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.deep import pool_deep
from espnet_larm.pooling.options import OPTIONS, Pooling

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# Rows of prefix, speech and suffix: 2 + 6 + 2, 2 + 3 + 2, and no speech at all.
LENS, SPEECH = torch.tensor([10, 7, 4]), torch.zeros(3, 10, dtype=torch.bool)
SPEECH[0, 2:8] = SPEECH[1, 2:5] = True
STRIDE = {"method": "stride", "retention": 0.5}
MERGING = {1: partial(pool_deep, Pooling(**STRIDE))}


def stream_of(hidden):
    return Stream(hidden, torch.arange(10).expand(3, -1), LENS, SPEECH)


def positions_by_row(stream):
    rows = zip(stream.positions.tolist(), stream.lens.tolist(), strict=True)
    return [positions[:length] for positions, length in rows]


def test_speech_is_merged_and_all_else_keeps_value_and_position():
    hidden = torch.randn(3, 10, 4)
    found = pool_deep(Pooling(**STRIDE), stream_of(hidden))
    assert found.lens.tolist() == [7, 6, 4] and found.hidden.size(1) == 7
    # Groups of 2 in a row of 6, of 1 and 2 in a row of 3; the first positions of each.
    assert positions_by_row(found) == [[0, 1, 2, 4, 6, 8, 9], [0, 1, 2, 4, 5, 6], [0, 1, 2, 3]]
    speech = [row[:length] for row, length in zip(found.speech.int().tolist(), found.lens.tolist(), strict=True)]
    assert speech == [[0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0]] and found.speech.sum() == 5
    merged = hidden[0, 2:8].view(3, 2, 4).mean(1)
    torch.testing.assert_close(found.hidden[0], torch.cat([hidden[0, :2], merged, hidden[0, 8:]]))
    assert torch.equal(found.hidden[1, [0, 1, 4, 5]], hidden[1, [0, 1, 5, 6]])
    assert torch.equal(found.hidden[2, :4], hidden[2, :4])
    kept = Kept(SPEECH.sum(1), found.speech.sum(1))
    assert (kept.before.tolist(), kept.after.tolist()) == ([6, 3, 0], [3, 2, 0])
    assert float(kept.retention) == pytest.approx(5 / 9)


def test_affinity_compares_the_hidden_states_of_speech_alone():
    hidden = torch.randn(3, 10, 4)
    hidden[0, 1] = hidden[0, 2] = hidden[0, 3] = hidden[0, 7] = hidden[0, 8] = hidden[0, 9]
    found = pool_deep(Pooling(tau=0.999), stream_of(hidden))
    # 2 and 3 are alike and 1, 7, 8 and 9 too, of which only 7 is speech.
    assert positions_by_row(found)[0] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_padding_does_not_matter():
    hidden = torch.randn(3, 10, 4)
    pooling = Pooling(tau=0.1, window=2)
    expected = pool_deep(pooling, stream_of(hidden))
    for row, length in enumerate(LENS.tolist()):
        hidden[row, length:] = hidden[row, length - 1]
    found = pool_deep(pooling, stream_of(hidden))
    for row, length in enumerate(expected.lens.tolist()):
        assert torch.equal(found.hidden[row, :length], expected.hidden[row, :length])
    assert positions_by_row(found) == positions_by_row(expected)


@pytest.mark.parametrize("options", [{"tau": 1.01}, {"method": "stride", "retention": 1.0}])
def test_neutral_settings_leave_the_stream_itself(options):
    stream = stream_of(torch.randn(3, 10, 4))
    assert pool_deep(Pooling(**options), stream) is stream


def test_texts_by_themselves_and_prompts_without_speech_stay_as_they_are():
    pooling = Pooling(**STRIDE)
    text = stream_of(torch.randn(3, 10, 4))._replace(speech=None)
    assert pool_deep(pooling, text) is text
    silent = text._replace(speech=torch.zeros_like(SPEECH))
    assert pool_deep(pooling, silent) is silent
    assert float(Kept(*[torch.zeros(3)] * 2).retention) == 1.0


@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_shortens_and_lets_gradients_through(method):
    hidden = torch.randn(3, 10, 4, requires_grad=True)
    options = {"tau": 0.0} if method == "affinity" else {"retention": 0.5}
    found = pool_deep(Pooling(method, **options), stream_of(hidden))
    assert found.lens[0] < 10 and found.lens[2] == 4
    found.hidden[0, : int(found.lens[0])].square().sum().backward()
    assert hidden.grad[0, 2:8].any() and hidden.grad[0, [0, 1, 8, 9]].any(1).all() and not hidden.grad[1:].any()


@torch.no_grad()
def test_layers_up_to_there_read_all_speech_and_those_behind_what_is_left(hf_model):
    """By hand: two layers of the LM, the merge, one layer."""
    model = hf_model()
    backbone = Backbone(copy.deepcopy(model)).eval()
    embeddings, positions = torch.randn(1, 10, 32), torch.arange(10).unsqueeze(0)
    cache = backbone.new_cache()
    given = embeddings, positions, LENS[:1], SPEECH[:1]
    found = backbone(*given, cache, MERGING)
    assert cache.prompt_lens.tolist() == [[10], [10], [7]]
    early = Backbone(copy.deepcopy(model)).eval()
    late = Backbone(copy.deepcopy(model)).eval()
    del early.model.model.layers[2:], late.model.model.layers[:2]
    early.model.model.norm = torch.nn.Identity()
    hidden = early(*given).hidden
    hidden = torch.cat([hidden[:, :2], hidden[:, 2:8].view(1, 3, 2, 32).mean(2), hidden[:, 8:]], dim=1)
    expected = late(hidden, torch.tensor([[0, 1, 2, 4, 6, 8, 9]]), torch.tensor([7]))
    torch.testing.assert_close(found.hidden, expected.hidden, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["standard", "e_branchformer"])
def test_added_layers_in_front_read_all_speech_and_those_behind_what_is_left(hf_model, layer):
    backbone = Backbone(copy.deepcopy(hf_model(num_hidden_layers=4))).eval().requires_grad_(False)
    wrap(backbone, {"layer": layer, "num_layers": 4})
    for parameter in backbone.added.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.3)
    seen = {}
    for slot, added in backbone.added.items():
        added.register_forward_pre_hook(
            lambda _, args, kwargs, slot=slot: seen.update({slot: (args[0].size(1), kwargs["speech"].sum(1).tolist())}),
            with_kwargs=True,
        )
    cache = backbone.new_cache()
    backbone(torch.randn(3, 10, 32), torch.arange(10).expand(3, -1), LENS, SPEECH, cache, MERGING)
    whole, short = (10, [6, 3, 0]), (7, [3, 2, 0])
    assert seen == {"0": whole, "1": whole, "2": short, "3": short}
    assert cache.prompt_lens.tolist() == [[10, 7, 4]] * 2 + [[7, 6, 4]] * 2 + [[10, 7, 4]] * 2 + [[7, 6, 4]] * 2
