"""Which weights of an LM learn, and which never leave the folder that they came from.

`frozen` trains none, `full` all, `lora` low-rank additions to the projections (Hu et al., "LoRA: Low-Rank Adaptation of
Large Language Models", ICLR 2022, arXiv:2106.09685; peft). Weights that are frozen and were loaded by name are not in
checkpoints: those hold a fingerprint of them, and loading takes them from the named LM, if it is still the same.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.backbone import Backbone

METHODS = ("frozen", "full", "lora")
FINGERPRINT = "fingerprint"
LORA_PREFIX = "lora_"
LORA_DEFAULTS = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


class Share(NamedTuple):
    """How much of a part learns.

    Attributes:
        part: Its name.
        trainable: Numbers that learn.
        total: All numbers.
    """

    part: str
    trainable: int
    total: int


def adapt(backbone: Backbone, method: str, lora_conf: Mapping[str, Any] | None, is_named: bool) -> None:
    """Set what learns, once, before anything is loaded from a checkpoint.

    Args:
        backbone: As it was loaded or made.
        method: One of METHODS.
        lora_conf: Options of peft's LoraConfig over LORA_DEFAULTS, for `lora` only.
        is_named: Whether the weights can be had again by the LM's name; otherwise all of them go into checkpoints.

    Raises:
        ValueError: An option is not allowed, or no layer has a module that LoRA shall be added to.
        ImportError: peft is missing.
    """
    if method not in METHODS:
        raise ValueError(f"decoder_conf: adaptation is {method}; allowed: {', '.join(METHODS)}.")
    if lora_conf and method != "lora":
        raise ValueError(f"decoder_conf: lora_conf is given, but adaptation is {method}; leave it out, or take lora.")
    if method != "full":
        backbone.requires_grad_(False)
    names = _names_of_frozen(backbone) if is_named else []
    if names:
        # Before LoRA is added, whose modules rename those that they wrap.
        fingerprint = fingerprint_of(backbone, names)
    if method == "lora":
        _add_lora(backbone, {**LORA_DEFAULTS, **(lora_conf or {})})
    if names:
        left_out = _names_of_frozen(backbone)
        backbone.register_buffer(FINGERPRINT, fingerprint)
        backbone.register_state_dict_post_hook(_Omission(left_out))
        backbone.register_load_state_dict_pre_hook(_Completion(left_out))
    backbone.freeze_modes()


def shares(parts: Mapping[str, torch.nn.Module]) -> Iterator[Share]:
    """How much of each part learns; weights that parts share are counted in the first."""
    seen: set[int] = set()
    for name, part in parts.items():
        parameters = [each for each in part.parameters() if id(each) not in seen]
        seen.update(map(id, parameters))
        trainable = sum(each.numel() for each in parameters if each.requires_grad)
        yield Share(name, trainable, sum(each.numel() for each in parameters))


def fingerprint_of(backbone: Backbone, names: list[str]) -> torch.Tensor:
    """SHA-256 of weights (32,), as float32: checkpoints are averaged, and means of equal small integers are exact."""
    state = backbone.state_dict()
    digest = hashlib.sha256()
    for name in names:
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.float32)


def _names_of_frozen(backbone: Backbone) -> list[str]:
    """In the state dict; a tied weight is there under both of its names."""
    state = backbone.state_dict(keep_vars=True)
    return sorted(name for name, tensor in state.items() if not tensor.requires_grad)


def _add_lora(backbone: Backbone, options: Mapping[str, Any]) -> None:
    try:
        import peft
    except ImportError as error:
        raise ImportError("decoder_conf: adaptation lora needs peft: pip install peft") from error
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(**options), backbone.model)
    except (TypeError, ValueError) as error:
        raise ValueError(f"decoder_conf: lora_conf: {error}") from error
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(LORA_PREFIX in name)


class _Omission:
    """Leaves weights out of a state dict."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:  # noqa: ARG002
        for name in self.names:
            state.pop(prefix + name, None)


class _Completion:
    """Puts the module's own weights in place of those that were left out, if they are the same."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(
        self,
        module: torch.nn.Module,
        state: dict[str, Any],
        prefix: str,
        metadata: Any,  # noqa: ARG002
        strict: bool,  # noqa: ARG002
        missing: list[str],  # noqa: ARG002
        unexpected: list[str],  # noqa: ARG002
        errors: list[str],
    ) -> None:
        saved = state.get(prefix + FINGERPRINT)
        own = module.get_buffer(FINGERPRINT)
        if saved is not None and not torch.equal(saved.cpu().float(), own.cpu()):
            errors.append(
                "decoder_conf: llm is not the LM that the checkpoint was trained with: their weights differ (SHA-256 "
                f"{_hex(own)}, the checkpoint's {_hex(saved)}). Name that LM, in the same dtype."
            )
            return
        if changed := [name for name in self.names if prefix + name in state]:
            errors.append(
                f"the checkpoint holds {changed[0]} and {len(changed) - 1} more weights of the LM, which adaptation "
                "leaves as they are in the named LM; take adaptation: full, or save those weights as an LM first."
            )
            return
        weights = dict((*module.named_parameters(remove_duplicate=False), *module.named_buffers()))
        state.update({prefix + name: weights[name] for name in self.names})


def _hex(fingerprint: torch.Tensor) -> str:
    return "".join(f"{int(value):02x}" for value in fingerprint.tolist())[:12]
