"""Layers inserted into a frozen LM: nothing changes at the start, they learn alone, and without them it is the LM.

Shapes: 3 rows of 9 positions, of which some are speech.
"""

import copy
import itertools
from pathlib import Path

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import (
    DEFAULT_KERNELS,
    LAYERS,
    PLACEMENTS,
    WRAPPABLE,
    UpscalingOptions,
    drop,
    dropped,
    put_back,
    read_options,
    slots,
    wrap,
)
from espnet_larm.adaptation.llm_weights import adapt
from espnet_larm.llm.backbone import ARCHITECTURES, Backbone
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.options import parameters_of

REAL_LMS = Path(__file__).parents[3] / "shared/data/llm"
KINDS = {
    **{kind: {"kind": kind} for kind in ARCHITECTURES},
    "smollm2": {"num_attention_heads": 15, "num_key_value_heads": 5, "hidden_size": 60, "intermediate_size": 160},
    "biased llama": {"attention_bias": True, "mlp_bias": True},
    "biased qwen3": {"kind": "qwen3", "attention_bias": True},
}
LENS = torch.tensor([9, 6, 8])
SPEECH = torch.zeros(3, 9, dtype=torch.bool)
SPEECH[0, 1:6] = SPEECH[1, 1:3] = SPEECH[2, 1:7] = True
VALID = torch.arange(9) < LENS.unsqueeze(1)


def upscaled(model, learns=True, **conf):
    """The LM with added layers that learn alone."""
    backbone = Backbone(copy.deepcopy(model)).eval()
    if learns:
        adapt(backbone, "depth_upscaling", None, True, conf)
    else:
        wrap(backbone, conf)
    return backbone.eval()


@torch.no_grad()
def disturb(backbone):
    """Change every weight of the added layers, as training does."""
    torch.manual_seed(4)
    for parameter in backbone.added.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    return backbone


def read(backbone, embeddings=None, speech=SPEECH, **options):
    """Logits of the valid positions, one row behind the other."""
    if embeddings is None:
        torch.manual_seed(1)
        embeddings = torch.randn(3, 9, backbone.hidden_size)
    positions = torch.arange(9).expand(3, -1)
    return backbone.logits(backbone(embeddings, positions, LENS, speech, **options).hidden)[VALID]


def trained(backbone, steps=3):
    """With weight decay, which would move any weight that the optimiser has."""
    backbone.train()
    learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.01, weight_decay=0.5)
    for _ in range(steps):
        read(backbone).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return backbone.eval()


