"""LMs with added layers as files."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

from espnet_larm.adaptation.depth_upscaling import drop
from espnet_larm.adaptation.export import load_upscaled, save_base, save_pretrained
from espnet_larm.adaptation.llm_weights import adapt
from espnet_larm.llm.backbone import Backbone
from tests.adaptation.test_depth_upscaling import KINDS, disturb, read, upscaled
from tests.llm.test_backbone import logits_of, ours, random_rows


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [*KINDS])
def test_a_deeper_lm_gives_the_same_logits(hf_model, tmp_path, kind, tied):
    backbone = disturb(upscaled(hf_model(**KINDS[kind], tie_word_embeddings=tied), layer="standard", num_layers=2))
    save_pretrained(backbone, tmp_path)
    loaded, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()) and loaded.config.num_hidden_layers == 5
    ids = random_rows()
    with torch.no_grad():
        wanted = logits_of(backbone, ids)
        # HF adds biases of zero where its architecture has them, in another operation.
        close = {"rtol": 1e-5, "atol": 1e-5} if "biased" in kind else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(loaded.eval()(ids).logits, wanted, **close)
        torch.testing.assert_close(logits_of(load_upscaled(tmp_path).eval(), ids), wanted, **close)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_with_a_branch_are_loaded_beside_the_base(hf_model, tmp_path, dtype):
    hf_model("qwen2").save_pretrained(tmp_path / "base")
    # Not cast afterwards, which would round the angles, too.
    model = Backbone.from_pretrained(str(tmp_path / "base"), dtype=dtype).model
    # With a branch, and without behind the last layer.
    conf = {"num_layers": 2, "placement": "sandwich", "gate_kernel": 5, "merge_kernel": 1}
    backbone = disturb(upscaled(model, **conf))
    save_pretrained(backbone, tmp_path)
    assert [(place, layer.local is None) for place, layer in backbone.added.items()] == [("0", False), ("2", True)]
    loaded = load_upscaled(tmp_path, dtype, activation_checkpointing=True).eval()
    assert loaded.activation_checkpointing and list(loaded.added) == ["0", "2"]
    with torch.no_grad():
        assert torch.equal(read(loaded), read(backbone))
        # Other programs find the base there.
        base = Backbone.from_pretrained(str(tmp_path), dtype=dtype).eval()
        assert torch.equal(logits_of(base, random_rows()), logits_of(ours(model), random_rows()))


@pytest.mark.parametrize("layer", ["e_branchformer", "standard"])
def test_the_base_is_saved_without_what_was_added(hf_model, tmp_path, layer):
    model = hf_model("qwen3")
    save_base(disturb(upscaled(model, layer=layer, num_layers=2)), tmp_path)
    loaded = load_upscaled(tmp_path).eval()
    assert not len(loaded.added) and len(loaded.layers) == 3
    assert torch.equal(logits_of(loaded, random_rows()), logits_of(ours(model), random_rows()))


def test_a_layer_behind_the_last_alone_makes_a_deeper_lm(hf_model, tmp_path):
    backbone = disturb(upscaled(hf_model(), num_layers=1))
    save_pretrained(backbone, tmp_path)
    loaded = load_upscaled(tmp_path).eval()
    assert list(backbone.added) == ["2"] and len(loaded.layers) == 4
    assert torch.equal(logits_of(loaded, random_rows()), logits_of(backbone, random_rows()))


def test_an_lm_without_added_layers_is_saved_as_it_is(hf_model, tmp_path):
    save_pretrained(ours(hf_model()), tmp_path)
    assert torch.equal(
        logits_of(load_upscaled(tmp_path).eval(), random_rows()), logits_of(ours(hf_model()), random_rows())
    )


def test_added_layers_of_another_base_are_refused(hf_model, tmp_path):
    backbone = upscaled(hf_model(), num_layers=2)
    save_pretrained(backbone, tmp_path)
    with torch.no_grad():
        backbone.model.model.norm.weight[0] += 1e-3
    save_base(backbone, tmp_path)
    with pytest.raises(ValueError, match=r"added_layers.json: the layers were added to another LM .* copy all files"):
        load_upscaled(tmp_path)
    assert json.loads((tmp_path / "added_layers.json").read_text())["slots"] == [1, 2]


def test_layers_of_an_earlier_saving_do_not_come_back(hf_model, tmp_path):
    backbone = disturb(upscaled(hf_model(), num_layers=2))
    save_pretrained(backbone, tmp_path)
    drop(backbone)
    save_pretrained(backbone, tmp_path)
    assert not len(load_upscaled(tmp_path).added)


def test_what_cannot_be_saved_or_loaded_is_refused(hf_model, tmp_path):
    backbone = Backbone(hf_model())
    adapt(backbone, "lora", {"r": 2}, is_named=False)
    for save in (save_base, save_pretrained):
        with pytest.raises(ValueError, match="the LM has LoRA's weights"):
            save(backbone, tmp_path / "lora")
    with pytest.raises(FileNotFoundError, match="some/hub-id is no folder; name the one that save_pretrained wrote"):
        load_upscaled("some/hub-id")
    save_pretrained(disturb(upscaled(hf_model(), num_layers=2)), tmp_path)
    with pytest.raises(ValueError, match="or load them in the dtype that they were saved in, which is not bfloat16"):
        load_upscaled(tmp_path, "bfloat16")


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (
            "json",
            "{",
            ValueError,
            "added_layers.json is not what save_pretrained wrote for this LM; copy the whole fol",
        ),
        ("json", '{"slots": [0], "kernels": {}}', ValueError, "added_layers.json is not what save_pretrained wrote"),
        (
            "json",
            '{"slots": [9], "kernels": KERNELS, "base_sha256": ""}',
            ValueError,
            "added_layers.json is not what sa",
        ),
        ("json", '{"slots": [0], "kernels": [], "base_sha256": ""}', ValueError, "added_layers.json is not what save_"),
        (
            "safetensors",
            None,
            FileNotFoundError,
            "added_layers.safetensors is missing, .*; copy the whole folder again",
        ),
        (
            "safetensors",
            "cut",
            ValueError,
            "added_layers.safetensors does not hold the layers .*; copy the whole folder",
        ),
        (
            "safetensors",
            b"",
            ValueError,
            "added_layers.safetensors does not hold the layers that added_layers.json tel",
        ),
    ],
)
def test_broken_files_are_named(hf_model, tmp_path, name, content, error, message):
    save_pretrained(upscaled(hf_model(), num_layers=2), tmp_path)
    path = tmp_path / f"added_layers.{name}"
    if content is None:
        path.unlink()
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "json":
        path.write_text(content.replace("KERNELS", '{"gate_kernel": 31, "merge_kernel": 3}'))
    else:
        save_file({"1.mlp.up_proj.weight": torch.zeros(2)}, path)
    with pytest.raises(error, match=message):
        load_upscaled(tmp_path)
