"""Refuses to resume a training with another model or optimiser.

ESPnet overwrites config.yaml at each start, and then loads the checkpoint into any model whose weights have the same
shapes; a new learning rate silently gives way to the old.
"""

import argparse
import filecmp
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_larm import registry
from espnet_larm.errors import name_some
from espnet_larm.files.checkpoint import CHECKPOINT, INTERRUPTED, PREVIOUS, epoch_of
from espnet_larm.files.reading import is_whole, parse_yaml, read_yaml
from espnet_larm.llm.fingerprint import FINGERPRINT, difference
from espnet_larm.llm.words import words_of
from espnet_larm.pack.encoder import encoder_conf
from espnet_larm.train.checkpoints import read_states
from espnet_larm.train.staging import CONFIG, STAGING

logger = logging.getLogger(__name__)

# Kinds of classes (and their `_conf`) whose parameters or buffers are in a checkpoint, or that give them their meaning.
KINDS = ("frontend", "normalize", "preencoder", "encoder", "postencoder", "decoder", "model", "optim")
OTHERS = (
    "input_size", "ctc_conf", "joint_net_conf", "token_type", "bpemodel", "token_list", "cleaner", "g2p",
    "non_linguistic_symbols", "init", "scheduler", "exclude_weight_decay", "exclude_weight_decay_conf", "train_dtype",
    "freeze_param", "use_adapter", "adapter", "adapter_conf",
)  # fmt: skip
# The state of a schedule holds its options, and the checkpoint's parameters replace those of `init_param`.
WITHOUT_EFFECT = ("scheduler_conf", "init_param")
RATE = re.compile(r"(\d+)(k?)", re.IGNORECASE)
# They change how a model is computed or what it reports, but no parameter.
FREE = (
    "encoder_conf: activation_checkpointing",
    "decoder_conf: activation_checkpointing",
    "model_conf: report_cer",
    "model_conf: report_wer",
    "model_conf: extract_feats_in_collect_stats",
)


def check_same_training(args: argparse.Namespace, model: torch.nn.Module | None = None) -> None:
    """Refuse to resume with another model or optimiser; call this before ESPnet writes config.yaml.

    In a distributed training, the first process decides for all.

    Args:
        args: Options of the training.
        model: The model, before a checkpoint is loaded; its LM is compared with the checkpoint's.

    Raises:
        ValueError: Options differ; the message lists them.
    """
    found: list[str | None] = [None]
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not is_distributed or torch.distributed.get_rank() == 0:
        found = [_refusal(args) or _refusal_of_model(args, model)]
    if is_distributed:
        torch.distributed.broadcast_object_list(found, src=0)
    if found[0] is not None:
        raise ValueError(found[0])


def _refusal(args: argparse.Namespace) -> str | None:
    output_dir = Path(args.output_dir)
    if not args.resume:
        return None
    if not _has_checkpoint(output_dir):
        epochs = sorted(path.name for path in output_dir.glob("*epoch.pth") if epoch_of(path) is not None)
        return _nothing_to_resume(output_dir, epochs) if epochs else None
    old = read_options(output_dir / CONFIG)
    if old is None:
        return (
            f"--resume true: {output_dir} holds checkpoints, but config.yaml is missing or damaged, so that nobody can "
            "tell whether this is the same training. Put a copy of it there, train in another folder (--asr_tag of a "
            "recipe, --output_dir), or begin anew with --resume false."
        )
    names = [name for kind in KINDS for name in (kind, f"{kind}_conf")]
    names += [*OTHERS, *WITHOUT_EFFECT]
    new = {name: _through_yaml(getattr(args, name, None)) for name in names}
    found = list(_differences(old, new))
    for name, text in found:
        if name in WITHOUT_EFFECT:
            logger.warning("%s: without effect, since the checkpoint's parameters and schedule go on.", text)
    if refused := [text for name, text in found if name not in WITHOUT_EFFECT]:
        listed = "\n  ".join(refused)
        return (
            f"--resume true: {output_dir} holds checkpoints of a training with other options:\n  {listed}\n"
            "Train in another folder (--asr_tag of a recipe, --output_dir), set the old values again, or remove the "
            "folder."
        )
    return None


