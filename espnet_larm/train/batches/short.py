"""Leaves utterances that are too short for the encoder out of their batches, and refuses those that hold no numbers.

Only the utterance is left out: it comes in every epoch, and would take its neighbours with it.
Where the bound is not known (ESPnet's encoders), the batch that the encoder refuses is named.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from espnet2.asr.frontend.default import DefaultFrontend

from espnet_larm.errors import DataError, name_some
from espnet_larm.pooling.frontend import AffinityPoolingFrontend
from espnet_larm.pretrained.frontend import PretrainedFrontend
from espnet_larm.train.batches.epoch import Batch
from espnet_larm.upstream import TooShortUttError

logger = logging.getLogger(__name__)

NUM_NAMED = 10
REMEDY = "Drop such utterances for good with asr.sh --min_wav_duration, in seconds."


class Fewest(NamedTuple):
    """What an utterance needs for one frame of the encoder; None if this is not known.

    Attributes:
        samples: Samples of its waveform.
        frames: Frames, where the data holds frames: features, or those of a pre-trained front end.
    """

    samples: int | None
    frames: int | None


def fewest_of(model: torch.nn.Module) -> Fewest:
    """What an utterance needs for a model, exactly.

    Args:
        model: An ASR model, or what holds it for several processes.

    Returns:
        The numbers; None if the encoder does not tell, or the front end is neither a plain STFT, nor a pre-trained
        encoder, nor one around these that certainly leaves enough pooled frames.
    """
    model = getattr(model, "module", model)
    num_frames = getattr(getattr(model, "encoder", None), "min_input_length", None)
    if num_frames is None or model.preencoder is not None:
        return Fewest(None, None)
    frontend = model.frontend
    if isinstance(frontend, AffinityPoolingFrontend):
        num_frames, frontend = frontend.frames_before(num_frames), frontend.frontend
    if num_frames is None or frontend is None:
        return Fewest(None, num_frames)
    if isinstance(frontend, PretrainedFrontend):
        return Fewest(frontend.fewest_samples(num_frames), frontend.fewest_stored(num_frames))
    return Fewest(_of_stft(frontend.stft, num_frames) if type(frontend) is DefaultFrontend else None, None)


def _of_stft(stft: Any, num_frames: int) -> int:
    """Fewest samples that give so many frames."""
    if not stft.center:
        return (num_frames - 1) * stft.hop_length + stft.n_fft
    # A centred STFT reflects half a window at both ends, which must be there.
    half = stft.n_fft // 2
    return max((num_frames - 1) * stft.hop_length + stft.n_fft - 2 * half, half + 1)


def check_numbers(batch: Batch) -> None:
    """Refuse a batch with samples or features that are not numbers, which would make all weights so.

    Raises:
        DataError: With the utterances.
    """
    utt_ids, values = batch
    speech = values.get("speech")
    if not isinstance(speech, torch.Tensor) or bool(torch.isfinite(speech).all()):
        return
    named = [utt_ids[index] for index, one in enumerate(speech) if not bool(torch.isfinite(one).all())]
    if speech.dim() == 3:
        raise DataError(
            f"{name_some(named)}: the stored frames, or features, hold numbers that are NaN or infinite; leave it out "
            "or make them again (of frames.scp: store-frames does), then repeat the command."
        )
    raise DataError(
        f"{name_some(named)}: the audio holds samples that are NaN or infinite; leave it out or make its "
        "audio again (stage 3 names all of them), then repeat the command."
    )


class LongEnough:
    """A loader's batches without the utterances that are too short.

    Attributes:
        left_out: Ids of utterances left out in the pass that was last begun.

    Args:
        loader: Gives batches.
        fewest: What an utterance needs.
    """

    def __init__(self, loader: Iterable[Batch], fewest: Fewest) -> None:
        self._loader = loader
        self._fewest = fewest
        self._last: Batch | None = None
        self.left_out: list[str] = []

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # ESPnet asks, and takes a TypeError for "not known"

    def __iter__(self) -> Iterator[Batch]:
        self.left_out = []
        # Workers start here, where the caller shields them from signals, not at the first batch.
        return self._filtered(iter(self._loader))

    def _filtered(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            check_numbers(batch)
            self._last = self._without_short(batch)
            if self._last is not None:
                yield self._last

    def _without_short(self, batch: Batch) -> Batch | None:
        """The batch without short utterances; None if nothing is left."""
        utt_ids, values = batch
        lens = values.get("speech_lengths")
        fewest = self._fewest.samples if lens is None or values["speech"].dim() == 2 else self._fewest.frames
        if fewest is None or lens is None or bool((lens >= fewest).all()):
            return batch
        short = [index for index, length in enumerate(lens.tolist()) if length < fewest]
        self.left_out += [utt_ids[index] for index in short]
        # An error, because ESPnet silences warnings of all processes but the first.
        logger.error("Left out, the encoder needs %d: %s. %s", fewest, _lengths(batch, short), REMEDY)
        keep = [index for index in range(len(utt_ids)) if index not in short]
        kept = {name: value[keep] if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        return ([utt_ids[index] for index in keep], kept) if keep else None

    def utt_ids(self) -> list[str]:
        """Ids of the batch that came last."""
        return [] if self._last is None else list(self._last[0])

    def report(self) -> None:
        """Warn of the number of utterances left out in the pass."""
        if self.left_out:
            logger.warning(
                "%d utterances of this epoch were left out because they are too short; each is named above.",
                len(self.left_out),
            )

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Name the utterances of a batch that the model refuses as too short.

        Raises:
            ValueError: The model has refused an utterance.
        """
        try:
            yield
        except TooShortUttError as error:
            if self._last is None:
                raise
            lens = self._last[1]["speech_lengths"].tolist()
            shortest = sorted(range(len(lens)), key=lens.__getitem__)[:NUM_NAMED]
            raise ValueError(
                f"The encoder refused an utterance of a batch as too short; the shortest are "
                f"{_lengths(self._last, shortest)}: {error.args[0]}. {REMEDY}"
            ) from error


def _lengths(batch: Batch, indices: Iterable[int]) -> str:
    unit = "samples" if batch[1]["speech"].dim() == 2 else "frames"
    lens = batch[1]["speech_lengths"].tolist()
    return ", ".join(f"{batch[0][index]} ({lens[index]} {unit})" for index in indices)
