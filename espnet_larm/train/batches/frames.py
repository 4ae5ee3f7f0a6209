"""Frames that a batch's transcripts need, those that a pooling front end leaves, and warnings where CTC has no room.

CTC needs a frame for each token, and one more between two equal ones. ESPnet's loss of an utterance with fewer is
infinite, and 0 with `ctc_conf: zero_infinity`, its default: the utterance silently teaches nothing.
ESPnet gives front ends speech alone. In training and validation the transcript is known: what CTC needs of the encoder
becomes what the encoder needs of the front end, if the encoder says so exactly (`larm`, with nothing else in between).
Decoding knows no transcript, and has `min_frames_per_second` alone.
Shapes: B utterances, L tokens. A model is an ASR model, or what holds it for several processes.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from espnet_larm.llm.tokens import CTC_TEXT
from espnet_larm.pooling.frontend import NEEDED_FRAMES, AffinityPoolingFrontend, collect_merges

logger = logging.getLogger(__name__)

REMEDY = (
    "CTC learns nothing of it. Let more frames be left (frontend_conf: min_frames_per_second where frames are pooled "
    "and the encoder is not larm, encoder_conf: subsampling_factor), take longer tokens, or drop it."
)
ARGUMENTS = ("speech", "speech_lengths", "text", "text_lengths")


def frames_needed(ys_pad: torch.Tensor, ys_lens: torch.Tensor) -> torch.Tensor:
    """Fewest frames (B,) in which CTC fits token sequences (B, L) with lengths (B,)."""
    positions = torch.arange(1, ys_pad.size(1), device=ys_pad.device)
    repeats = (ys_pad[:, 1:] == ys_pad[:, :-1]) & (positions < ys_lens.unsqueeze(1))
    return ys_lens + repeats.sum(dim=1)


class CtcRoom:
    """Names the utterances whose transcripts do not fit into the frames that the encoder leaves.

    Attributes:
        without_room: Utterances named so far.

    Args:
        utt_ids: Gives the ids of the batch that is being trained on.
    """

    def __init__(self, utt_ids: Callable[[], list[str]]) -> None:
        self._utt_ids = utt_ids
        self.without_room: list[str] = []

    @contextlib.contextmanager
    def watched(self, model: torch.nn.Module) -> Iterator[None]:
        """Look at what the model's CTC head is given, if it has one; at the end, count the utterances named."""
        ctc = getattr(_without_wrapper(model), "ctc", None)
        with contextlib.nullcontext() if ctc is None else ctc.register_forward_pre_hook(self._look):
            yield
        if self.without_room:
            logger.warning(
                "%d utterances of this epoch have fewer frames than CTC needs; each is named above.",
                len(self.without_room),
            )

    def _look(self, module: torch.nn.Module, given: tuple[Any, ...]) -> None:  # noqa: ARG002
        _, hlens, ys_pad, ys_lens = given
        needed = frames_needed(ys_pad, ys_lens)
        if bool((needed <= hlens).all()):
            return
        named = set(self.without_room)
        utt_ids = self._utt_ids()
        if len(utt_ids) != len(hlens):
            # One process with several GPUs: torch's DataParallel has split the batch.
            utt_ids = ["An utterance of the batch"] * len(hlens)
        for utt_id, found, least in zip(utt_ids, hlens.tolist(), needed.tolist(), strict=True):
            # Every read-out of the encoder is given the same.
            if found < least and utt_id not in named:
                self.without_room.append(utt_id)
                # An error, because ESPnet silences warnings of all processes but the first.
                logger.error("%s has %d frames, and its transcript needs %d. %s", utt_id, found, least, REMEDY)


@contextlib.contextmanager
def needed_frames_told(model: torch.nn.Module) -> Iterator[None]:
    """Give a pooling front end the number of frames that transcripts need, while the model reads a batch."""
    model = _without_wrapper(model)
    if not _can_be_told(model):
        yield
        return
    # The hooks are on the module that runs, which torch's DataParallel copies.
    with (
        model.register_forward_pre_hook(_tell, with_kwargs=True),
        model.register_forward_hook(_forget, always_call=True),
    ):
        yield


def _can_be_told(model: Any) -> bool:
    """Whether the front end pools, a CTC head needs frames, and how many of the front end's they take is known."""
    if getattr(model, "ctc", None) is None or not _pools(model):
        return False
    return hasattr(model.encoder, "input_lens") and model.preencoder is None and model.postencoder is None


def _tell(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = {**dict(zip(ARGUMENTS, args, strict=False)), **kwargs}
    name = CTC_TEXT if getattr(model, "has_own_ctc_tokens", False) and CTC_TEXT in given else "text"
    needed = frames_needed(given[name], given[f"{name}_lengths"])
    # Without a token, the encoder still needs a frame.
    NEEDED_FRAMES.set(model.encoder.input_lens(needed.clamp(min=1)))  # type: ignore[union-attr,operator]


def _forget(model: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    NEEDED_FRAMES.set(None)


@contextlib.contextmanager
def retention_logged(model: torch.nn.Module) -> Iterator[None]:
    """Log the average retention of a pooling front end over this process's batches, if the model has one."""
    if not _pools(_without_wrapper(model)):
        yield
        return
    with collect_merges() as merges:
        yield
    if merges:
        mean = torch.stack([each.retention for each in merges]).mean()
        logger.info(
            "The front end left %.1f %% of the frames, on average of %d batches.", 100 * float(mean), len(merges)
        )


def _without_wrapper(model: torch.nn.Module) -> torch.nn.Module:
    return getattr(model, "module", model)


def _pools(model: torch.nn.Module) -> bool:
    return isinstance(getattr(model, "frontend", None), AffinityPoolingFrontend)
