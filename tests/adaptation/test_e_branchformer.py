"""The branch of speech positions: what it computes, and what it hears."""

from types import MappingProxyType

import pytest
import torch

from espnet2.asr.layers.cgmlp import ConvolutionalGatingMLP

from espnet_larm.adaptation.depth_upscaling import LAYERS
from espnet_larm.adaptation.e_branchformer import LocalBranch
from tests.adaptation.test_depth_upscaling import LENS, SPEECH, disturb, upscaled
from tests.llm.test_backbone import CLOSE

GATE_KERNEL = 5


@pytest.fixture
def branch():
    """With weights as after training."""
    made = LocalBranch(8, GATE_KERNEL, 3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return made


def espnets(branch):
    """ESPnet's cgMLP with a branch's weights."""
    half = branch.gate_norm.normalized_shape[0]
    made = ConvolutionalGatingMLP(2 * half, 2 * half, GATE_KERNEL, 0.0, False, "identity").eval()
    parts = {
        "channel_proj1.0": branch.expand,
        "csgu.norm": branch.gate_norm,
        "csgu.conv": branch.gate_conv,
        "channel_proj2": branch.project,
    }
    state = {f"{theirs}.{name}": each for theirs, ours in parts.items() for name, each in ours.state_dict().items()}
    made.load_state_dict(state, strict=True)
    made.csgu.norm.eps = branch.gate_norm.eps
    return made


@torch.no_grad()
def test_speech_is_merged_as_in_the_paper_and_text_is_left_alone(branch):
    """With ESPnet's cgMLP on each row's speech alone, and the merge written out position by position."""
    normed, attended = torch.randn(3, 9, 8), torch.randn(3, 9, 8)
    found, cgmlp = branch(normed, attended, SPEECH), espnets(branch)
    for row in range(3):
        run = SPEECH[row]
        both = torch.cat([attended[row, run], cgmlp(normed[row : row + 1, run], None)[0]], dim=1)  # (S, 2D)
        around = torch.nn.functional.pad(both, (0, 0, 1, 1))
        kernel = branch.merge_conv.weight[:, 0]  # (2D, 3)
        mixed = torch.stack([(around[place : place + 3] * kernel.t()).sum(0) for place in range(len(both))])
        torch.testing.assert_close(found[row, run], (both + mixed) @ branch.merge.weight.t(), rtol=1e-4, atol=1e-4)
        assert torch.equal(found[row, ~run], attended[row, ~run])
    nowhere = torch.zeros_like(SPEECH)
    assert torch.equal(branch(normed, attended, nowhere), attended)
    some = SPEECH.clone()
    some[1] = False
    torch.testing.assert_close(branch(normed, attended, some)[[0, 2]], found[[0, 2]], **CLOSE)
    assert torch.equal(branch(normed, attended, some)[1], attended[1])


@torch.no_grad()
def test_convolutions_hear_their_own_speech_alone(branch):
    """Whatever stands in prefix, suffix, padding and other rows, also what is no number."""
    normed, attended = torch.randn(3, 9, 8), torch.randn(3, 9, 8)
    found = branch(normed, attended, SPEECH)
    for row in range(3):
        own = torch.zeros_like(SPEECH)
        own[row] = SPEECH[row]
        others = [
            torch.where(own.unsqueeze(-1), each, torch.full_like(each, float("nan"))) for each in (normed, attended)
        ]
        torch.testing.assert_close(branch(*others, SPEECH)[own], found[own], rtol=1e-6, atol=1e-6)
    # And is heard by it, to the ends of the kernels: 2 positions around for the gate, 1 more for the merge.
    normed[0, 1] += 1
    moved = (branch(normed, attended, SPEECH) != found).any(-1)
    assert moved[0].tolist() == [False, True, True, True, True, False, False, False, False]
    assert not moved[1:].any()


def test_every_weight_has_a_gradient(branch):
    branch(torch.randn(3, 9, 8), torch.randn(3, 9, 8), SPEECH).square().sum().backward()
    assert all(parameter.grad.any() for parameter in branch.parameters())


def prompts(backbone):
    """Embeddings of prompts with speech in them (3, 9, D), and tokens of texts that follow."""
    torch.manual_seed(5)
    return torch.randn(3, 9, backbone.hidden_size), torch.randint(37, (3, 12))


NOTHING = MappingProxyType({})


def alone(backbone, embeddings, row, text, after_layer=NOTHING):
    """Logits of a text's positions, in one pass over prompt and text of one row without padding."""
    length = int(LENS[row])
    whole = torch.cat([embeddings[row : row + 1, :length], backbone.embed(text.unsqueeze(0))], dim=1)
    speech = torch.nn.functional.pad(SPEECH[row : row + 1, :length], (0, len(text)))
    positions = torch.arange(whole.size(1)).unsqueeze(0)
    hidden = backbone(whole, positions, torch.tensor([whole.size(1)]), speech, after_layer=after_layer).hidden
    return backbone.logits(hidden)[0, -len(text) :]


def prefilled(backbone, embeddings, after_layer=NOTHING):
    cache = backbone.new_cache()
    backbone(embeddings, torch.arange(9).expand(3, -1), LENS, SPEECH, cache, after_layer)
    cache.seal()
    return cache


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_padded_row_is_the_row_alone(hf_model, kind, layer):
    backbone = disturb(upscaled(hf_model(kind), layer=layer, num_layers=2))
    embeddings, _ = prompts(backbone)
    together = backbone(embeddings, torch.arange(9).expand(3, -1), LENS, SPEECH).hidden
    for row, length in enumerate(LENS.tolist()):
        given = embeddings[row : row + 1, :length], torch.arange(length).unsqueeze(0)
        found = backbone(*given, torch.tensor([length]), SPEECH[row : row + 1, :length]).hidden[0]
        torch.testing.assert_close(together[row, :length], found, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_cached_steps_are_the_uncached_forward(hf_model, kind, layer):
    """Texts of different lengths, one and several tokens a call, as of beams, some given back."""
    backbone = disturb(upscaled(hf_model(kind), layer=layer, num_layers=2))
    embeddings, ids = prompts(backbone)
    cache = prefilled(backbone, embeddings)
    assert cache.prompt_lens.tolist() == [LENS.tolist()] * 5
    texts, owners = [[], [], []], [0, 1, 2]
    steps = (
        ([1, 1, 1], None),
        ([3, 1, 2], [0, 0, 2, 1]),
        ([0, 2, 1, 3], [3, 1, 0]),
        ([2, 2, 2], None),
        ([1, 0, 3], None),
    )
    for number, (num_new, rows) in enumerate(steps):
        new = ids[torch.arange(len(num_new)) % 3, number : number + max(num_new)]
        starts = torch.tensor([int(LENS[owner]) + len(text) for owner, text in zip(owners, texts, strict=True)])
        positions = starts.unsqueeze(1) + torch.arange(new.size(1))
        found = backbone(backbone.embed(new), positions, torch.tensor(num_new), cache=cache).hidden
        for row, count in enumerate(num_new):
            texts[row] = [*texts[row], *new[row, :count].tolist()]
            wanted = alone(backbone, embeddings, owners[row], torch.tensor(texts[row], dtype=torch.long))
            logits = backbone.logits(found[row, :count])
            torch.testing.assert_close(logits, wanted[len(texts[row]) - count :], **CLOSE)
        if number == 3:
            texts = [text[:3] for text in texts]
            cache.crop(torch.tensor([3, 3, 3]))
        if rows is not None:
            cache.select(torch.tensor(rows))
            texts, owners = [texts[row] for row in rows], [owners[row] for row in rows]


@torch.no_grad()
def test_texts_need_no_branch(hf_model):
    """After the prompt, and in an LM that reads text alone."""
    backbone = disturb(upscaled(hf_model(), num_layers=2, placement="bottom"))
    embeddings, ids = prompts(backbone)
    calls = []
    for added in backbone.added.values():
        added.local.register_forward_hook(lambda *_: calls.append(1))
    cache = prefilled(backbone, embeddings)
    assert len(calls) == 2
    backbone(backbone.embed(ids[:, :2]), LENS.unsqueeze(1) + torch.arange(2), torch.tensor([2, 1, 2]), cache=cache)
    without = backbone(embeddings, torch.arange(9).expand(3, -1), LENS).hidden
    assert len(calls) == 2
    for added in backbone.added.values():
        added.local = None
    assert torch.equal(backbone(embeddings, torch.arange(9).expand(3, -1), LENS, SPEECH).hidden, without)


def merge_pairs(stream):
    """Two neighbouring speech positions become their mean, at the first one's place; an odd last one stays."""
    rows = []
    for row, length in enumerate(stream.lens.tolist()):
        kept, place, speech = [], 0, stream.speech[row].tolist()
        while place < length:
            taken = 2 if place + 1 < length and speech[place] and speech[place + 1] else 1
            hidden = stream.hidden[row, place : place + taken].mean(0)
            kept.append((hidden, stream.positions[row, place], stream.speech[row, place]))
            place += taken
        rows.append([torch.stack(each) for each in zip(*kept, strict=True)])
    padded = [torch.nn.utils.rnn.pad_sequence(each, batch_first=True) for each in zip(*rows, strict=True)]
    hidden, positions, speech = padded
    return stream._replace(
        hidden=hidden, positions=positions, speech=speech, lens=torch.tensor([len(row[0]) for row in rows])
    )


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_with_speech_merged_on_the_way_batches_and_cached_steps_are_each_row_alone(hf_model, layer):
    backbone = disturb(upscaled(hf_model(), layer=layer, share=1.0))
    embeddings, ids = prompts(backbone)
    shorter = (LENS - torch.tensor([2, 1, 3])).tolist()
    merging = {0: merge_pairs}
    together = backbone(embeddings, torch.arange(9).expand(3, -1), LENS, SPEECH, after_layer=merging)
    assert together.lens.tolist() == shorter
    cache = prefilled(backbone, embeddings, merging)
    # The LM's own three layers and the added ones: both behind the first read all.
    assert cache.prompt_lens.tolist() == [LENS.tolist(), shorter, shorter] * 2
    found = backbone(backbone.embed(ids[:, :3]), LENS.unsqueeze(1) + torch.arange(3), torch.full((3,), 3), cache=cache)
    for row, length in enumerate(LENS.tolist()):
        given = embeddings[row : row + 1, :length], torch.arange(length).unsqueeze(0)
        rest = torch.tensor([length]), SPEECH[row : row + 1, :length]
        single = backbone(*given, *rest, after_layer=merging).hidden[0]
        assert len(single) == shorter[row]
        torch.testing.assert_close(together.hidden[row, : shorter[row]], single, **CLOSE)
        wanted = alone(backbone, embeddings, row, ids[row, :3], merging)
        torch.testing.assert_close(backbone.logits(found.hidden[row]), wanted, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cached_steps_under_autocast_are_the_uncached_forward(hf_model, dtype):
    """Autocast as `use_amp` and decoding in bfloat16 set it."""
    backbone = disturb(upscaled(hf_model().to(dtype), share=1.0))
    embeddings, ids = prompts(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        cache = prefilled(backbone, embeddings)
        positions = LENS.unsqueeze(1) + torch.arange(3)
        found = backbone(backbone.embed(ids[:, :3]), positions, torch.full((3,), 3), cache=cache)
        wanted = [alone(backbone, embeddings, row, ids[row, :3]) for row in range(3)]
    # Numbers of about 1 with 8 bits.
    torch.testing.assert_close(backbone.logits(found.hidden), torch.stack(wanted), rtol=0.05, atol=0.05)


@torch.no_grad()
def test_half_precision_beside_float32_layers_has_caches_of_both(hf_model):
    backbone = disturb(upscaled(hf_model().to(torch.bfloat16), num_layers=2))
    embeddings, ids = prompts(backbone)
    cache = prefilled(backbone, embeddings)
    assert [each.keys.dtype for each in cache.prompt] == [torch.bfloat16] * 3 + [torch.float32] * 2
    found = backbone(backbone.embed(ids[:, :3]), LENS.unsqueeze(1) + torch.arange(3), torch.full((3,), 3), cache=cache)
    for row in range(3):
        wanted = alone(backbone, embeddings, row, ids[row, :3])
        # Numbers of about 1 with 8 bits.
        torch.testing.assert_close(backbone.logits(found.hidden[row]), wanted, rtol=0.05, atol=0.05)