@torch.no_grad()
def assert_exact_start(model, layer):
    plain = read(Backbone(copy.deepcopy(model)).eval())
    backbone = upscaled(model, layer=layer, share=1.0)
    assert len(backbone.added) == len(backbone.layers)
    for place, added in backbone.added.items():
        if added.local is not None:
            for part in (added.local.expand, added.local.gate_norm, added.local.gate_conv, added.local.project):
                for parameter in part.parameters():
                    parameter.normal_()
        hidden = torch.randn(3, 9, backbone.hidden_size, dtype=backbone.dtype)
        rotary = backbone.rotary(backbone.kinds[int(place)], hidden, torch.arange(9).unsqueeze(0))
        given = added(hidden, position_embeddings=rotary, speech=SPEECH, attention_mask=None, step=None)
        assert given.dtype == hidden.dtype and torch.equal(given, hidden)
    assert torch.equal(read(backbone), plain)
    pack_linear_layers(backbone.added, least_weights=1)
    assert torch.equal(read(backbone), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_at_the_start(hf_model, kind, layer, dtype):
    model = hf_model(**KINDS[kind])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_()
    assert_exact_start(model.to(dtype), layer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["stories260K", "novels-3M"])
def test_nothing_changes_in_real_lms_at_the_start_and_without_added_layers(name, layer, dtype):
    if not (REAL_LMS / name).is_dir():
        pytest.skip(f"{REAL_LMS / name} is not there")
    model = Backbone.from_pretrained(str(REAL_LMS / name), dtype=dtype).eval().model
    assert_exact_start(model, layer)
    backbone = trained(upscaled(model, layer=layer), steps=2)
    with torch.no_grad():
        plain = read(Backbone(copy.deepcopy(model)).eval())
        assert not torch.equal(read(backbone), plain)
        drop(backbone)
        assert torch.equal(read(backbone), plain)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_changes_at_the_start_under_autocast(hf_model, dtype):
    """Autocast, as `use_amp` sets it, changes nothing."""
    model = hf_model().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        plain, backbone = read(Backbone(copy.deepcopy(model)).eval()), upscaled(model, share=1.0)
        assert torch.equal(read(backbone), plain)
    # Autocast remembers weights until it ends.
    disturb(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(read(backbone), plain)


@pytest.mark.parametrize("of_texts", [False, True], ids=["all", "texts"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_the_first_gradients_are_those_of_what_is_zero_at_the_start(hf_model, kind, of_texts):
    """Also with a loss of text positions alone, as in training: what reads speech reaches them by attention."""
    backbone = upscaled(hf_model(kind), num_layers=2, placement="bottom").train()
    counted = ~SPEECH[VALID] if of_texts else slice(None)
    read(backbone)[counted].square().mean().backward()
    outputs = {"self_attn.o_proj.weight", "mlp.down_proj.weight", "local.merge.weight"}
    for slot, added in backbone.added.items():
        moved = {name for name, each in added.named_parameters() if each.grad.any()}
        assert moved == outputs, slot
        upper, lower = added.local.merge.weight.grad.chunk(2, dim=1)
        assert not upper.any() and lower.any()
    assert all(each.grad is None for each in backbone.model.parameters())


def test_gradients_reach_every_weight_later(hf_model):
    backbone = disturb(upscaled(hf_model("qwen2"), num_layers=2)).train()
    read(backbone).square().mean().backward()
    for name, parameter in backbone.added.named_parameters():
        # A bias of keys adds the same to all scores of a query.
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_added_layers_it_is_the_base_after_training_and_after_loading(hf_model, layer, dtype):
    model = hf_model().to(dtype)
    backbone = trained(upscaled(model, layer=layer, num_layers=2))
    with torch.no_grad():
        plain = read(Backbone(copy.deepcopy(model)).eval())
        after, state = read(backbone), backbone.state_dict()
        assert not torch.equal(after, plain)
        fresh = upscaled(model, layer=layer, num_layers=2)
        fresh.load_state_dict(state, strict=True)
        assert torch.equal(read(fresh), after)
        for each in (backbone, fresh):
            layers = drop(each)
            assert torch.equal(read(each), plain) and list(layers) == ["1", "2"]
            assert len(each.new_cache().prompt) == 3
            put_back(each, layers)
            assert torch.equal(read(each), after)


def test_a_base_weight_that_learned_is_seen(hf_model):
    """What the test above would show if a weight were not frozen."""
    model = hf_model()
    backbone = upscaled(model, num_layers=2)
    backbone.model.model.norm.requires_grad_(True)
    trained(backbone, steps=1)
    drop(backbone)
    with torch.no_grad():
        assert not torch.equal(read(backbone), read(Backbone(model).eval()))


def test_checkpoints_hold_the_added_layers_and_the_fingerprint_of_the_base(hf_model):
    model = hf_model()
    backbone = trained(upscaled(model, num_layers=2))
    state = backbone.state_dict()
    wanted = {f"added.{name}" for name in backbone.added.state_dict()}
    assert state.keys() == wanted | {"fingerprint"} and wanted
    frozen = Backbone(copy.deepcopy(model))
    adapt(frozen, "frozen", None, True)
    assert torch.equal(frozen.fingerprint, state["fingerprint"])
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    with pytest.raises(RuntimeError, match="llm is not the LM that the checkpoint was trained with"):
        upscaled(model, num_layers=2).load_state_dict(state)


def test_added_layers_are_float32_with_dropout_where_they_learn_alone(hf_model):
    backbone = upscaled(hf_model(attention_dropout=0.5).to(torch.bfloat16), num_layers=2).train()
    assert {each.dtype for each in backbone.added.parameters()} == {torch.float32}
    assert {each.dtype for each in backbone.model.parameters()} == {torch.bfloat16}
    assert all(each.training for each in backbone.added.modules())
    assert not any(each.training for each in backbone.layers.modules() if list(each.parameters()))
    torch.nn.Sequential(backbone).half()
    assert {each.dtype for each in backbone.added.parameters()} == {torch.float32}
    assert not any(each.training for each in backbone.eval().modules())


@pytest.mark.parametrize("is_training", [True, False])
def test_layers_are_in_the_mode_of_the_lm_when_they_are_made_and_when_they_are_back(hf_model, is_training):
    backbone = Backbone(hf_model()).train(is_training)
    wrap(backbone, {"num_layers": 2})
    assert all(each.training is is_training for each in backbone.added.modules())
    for adapted in (False, True):
        if adapted:
            backbone = upscaled(hf_model(), num_layers=2).train(is_training)
        with dropped(backbone):
            backbone.train(not is_training)
        assert {each.training for each in backbone.added.modules()} == {not is_training}
        layers = drop(backbone)
        # As of a model that this one is a part of.
        torch.nn.Sequential(backbone).train(is_training)
        put_back(backbone, layers)
        assert {each.training for each in backbone.added.modules()} == {is_training}
        own = {each.training for each in backbone.layers.modules() if list(each.parameters())}
        assert own == {is_training and not adapted}


def test_layers_that_are_put_back_are_where_the_lm_is(hf_model):
    backbone = upscaled(hf_model(), num_layers=2)
    layers = drop(backbone)
    backbone.to("meta")
    put_back(backbone, layers)
    assert {each.device.type for each in backbone.parameters()} == {"meta"}


def test_wrapping_leaves_the_base_and_copies_nothing_twice(hf_model):
    backbone = Backbone(hf_model())
    before = dict(backbone.named_parameters())
    wrap(backbone, {"num_layers": 3})
    after = dict(backbone.named_parameters())
    assert all(after[name] is each and each.requires_grad for name, each in before.items())
    own = [name for name in after if name not in before]
    addresses = [each.data_ptr() for each in after.values()]
    assert own and len(set(addresses)) == len(addresses)
    assert all(layer.self_attn.config is backbone.layers[0].self_attn.config for layer in backbone.added.values())


# What is zero at the start: projections, or where outputs are normalised the scale 1 + weight of that.
ZEROS = {
    "llama": dict.fromkeys(("self_attn.o_proj.weight", "mlp.down_proj.weight"), 0.0),
    "gemma3_text": dict.fromkeys(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight"), -1.0),
}


@pytest.mark.parametrize("kind", ZEROS)
@pytest.mark.parametrize("layer", ["e_branchformer", "standard"])
def test_an_added_layer_is_a_copy_of_the_one_before_but_for_its_outputs(hf_model, layer, kind):
    backbone = Backbone(hf_model(kind))
    for own in backbone.layers.parameters():
        own.data.normal_()
    wrap(backbone, {"layer": layer, "num_layers": 3})
    has_branch = [added.local is not None for added in backbone.added.values()]
    assert has_branch == ([True, True, False] if layer == "e_branchformer" else [False] * 3)
    for place, added in backbone.added.items():
        before = backbone.layers[int(place)].state_dict()
        copied = {name: each for name, each in added.state_dict().items() if not name.startswith("local.")}
        assert copied.keys() == before.keys()
        for name, each in copied.items():
            wanted = torch.full_like(each, ZEROS[kind][name]) if name in ZEROS[kind] else before[name]
            assert torch.equal(each, wanted)
        assert added.local is None or bool((added.local.gate_conv.bias == 1).all())


@pytest.mark.parametrize("kind", ["biased llama", "biased qwen3", "qwen2"])
def test_biases_are_copied_but_for_those_of_outputs(hf_model, kind):
    """A copied output bias would be added to the hidden states at the start."""
    backbone = Backbone(hf_model(**KINDS[kind]))
    for own in backbone.layers.parameters():
        own.data.normal_()
    wrap(backbone, {"layer": "standard", "num_layers": 3})
    for place, added in backbone.added.items():
        biases = {name: each for name, each in backbone.layers[int(place)].named_parameters() if name.endswith("bias")}
        outputs = {name for name in biases if name.endswith(("o_proj.bias", "down_proj.bias"))}
        assert bool(outputs) is ("biased" in kind)
        copied = {name: each for name, each in added.named_parameters() if name.endswith("bias")}
        assert copied.keys() == biases.keys() - outputs and copied
        assert all(torch.equal(each, biases[name]) for name, each in copied.items())


@pytest.mark.parametrize("kind", ZEROS)
def test_an_added_layer_computes_what_the_source_says(hf_model, kind):
    """X + merge([MHSA(LN X), cgMLP(LN X)]) at speech positions, X + MHSA(LN X) elsewhere; then the feed-forward.

    Gemma's layers normalise what they add.
    """
    conf = {"num_layers": 1, "placement": "bottom", "gate_kernel": 3, "merge_kernel": 1}
    backbone = disturb(upscaled(hf_model(kind), **conf)).eval()
    (layer,) = backbone.added.values()
    hidden, speech = torch.randn(1, 6, backbone.hidden_size), torch.tensor([[False, True, True, True, False, False]])
    rotary = backbone.rotary(backbone.kinds[0], hidden, torch.arange(6).unsqueeze(0))
    seen = []
    layer.self_attn.register_forward_hook(lambda _, __, output: seen.append(output[0]))
    options = {"attention_mask": None, "lens": torch.tensor([6]), "step": None}
    with torch.no_grad():
        found = layer(hidden, rotary, speech=speech, **options)
        normed, local = layer.input_layernorm(hidden), layer.local
        kept, gate = torch.nn.functional.gelu(local.expand(normed[:, 1:4])).chunk(2, dim=-1)
        gate = local.gate_conv(local.gate_norm(gate).transpose(1, 2)).transpose(1, 2)
        both = torch.cat([seen[0][:, 1:4], local.project(kept * gate)], dim=-1)
        merged = local.merge(both + local.merge_conv(both.transpose(1, 2)).transpose(1, 2))
        mixed = torch.cat([seen[0][:, :1], merged, seen[0][:, 4:]], dim=1)
        if kind == "gemma3_text":
            mixed = hidden + layer.post_attention_layernorm(mixed)
            fed = layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(mixed)))
        else:
            mixed = hidden + mixed
            fed = layer.mlp(layer.post_attention_layernorm(mixed))
        expected = mixed + fed
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_behind_the_last_layer_a_branch_would_be_read_by_no_text(hf_model):
    backbone = disturb(upscaled(hf_model(), share=1.0))
    first, _, last = backbone.added.values()
    sizes = [sum(each.numel() for each in added.parameters()) for added in (first, last)]
    assert last.local is None and sizes[0] - sizes[1] == sum(each.numel() for each in first.local.parameters())
    is_text = ~SPEECH[VALID]
    without = read(backbone)
    last.local = copy.deepcopy(first.local)
    beside = read(backbone)
    assert torch.equal(beside[is_text], without[is_text]) and not torch.equal(beside[~is_text], without[~is_text])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("speech", [SPEECH, torch.zeros_like(SPEECH)], ids=["speech", "no speech"])
def test_every_weight_has_a_gradient_of_texts_in_every_batch(hf_model, placement, speech):
    """Several processes need a gradient for every weight."""
    backbone = upscaled(hf_model(), num_layers=2, placement=placement).train()
    is_text = ~SPEECH[VALID]
    read(backbone, speech=speech)[is_text].square().mean().backward()
    for name, parameter in backbone.added.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_activation_checkpointing_gives_the_same_gradients_and_reaches_added_layers(hf_model, monkeypatch):
    from espnet_larm.llm import backbone as module

    gradients, calls, checkpoint = [], [], module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *given, **how: calls.append(1) or checkpoint(*given, **how))
    for is_on in (False, True):
        backbone = disturb(upscaled(hf_model(), num_layers=2)).train()
        backbone.activation_checkpointing = is_on
        read(backbone).square().mean().backward()
        gradients.append([parameter.grad for parameter in backbone.added.parameters()])
    assert len(calls) == 3 + 2
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_added_layers_run_before_what_shortens_prompts(hf_model):
    backbone, order = upscaled(hf_model(), num_layers=1, placement="bottom"), []
    (slot,) = map(int, backbone.added)
    backbone.layers[slot].register_forward_hook(lambda *_: order.append("own"))
    backbone.added[str(slot)].register_forward_hook(lambda *_: order.append("added"))
    read(backbone, after_layer={slot: lambda stream: order.append("after") or stream})
    assert order == ["own", "added", "after"]


@pytest.mark.parametrize(
    ("placement", "sizes", "expected"),
    [
        ("interleaved", (32, 8), [3, 7, 11, 15, 19, 23, 27, 31]),
        ("interleaved", (24, 6), [3, 7, 11, 15, 19, 23]),
        ("interleaved", (8, 3), [2, 4, 7]),
        ("interleaved", (5, 5), [0, 1, 2, 3, 4]),
        ("bottom", (32, 8), [1, 3, 5, 7, 9, 11, 13, 15]),
        ("middle", (32, 8), [9, 11, 13, 15, 17, 19, 21, 23]),
        ("top", (32, 8), [17, 19, 21, 23, 25, 27, 29, 31]),
        ("top", (5, 2), [3, 4]),
        ("sandwich", (32, 8), [1, 3, 5, 7, 25, 27, 29, 31]),
        ("sandwich", (24, 6), [1, 3, 5, 19, 21, 23]),
        ("sandwich", (8, 3), [0, 1, 7]),
        ("sandwich", (1, 1), [0]),
    ],
)
def test_slots_are_those_of_the_placement(placement, sizes, expected):
    assert slots(placement, *sizes) == expected


def test_slots_are_distinct_ordered_and_within_the_placement():
    for placement, num_layers in itertools.product(PLACEMENTS, range(1, 40)):
        num_added, room = 0, None
        while room is None:
            num_added += 1
            try:
                found = slots(placement, num_layers, num_added)
            except ValueError as error:
                room = str(error)
                assert f"has room for 1 to {num_added - 1};" in room
                continue
            assert found == sorted(set(found)) and len(found) == num_added
            assert found[0] >= 0 and found[-1] < num_layers
            half = num_layers / 2
            if placement == "bottom":
                assert found[-1] < half + 0.5
            if placement == "top":
                assert found[0] >= half - 0.5
        assert num_added > 1


@pytest.mark.parametrize(
    ("share", "num_layers", "expected"),
    [(None, 32, 8), (None, 24, 6), (0.25, 2, 1), (0.25, 5, 1), (0.5, 5, 3), (1, 3, 3)],
)
def test_a_share_is_rounded(share, num_layers, expected):
    assert len(UpscalingOptions(share=share).slots_of(num_layers)) == expected


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"layer": "conformer"}, "layer is conformer; allowed: e_branchformer, standard"),
        ({"placement": "random"}, "placement is random; allowed: interleaved, bottom, middle, top, sandwich"),
        ({"num_layers": 2, "share": 0.5}, "num_layers is 2 and share 0.5; give one of them"),
        ({"num_layers": "2"}, "num_layers is '2', of type str; allowed: a whole number, 1 or more.$"),
        ({"num_layers": True}, "num_layers is True, of type bool; allowed: a whole number"),
        ({"share": "all"}, "share is 'all', of type str; allowed: a number, above 0 to 1"),
        ({"layer": 1}, "layer is 1, of type int; allowed: e_branchformer, standard"),
        ({"number": 2, "size": 1}, "unknown option number, size; allowed: layer, placement, num_layers, share, gate_"),
        ({"gate_kernel": 4}, "gate_kernel is 4; allowed: odd, 1 or more"),
        ({"merge_kernel": -1}, "merge_kernel is -1; allowed: odd, 1 or more"),
        ({"layer": "standard", "merge_kernel": 3}, "merge_kernel is given, but layer is standard"),
    ],
)
def test_options_that_are_not_allowed_are_refused(conf, message):
    with pytest.raises(ValueError, match=f"depth_upscaling_conf: .*{message}"):
        read_options(conf)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            {"num_layers": 4},
            "4 layers cannot be added: placement interleaved of an LM of 3 layers has room for 1 to 3;",
        ),
        ({"num_layers": 0}, "num_layers is 0; allowed: 1 or more"),
        ({"share": 0.1}, "0 layers cannot be added"),
        ({"num_layers": 3, "placement": "top"}, "placement top of an LM of 3 layers has room for 1 to 2;"),
        ({"share": 1.5}, "share is 1.5; allowed: above 0 to 1"),
    ],
)
def test_a_number_of_layers_that_does_not_fit_is_refused(hf_model, conf, message):
    with pytest.raises(ValueError, match=f"depth_upscaling_conf: .*{message}"):
        upscaled(hf_model(), **conf)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            "olmo2",
            "cannot be added: they have no input_layernorm; allowed: llama, mistral, qwen2, qwen3, gemma3_text; or",
        ),
        ("granite", "cannot be added; allowed"),
    ],
)
def test_other_architectures_are_refused(hf_model, monkeypatch, kind, reason):
    """Were they known to `Backbone`; granite's layers look alike, and scale what they add."""
    from espnet_larm.llm import backbone as module

    monkeypatch.setattr(module, "_check_architecture", lambda config: None)
    with pytest.raises(ValueError, match=f"layers of a {kind} {reason}"):
        wrap(Backbone(hf_model(model_type=kind)))


