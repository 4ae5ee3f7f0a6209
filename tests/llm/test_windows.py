"""Layers that see a window, and what else Gemma 3 has of its own, beside Hugging Face's forward on longer rows."""

import copy

import pytest
import torch

from espnet_larm.llm.backbone import Backbone, config_of
from espnet_larm.llm.windows import kinds_of, window_mask
from tests.llm.test_backbone import CLOSE, all_of, logits_of, ours, positions_of, random_rows

GEMMA = {
    "as it is": {},
    "another size": {"hidden_size": 24},
    "no padding token": {"pad_token_id": None},
    "larger heads": {"head_dim": 20},
    "heads of the size of the LM": {"head_dim": 8},
    "a scale of scores": {"query_pre_attn_scalar": 3},
    "a wider window": {"sliding_window": 10},
    "a window of one": {"sliding_window": 1},
    "global layers alone": {"layer_types": ["full_attention"] * 3},
    "local layers alone": {"layer_types": ["sliding_attention"] * 3},
    "another order": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    "another local base": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 17.0},
            "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        }
    },
    "another global base": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 30.0},
        }
    },
    "a bound of logits": {"final_logit_softcapping": 1.5},
    "biases": {"attention_bias": True},
    "a head of its own": {"tie_word_embeddings": False},
    "another activation": {"hidden_activation": "silu"},
}
OTHERS = {
    "all layers": ("mistral", {"sliding_window": 6}),
    "some layers": ("qwen3", {"sliding_window": 6, "use_sliding_window": True, "max_window_layers": 1}),
    "some layers of Qwen2": ("qwen2", {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 2}),
}