def _refusal_of_model(args: argparse.Namespace, model: torch.nn.Module | None) -> str | None:
    """The refusal of an LM or speech encoder with other weights than in the checkpoint; its folder may change."""
    output_dir = Path(args.output_dir)
    # Its names are those of checkpoints; front ends that wrap others leave their own out.
    own = {} if model is None else model.state_dict()
    named = [name for name in own if name.endswith(f".{FINGERPRINT}") and not _learns_as_a_whole(args, name)]
    if not named or not args.resume:
        return None
    for file in (INTERRUPTED, CHECKPOINT, PREVIOUS):
        if (output_dir / file).exists() and is_whole(output_dir / file):
            saved = read_states(output_dir / file)["model"]
            found = [difference(own[name], saved[name], words_of(name)) for name in named if name in saved]
            reason = next(filter(None, found), None)
            return f"--resume true: {output_dir}: {reason}" if reason else None
    return None


def _learns_as_a_whole(args: argparse.Namespace, name: str) -> bool:
    """Whether the model of a fingerprint may begin anywhere."""
    if name.startswith("frontend."):
        return encoder_conf(vars(args)).get("train") == "all"
    # Unless a penalty draws an LM to what it was.
    return args.decoder_conf.get("adaptation") == "full" and not args.model_conf.get("text_kl_weight")


def read_options(config: Path) -> dict[str, Any] | None:
    """The options in a config.yaml; None if it is missing or damaged."""
    try:
        options = read_yaml(config)
    except (FileNotFoundError, ValueError):
        return None
    # ESPnet writes the options of the decoder and model last: half a file may be YAML, too.
    return options if all(name in options for name in KINDS) else None


def _nothing_to_resume(output_dir: Path, epochs: list[str]) -> str:
    return (
        f"--resume true: {output_dir} holds {name_some(epochs)}, but no {CHECKPOINT} to go on from; the training would "
        f"begin anew and overwrite them. Put the checkpoint back, begin in another folder with --init_param "
        f"{output_dir / epochs[-1]}, or begin anew here with --resume false."
    )


def _through_yaml(value: Any) -> Any:
    """A value after a round trip through YAML, which turns tuples into lists for example."""
    try:
        return parse_yaml(yaml_no_alias_safe_dump(value))
    except yaml.representer.RepresenterError:
        # The default of a class may be anything, a function for example.
        return value


def _has_checkpoint(output_dir: Path) -> bool:
    return any((output_dir / name).exists() for name in (CHECKPOINT, PREVIOUS, INTERRUPTED, f"{STAGING}/{CHECKPOINT}"))


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Options that both have and that differ: the name and a description of each difference."""
    for name, value in new.items():
        kind = name.removesuffix("_conf")
        if name not in old or (name != kind and old.get(kind) != new.get(kind)):
            # With another class its options are others anyway.
            continue
        if not isinstance(value, dict):
            if not _is_same(old[name], value):
                yield name, _describe(name, old[name], value)
            continue
        default = {key: _through_yaml(value) for key, value in registry.default_conf(kind, new.get(kind)).items()}
        before, now = {**default, **(old[name] or {})}, {**default, **value}
        for key in [*before, *(key for key in now if key not in before)]:
            option = f"{name}: {key}"
            values = before.get(key, _NOT_SET), now.get(key, _NOT_SET)
            if option not in FREE and not _is_same(*values):
                yield name, _describe(option, *values)


class _NotSet:
    def __repr__(self) -> str:
        return "not set"


_NOT_SET = _NotSet()


def _is_same(old: Any, new: Any) -> bool:
    if old == new or (_rate(old) is not None and _rate(old) == _rate(new)):
        return True
    if isinstance(old, str) and isinstance(new, str) and Path(new).is_file():
        # Recipes are moved: content counts, not the name; a file that has gone cannot be compared.
        return not Path(old).is_file() or filecmp.cmp(old, new, shallow=False)
    if isinstance(old, str) and isinstance(new, str) and Path(new).is_dir():
        # So are LMs: their tokens stand in token_list, and their weights are compared with the checkpoint.
        return not Path(old).is_dir() or _has_same_tokenizer(Path(old), Path(new))
    return False


def _has_same_tokenizer(old: Path, new: Path) -> bool:
    before, now = (folder / "tokenizer.json" for folder in (old, new))
    return before.is_file() and now.is_file() and filecmp.cmp(before, now, shallow=False)


def _rate(value: Any) -> int | None:
    """Sampling rate in `16k`, "16000" or 16000, which ESPnet's front ends all take; None for any other value."""
    if isinstance(value, str) and (match := RATE.fullmatch(value)):
        return int(match[1]) * (1000 if match[2] else 1)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _describe(name: str, old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"{name} had {len(old)} values, has {len(new)}"
        place = next(index for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return f"{name} differs from value {place + 1} on: was {old[place]!r}, is {new[place]!r}"
    return f"{name} was {old!r}, is {new!r}"
