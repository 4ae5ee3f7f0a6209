"""Text ability by hand, by batch, and of an LM beside itself."""

import copy

import numpy as np
import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import LAYERS, dropped
from espnet_larm.adaptation.export import save_for_text
from espnet_larm.adaptation.llm_weights import adapt
from espnet_larm.llm.backbone import Backbone
from espnet_larm.speech_llm.text_ability import lora_off
from studies.text_ability.measures import measure_lines, sample_lines, summarise
from tests.adaptation.test_depth_upscaling import disturb, upscaled
from tests.llm.test_backbone import ours

# The last is longer than the context of 64 positions.
LENS = (5, 2, 9, 3, 80)


@pytest.fixture
def lines():
    torch.manual_seed(1)
    return [torch.randint(37, (length,), dtype=torch.int32) for length in LENS]


@pytest.fixture
def backbone(hf_model):
    return ours(hf_model(initializer_range=0.4))


def moved(backbone, scale=0.1):
    """A copy with other weights, as a training makes them."""
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return other


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one, other)


def test_sums_are_those_of_the_definitions(backbone, lines):
    other = moved(backbone)
    found = measure_lines(other, lines, backbone, batch_size=2)
    for index, line in enumerate(lines):
        tokens = nats = correct = kl = 0.0
        for row in line.split(64):
            with torch.no_grad():
                ps, qs = (one.model(row[None].long()).logits[0].double().softmax(-1) for one in (backbone, other))
            for position in range(len(row) - 1):
                token = row[position + 1]
                tokens += 1
                nats -= float(qs[position, token].log())
                correct += int(qs[position].argmax()) == int(token)
                kl += sum(float(p * (p / q).log()) for p, q in zip(ps[position], qs[position], strict=True))
        assert (found.tokens[index], found.correct[index]) == (tokens, correct)
        assert (found.nats[index], found.kl[index]) == (pytest.approx(nats, rel=1e-4), pytest.approx(kl, rel=1e-3))
    assert found.tokens.tolist() == [4, 1, 8, 2, 78]


def test_an_lm_is_no_nat_from_itself_and_some_from_another(backbone, lines):
    assert measure_lines(backbone, lines, copy.deepcopy(backbone)).kl.tolist() == [0.0] * 5
    assert (measure_lines(moved(backbone, 0.02), lines, backbone).kl > 0).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_added_layers_that_have_not_learned_change_no_figure(hf_model, backbone, lines, layer):
    wanted = measure_lines(backbone, lines, backbone)
    deeper = upscaled(backbone.model, layer=layer, num_layers=2)
    assert_same(measure_lines(deeper, lines, backbone), wanted)
    disturb(deeper)
    assert (measure_lines(deeper, lines, backbone).kl > 0).all()
    with dropped(deeper):
        assert_same(measure_lines(deeper, lines, backbone), wanted)
    assert len(deeper.added) == 2


def test_lora_that_is_off_changes_no_figure_and_learns_afterwards(backbone, lines):
    wanted = measure_lines(backbone, lines, backbone)
    adapted = copy.deepcopy(backbone)
    adapt(adapted, "lora", {"r": 2, "init_lora_weights": False}, True)
    learns = {name: each.requires_grad for name, each in adapted.named_parameters()}
    adapted.eval()
    changed = measure_lines(adapted, lines, backbone)
    assert (changed.kl > 0).all()
    with lora_off(adapted):
        assert_same(measure_lines(adapted, lines, backbone), wanted)
    assert learns == {name: each.requires_grad for name, each in adapted.named_parameters()}
    assert_same(measure_lines(adapted, lines, backbone), changed)


def test_the_batch_size_does_not_matter(backbone, lines):
    other = moved(backbone)
    one, all_at_once = (measure_lines(other, lines, backbone, size) for size in (1, 99))
    # Matrices of other shapes are multiplied in another order.
    for found, wanted in zip(one, all_at_once, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_means_are_over_tokens_and_intervals_over_lines(backbone, lines):
    base, sums = measure_lines(backbone, lines), measure_lines(moved(backbone), lines, backbone)
    found = summarise(sums, base)
    assert found["nats_per_token"].value == pytest.approx(sums.nats.sum() / 93)
    assert found["nats_above_base"].value == pytest.approx((sums.nats.sum() - base.nats.sum()) / 93)
    assert set(summarise(base)) == {"nats_per_token", "accuracy"}
    ratios = sums.nats / sums.tokens
    for name, estimate in found.items():
        assert estimate.interval.low <= estimate.value <= estimate.interval.high, name
    assert ratios.min() <= found["nats_per_token"].interval.low < found["nats_per_token"].interval.high <= ratios.max()
    alike = sums._replace(nats=sums.tokens * 2.0)
    assert summarise(alike)["nats_per_token"] == (2.0, (2.0, 2.0))


def test_sampled_lines_are_the_same_of_one_seed_in_any_batch(backbone):
    def draw(seed, batch_size):
        return [line.tolist() for line in sample_lines(backbone, 1, 2, 20, 12, seed, batch_size)]

    drawn = draw(0, 20)
    assert drawn == draw(0, 3) and drawn != draw(1, 20)
    assert all(line[0] == 1 and 2 not in line[1:-1] and len(line) <= 13 for line in drawn)
    assert {line[-1] == 2 for line in drawn} == {True, False}
    assert all(len(line) == 13 for line in drawn if line[-1] != 2)


def test_tokens_are_sampled_as_often_as_they_are_likely(backbone):
    with torch.no_grad():
        chances = backbone.model(torch.tensor([[1]])).logits[0, 0].softmax(-1)
    first = torch.stack([line[1] for line in sample_lines(backbone, 1, 2, 4000, 1, 0, 1000)])
    # Three standard deviations of the most likely ones are 0.024.
    torch.testing.assert_close(torch.bincount(first, minlength=37) / 4000, chances, rtol=0, atol=0.025)


def test_what_cannot_be_measured_is_refused(backbone, hf_model, lines):
    with pytest.raises(ValueError, match="no text of two tokens or more; give --text"):
        measure_lines(backbone, [torch.tensor([1])])
    with pytest.raises(ValueError, match="--base has 41 tokens, the LM 37"):
        measure_lines(backbone, lines, ours(hf_model(vocab_size=41)))
    with pytest.raises(ValueError, match="the text has token 37, but the LM only 37"):
        measure_lines(backbone, [torch.tensor([1, 37])])
    with pytest.raises(ValueError, match="has no token that begins a text"):
        sample_lines(backbone, None, 2, 1, 1, 0)
    with pytest.raises(ValueError, match=r"--sample_tokens 64; allowed: 1 or more lines of 1 to 63 tokens"):
        sample_lines(backbone, 1, 2, 1, 64, 0)


@pytest.mark.parametrize("layer", LAYERS)
def test_for_text_branches_are_left_out(backbone, lines, tmp_path, layer):
    deeper = disturb(upscaled(backbone.model, layer=layer, num_layers=2))
    branches = [each.local for each in deeper.added.values()]
    save_for_text(deeper, tmp_path)
    loaded = Backbone.from_pretrained(str(tmp_path))
    assert len(loaded.layers) == 5 and not len(loaded.added)
    assert_same(measure_lines(loaded.eval(), lines, backbone), measure_lines(deeper, lines, backbone))
    assert [each.local for each in deeper.added.values()] == branches