def disturbed(model):
    """With weights of norms that are no neutral ones, and logits that a bound would change."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@torch.no_grad()
def assert_is_hugging_faces(model):
    """The whole is, and so are steps of different lengths behind prompts within the window, up to it and longer."""
    backbone, ids = ours(model), random_rows(length=24)
    expected = model(ids).logits
    for length in (5, 6, 7, 24):
        torch.testing.assert_close(logits_of(backbone, ids[:, :length]), model(ids[:, :length]).logits, rtol=0, atol=0)
    cache, done = backbone.new_cache(), torch.tensor([3, 6, 12])
    backbone(backbone.embed(ids[:, :12]), positions_of(ids[:, :12]), done, cache=cache)
    cache.seal()
    for step in ([1, 1, 1], [3, 1, 2], [1, 8, 5], [2, 2, 2], [1, 1, 2]):
        columns = done.unsqueeze(1) + torch.arange(max(step))
        hidden = backbone(backbone.embed(ids.gather(1, columns)), columns, torch.tensor(step), cache=cache).hidden
        for row, number in enumerate(step):
            wanted = expected[row, done[row] : done[row] + number]
            torch.testing.assert_close(backbone.logits(hidden)[row, :number], wanted, **CLOSE)
        done = done + torch.tensor(step)


@pytest.mark.parametrize("change", GEMMA)
def test_gemma_with_an_option_changed_is_hugging_faces(hf_model, change):
    model = disturbed(hf_model("gemma3_text", **GEMMA[change]))
    assert_is_hugging_faces(model)
    plain = disturbed(hf_model("gemma3_text"))
    # Padding tokens have no meaning here; all other options change the result.
    if change not in ("as it is", "no padding token"):
        with torch.no_grad():
            assert not torch.allclose(model(random_rows()).logits, plain(random_rows()).logits, **CLOSE)


@pytest.mark.parametrize("where", OTHERS)
def test_windows_of_other_architectures_are_hugging_faces(hf_model, where):
    kind, options = OTHERS[where]
    model = disturbed(hf_model(kind, **options))
    assert {each.window for each in ours(model).kinds} - {None} == {options["sliding_window"]}
    assert_is_hugging_faces(model)


def test_a_window_that_no_layer_has_is_none(tiny_config):
    for kind, options in (("qwen2", {"sliding_window": 8, "use_sliding_window": False}), ("mistral", {})):
        backbone = Backbone.from_config(tiny_config(kind, **options))
        assert {each.window for each in backbone.kinds} == {None} and backbone.max_positions == 64


def test_each_kind_of_layer_is_told_apart(hf_model):
    kinds = kinds_of(hf_model("gemma3_text", num_hidden_layers=4).config)
    assert [each.window for each in kinds] == [6, None, 6, None]
    assert [each.rotary for each in kinds] == ["sliding_attention", "full_attention"] * 2
    assert {each.rotary for each in kinds_of(hf_model("qwen3").config)} == {None}


def test_a_mask_is_made_where_a_row_is_longer_than_the_window():
    assert window_mask(torch.arange(5).expand(2, -1), 5) is None
    found = window_mask(torch.arange(5).expand(2, -1), 2)
    assert found.shape == (2, 1, 5, 5)
    assert found[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_a_window_spans_positions_and_not_what_pooling_left_of_them():
    """Six positions stand for twelve, of which those less than 5 back are seen."""
    found = window_mask(torch.tensor([[0, 2, 4, 7, 10, 11]]), 5)
    assert found[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]


@pytest.mark.parametrize("num_hidden_layers", [2, 3])
def test_behind_pooling_text_hears_a_window_of_what_was_said(hf_model, num_hidden_layers):
    """The first token's gradient reaches the positions of its window alone, counted as before the pooling."""
    options = {"layer_types": ["sliding_attention"] * num_hidden_layers, "num_hidden_layers": num_hidden_layers}
    backbone, ids = ours(disturbed(hf_model("gemma3_text", **options))), random_rows(num_rows=1, length=16)
    heard = []

    def halve(stream):
        hidden = stream.hidden[:, ::2].detach().requires_grad_()
        heard.append(hidden)
        # Of 12 positions 0, 2, ... 10 are left.
        return stream._replace(hidden=hidden, positions=stream.positions[:, ::2], lens=(stream.lens + 1) // 2)

    cache = backbone.new_cache()
    prompt = backbone.embed(ids[:, :12])
    backbone(prompt, positions_of(ids[:, :12]), torch.tensor([12]), cache=cache, after_layer={0: halve})
    cache.seal()
    last = backbone(backbone.embed(ids[:, 12:13]), torch.tensor([[12]]), torch.tensor([1]), cache=cache).hidden
    last.square().sum().backward()
    reached = [place for place, each in zip(range(0, 12, 2), heard[0].grad[0], strict=True) if each.any()]
    # In a layer 12 sees 7 to 12, of which 8 is the first that is left, and 8 sees 3 to 8.
    assert reached == list(range({2: 8, 3: 4}[num_hidden_layers], 12, 2))


def test_embeddings_are_scaled_in_the_lms_own_type(hf_model):
    model = hf_model("gemma3_text", hidden_size=24, head_dim=8).to(torch.bfloat16)
    backbone, ids = ours(model), random_rows()
    table = model.model.embed_tokens.weight
    wanted = table[ids] * torch.tensor(24**0.5, dtype=torch.bfloat16)
    assert torch.equal(backbone.embed(ids), wanted) and wanted.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(logits_of(backbone, ids), model(ids).logits.float(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_what_is_given_in_embeddings_is_in_the_space_that_embed_gives(hf_model, kind):
    model = disturbed(hf_model(kind))
    backbone, ids = ours(model), random_rows()
    with torch.no_grad():
        found = backbone(backbone.embed(ids), positions_of(ids), all_of(ids)).hidden
        wanted = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
        torch.testing.assert_close(backbone.logits(found), wanted, rtol=0, atol=0)
        one_hot = torch.nn.functional.one_hot(ids, 37).float()
        torch.testing.assert_close(backbone.embed_mixture(one_hot), backbone.embed(ids))
        torch.testing.assert_close(backbone.embed_mixture(one_hot[..., 1:], 1)[ids > 0], backbone.embed(ids)[ids > 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_logit_softcapping": 50.0}, "llm has attn_logit_softcapping 50.0 in its config.json, .* allowed: null"),
        ({"use_bidirectional_attention": True}, "llm has use_bidirectional_attention True in its config.json"),
        (
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "full_attention": {
                        "rope_type": "longrope",
                        "rope_theta": 1e4,
                        "short_factor": [1.0] * 6,
                        "long_factor": [2.0] * 6,
                        "original_max_position_embeddings": 32,
                    },
                }
            },
            "longrope, whose angles depend on the longest row",
        ),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(tiny_config, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone.from_config(tiny_config("gemma3_text", **options))


def test_a_configuration_that_is_read_back_makes_the_same_layers(hf_model, tmp_path):
    """Packs hold what config_of gives."""
    model = hf_model("gemma3_text", num_hidden_layers=5)
    model.save_pretrained(tmp_path)
    made = Backbone.from_config(config_of(str(tmp_path))).eval()
    assert made.kinds == ours(model).kinds and len({*made.kinds}) == 2
    made.model.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(made, random_rows()), logits_of(ours(model), random_rows()))


def test_a_copy_of_gemma_keeps_what_is_no_weight(hf_model, tmp_path):
    """The scale of embeddings and the angles are in no file, and types of other parts do not change them."""
    model = disturbed(hf_model("gemma3_text"))
    model.save_pretrained(tmp_path)
    loaded, ids = Backbone.from_pretrained(str(tmp_path)).eval(), random_rows(length=20)
    assert torch.equal(logits_of(loaded, ids), logits_of(ours(model), ids))
    whole = torch.nn.Sequential(copy.deepcopy(loaded)).half().float()
    assert torch.equal(logits_of(whole[0], ids), logits_of(ours(model), ids))
