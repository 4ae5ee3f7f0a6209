"""Consistency of chunks with whole utterances in training: what all of it says teaches what a part of it says.

In a step whose context has chunks, the same features run once more with the whole context, without gradient. The loss
is KL(whole || chunks) of the CTC posteriors at each checkpoint loop, a loop of one mode against the same loop of the
other. Both modes draw dropout masks of their own, the chunks first, so that these have the masks that they have without
the loss. The whole context learns in steps of its own, where it is drawn.
Sources: in-place distillation from full context to streaming, Yu et al., "Dual-mode ASR", arXiv:2010.06030; of CTC
posteriors, Li et al., "Delayed-KD", arXiv:2505.22069. Departures: a step has a CTC loss of one mode, not of both; the
teacher is not delayed, since all modes of the model share their look-ahead but for the chunk.
Shapes: B utterances, T frames, D model size, V tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch.nn import functional

from espnet_larm.streaming.context import Context, Contexts


class Lesson(NamedTuple):
    """What one training step says of the same utterances in both modes.

    Attributes:
        weight: Weight of the loss.
        hlens: Valid frames (B,).
        learned: By checkpoint loop, inputs of the CTC head in chunks (B, T, D).
        taught: The same with the whole context, without gradient.
    """

    weight: float
    hlens: torch.Tensor
    learned: Sequence[torch.Tensor]
    taught: Sequence[torch.Tensor]

    def loss(self, head: torch.nn.Linear) -> torch.Tensor:
        """KL in nats without its weight: summed over frames, as CTC's loss is; mean of utterances and loops.

        Args:
            head: The CTC head's layer (D to V).
        """
        is_frame = torch.arange(self.learned[0].size(1), device=self.hlens.device) < self.hlens.unsqueeze(1)
        parts = []
        for learned, taught in zip(self.learned, self.taught, strict=True):
            # With gradient first: autocast keeps what it casts first, also without (torch issue 105211).
            said = head(learned[is_frame]).float().log_softmax(-1)
            with torch.no_grad():
                wanted = head(taught[is_frame]).float().log_softmax(-1)
            parts.append(functional.kl_div(said, wanted, reduction="sum", log_target=True) / len(self.hlens))
        return torch.stack(parts).mean()


# ESPnet's model hands its encoder nothing, and takes outputs alone from it.
_LESSONS: ContextVar[list[Lesson] | None] = ContextVar("lessons of a training step", default=None)


@contextmanager
def lessons_collected() -> Iterator[list[Lesson]]:
    """While it is entered, encoders of this thread put the lessons of their training steps into the list."""
    lessons: list[Lesson] = []
    token = _LESSONS.set(lessons)
    try:
        yield lessons
    finally:
        _LESSONS.reset(token)


def give_lesson(
    contexts: Contexts | None,
    context: Context,
    learned: Sequence[torch.Tensor],
    hlens: torch.Tensor,
    encode: Callable[[Context], Sequence[torch.Tensor]],
) -> None:
    """Let the whole context teach a training step, if its training has the loss and it was in chunks.

    Args:
        contexts: What the training draws.
        context: What the step has drawn.
        learned: By checkpoint loop, inputs of the CTC head (B, T, D) of this step.
        hlens: Their valid frames (B,).
        encode: Gives the same in another context.

    Raises:
        ValueError: Nobody adds the loss.
    """
    if contexts is None or contexts.consistency_weight == 0 or context.is_full:
        return
    if (lessons := _LESSONS.get()) is None:
        raise ValueError(
            f"encoder_conf: streaming: consistency_weight is {contexts.consistency_weight}, but the model does not add "
            "this loss; train by espnet-larm train with model: espnet or speech_llm, or leave it out."
        )
    with torch.no_grad():
        lessons.append(Lesson(contexts.consistency_weight, hlens, learned, encode(Context())))
