"""What learns, what is saved, and what is refused."""

import copy
import re

import pytest
import torch

from espnet_larm.adaptation.llm_weights import METHODS, adapt, frozen_names
from espnet_larm.llm.backbone import Backbone
from espnet_larm.speech_llm.text_ability import lora_layers
from tests.adaptation.test_depth_upscaling import upscaled
from tests.llm.test_backbone import logits_of, random_rows


def adapted(model, method, is_named=True, **options):
    backbone = Backbone(copy.deepcopy(model))
    adapt(backbone, method, options.get("lora_conf"), is_named)
    return backbone


def trained(backbone, steps=3):
    """A few steps with weight decay, which would move any weight that the optimiser has."""
    torch.manual_seed(2)
    ids = random_rows()
    backbone.train()
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.5) if parameters else None
    for _ in range(steps if optimizer else 0):
        embeddings = backbone.embed(ids).detach().requires_grad_()
        positions, lens = torch.arange(9).expand(3, -1), torch.full((3,), 9)
        backbone.logits(backbone(embeddings, positions, lens).hidden).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return backbone.eval()


def changed(model, backbone):
    before = dict(model.named_parameters())
    after = {name.removeprefix("model.").replace(".base_layer", ""): each for name, each in backbone.named_parameters()}
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", METHODS)
def test_only_what_learns_changes(hf_model, method, kind):
    model = hf_model(kind)
    backbone = trained(adapted(model, method))
    assert changed(model, backbone) == (set(dict(model.named_parameters())) if method == "full" else set())
    before, after = logits_of(Backbone(copy.deepcopy(model)).eval(), random_rows()), logits_of(backbone, random_rows())
    assert torch.equal(before, after) == (method == "frozen")


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_before_training(hf_model, method, kind):
    model = hf_model(kind)
    plain = logits_of(Backbone(copy.deepcopy(model)).eval(), random_rows())
    torch.testing.assert_close(logits_of(adapted(model, method).eval(), random_rows()), plain, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", ["frozen", "lora", "depth_upscaling"])
def test_checkpoints_hold_no_unchanged_weight_and_load_strictly(hf_model, method, kind):
    model = hf_model(kind)
    backbone = trained(adapted(model, method))
    state = backbone.state_dict()
    assert all("lora_" in name or name.startswith("added.") or name == "fingerprint" for name in state)
    fresh = adapted(model, method).eval()
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(logits_of(fresh, random_rows()), logits_of(backbone, random_rows()))
    whole = torch.nn.Sequential(torch.nn.Linear(1, 1), fresh)
    whole.load_state_dict({**whole.state_dict(), "0.bias": torch.ones(1)}, strict=True)
    assert whole[0].bias.item() == 1


@pytest.mark.parametrize(
    ("method", "is_named"), [("full", True), ("frozen", False), ("lora", False), ("depth_upscaling", False)]
)
def test_weights_that_no_name_gives_back_are_saved(hf_model, method, is_named):
    model = hf_model()
    backbone = trained(adapted(model, method, is_named))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    fresh = adapted(model, method, is_named).eval()
    fresh.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(logits_of(fresh, random_rows()), logits_of(backbone, random_rows()))


def test_what_is_frozen_in_a_full_training_is_saved_and_loads_where_it_is_not_frozen(hf_model):
    model = hf_model()
    backbone = adapted(model, "full")
    # As ESPnet's freeze_param does, in training only.
    backbone.model.model.embed_tokens.requires_grad_(False)
    state = trained(backbone).state_dict()
    assert "model.model.embed_tokens.weight" in state
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    fresh = adapted(model, "full").eval()
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(logits_of(fresh, random_rows()), logits_of(backbone, random_rows()))


def test_a_missing_weight_that_learned_is_still_missing(hf_model):
    backbone = adapted(hf_model(), "lora")
    state = backbone.state_dict()
    name = next(name for name in state if "lora_B" in name)
    del state[name]
    with pytest.raises(RuntimeError, match=rf"Missing key.*{name}"):
        backbone.load_state_dict(state, strict=True)


def test_another_lm_is_refused(hf_model):
    model = hf_model()
    state = adapted(model, "frozen").state_dict()
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    with pytest.raises(RuntimeError, match="llm is not the LM that the checkpoint was trained with"):
        adapted(model, "frozen").load_state_dict(state, strict=False)


def test_averaged_checkpoints_have_the_same_fingerprint(hf_model):
    model = hf_model()
    states = [adapted(model, "frozen").state_dict() for _ in range(7)]
    mean = {name: sum(state[name] for state in states) / 7 for name in states[0]}
    assert torch.equal(mean["fingerprint"], states[0]["fingerprint"])
    adapted(model, "frozen").load_state_dict(mean, strict=True)


def test_weights_of_a_full_training_do_not_fit_a_frozen_lm(hf_model):
    model = hf_model()
    with pytest.raises(RuntimeError, match="take adaptation: full, or save those weights as a model"):
        adapted(model, "frozen").load_state_dict(adapted(model, "full").state_dict(), strict=False)


def test_frozen_modules_have_no_dropout_in_training(hf_model):
    model = hf_model(attention_dropout=0.5)
    frozen, full = adapted(model, "frozen").train(), adapted(model, "full").train()
    ids = random_rows()
    assert torch.equal(logits_of(frozen, ids), logits_of(frozen.eval(), ids))
    assert not torch.equal(logits_of(full, ids), logits_of(full.eval(), ids))


@pytest.mark.parametrize("method", METHODS)
def test_frozen_names_are_those_of_weights_without_a_gradient(hf_model, method):
    backbone = adapted(hf_model(), method)
    weights = dict(backbone.named_parameters(remove_duplicate=False))
    assert frozen_names(backbone, method) == [name for name in weights if not weights[name].requires_grad]
    assert ("model.lm_head.weight" in frozen_names(backbone, method)) == (method != "full")


def test_options_that_mean_nothing_are_refused(hf_model):
    with pytest.raises(ValueError, match="lora_conf is given, but adaptation is frozen"):
        adapted(hf_model(), "frozen", lora_conf={"r": 4})
    with pytest.raises(ValueError, match="lora_conf: .*rank"):
        adapted(hf_model(), "lora", lora_conf={"rank": 4})
    with pytest.raises(ValueError, match="lora_conf: Target modules"):
        adapted(hf_model(), "lora", lora_conf={"target_modules": ["nowhere"]})


def test_lora_learns_in_float32_and_with_its_dropout(hf_model):
    model = hf_model().to(torch.bfloat16)
    backbone = adapted(model, "lora", lora_conf={"lora_dropout": 0.5}).train()
    assert {each.dtype for each in backbone.parameters() if each.requires_grad} == {torch.float32}
    dropouts = [each for each in backbone.modules() if isinstance(each, torch.nn.Dropout)]
    assert dropouts and all(each.training for each in dropouts)
    assert not any(each.training for each in backbone.eval().modules())
    assert logits_of(backbone, random_rows()).isfinite().all()


def test_a_full_training_begins_with_the_named_lm_after_a_frozen_one(hf_model):
    model = hf_model()
    full = adapted(model, "full")
    full.load_state_dict(adapted(model, "frozen").state_dict(), strict=True)
    assert torch.equal(logits_of(full.eval(), random_rows()), logits_of(adapted(model, "frozen").eval(), random_rows()))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.norm.weight[0] += 1e-3
    with pytest.raises(RuntimeError, match="llm is not the LM that the checkpoint was trained with"):
        adapted(other, "full").load_state_dict(adapted(model, "frozen").state_dict())
    # What a full training has saved is complete, whatever it began with.
    adapted(other, "full").load_state_dict(full.state_dict(), strict=True)


def test_an_lm_is_the_same_in_both_types_that_hold_its_values(hf_model):
    half = hf_model().to(torch.bfloat16)
    wide = adapted(copy.deepcopy(half).float(), "frozen")
    assert torch.equal(wide.fingerprint, adapted(half, "frozen").fingerprint)
    wide.load_state_dict(adapted(half, "frozen").state_dict(), strict=True)


def test_the_reason_stands_first_under_strict_loading(hf_model):
    model = hf_model()
    state = adapted(model, "frozen").state_dict()
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    with pytest.raises(RuntimeError) as error:
        adapted(model, "frozen").load_state_dict(state, strict=True)
    assert "Missing key" not in str(error.value) and "is not the LM" in str(error.value)


@pytest.mark.parametrize(
    "options", [{"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"init_lora_weights": "pissa"}], ids=str
)
def test_lora_options_that_change_other_weights_are_refused(hf_model, options):
    with pytest.raises(ValueError, match=f"lora_conf: {next(iter(options))} is .*; allowed: "):
        adapted(hf_model(), "lora", lora_conf=options)


def test_a_full_training_in_half_precision_is_refused(hf_model):
    with pytest.raises(ValueError, match="adaptation is full and dtype torch.bfloat16"):
        adapted(hf_model().to(torch.bfloat16), "full")


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize(
    ("saved", "own", "message"),
    [
        (
            {"num_layers": 2, "gate_kernel": 5, "placement": "bottom"},
            {"num_layers": 1, "layer": "standard"},
            r"has e_branchformer \(gate_kernel 5, merge_kernel 3\) behind layers 0, 1 \(.*, the model standard behind",
        ),
        (
            {"num_layers": 2},
            {"num_layers": 2, "placement": "sandwich"},
            "layers 1 .* standard behind layers 2 .* behind layers 0 ",
        ),
        (
            {"gate_kernel": 7, "placement": "bottom"},
            {"gate_kernel": 5, "placement": "bottom"},
            r"\(gate_kernel 7, merge_kernel 3\) .* \(gate_kernel 5, ",
        ),
        ({"placement": "bottom"}, None, "the checkpoint has e_branchformer .*, the model no added layers;"),
        (None, {"layer": "standard"}, "the checkpoint has no added layers, the model standard behind"),
    ],
)
def test_a_checkpoint_with_other_added_layers_is_refused_with_one_sentence(hf_model, is_named, saved, own, message):
    def made(conf):
        backbone = Backbone(hf_model())
        adapt(backbone, "frozen" if conf is None else "depth_upscaling", None, is_named, conf)
        return torch.nn.ModuleDict({"backbone": backbone})

    with pytest.raises(RuntimeError) as error:
        made(own).load_state_dict(made(saved).state_dict(), strict=True)
    (line,) = str(error.value).splitlines()[1:]
    assert re.search(f"depth_upscaling_conf differs: .*{message}", line) and "added." not in line


@pytest.mark.parametrize("is_named", [True, False])
def test_weights_of_other_parts_alone_are_loaded_beside_added_layers(hf_model, is_named):
    backbone = Backbone(hf_model())
    adapt(backbone, "depth_upscaling", None, is_named, {"num_layers": 1})
    model = torch.nn.ModuleDict({"backbone": backbone, "encoder": torch.nn.Linear(2, 2)})
    weight = torch.ones(2, 2)
    model.load_state_dict({"encoder.weight": weight}, strict=False)
    assert torch.equal(model["encoder"].weight, weight)


def test_lora_of_the_size_of_added_layers_loads_from_its_checkpoint(hf_model, caplog):
    conf = {"match": {"layer": "standard", "num_layers": 1}}
    with caplog.at_level("INFO"):
        backbone = trained(adapted(hf_model(), "lora", lora_conf=conf))
    num_added = sum(each.numel() for each in upscaled(hf_model(), **conf["match"]).added.parameters())
    num_lora = sum(each.numel() for each in backbone.parameters() if each.requires_grad)
    (layer, *_) = lora_layers(backbone)
    rank = layer.r["default"]
    assert layer.lora_alpha["default"] == 2 * rank and layer.scaling["default"] == 2.0
    assert caplog.messages == [
        f"LoRA has rank {rank}: {num_lora:,} weights, where the added layers of match have {num_added:,}."
    ]
    assert abs(num_lora - num_added) <= num_lora / rank / 2
    fresh = adapted(hf_model(), "lora", lora_conf={**conf, "lora_alpha": 2 * rank}).eval()
    fresh.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(logits_of(fresh, random_rows()), logits_of(backbone, random_rows()))
    (layer, *_) = lora_layers(adapted(hf_model(), "lora", lora_conf={**conf, "lora_alpha": 5}))
    assert layer.lora_alpha["default"] == 5


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"match": {}, "r": 4}, "lora_conf: r is 4 and match {}; give one of them"),
        ({"match": None}, "lora_conf: match is None; allowed: a depth_upscaling_conf, {} for its defaults"),
        ({"match": {"share": 3.0}}, "lora_conf: match: share is 3.0; allowed: above 0 to 1"),
        ({"match": {"placment": "top"}}, "lora_conf: match: .*placment"),
        ({"match": {}, "target_modules": ["nowhere"]}, "lora_conf: Target modules"),
    ],
)
def test_a_match_that_means_nothing_is_refused(hf_model, conf, message):
    with pytest.raises(ValueError, match=f"decoder_conf: {message}"):
        adapted(hf_model(), "lora", lora_conf=conf)
