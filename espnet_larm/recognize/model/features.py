"""Features computed utterance by utterance, padded afterwards, and which utterances share a batch.

ESPnet's STFT reflect-pads the batch, so that the last frames of a shorter utterance differ from the same utterance
alone by up to 9 nats. Here a batch holds exactly what each utterance gives alone.
In half precision features are computed in float32 and then rounded: float16 has no number near the floor of 1e-10 that
ESPnet puts under a mel band, so that the logarithm of silence would be minus infinity.
Shapes: B utterances, N samples, T frames, F features.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.pooling.affinity import Pooled


def min_num_samples(model: ESPnetASRModel) -> int:
    """Samples below which the front end cannot make a frame: a centred STFT reflects half a window at both ends."""
    if (least := getattr(model.frontend, "min_samples", None)) is not None:
        return int(least)
    stft = getattr(model.frontend, "stft", None)
    if stft is None:
        return 1
    return stft.n_fft // 2 + 1 if stft.center else stft.n_fft


def feature_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which features are computed for a model of the given type."""
    return torch.promote_types(dtype, torch.float32)


def weight_behind_features(model: ESPnetASRModel) -> torch.Tensor:
    """A weight of what reads the features, which gives their type and device; an encoder may have none."""
    readers = (model.encoder, model.ctc, getattr(model.decoder, "projector", None))
    return next(weight for reader in readers if reader is not None for weight in reader.parameters())


class Features(NamedTuple):
    """Features of one utterance.

    Attributes:
        xs: Features (T, F) of the encoder's type; samples (N,) for a model without front end.
        edges: Where each frame begins among those that the front end has merged, and their number; None if it merges
            none.
    """

    xs: torch.Tensor
    edges: tuple[int, ...] | None

    @property
    def num_frames(self) -> int:
        """T before any were merged."""
        return len(self.xs) if self.edges is None else self.edges[-1]


def extract_features(model: ESPnetASRModel, waveform: torch.Tensor) -> torch.Tensor:
    """The `xs` of `extract`."""
    return extract(model, waveform).xs


def extract(model: ESPnetASRModel, waveform: torch.Tensor) -> Features:
    """Front end and normalisation of one utterance.

    A front end that merges frames has a method `pool`, which also tells where they went.

    Args:
        model: The model, in eval mode.
        waveform: Samples (N,), at least `min_num_samples`, on the model's device.
    """
    dtype = weight_behind_features(model).dtype
    xs = waveform.unsqueeze(0).to(feature_dtype(dtype))
    lens = torch.tensor([xs.size(1)]).to(xs.device, non_blocking=True)
    edges = None
    if hasattr(model.frontend, "pool"):
        pooled = model.frontend.pool(xs, lens)
        xs, lens = pooled.tokens, pooled.lens
        edges = _edges(pooled)
    elif model.frontend is not None:
        xs, lens = model.frontend(xs, lens)
    if model.normalize is not None:
        # ESPnet's normalisations write into their argument.
        xs, lens = model.normalize(xs if model.frontend is not None else xs.clone(), lens)
    return Features(xs[0, : int(lens)].to(dtype), edges)


def _edges(pooled: Pooled) -> tuple[int, ...] | None:
    """The edges of one utterance's groups; None if each frame is alone."""
    num_frames, num_groups = int((pooled.groups[0] >= 0).sum()), int(pooled.lens)
    if num_groups == num_frames:
        return None
    return (*pooled.starts[0, :num_groups].tolist(), num_frames)


def pad_features(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch (B, T, F), zeros after each end, and the valid frames (B,)."""
    lens = torch.tensor([len(one) for one in features]).to(features[0].device, non_blocking=True)
    return pad_sequence(list(features), batch_first=True), lens


def batches_by_length(lengths: Sequence[int], max_padded: float, max_count: int | None = None) -> list[list[int]]:
    """Batches of utterances of similar length, the longest first, so that too little memory shows at once.

    Args:
        lengths: Length of each utterance, in any unit.
        max_padded: Most padded length of a batch, longest times number; a longer utterance goes alone.
        max_count: Most utterances of a batch, 1 or more; None for no bound.

    Returns:
        Indices into `lengths`, each once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        batch = batches[-1] if batches else []
        fits = bool(batch) and lengths[batch[0]] * (len(batch) + 1) <= max_padded
        if fits and (max_count is None or len(batch) < max_count):
            batch.append(index)
        else:
            batches.append([index])
    return batches


def same_length(lengths: Mapping[int, int]) -> Iterator[list[int]]:
    """The keys in groups of equal length, which need no padding."""
    for _, group in groupby(sorted(lengths, key=lengths.__getitem__), key=lengths.__getitem__):
        yield list(group)
