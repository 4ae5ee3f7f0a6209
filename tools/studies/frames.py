"""Encoder outputs of data folders, computed once and kept in a file, since a frozen encoder gives the same in each run.

Shapes: T frames of an utterance, E encoder size.
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.calibrate.pooling_sweep import waveforms_of
from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.data.text import fingerprint
from espnet_larm.files.atomic import save_synced
from espnet_larm.recognize.audio import AudioTable, Preprocess
from espnet_larm.recognize.model.encoding import encode

BATCH_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Utterances(NamedTuple):
    """A data folder that is encoded.

    Attributes:
        names: Names of the utterances.
        texts: References.
        seconds: Durations.
        frames: Encoder outputs (T, E) of each utterance.
    """

    names: list[str]
    texts: list[str]
    seconds: list[float]
    frames: list[torch.Tensor]


def load(path: Path) -> Utterances:
    """Read what `store` wrote; the file is mapped, so that processes share one copy in memory."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return Utterances(found["names"], found["texts"], found["seconds"], list(found["frames"].split(found["lens"])))


@torch.no_grad()
def store(
    model: ESPnetASRModel,
    preprocess: Preprocess | None,
    sample_rate_hz: int,
    data_dir: Path,
    path: Path,
    origin: dict[str, Any],
    augments: bool = False,
) -> None:
    """Encode a data folder, unless the file has it already.

    Args:
        model: Model in eval mode.
        preprocess: Preprocessor of the model.
        sample_rate_hz: Sample rate of its audio.
        data_dir: Data folder with wav.scp and text.
        path: File to write.
        origin: Describes the encoder; the file is made anew for another encoder or other data.
        augments: Whether features go through the model's SpecAugment, drawn once: CTC posteriors of audio that the head
            was trained on are otherwise far clearer than those of other audio. Unlike in ESPnet's training it comes
            after normalisation, where masked features are the mean.

    Raises:
        FileNotFoundError: wav.scp or text is missing.
        ValueError: Audio cannot be read, no utterance is left, or the model has no SpecAugment.
    """
    if augments and model.specaug is None:
        raise ValueError("augment is true, but the trained model has no specaug; leave augment out.")
    for name in ("wav.scp", "text"):
        if not (data_dir / name).is_file():
            raise FileNotFoundError(f"{data_dir / name} is missing; run the recipe's stages of data preparation first.")
    made_of = {**origin, "augments": augments, "data": [fingerprint(data_dir / name) for name in ("wav.scp", "text")]}
    if path.is_file() and torch.load(path, weights_only=True, mmap=True)["made_of"] == made_of:
        logger.info("%s: stored already", path)
        return
    table = AudioTable(data_dir / "wav.scp", "sound", sample_rate_hz, preprocess)
    texts = read_table(data_dir / "text")
    keys = [key for key in table.keys(None) if key in texts]
    found: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    for waveforms in waveforms_of(table, keys, BATCH_SECONDS):
        found.update(encode(model, waveforms, augments))
        logger.info("%s: %d of %d utterances", data_dir, len(found), len(keys))
    kept = [key for key in keys if key in found]
    if not kept:
        raise ValueError(f"{data_dir}: no utterance is long enough for the encoder.")
    content = {
        "made_of": made_of,
        "names": kept,
        "texts": [texts[key] for key in kept],
        "seconds": [table.length(key) / sample_rate_hz for key in kept],
        "lens": [len(found[key]) for key in kept],
        "frames": torch.cat([found[key] for key in kept]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / "part"
    part.mkdir(exist_ok=True)
    save_synced(content, path, part)
