"""Names the utterances whose transcripts have no room in the frames that the encoder leaves them.

CTC needs a frame for each token, and one more between two equal ones. ESPnet's loss of an utterance with fewer is
infinite, and 0 with `ctc_conf: zero_infinity`, its default: without a word, the utterance teaches nothing.
Shapes: B utterances, L tokens.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)

REMEDY = (
    "CTC learns nothing of it. Let more frames be left (frontend_conf: min_frames_per_second where frames are pooled "
    "and the encoder is not larm, encoder_conf: subsampling_factor), take longer tokens, or drop it."
)


def frames_needed(ys_pad: torch.Tensor, ys_lens: torch.Tensor) -> torch.Tensor:
    """Fewest frames (B,) of token sequences (B, L) with lengths (B,)."""
    places = torch.arange(1, ys_pad.size(1), device=ys_pad.device)
    repeats = (ys_pad[:, 1:] == ys_pad[:, :-1]) & (places < ys_lens.unsqueeze(1))
    return ys_lens + repeats.sum(dim=1)


class CtcRoom:
    """Watches a CTC head.

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
        """Look at what the model's CTC head is given, if it has one; at the end, say how many had no room.

        Args:
            model: An ASR model, or what holds it for several processes.
        """
        ctc = getattr(getattr(model, "module", model), "ctc", None)
        handle = None if ctc is None else ctc.register_forward_pre_hook(self._look)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
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
