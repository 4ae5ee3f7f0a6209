"""Builds a model from the files of an experiment, and loads its weights strictly.

ESPnet loads with `strict=False`: a checkpoint with other names leaves random weights without a word.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import humanfriendly  # type: ignore[import-untyped]
import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.adaptation.added_layout import layout_difference, layout_of
from espnet_larm.errors import name_some
from espnet_larm.files.reading import read_tensors, read_yaml
from espnet_larm.llm.fingerprint import FINGERPRINT, difference
from espnet_larm.llm.words import words_of
from espnet_larm.pack.llm import name_tokenizer
from espnet_larm.pack.models import ModelPlaces, name_models
from espnet_larm.pack.named import places_near
from espnet_larm.pack.options import (
    check_sections,
    check_tokens,
    empty_for_null,
    file_options,
    leave_training_out,
    locate,
    with_option,
)
from espnet_larm.recognize.model.features import feature_dtype
from espnet_larm.train.task import LarmASRTask

DEFAULT_SAMPLE_RATE_HZ = 16000


class LoadedModel(NamedTuple):
    """A model in eval mode, and the options that it was trained with."""

    model: ESPnetASRModel
    args: argparse.Namespace


def load_model(
    config_file: Path,
    model_file: Path,
    device: str,
    dtype: torch.dtype,
    llm: str | None = None,
    encoder: str | None = None,
) -> LoadedModel:
    """Build and load.

    Args:
        config_file: The experiment's `config.yaml`.
        model_file: Weights by name, as ESPnet saves them.
        device: `cpu`, `cuda`, `cuda:N`.
        dtype: Type of weights and activations; the front end's is float32 at least.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Raises:
        FileNotFoundError: One of the files, or the LM or speech encoder, is missing.
        ValueError: The config is wrong, or the weights are unreadable or not those of the model.
    """
    args = read_config(config_file, llm, encoder)
    model = LarmASRTask.build_model(args)
    _load_weights(model, model_file)
    for name, child in model.named_children():
        child.to(feature_dtype(dtype) if name in ("frontend", "normalize") else dtype)
    return LoadedModel(model.to(device).eval(), args)


def read_config(config_file: Path, llm: str | None = None, encoder: str | None = None) -> argparse.Namespace:
    """The options of a training run. Files that it names by relative paths are found from any working folder.

    Args:
        config_file: The experiment's `config.yaml`.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Raises:
        FileNotFoundError: The file, or one that it names, is missing.
        ValueError: It holds no options, or the model needs no such model.
    """
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file} is missing; --asr_train_config is the experiment's config.yaml.")
    config = read_yaml(config_file)
    if "token_list" not in config:
        raise ValueError(f"{config_file} holds no token_list; --asr_train_config is the experiment's config.yaml.")
    check_sections(config)
    config = empty_for_null(config)
    if isinstance(config["token_list"], list):
        check_tokens(config["token_list"], config.get("token_type"))
    leave_training_out(config)
    for option, value in list(file_options(config)):
        config = with_option(config, option, str(locate(value, config_file.parent)))
    name_models(config, ModelPlaces(llm, encoder), places_near(config_file))
    name_tokenizer(config, places_near(config_file))
    return argparse.Namespace(**config)


def sample_rate_of(args: argparse.Namespace) -> int:
    """Hz of the audio that a model was trained on, from the options of its front end or of the one that it wraps."""
    conf = getattr(args, "frontend_conf", None) or {}
    fs = conf.get("fs") or (conf.get("frontend_conf") or {}).get("fs") or DEFAULT_SAMPLE_RATE_HZ
    return int(humanfriendly.parse_size(fs) if isinstance(fs, str) else fs)


def _load_weights(model: torch.nn.Module, model_file: Path) -> None:
    """Put the weights of a file into a model, all of them.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is unreadable, or names or shapes differ; the message counts and names them. Or the model's LM
            or speech encoder is not the one that it was trained with, or has other added layers.
    """
    weights = read_weights(model_file)
    _check_fingerprint(model, model_file, weights)
    _check_num_heads(model, model_file, weights)
    if reason := layout_difference(layout_of(model.state_dict()), layout_of(weights)):
        raise ValueError(f"{model_file}: {reason}")
    if differences := _differences(model.state_dict(), weights):
        raise ValueError(
            f"{model_file} is not a checkpoint of this configuration: {'; '.join(differences)}. "
            "Use the config.yaml that stands beside it."
        )
    model.load_state_dict(weights, strict=True)


def read_weights(model_file: Path) -> dict[str, torch.Tensor]:
    """Tensors by name. Nothing else is unpickled, so that a file cannot run code.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is unreadable, or holds something else.
    """
    if not model_file.is_file():
        there = sorted(path.name for path in model_file.parent.glob("*.pth") if not path.name.startswith("checkpoint"))
        listed = f"its folder has {', '.join(there)}" if there else "no weights are in its folder"
        raise FileNotFoundError(
            f"{model_file} is missing; {listed}. Name one with --asr_model_file (recipes: --inference_asr_model NAME)."
        )
    weights = read_tensors(model_file)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise ValueError(
            f"{model_file} holds no tensors by name; --asr_model_file is valid.loss.ave.pth or N epoch.pth."
        )
    if odd := [name for name, value in weights.items() if not _is_plain(value)]:
        raise ValueError(
            f"{model_file}: {name_some(odd)}: not plain tensors of finite numbers, so that no hypothesis would be one "
            "of the model's; take the weights of an earlier epoch, or copy the file again."
        )
    return weights


def _is_plain(value: torch.Tensor) -> bool:
    if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
        return False
    return not value.is_floating_point() or bool(value.isfinite().all())


def _check_fingerprint(model: torch.nn.Module, model_file: Path, weights: dict[str, torch.Tensor]) -> None:
    """Refuse another LM or speech encoder before shapes and names are compared, which would not say why they differ."""
    # Its names are those of files; front ends that wrap others leave their own out.
    own = model.state_dict()
    for name in [name for name in weights if name.rpartition(".")[2] == FINGERPRINT]:
        if name not in own:
            # A model that holds all weights of the named one: where they came from is told, and no part of it.
            del weights[name]
        elif not _holds_model(weights, name) and (reason := difference(own[name], weights[name], words_of(name))):
            raise ValueError(f"{model_file}: {reason}")


def _check_num_heads(model: torch.nn.Module, model_file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Name another K as such, not as missing weights."""
    # transformers takes seconds to import.
    from espnet_larm.speech_llm.heads import num_heads_of

    found, wanted = num_heads_of(weights), num_heads_of(model.state_dict())
    if found != wanted:
        raise ValueError(
            f"{model_file} has heads for {found} tokens a call, but decoder_conf: num_heads is {wanted}; use the "
            "config.yaml that stands beside it, and --tokens_per_call to have fewer in decoding."
        )


def _holds_model(weights: Mapping[str, torch.Tensor], fingerprint: str) -> bool:
    """Whether the weights of the pre-trained model itself are there, which training has changed."""
    # transformers takes seconds to import.
    from espnet_larm.adaptation.llm_weights import LORA_PREFIX

    start = f"{fingerprint.removesuffix(FINGERPRINT)}model."
    return any(name.startswith(start) and LORA_PREFIX not in name for name in weights)


def _differences(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and getattr(found[name], "shape", None) != wanted[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    return [f"{len(names)} {kind} ({name_some(names)})" for kind, names in kinds if names]
