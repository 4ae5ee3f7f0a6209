"""Refuses what does not go with a pre-trained front end: masks over its features, stored frames of another model."""

import argparse
from pathlib import Path
from typing import Any

import torch

from espnet_larm.llm.fingerprint import FINGERPRINT, hexadecimal
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.pretrained.store import DATA_TYPE, read_record

# Options of the preprocessor that change the waveform, of which a store knows nothing.
WAVEFORM = ("rir_scp", "noise_scp", "speech_volume_normalize")
NAME = "pretrained"
REMEDY = "train on wav.scp instead (recipes: --store_frames false)"


def check_masks(args: argparse.Namespace) -> None:
    """Refuse masks over the features of a pre-trained front end, whose neighbours have nothing in common.

    Raises:
        ValueError: SpecAugment has such masks; they are ESPnet's default.
    """
    conf = getattr(args, "specaug_conf", None) or {}
    uses_both = getattr(args, "frontend", None) == NAME and getattr(args, "specaug", None) == "specaug"
    if uses_both and conf.get("apply_freq_mask", True):
        raise ValueError(
            "specaug_conf: apply_freq_mask is true, but features of a pre-trained front end have no order in which "
            "neighbours could be masked together; set apply_freq_mask: false."
        )


def check_stored_frames(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Refuse data of the type `frames` that the model's front end would not make so.

    Raises:
        ValueError: The front end is another one, or learns, or the waveform shall be changed.
        FileNotFoundError: The store is not finished.
    """
    options = (f"{part}_data_path_and_name_and_type" for part in ("train", "valid"))
    tables = [table for option in options for table in getattr(args, option, None) or ()]
    scps = [Path(path) for path, name, kind in tables if name == "speech" and kind == DATA_TYPE]
    if not scps:
        return
    frontend = getattr(model, "frontend", None)
    if not isinstance(frontend, PretrainedFrontend):
        raise ValueError(f"{scps[0]} holds stored frames, which frontend: pretrained alone reads; {REMEDY}.")
    if frontend.learns:
        raise ValueError(
            f"frontend_conf: train is {args.frontend_conf['train']}, and {scps[0]} holds frames; {REMEDY}."
        )
    if changed := [name for name in WAVEFORM if getattr(args, name, None) is not None]:
        raise ValueError(
            f"{changed[0]} changes the waveform, and {scps[0]} holds frames of the unchanged one; {REMEDY}."
        )
    for scp in scps:
        _check_record(scp, read_record(scp), frontend)


def _check_record(scp: Path, record: dict[str, Any], frontend: PretrainedFrontend) -> None:
    found = {"sha256": hexadecimal(frontend.encoder.get_buffer(FINGERPRINT)), "layers": list(frontend.layers)}
    for name, value in found.items():
        if record.get(name) != value:
            what = "another model" if name == "sha256" else f"layers {record.get(name)} instead of {value}"
            raise ValueError(f"{scp} holds frames of {what}; run store-frames with this configuration.")
