"""Speech encoders of transformers from a folder or the hub: which are allowed, and which of their weights learn."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from espnet_larm.llm.by_name import leave_out, state_names
from espnet_larm.llm.fingerprint import fingerprint_of
from espnet_larm.llm.hugging_face import (
    FEATURE_EXTRACTOR_NAME,
    PROCESSOR_NAME,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    cached_file,
)
from espnet_larm.llm.words import NO_TENSORS, SPEECH_ENCODER
from espnet_larm.pretrained.families import FAMILIES, Family

logger = logging.getLogger(__name__)

FROZEN, LAST_N, ALL, LORA = TRAIN = ("frozen", "last_n", "all", "lora")
# transformers' own; any other name may be a kernel of the hub.
ATTENTION = ("eager", "sdpa")
DTYPES = ("float32", "bfloat16", "float16")
WHERE = "frontend_conf"
DEFAULT_LAST_N = 2
LORA_PREFIX = "lora_"
LORA_DEFAULTS = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
}
# The attention's, by the names that one family or another gives them.
DEFAULT_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj"]
# transformers' WavLM gives the weights of its attention to one function, so that layers around them are never run.
NEVER_RUN = {"wavlm": ("q_proj", "k_proj", "v_proj", "out_proj")}
LORA_TARGETS = {"wavlm": ["intermediate_dense", "output_dense"]}
# Of transformers' training by masked prediction, which is not done here.
UNUSED = ("masked_spec_embed",)


def load_encoder(model: str, revision: str | None, dtype: str) -> Family:
    """Load a speech encoder.

    Args:
        model: Folder or hub id, of an encoder or of a recogniser that has one.
        revision: Revision on the hub; None for the newest.
        dtype: Type of its weights, one of DTYPES.

    Raises:
        FileNotFoundError: Neither a folder nor to be had from the hub (offline, gated, misspelt).
        ValueError: It is no speech encoder of a known family, or lacks weights.
    """
    config = _load(AutoConfig, model, revision)
    _check(config, model)
    try:
        whole, report = AutoModel.from_pretrained(
            model, revision=revision, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise FileNotFoundError(_cannot_load(model, error)) from error
    except UnpicklingError as error:
        raise ValueError(f"{WHERE}: model {model}: {NO_TENSORS}") from error
    lacking = {*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])}
    if lacking := {name for name in lacking if not name.endswith(UNUSED)}:
        raise ValueError(f"{WHERE}: model {model} lacks {len(lacking)} weights ({min(lacking)}, ...); copy it again.")
    return _family(whole, config, settings_of(model, revision))


def make_encoder(config: Mapping[str, Any], settings: Mapping[str, Any], dtype: str) -> Family:
    """Make a speech encoder with random weights, which a checkpoint that holds all of them replaces.

    Args:
        config: The content of its config.json.
        settings: The content of its preprocessor_config.json.
        dtype: Type of its weights, one of DTYPES.

    Raises:
        ValueError: It is no speech encoder of a known family.
    """
    options = dict(config)
    kind = str(options.pop("model_type", None))
    if kind not in FAMILIES:
        raise ValueError(f"{WHERE}: model_config: model_type is {kind}; allowed: {', '.join(FAMILIES)}.")
    made = AutoConfig.for_model(kind, **options)
    _check(made, "model_config")
    whole = AutoModel.from_config(made, dtype=getattr(torch, dtype), trust_remote_code=False)
    return _family(whole, made, settings)


def settings_of(model: str, revision: str | None) -> dict[str, Any]:
    """What a model's preprocessor_config.json says; nothing if it has none.

    Raises:
        FileNotFoundError: It cannot be had.
        ValueError: It is damaged.
    """
    try:
        if not _has_settings(model, revision):
            logger.info("%s has no %s: the defaults of its family stand for it.", model, FEATURE_EXTRACTOR_NAME)
            return {}
        found = AutoFeatureExtractor.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if Path(model).is_dir():
            raise ValueError(
                f"{WHERE}: model {model}: its {FEATURE_EXTRACTOR_NAME} is damaged ({_first_line(error)}); copy it "
                "again, or remove it where the defaults of its family are meant."
            ) from error
        raise FileNotFoundError(_cannot_load(model, error)) from error
    settings = json.loads(found.to_json_string())
    return {name: value for name, value in settings.items() if name != "mel_filters"}


def _has_settings(model: str, revision: str | None) -> bool:
    """Whether a model has a file of them, or another that holds them too."""
    find = partial(cached_file, model, revision=revision, _raise_exceptions_for_missing_entries=False)
    if find(FEATURE_EXTRACTOR_NAME) is not None:
        return True
    processor = find(PROCESSOR_NAME)
    return processor is not None and "feature_extractor" in Path(processor).read_text(encoding="utf-8")


def config_of(model: str, revision: str | None) -> dict[str, Any]:
    """What a model's config.json says, as `make_encoder` takes it.

    Raises:
        FileNotFoundError: It cannot be had.
    """
    options = json.loads(_load(AutoConfig, model, revision).to_json_string(use_diff=True))
    return {name: value for name, value in options.items() if name not in ("_name_or_path", "transformers_version")}


def adapt(
    family: Family,
    train: str,
    last_n: int,
    lora_conf: Mapping[str, Any] | None,
    is_named: bool,
    activation_checkpointing: bool,
) -> None:
    """Set what learns, once, before anything is loaded from a checkpoint.

    Frozen parts are in eval mode, and have neither gradient nor decay. No part drops layers or masks its input.

    Args:
        family: The encoder, as it was loaded or made.
        train: One of TRAIN.
        last_n: How many of the last layers learn, for `last_n` only.
        lora_conf: Options of peft's LoraConfig over LORA_DEFAULTS, for `lora` only.
        is_named: Whether the weights can be had again by the model's name; otherwise all go into checkpoints.
        activation_checkpointing: Recompute the layers that learn in the backward pass.

    Raises:
        ValueError: Options do not go together.
        ImportError: peft is missing.
    """
    _check_together(family, train, last_n, lora_conf, activation_checkpointing)
    # LoRA's modules rename those that they wrap.
    fingerprint = fingerprint_of(family, family.unusual_settings) if is_named else None
    family.requires_grad_(train == ALL)
    if train == LAST_N:
        _check_last_n(last_n, len(family.blocks))
        for block in family.blocks[-last_n:]:
            block.requires_grad_(True)
    elif train == LORA:
        _add_lora(family, lora_conf or {})
    for name, parameter in family.named_parameters():
        if name.endswith(UNUSED):
            parameter.requires_grad_(False)
    if fingerprint is not None:
        learning = {name for name, parameter in family.named_parameters() if parameter.requires_grad}
        names = [] if train == ALL else [name for name in state_names(family) if name not in learning]
        leave_out(family, names, fingerprint, SPEECH_ENCODER)
    if activation_checkpointing:
        family.model.activation_checkpointing_enable()


def set_modes(module: torch.nn.Module, name: str = "") -> None:
    """Put parts that learn as a whole into training mode; the others, whose dropout would be noise, into eval mode."""
    learning = [parameter.requires_grad for parameter in module.parameters()]
    if name.startswith(LORA_PREFIX) or (learning and all(learning)):
        module.train()
        return
    module.training = False
    for child_name, child in module.named_children():
        set_modes(child, child_name)


def _check_together(
    family: Family, train: str, last_n: int, lora_conf: Mapping[str, Any] | None, activation_checkpointing: bool
) -> None:
    if lora_conf and train != LORA:
        raise ValueError(f"{WHERE}: lora_conf is given, but train is {train}; leave it out, or take lora.")
    if train != LAST_N and last_n != DEFAULT_LAST_N:
        raise ValueError(f"{WHERE}: last_n is {last_n}, but train is {train}; leave it out, or take last_n.")
    if train == FROZEN and activation_checkpointing:
        raise ValueError(f"{WHERE}: activation_checkpointing is true, but train is {FROZEN}; leave it out.")
    if train != FROZEN and family.model.dtype != torch.float32:
        raise ValueError(
            f"{WHERE}: train is {train} and dtype {str(family.model.dtype).removeprefix('torch.')}: steps of training "
            "would be rounded away; take dtype: float32, with use_amp: true for speed."
        )


def _check_last_n(last_n: int, num_layers: int) -> None:
    if not 1 <= last_n <= num_layers:
        raise ValueError(f"{WHERE}: last_n is {last_n}; allowed: 1 to {num_layers}, the model's layers.")


def _add_lora(family: Family, conf: Mapping[str, Any]) -> None:
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"{WHERE}: train: lora needs peft: pip install peft") from error
    kind = family.config.model_type
    targets: Sequence[str] = LORA_TARGETS.get(kind) or DEFAULT_TARGETS
    try:
        peft.inject_adapter_in_model(
            peft.LoraConfig(**{**LORA_DEFAULTS, "target_modules": targets, **conf}), family.model
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{WHERE}: lora_conf: {error}") from error
    layers = [name.rpartition(".")[0] for name, _ in family.named_modules() if name.endswith(f".{LORA_PREFIX}A")]
    if idle := [name for name in layers if name.endswith(NEVER_RUN.get(kind, ()))]:
        raise ValueError(
            f"{WHERE}: lora_conf: target_modules take {idle[0]}, which would not learn in a {kind}; allowed: "
            f"{', '.join(targets)}."
        )
    for name, parameter in family.named_parameters():
        parameter.requires_grad_(LORA_PREFIX in name)


def _family(whole: Any, config: Any, settings: Mapping[str, Any]) -> Family:
    is_recogniser = config.model_type == "whisper" or config.model_type.startswith("parakeet_")
    encoder = getattr(whole, "encoder", whole) if is_recogniser else whole
    # Layers that are left out, and masks, belong to training it as it was trained; here they would be noise.
    for holder in (encoder, encoder.config):
        if hasattr(holder, "layerdrop"):
            holder.layerdrop = 0.0
    encoder.config.apply_spec_augment = False
    return FAMILIES[config.model_type](encoder, settings)


def _load(loader: Any, model: str, revision: str | None) -> Any:
    try:
        return loader.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(_cannot_load(model, error)) from error


def _cannot_load(model: str, error: Exception) -> str:
    path = Path(model)
    kind = "folder" if path.is_dir() else "file" if path.is_file() else "hub model"
    return (
        f"{WHERE}: model {model}: this {kind} cannot be loaded: {_first_line(error)} Name a folder that "
        "holds config.json and weights (of a trained model: --encoder_folder FOLDER); a model of the hub needs a "
        "network, and `hf auth login` if it is gated."
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _check(config: Any, model: str) -> None:
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"{WHERE}: model {model} is a {config.model_type}, no speech encoder that is known here; allowed: "
            f"{', '.join(FAMILIES)}."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{WHERE}: model {model} is quantised; allowed: weights in {', '.join(DTYPES)}.")
    asked = {getattr(each, "_attn_implementation", None) for each in (config, getattr(config, "encoder_config", None))}
    if foreign := asked - {None, *ATTENTION}:
        raise ValueError(
            f"{WHERE}: model {model} asks for attention {min(map(str, foreign))}, which would load code; allowed: "
            f"{', '.join(ATTENTION)}."
        )
    if getattr(config, "add_adapter", False):
        raise ValueError(
            f"{WHERE}: model {model} has an adapter behind its layers (add_adapter), which is not supported."
        )
