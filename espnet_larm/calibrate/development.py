"""A development set: which of its utterances are read, their audio and their features.

Shapes: T frames, F features.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batch import Waveform
from espnet_larm.recognize.config import Batching
from espnet_larm.recognize.model.features import batches_by_length, extract_features, min_num_samples
from espnet_larm.recognize.model.read_outs import ignores_padding
from espnet_larm.recognize.recognizer import Recognizer

logger = logging.getLogger(__name__)


def keys_with_text(table: AudioTable, references: Mapping[str, str], most_samples: float = math.inf) -> list[str]:
    """Utterances of a table; those of more samples, which decoding cuts, are left out with a warning.

    Raises:
        ValueError: One has no text.
    """
    keys = table.keys(None)
    if lacking := [key for key in keys if key not in references]:
        raise ValueError(f"{len(lacking)} utterances have no text, the first of them {lacking[0]}.")
    if long := [key for key in keys if table.length(key) > most_samples]:
        logger.warning("%d utterances are longer than long_seconds and left out, %s first", len(long), long[0])
        keys = [key for key in keys if table.length(key) <= most_samples]
    return keys


def loaded_batches(
    recognizer: Recognizer, table: AudioTable, keys: Sequence[str], batching: Batching
) -> Iterator[dict[str, Waveform]]:
    """Batches of audio, by utterance.

    Raises:
        ValueError: An utterance cannot be read.
    """
    most = batching.batch_seconds * recognizer.sample_rate_hz
    most_utterances = batching.most_utterances if ignores_padding(recognizer.model) else 1
    groups = batches_by_length([table.length(key) for key in keys], most, most_utterances)
    batches = [[keys[index] for index in group] for group in groups]
    for number, loaded in enumerate(table.load_ahead(batches, batching.num_workers), 1):
        if loaded.failed:
            key, reason = next(iter(loaded.failed.items()))
            raise ValueError(f"{len(loaded.failed)} utterances cannot be read, the first of them {key}: {reason}")
        yield dict(loaded.waveforms)
        logger.info("%d of %d batches", number, len(batches))


def features_of(recognizer: Recognizer, waveforms: Mapping[str, Waveform]) -> dict[str, torch.Tensor]:
    """Features (T, F) by utterance, without those that are too short for a frame."""
    model, device = recognizer.model, recognizer.device
    long_enough = {key: each for key, each in waveforms.items() if len(each) >= min_num_samples(model)}
    extracted = {key: extract_features(model, torch.as_tensor(each).to(device)) for key, each in long_enough.items()}
    # ESPnet's encoders do not say.
    least = getattr(model.encoder, "min_input_length", 1)
    return {key: each for key, each in extracted.items() if len(each) >= least}
