"""The rank of LoRA that has as many weights as added layers: against what is really added, and the paper's figures."""

import copy

import pytest
import torch

from espnet_larm.adaptation.llm_weights import LORA_DEFAULTS, adapt, match_rank
from espnet_larm.llm.backbone import Backbone
from tests.adaptation.test_depth_upscaling import KINDS, upscaled

OPTIONS = {name: value for name, value in LORA_DEFAULTS.items() if name not in ("r", "lora_alpha")}


def without_memory(**shape):
    common = {"model_type": "llama", "vocab_size": 49152, "tie_word_embeddings": True}
    with torch.device("meta"):
        return Backbone.from_config({**common, **shape})


def learning(backbone):
    return sum(each.numel() for each in backbone.parameters() if each.requires_grad)


@pytest.mark.parametrize(
    ("kind", "layer", "more"),
    [
        *((kind, "standard", {}) for kind in KINDS),
        ("llama", "e_branchformer", {}),
        ("llama", "standard", {"target_modules": ["q_proj", "down_proj"], "use_dora": True}),
    ],
)
def test_no_other_rank_is_nearer_to_the_added_layers(hf_model, kind, layer, more):
    model, conf = hf_model(**KINDS[kind]), {"layer": layer, "num_layers": 1}

    def num_lora(rank):
        backbone = Backbone(copy.deepcopy(model))
        adapt(backbone, "lora", {**more, "r": rank}, is_named=False)
        return learning(backbone)

    found = match_rank(Backbone(copy.deepcopy(model)), {**OPTIONS, **more}, conf)
    num_added = learning(upscaled(model, **conf))
    assert found.num_added == num_added and found.num_lora == num_lora(found.rank)
    assert all(
        abs(num_lora(rank) - num_added) >= abs(found.num_lora - num_added)
        for rank in (max(found.rank - 1, 1), found.rank + 1)
    )


def test_the_rank_is_at_least_1(hf_model):
    backbone = Backbone(hf_model(intermediate_size=8192))
    assert match_rank(backbone, OPTIONS, {"layer": "standard", "num_layers": 3}).rank > 1
    assert match_rank(backbone, {**OPTIONS, "rank_pattern": {"q_proj": 50000}}, {"num_layers": 1}).rank == 1


def test_ranks_of_the_papers_lms_are_the_papers_but_for_rounding():
    # Of 8 standard layers in SmolLM2-360M the paper has r = 144 and of 6 in SmolLM2-1.7B r = 356.
    small = {"hidden_size": 960, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5}
    large = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32}
    found = match_rank(without_memory(**small, intermediate_size=2560), OPTIONS, {"layer": "standard"})
    assert found == (145, 78_694_400, 78_658_560)
    found = match_rank(without_memory(**large, intermediate_size=8192), OPTIONS, {"layer": "standard"})
    assert found == (356, 402_456_576, 402_677_760)


def test_nothing_is_drawn_and_the_lm_stays_as_it_is(hf_model):
    backbone = Backbone(hf_model())
    names, state = [name for name, _ in backbone.named_modules()], torch.get_rng_state()
    match_rank(backbone, OPTIONS, {"num_layers": 2})
    assert torch.equal(torch.get_rng_state(), state) and [name for name, _ in backbone.named_modules()] == names
    assert {each.device.type for each in backbone.parameters()} == {"cpu"}


def test_a_rank_that_no_module_has_is_refused(hf_model):
    with pytest.raises(ValueError, match="no module has a rank that could be chosen"):
        match_rank(Backbone(hf_model()), {**OPTIONS, "rank_pattern": {".*": 4}}, None)
