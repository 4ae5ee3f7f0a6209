"""Stage 10: keeps the frames of a frozen, pre-trained front end on the disk; training then reads them.

Examples:
    espnet-larm store-frames --data_dir dump/raw/train_sp --config conf/train_x.yaml

Reads `frontend_conf` of the configuration, of which model, revision and layers count. Writes
`frames/<hash of model and layers>/` and `frames.scp` into the data folder; train with
`--train_data_path_and_name_and_type dump/raw/train_sp/frames.scp,speech,frames`. Decoding needs no store.
Says the size before it starts, and the time after a first part. Repeated, it checks what is there, and makes what is
missing, was damaged, or whose audio has changed.
"""

import argparse
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_sources
from espnet_larm.data.source import ARCHIVE_ENTRY, is_command, part_of
from espnet_larm.data.stream import read_extent
from espnet_larm.files.atomic import write_text
from espnet_larm.files.locks import locked
from espnet_larm.files.reading import read_yaml
from espnet_larm.options import Option, check_conf, number
from espnet_larm.pretrained.store import RECORD, SCP, Stored, add, finished

logger = logging.getLogger(__name__)

# A kill loses no more than a shard, and a shard is read by one open file.
SECONDS_A_SHARD = 900
BYTES_A_NUMBER = 2
SECONDS_BETWEEN_REPORTS = 10.0


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder with wav.scp, after stage 4")
    parser.add_argument("--config", type=Path, required=True, help="YAML of the training, with frontend: pretrained")
    parser.add_argument("--model", help="folder or hub id of the encoder (default: the configuration's)")
    parser.add_argument("--ngpu", type=int, default=0, choices=(0, 1), help="1 computes on a GPU (default: 0)")
    parser.add_argument(
        "--batch_seconds",
        type=number(float, Option("seconds", above=0.0)),
        default=60.0,
        help="audio that is encoded together, in seconds (default: 60)",
    )
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Make or complete the store."""
    args = get_parser().parse_args(cmd)
    frontend = _load_frontend(args.config, args.model, "cuda" if args.ngpu else "cpu")
    sources = read_sources(args.data_dir / "wav.scp")
    if not sources:
        raise ValueError(f"{args.data_dir / 'wav.scp'} is empty; there is nothing to store.")
    record = record_of(frontend)
    folder = args.data_dir / "frames" / hashlib.sha256(json.dumps(record).encode()).hexdigest()[:12]
    with locked(folder):
        stored = make(folder, frontend, sources, args.batch_seconds)
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
        write_text(args.data_dir / SCP, "".join(f"{key} {stored[key].place}\n" for key in sources))
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{len(sources)} utterances, {num_bytes / 1e9:.2f} GB -> {args.data_dir / SCP}")
    return 0


def _load_frontend(config: Path, model: str | None, device: str) -> Any:
    """The front end that a configuration of training names, in eval mode.

    Raises:
        ValueError: It is no frozen pre-trained one.
        FileNotFoundError: The configuration or the model is missing.
    """
    from espnet_larm.pretrained.frontend import PretrainedFrontend

    if not config.is_file():
        raise FileNotFoundError(f"--config {config} is missing.")
    options = read_yaml(config)
    if not isinstance(options, dict) or options.get("frontend") != "pretrained":
        raise ValueError(f"{config}: frontend is not pretrained; only the frames of a pre-trained one are stored.")
    conf = {**(options.get("frontend_conf") or {}), **({} if model is None else {"model": model})}
    check_conf(PretrainedFrontend.__init__, conf, "frontend_conf: ")
    if (train := conf.get("train", "frozen")) != "frozen":
        raise ValueError(f"{config}: frontend_conf: train is {train}; frames change as it learns, and are not stored.")
    if conf.get("model") is None:
        raise ValueError(f"{config}: frontend_conf: model is missing; name the encoder (--model).")
    return PretrainedFrontend(**conf).to(device).eval()


def record_of(frontend: Any) -> dict[str, Any]:
    """What the frames of a front end depend on."""
    from espnet_larm.llm.fingerprint import FINGERPRINT, hexadecimal

    return {
        "sha256": hexadecimal(frontend.encoder.get_buffer(FINGERPRINT)),
        "layers": list(frontend.layers),
        "size": frontend.stored_size,
        "hop": frontend.encoder.hop,
    }


def make(folder: Path, frontend: Any, sources: Mapping[str, str], batch_seconds: float) -> dict[str, Stored]:
    """Complete a store.

    Args:
        folder: The store.
        frontend: The front end.
        sources: Audio by utterance.
        batch_seconds: Audio that is encoded together.

    Returns:
        All of `sources`.

    Raises:
        ValueError: The disk has too little room, audio cannot be read, or has another rate.
    """
    audio = {key: _identity(source) for key, source in sources.items()}
    known = {key: each for key, each in finished(folder, frontend.stored_size) if audio.get(key) == each.audio}
    missing = [key for key in sources if key not in known]
    logger.info("%s: %d of %d utterances are there.", folder, len(known), len(sources))
    if not missing:
        return known
    (folder / RECORD).unlink(missing_ok=True)
    seconds = {key: _seconds(key, sources[key], frontend) for key in missing}
    _check_room(folder, frontend, sum(seconds.values()))
    progress = _Progress(sum(seconds.values()))
    for shard in _portions(missing, seconds, SECONDS_A_SHARD):
        frames: dict[str, np.ndarray] = {}
        for batch in _portions(sorted(shard, key=seconds.__getitem__), seconds, batch_seconds):
            frames |= _encode(frontend, {key: sources[key] for key in batch})
            progress.add(sum(seconds[key] for key in batch))
        known |= add(folder, frames, audio)
    progress.end()
    return known


class _Progress:
    """Logs how long the rest will take, and at the end how long it took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.done = seconds, 0.0
        self.start, self.reported = time.perf_counter(), float("-inf")

    def add(self, seconds: float) -> None:
        self.done += seconds
        now = time.perf_counter()
        if now - self.reported >= SECONDS_BETWEEN_REPORTS:
            self.reported = now
            left = (self.seconds - self.done) * (now - self.start) / self.done
            logger.info("%.2f of %.2f hours; about %.0f min left", self.done / 3600, self.seconds / 3600, left / 60)

    def end(self) -> None:
        spent = time.perf_counter() - self.start
        logger.info("%.2f hours in %.1f min, real-time factor %.4f", self.done / 3600, spent / 60, spent / self.done)