def test_an_lm_whose_layers_cannot_be_added_is_refused(hf_model):
    assert set(WRAPPABLE) <= set(ARCHITECTURES)
    changed = Backbone(hf_model())
    changed.layers[1].scale = torch.nn.Linear(32, 32)
    with pytest.raises(ValueError, match="layers of a llama cannot be added: they also have scale; allowed"):
        wrap(changed)
    del changed.layers[1].scale
    changed.layers[1].mlp = torch.nn.Linear(32, 32)
    with pytest.raises(ValueError, match=r"layers of a llama cannot be added: they have no mlp.down_proj; allowed"):
        wrap(changed)
    odd = Backbone(hf_model(hidden_size=33, num_attention_heads=3, num_key_value_heads=3, head_dim=8))
    with pytest.raises(ValueError, match="halves an LM of size 33 does not have; take standard"):
        wrap(odd)
    wrap(odd, {"layer": "standard"})


def test_added_layers_beside_lora_or_others_are_refused(hf_model):
    backbone = Backbone(hf_model())
    adapt(backbone, "lora", {"r": 2, "target_modules": ["q_proj"]}, True)
    with pytest.raises(ValueError, match="added layers and LoRA are not for one LM"):
        wrap(backbone)
    for method in ("lora", "full"):
        with pytest.raises(ValueError, match="has added layers already; drop them before adaptation is set"):
            adapt(upscaled(hf_model(), learns=False), method, None, True)
    with pytest.raises(ValueError, match="has added layers already; drop them first"):
        wrap(upscaled(hf_model()))
    with pytest.raises(ValueError, match="lora_conf is given, but adaptation is depth_upscaling; leave it out"):
        adapt(Backbone(hf_model()), "depth_upscaling", {"r": 2}, True)
    with pytest.raises(ValueError, match="depth_upscaling_conf is given, but adaptation is lora; leave it out"):
        adapt(Backbone(hf_model()), "lora", None, True, {"num_layers": 1})


def test_defaults_are_what_the_options_say():
    assert read_options(None).kernels == DEFAULT_KERNELS == {"gate_kernel": 31, "merge_kernel": 3}
    names = [name for name, *_ in parameters_of(UpscalingOptions.__init__)]
    assert names == list(UpscalingOptions.__init__.__annotations__)[:-1]
    assert read_options(dict.fromkeys(names)).__dict__ == read_options(None).__dict__
    assert read_options({}).layer == "e_branchformer" and read_options({}).placement == "interleaved"
    assert read_options({"gate_kernel": 5}).kernels == {"gate_kernel": 5, "merge_kernel": 3}
