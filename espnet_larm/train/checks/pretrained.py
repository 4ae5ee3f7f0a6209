"""Refuses what does not go with a pre-trained front end: masks, frames of another model, audio of another rate."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.data.stream import read_extent
from espnet_larm.llm.fingerprint import FINGERPRINT, hexadecimal
from espnet_larm.pooling.frontend import NAME as POOLING
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.pretrained.store import DATA_TYPE, read_records

# Options of the preprocessor that change the waveform, of which a store knows nothing.
WAVEFORM = ("rir_scp", "noise_scp", "speech_volume_normalize")
# Of SpecAugment, what does not go with hidden states.
MASKS = {
    "apply_freq_mask": "features of a pre-trained front end have no order in which neighbours could be masked together",
    "apply_time_warp": "a pre-trained front end's frames would be moved away from the time that they speak of",
}
# Data of ESPnet whose headers say a rate.
SOUNDS = ("sound", "kaldi_ark")
NAME = "pretrained"
REMEDY = "train on wav.scp instead (recipes: --store_frames false)"


def check_masks(args: argparse.Namespace) -> None:
    """Refuse masks over the features of a pre-trained front end, and time warp.

    Raises:
        ValueError: SpecAugment has one of them; both are ESPnet's default.
    """
    conf = getattr(args, "specaug_conf", None) or {}
    frontend = getattr(args, "frontend", None)
    if frontend == POOLING:
        frontend = (getattr(args, "frontend_conf", None) or {}).get("frontend")
    if frontend != NAME or getattr(args, "specaug", None) != "specaug":
        return
    for name, reason in MASKS.items():
        if conf.get(name, True):
            raise ValueError(f"specaug_conf: {name} is true, but {reason}; set {name}: false.")


def check_stored_frames(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Refuse data of the type `frames` that the model's front end would not make so.

    Raises:
        ValueError: The front end is another one, or learns, or the waveform shall be changed.
        FileNotFoundError: The store is not finished.
    """
    scps = _speech_tables(args, (DATA_TYPE,))
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
        for record in read_records(scp):
            _check_record(scp, record, frontend)


def check_rate(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Refuse waveforms of another rate than a pre-trained front end reads, by the first of each table.

    Raises:
        ValueError: The rate is another one, or the first is no audio.
        FileNotFoundError: The first is missing.
    """
    frontend = getattr(model, "frontend", None)
    frontend = getattr(frontend, "frontend", frontend)
    if not isinstance(frontend, PretrainedFrontend):
        return
    for scp in _speech_tables(args, SOUNDS):
        for key, source in [*read_table(scp).items()][:1]:
            if (rate_hz := read_extent(source).rate_hz) != frontend.encoder.rate_hz:
                raise ValueError(
                    f"{scp}: {key} has {rate_hz} Hz, but the model of frontend: pretrained reads "
                    f"{frontend.encoder.rate_hz} Hz; convert the audio (stage 3 of the recipes does)."
                )


def _speech_tables(args: argparse.Namespace, kinds: Collection[str]) -> list[Path]:
    """Tables of a training that hold its speech as one of these types of data."""
    options = (f"{part}_data_path_and_name_and_type" for part in ("train", "valid"))
    tables = [table for option in options for table in getattr(args, option, None) or ()]
    return [Path(path) for path, name, kind in tables if name == "speech" and kind in kinds]


def _check_record(scp: Path, record: dict[str, Any], frontend: PretrainedFrontend) -> None:
    found = {"sha256": hexadecimal(frontend.encoder.get_buffer(FINGERPRINT)), "layers": list(frontend.layers)}
    for name, value in found.items():
        if record.get(name) != value:
            what = "another model" if name == "sha256" else f"layers {record.get(name)} instead of {value}"
            raise ValueError(f"{scp} holds frames of {what}; run store-frames with this configuration.")
