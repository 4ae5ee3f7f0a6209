"""An LM with added layers as files, to be used by other programs.

With added layers without a branch it is a deeper LM of the same architecture, which Hugging Face loads by itself. None
of theirs has a branch: a folder then holds the LM that layers were added to, as Hugging Face loads it, and beside it
`added_layers.safetensors` with `added_layers.json`, which `load_upscaled` reads. Checkpoints and packs of a
`speech_llm` model hold added layers without either.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from espnet_larm.adaptation.depth_upscaling import DEFAULT_KERNELS, AddedLayer, UpscalingOptions, dropped, insert
from espnet_larm.llm.backbone import SAFE, Backbone
from espnet_larm.llm.fingerprint import SHOWN_DIGITS, fingerprint_of, hexadecimal
from espnet_larm.llm.hugging_face import AutoModelForCausalLM

WEIGHTS, RECORD = "added_layers.safetensors", "added_layers.json"
AGAIN = "copy the whole folder again, or save it again with save_pretrained"


def save_base(backbone: Backbone, folder: "str | Path") -> None:
    """Write the LM without what was added to it, as Hugging Face loads it; without tokenizer.

    Raises:
        ValueError: It has LoRA's weights, which are no part of an LM's file.
    """
    _check_plain(backbone)
    backbone.model.save_pretrained(folder)


def save_pretrained(backbone: Backbone, folder: "str | Path") -> None:
    """Write the LM with its added layers, without tokenizer.

    A deeper LM has one type: `standard` layers of an LM in bfloat16 are rounded to it
    (test_a_deeper_lm_gives_the_same_logits is of float32).

    Args:
        backbone: The trained backbone.
        folder: The folder, made if it is not there; layers that were saved before are replaced.

    Raises:
        ValueError: The LM has LoRA's weights.
    """
    _check_plain(backbone)
    for name in (RECORD, WEIGHTS):
        (Path(folder) / name).unlink(missing_ok=True)
    if any(layer.local is not None for layer in _layers(backbone)):
        save_base(backbone, folder)
        _save_added(backbone, Path(folder))
    else:
        _deeper(backbone).save_pretrained(folder)


def save_for_text(backbone: Backbone, folder: "str | Path") -> None:
    """Write a deeper LM that Hugging Face loads and that is this one on text, whatever the added layers are.

    Text positions do not go through the branches of `e_branchformer` layers, so they are left out
    (test_for_text_branches_are_left_out).

    Args:
        backbone: The trained backbone, without LoRA.
        folder: The folder, made if it is not there.
    """
    branches = {layer: layer.local for layer in _layers(backbone)}
    try:
        for layer in branches:
            layer.local = None
        _deeper(backbone).save_pretrained(folder)
    finally:
        for layer, local in branches.items():
            layer.local = local


def load_upscaled(folder: "str | Path", dtype: str = "float32", activation_checkpointing: bool = False) -> Backbone:
    """What `save_pretrained` wrote, `standard` layers then being the LM's own.

    Args:
        folder: Where it is.
        dtype: Type of the LM, `float32`, `bfloat16` or `float16`; layers beside it stay float32.
        activation_checkpointing: Recompute layers in the backward pass.

    Raises:
        FileNotFoundError: There is no LM, or it is no folder: added layers are not looked for on the hub; or the file
            of their weights is missing.
        ValueError: The added layers are of another LM than that beside them, or of the same in another dtype, or what
            is in their files is broken.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name the one that save_pretrained wrote.")
    backbone = Backbone.from_pretrained(str(folder), None, dtype, activation_checkpointing)
    path = Path(folder) / RECORD
    if not path.is_file():
        return backbone
    record = _read_record(path, len(backbone.layers))
    if (found := hexadecimal(fingerprint_of(backbone))) != record["base_sha256"]:
        raise ValueError(
            f"{path}: the layers were added to another LM than that beside them: its weights differ (SHA-256 "
            f"{found[:SHOWN_DIGITS]}, instead of {record['base_sha256'][:SHOWN_DIGITS]}); copy all files again, "
            f"or load them in the dtype that they were saved in, which is not {dtype}."
        )
    insert(backbone, record["slots"], UpscalingOptions(layer="e_branchformer", **record["kernels"]))
    _load_added(backbone, path.with_name(WEIGHTS))
    return backbone


def _read_record(path: Path, num_layers: int) -> dict[str, Any]:
    """What `_save_added` wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        slots, kernels, digest = (record[name] for name in ("slots", "kernels", "base_sha256"))
        is_fit = all(type(slot) is int and 0 <= slot < num_layers for slot in slots) and isinstance(digest, str)
        is_fit = is_fit and kernels.keys() == DEFAULT_KERNELS.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        is_fit = False
    if not is_fit:
        raise ValueError(f"{path} is not what save_pretrained wrote for this LM; {AGAIN}.")
    return {"slots": slots, "kernels": kernels, "base_sha256": digest}


def _load_added(backbone: Backbone, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, the weights of the layers that {RECORD} tells of; {AGAIN}.")
    try:
        backbone.added.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold the layers that {RECORD} tells of: {reason}; {AGAIN}.") from error


def _check_plain(backbone: Backbone) -> None:
    if any(hasattr(module, "base_layer") for module in backbone.modules()):
        raise ValueError("the LM has LoRA's weights, which an LM's file does not hold; merge them with peft first.")


def _layers(backbone: Backbone) -> list[AddedLayer]:
    return [layer for layer in backbone.added.values() if isinstance(layer, AddedLayer)]


def _save_added(backbone: Backbone, folder: Path) -> None:
    weights = {name: each.detach().cpu().contiguous() for name, each in backbone.added.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    branches = [layer.local for layer in _layers(backbone) if layer.local is not None]
    convolutions = {"gate_kernel": branches[0].gate_conv, "merge_kernel": branches[0].merge_conv}
    kernels = {name: convolution.kernel_size[0] for name, convolution in convolutions.items()}
    slots = [int(slot) for slot in backbone.added]
    with dropped(backbone):
        digest = hexadecimal(fingerprint_of(backbone))
    record = {"slots": slots, "kernels": kernels, "base_sha256": digest}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _deeper(backbone: Backbone) -> Any:
    """HF's model with the added layers among its own."""
    config = copy.deepcopy(backbone.config)
    places = [(index, layer) for index in range(len(backbone.layers)) for _, layer in backbone.layers_at(index)]
    order = [layer for _, layer in places]
    config.num_hidden_layers = len(order)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[index] for index, _ in places]
    made = AutoModelForCausalLM.from_config(config, dtype=backbone.dtype, **SAFE)
    state = {name: each for name, each in backbone.model.state_dict().items() if not name.startswith("model.layers.")}
    for index, layer in enumerate(order):
        state |= {f"model.layers.{index}.{name}": each for name, each in layer.state_dict().items()}
    # Those of output projections, which added layers do not have.
    missing = {name: each for name, each in made.state_dict().items() if name not in state}
    assert all(name.endswith(("o_proj.bias", "down_proj.bias")) for name in missing)
    made.load_state_dict({**state, **{name: torch.zeros_like(each) for name, each in missing.items()}}, strict=True)
    made.generation_config = backbone.model.generation_config
    return made
