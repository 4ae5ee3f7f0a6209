"""What a step makes of the texts of several sessions: it reads their chunks at each loop, and says which go on.

Shapes: B streams, T frames, V tokens.
"""

from collections.abc import Callable, Sequence

import torch

from espnet_larm.live.utterances import Event, Utterances
from espnet_larm.recognize.ctc import CtcSearcher
from espnet_larm.recognize.leaving.leave import Leaving, Watch
from espnet_larm.streaming.stream import StreamOutputs


class Step:
    """What a step makes of the utterances of several sessions.

    Args:
        utterances: By session, its texts so far; they go on.
        ctc: The CTC head.
        partial_loop: The checkpoint loop that partial texts are read at.
        final_loop: The last loop.
        leaving: When chunks leave; None where all run the same loops.
        on_partial: Called with a session's place and a partial text of an early loop; None for nobody.

    Attributes:
        events: By session, what was said and not told yet.
        num_frames: By session, frames that were read.
        num_loops: By session, the loops that they have run, all together.
    """

    def __init__(
        self,
        utterances: Sequence[Utterances],
        ctc: CtcSearcher,
        partial_loop: int,
        final_loop: int,
        leaving: Leaving | None,
        on_partial: Callable[[int, Event], None] | None,
    ) -> None:
        self._utterances, self._ctc, self._partial_loop, self._final_loop = utterances, ctc, partial_loop, final_loop
        self._leaving, self._on_partial = leaving, on_partial
        self._watch: Watch | None = None
        self._last_read = 0
        self.events: list[list[Event]] = [[] for _ in utterances]
        self.num_frames, self.num_loops = [0] * len(utterances), [0] * len(utterances)

    def read(self, outputs: StreamOutputs) -> None:
        """Read all chunks, after all loops."""
        final = self._split(self._ctc.log_probs(outputs.hs_pad[self._final_loop]), outputs)
        partial = final
        if self._partial_loop != self._final_loop:
            partial = self._split(self._ctc.log_probs(outputs.hs_pad[self._partial_loop]), outputs)
        for place, both in enumerate(zip(final, partial, strict=True)):
            self.events[place].extend(self._utterances[place].read(*both))
            self._count(place, len(both[0]), self._final_loop)

    def read_early(self, loop: int, outputs: StreamOutputs) -> torch.Tensor | None:
        """Read a chunk at one of its loops, and say which chunks go on; None for all."""
        if self._leaving is None and loop not in (self._partial_loop, self._final_loop):
            return None
        log_probs = self._ctc.log_probs(outputs.hs_pad[loop])
        leaves = self._leaves(loop, outputs, log_probs)
        has_own_partials = self._partial_loop != self._final_loop
        ends = [loop == self._final_loop] * len(self.events) if leaves is None else leaves.tolist()
        if not any(ends) and not (has_own_partials and loop == self._partial_loop):
            # Nobody reads these posteriors: a rule has looked at them where they are.
            return None if leaves is None else ~leaves
        for place, (each, is_end) in enumerate(zip(self._split(log_probs, outputs), ends, strict=True)):
            if len(each) == 0:
                continue
            # A chunk that leaves before the loop of partial texts has none later.
            if has_own_partials and (loop == self._partial_loop or (is_end and loop < self._partial_loop)):
                self._tell(place, self._utterances[place].foresee(each))
            if is_end:
                self.events[place].extend(self._utterances[place].read(each, None if has_own_partials else each))
                self._count(place, len(each), loop)
        return None if leaves is None else ~leaves

    def _leaves(self, loop: int, outputs: StreamOutputs, log_probs: torch.Tensor) -> torch.Tensor | None:
        if self._leaving is None:
            return None
        if self._watch is None or loop <= self._last_read:
            self._watch = Watch(self._ctc.model.blank_id, self._leaving)
        self._last_read = loop
        return self._watch.leaves(loop, log_probs, outputs.hs_pad[loop], outputs.hlens)

    def _tell(self, place: int, events: Sequence[Event]) -> None:
        for event in events:
            if self.events[place] or self._on_partial is None:
                self.events[place].append(event)
            else:
                self._on_partial(place, event)

    def _count(self, place: int, num_frames: int, loop: int) -> None:
        self.num_frames[place] += num_frames
        self.num_loops[place] += num_frames * loop

    def _split(self, log_probs: torch.Tensor, outputs: StreamOutputs) -> list[torch.Tensor]:
        """By session (T, V)."""
        return [each[:length] for each, length in zip(log_probs.cpu(), outputs.hlens.tolist(), strict=True)]