def _identity(source: str) -> str:
    """What tells one state of an utterance's audio from another: where it is, and size and date of a file."""
    recording = part_of(source).recording
    file = Path(recording)
    if not file.is_file() and (entry := ARCHIVE_ENTRY.fullmatch(recording)):
        file = Path(entry["path"])
    if is_command(source) or not file.is_file():
        return hashlib.sha256(source.encode()).hexdigest()[:16]
    state = file.stat()
    return hashlib.sha256(f"{source} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]


def _seconds(key: str, source: str, frontend: Any) -> float:
    """Length of an utterance that the model can read, from its header, so that none is refused hours later."""
    num_samples, rate_hz = read_extent(source)
    if rate_hz != frontend.encoder.rate_hz:
        raise ValueError(
            f"{key} has {rate_hz} Hz, the model reads {frontend.encoder.rate_hz} Hz; convert the audio (stage 3 of the "
            f"recipes does): {source}"
        )
    if num_samples < frontend.min_samples:
        raise ValueError(
            f"{key} has {num_samples} samples, the front end needs {frontend.min_samples}; leave it out "
            f"(--min_wav_duration of the recipes): {source}"
        )
    return num_samples / rate_hz


def _check_room(folder: Path, frontend: Any, seconds: float) -> None:
    rate = frontend.encoder.rate_hz / frontend.encoder.hop
    wanted = seconds * rate * frontend.stored_size * BYTES_A_NUMBER
    free = shutil.disk_usage(folder).free
    logger.info("%.2f GB for %.2f hours, %.2f GB are free", wanted / 1e9, seconds / 3600, free / 1e9)
    if wanted > free:
        raise ValueError(
            f"{folder}: the frames take {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; make room, read fewer "
            "layers (frontend_conf: layers), or perturb fewer speeds."
        )


def _portions(keys: Sequence[str], seconds: Mapping[str, float], most: float) -> list[list[str]]:
    """Neighbours together up to so many seconds; a longer one alone."""
    portions: list[list[str]] = []
    total = most
    for key in keys:
        if total + seconds[key] > most:
            portions.append([])
            total = 0.0
        portions[-1].append(key)
        total += seconds[key]
    return portions


def _encode(frontend: Any, sources: Mapping[str, str]) -> dict[str, np.ndarray]:
    import torch

    waveforms = [torch.from_numpy(read_audio(source).samples) for source in sources.values()]
    lens = torch.tensor([len(waveform) for waveform in waveforms])
    device = next(frontend.parameters()).device
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    with torch.inference_mode():
        frames, frame_lens = frontend.hidden(padded.to(device), lens.to(device))
    rows = zip(sources, frames, frame_lens.tolist(), strict=True)
    return {key: row[:count].float().cpu().numpy() for key, row, count in rows}
