"""Gemma 3 270M with added layers that have learned: without them it is what it was, bit for bit."""

from pathlib import Path

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import LAYERS, dropped
from espnet_larm.adaptation.llm_weights import adapt
from espnet_larm.llm.backbone import Backbone, load_tokenizer
from espnet_larm.llm.fingerprint import difference, fingerprint_of

GEMMA = Path.home() / ".cache/speech-models/gemma-3-270m"


@pytest.fixture
def gemma():
    if not (GEMMA / "config.json").is_file():
        pytest.skip("gemma-3-270m is not here; it is a gated model of the hub")
    return str(GEMMA)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_without_its_added_layers_gemma_is_the_base_bit_for_bit_after_training(gemma, layer):
    ids = torch.tensor([load_tokenizer(gemma)("<bos>she read the letter aloud to her sister").input_ids[1:]])
    base = Backbone.from_pretrained(gemma, dtype="bfloat16").eval()
    backbone = Backbone.from_pretrained(gemma, dtype="bfloat16")
    torch.manual_seed(0)
    adapt(backbone, "depth_upscaling", None, True, {"layer": layer, "share": 0.25})
    # Speech stands in the middle.
    speech = torch.zeros(ids.shape, dtype=torch.bool)
    speech[:, 2:5] = True

    def read(model, **given):
        positions = torch.arange(ids.size(1)).unsqueeze(0)
        return model.logits(model(model.embed(ids), positions, torch.tensor([ids.size(1)]), **given).hidden)

    with torch.no_grad():
        before = read(base)
    backbone.train()
    learning = [each for each in backbone.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.01, weight_decay=0.5)
    for _ in range(2):
        torch.nn.functional.cross_entropy(read(backbone, speech=speech)[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    backbone.eval()
    with torch.no_grad():
        assert not torch.equal(read(backbone, speech=speech), before)
        with dropped(backbone):
            assert torch.equal(read(backbone), before) and torch.equal(read(backbone, speech=speech), before)
            assert difference(fingerprint_of(backbone), fingerprint_of(base)) is None
