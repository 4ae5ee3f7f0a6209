"""Encoder outputs of utterances by themselves, for those who ask an LM about them many times.

Shapes: N samples, T frames of an utterance, E encoder size.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.recognize.model.features import (
    extract_features,
    min_num_samples,
    pad_features,
    same_length,
    weight_behind_features,
)
from espnet_larm.recognize.model.read_outs import ignores_padding, read_outs
from espnet_larm.upstream import TooShortUttError

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode(model: ESPnetASRModel, waveforms: Mapping[str, Any], augments: bool = False) -> dict[str, torch.Tensor]:
    """Frames (T, E) by utterance, float32 on the CPU; those that are too short are left out by name.

    Args:
        model: In eval mode.
        waveforms: Samples (N,) by utterance.
        augments: Whether features go through the model's SpecAugment, which it must have.
    """
    device = weight_behind_features(model).device
    features = {}
    for key, waveform in waveforms.items():
        if len(waveform) < min_num_samples(model):
            logger.warning("%s: %d samples are too few for a frame; left out", key, len(waveform))
        else:
            features[key] = extract_features(model, torch.as_tensor(waveform).to(device))
            if augments:
                features[key] = model.specaug(features[key].unsqueeze(0))[0].squeeze(0)
    lengths = {index: len(one) for index, one in enumerate(features.values())}
    groups = [list(lengths)] if ignores_padding(model) and lengths else same_length(lengths)
    names, found = list(features), {}
    for group in groups:
        chosen = [names[index] for index in group]
        try:
            found.update(_encode_batch(model, {name: features[name] for name in chosen}))
        except TooShortUttError:
            # One of them; each goes alone.
            for name in chosen:
                try:
                    found.update(_encode_batch(model, {name: features[name]}))
                except TooShortUttError as error:
                    logger.warning("%s: %s; left out", name, error.args[0])
    return found


def _encode_batch(model: ESPnetASRModel, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    *_, (_, hs_pad, hlens, _) = read_outs(model, *pad_features(list(features.values())))
    rows = zip(features, hs_pad.float().cpu(), hlens.tolist(), strict=True)
    return {name: row[:length].clone() for name, row, length in rows}
