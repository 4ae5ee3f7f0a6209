"""The weights of an LM that learn, and those that never leave the folder that they came from.

`frozen` trains none, `full` all, `lora` low-rank additions to the projections (Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", ICLR 2022, arXiv:2106.09685; peft), `depth_upscaling` layers inserted between its own. Weights
that are frozen and were loaded by name are not in checkpoints: those hold a fingerprint of them, and loading takes them
from the named LM, if it is still the same.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from espnet_larm.adaptation.added_layout import layout_difference, layout_of
from espnet_larm.adaptation.depth_upscaling import WHERE, wrap
from espnet_larm.llm.backbone import SAFE, Backbone
from espnet_larm.llm.by_name import leave_out, state_names
from espnet_larm.llm.fingerprint import FINGERPRINT, fingerprint_of
from espnet_larm.llm.hugging_face import AutoModelForCausalLM
from espnet_larm.llm.words import LM

logger = logging.getLogger(__name__)

METHODS = ("frozen", "full", "lora", "depth_upscaling")
LORA_PREFIX = "lora_"
ADDED_PREFIX = "added."
LORA_DEFAULTS = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


def adapt(
    backbone: Backbone,
    method: str,
    lora_conf: Mapping[str, Any] | None,
    is_named: bool,
    depth_upscaling_conf: Mapping[str, Any] | None = None,
) -> None:
    """Set what learns, once, before anything is loaded from a checkpoint.

    Args:
        backbone: The LM, as it was loaded or made.
        method: One of METHODS.
        lora_conf: Options of peft's LoraConfig over LORA_DEFAULTS, for `lora` only. Instead of `r`, `match` may have
            arguments of UpscalingOptions: the rank is then the one with as many weights as those added layers, and
            lora_alpha by default twice the rank.
        is_named: Whether the weights can be had again by the LM's name; otherwise all of them go into checkpoints.
        depth_upscaling_conf: Arguments of UpscalingOptions, for `depth_upscaling` only.

    Raises:
        ValueError: An option is not allowed, no layer has a module that LoRA shall be added to, or layers cannot be
            added.
        ImportError: peft is missing.
    """
    _check_method(method, {"lora": lora_conf, "depth_upscaling": depth_upscaling_conf})
    if len(backbone.added):
        raise ValueError("the LM has added layers already; drop them before adaptation is set.")
    if method != "full":
        backbone.requires_grad_(False)
    if is_named:
        # Before anything is added; LoRA's modules rename those that they wrap.
        fingerprint = fingerprint_of(backbone)
    if method == "lora":
        _add_lora(backbone, lora_conf or {})
    elif method == "depth_upscaling":
        wrap(backbone, depth_upscaling_conf)
    elif method == "full" and backbone.dtype != torch.float32:
        raise ValueError(
            f"decoder_conf: adaptation is full and dtype {backbone.dtype}: steps of training would be rounded away; "
            "take dtype: float32, with use_amp: true for speed."
        )
    backbone.register_load_state_dict_pre_hook(_compare_added)
    if is_named:
        # By name, once: `freeze_param` freezes later, in training only, what a trained LM must still save.
        names = [] if method == "full" else state_names(backbone)
        leave_out(backbone, [name for name in names if is_own(name)], fingerprint, LM)
    backbone.freeze_modes()


def frozen_names(backbone: Backbone, method: str) -> list[str]:
    """The weights that a method leaves as they are, by all their names (tied ones have several)."""
    names = [name for name, _ in backbone.named_parameters(remove_duplicate=False)]
    return [] if method == "full" else [name for name in names if is_own(name)]


def is_own(name: str) -> bool:
    """Whether a weight of a backbone is the LM's own, and was not added to it."""
    return LORA_PREFIX not in name and not name.startswith(ADDED_PREFIX)


class Match(NamedTuple):
    """A rank, and the weights that it is about.

    Attributes:
        rank: 1 or more.
        num_lora: Weights of LoRA with it.
        num_added: Weights of the added layers.
    """

    rank: int
    num_lora: int
    num_added: int


def match_rank(backbone: Backbone, options: Mapping[str, Any], conf: Mapping[str, Any] | None) -> Match:
    """The rank whose number of weights is nearest to that of added layers; the lower of two that are as near.

    Both are counted on a copy of the LM without memory (torch's meta device), by the code that makes them.

    Args:
        backbone: Before anything is added to it; it is only looked at.
        options: Options of peft's LoraConfig, without a rank.
        conf: Arguments of UpscalingOptions.

    Raises:
        ValueError: An option is not allowed, layers cannot be added, or no module is named that has a rank.
    """
    twin = _twin(backbone)
    try:
        with torch.device("meta"):
            wrap(twin, conf)
    except ValueError as error:
        raise ValueError(f"match: {str(error).removeprefix(f'{WHERE}: ')}") from error
    num_added = _count(twin.added)
    # What does not grow with the rank (use_dora, rank_pattern) is in both.
    first, second = (_num_lora(backbone, options, rank) for rank in (1, 2))
    if second <= first:
        raise ValueError("no module has a rank that could be chosen; change target_modules or rank_pattern.")
    lower = max((num_added - first) // (second - first) + 1, 1)
    found = [Match(rank, first + (rank - 1) * (second - first), num_added) for rank in (lower, lower + 1)]
    return min(found, key=lambda match: abs(match.num_lora - num_added))


def _check_method(method: str, confs: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Refuse an unknown one, and options of another."""
    for owner, conf in confs.items():
        if conf and owner != method:
            raise ValueError(
                f"decoder_conf: {owner}_conf is given, but adaptation is {method}; leave it out, or take {owner}."
            )


def _add_lora(backbone: Backbone, conf: Mapping[str, Any]) -> None:
    try:
        import peft
    except ImportError as error:
        raise ImportError("decoder_conf: adaptation lora needs peft: pip install peft") from error
    try:
        _check_lora(conf)
        options = _with_matched_rank(backbone, conf) if "match" in conf else {**LORA_DEFAULTS, **conf}
        peft.inject_adapter_in_model(peft.LoraConfig(**options), backbone.model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"decoder_conf: lora_conf: {error}") from error
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(LORA_PREFIX in name)
        if LORA_PREFIX in name:
            # In bfloat16 steps of a usual learning rate are rounded away; peft casts what goes in and out.
            parameter.data = parameter.data.float()


def _with_matched_rank(backbone: Backbone, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Options of LoraConfig with the rank that `match` asks for."""
    if "r" in conf:
        raise ValueError(f"r is {conf['r']} and match {conf['match']}; give one of them.")
    if not isinstance(conf["match"], Mapping):
        raise ValueError(f"match is {conf['match']!r}; allowed: a depth_upscaling_conf, {{}} for its defaults.")
    options = {**LORA_DEFAULTS, **conf}
    del options["match"], options["r"]
    found = match_rank(backbone, options, conf["match"])
    logger.info(
        "LoRA has rank %d: %s weights, where the added layers of match have %s.",
        found.rank,
        f"{found.num_lora:,}",
        f"{found.num_added:,}",
    )
    return {**options, "r": found.rank, "lora_alpha": conf.get("lora_alpha", 2 * found.rank)}


def _check_lora(options: Mapping[str, Any]) -> None:
    """Refuse what would change or add weights beside the low-rank ones, or be overruled here."""
    allowed = {"modules_to_save": (None,), "bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
    for name, values in allowed.items():
        if name in options and options[name] not in values:
            listed = ", ".join("null" if value is None else str(value) for value in values)
            raise ValueError(f"{name} is {options[name]}; allowed: {listed}.")


def _compare_added(
    module: Backbone,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,  # noqa: ARG001
    strict: bool,  # noqa: ARG001  # torch says true whatever it was called with
    missing: list[str],  # noqa: ARG001
    unexpected: list[str],  # noqa: ARG001
    errors: list[str],
) -> None:
    """A load hook: say that the added layers are others, instead of all names that are missing and unexpected."""
    own = {f"{prefix}added.{name}": weight for name, weight in module.added.state_dict().items()}
    saved = layout_of(state, prefix)
    reason = layout_difference(layout_of(own, prefix), saved)
    is_named = hasattr(module, FINGERPRINT)
    has_lm = prefix + FINGERPRINT in state if is_named else any(name.startswith(f"{prefix}model.") for name in state)
    # Weights of other parts alone, as of an encoder that is begun with, say nothing of this one.
    if reason is None or not (has_lm or saved):
        return
    errors.append(reason)
    for name in [name for name in state if name.startswith(f"{prefix}added.")]:
        del state[name]
    state.update(own)


def _num_lora(backbone: Backbone, options: Mapping[str, Any], rank: int) -> int:
    import peft

    twin = _twin(backbone).requires_grad_(False)
    before = _count(twin)
    with torch.device("meta"):
        peft.inject_adapter_in_model(peft.LoraConfig(**options, r=rank), twin.model)
    return _count(twin) - before


def _twin(backbone: Backbone) -> Backbone:
    """The LM's shapes without its weights."""
    with torch.device("meta"):
        return Backbone(AutoModelForCausalLM.from_config(copy.deepcopy(backbone.config), **SAFE))


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
