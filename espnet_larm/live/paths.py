"""What CTC reads in the frames of an utterance so far: greedily, or by a prefix beam.

Both read frames as they come, and give the hypothesis that the search of the whole utterance gives
(test_a_path_is_the_search_of_all_its_frames).
Shapes: T frames, V tokens.
"""

import copy
import itertools
from collections.abc import Collection
from typing import NamedTuple

import torch

from espnet_larm.search.ctc.align import NO_PATH, align
from espnet_larm.search.ctc.beam import PrefixSearch
from espnet_larm.search.ctc.fusion import Fusion


class Search(NamedTuple):
    """How CTC is searched.

    Attributes:
        blank: Id of the blank.
        no_text: Ids of other tokens that stand in no text.
        beam_size: Hypotheses in the prefix beam; 1 is greedy.
        fusion: What scores words in the prefix beam.
    """

    blank: int
    no_text: Collection[int] = ()
    beam_size: int = 1
    fusion: Fusion | None = None


class Spot(NamedTuple):
    """A token and where it stands.

    Attributes:
        token_id: The token.
        start: Its first frame in the utterance.
        end: The frame after its last.
        log_prob: Mean log-probability in its frames.
    """

    token_id: int
    start: int
    end: int
    log_prob: float


class GreedyPath:
    """The best token of each frame, repeats collapsed and blanks dropped.

    Args:
        search: How CTC is searched.
        before: The best token of the frame before the first one, of which that one may be a repeat.
    """

    def __init__(self, search: Search, before: int | None = None) -> None:
        self._search, self._before = search, search.blank if before is None else before
        self._ids: list[int] = []
        self._best: list[float] = []

    @property
    def num_frames(self) -> int:
        """Frames that were read."""
        return len(self._ids)

    def read(self, log_probs: torch.Tensor) -> None:
        """Go on by frames (T, V)."""
        best, ids = log_probs.max(dim=1)
        self._ids += ids.tolist()
        self._best += best.tolist()

    def token_ids(self) -> list[int]:
        """The hypothesis so far."""
        return [spot.token_id for spot in self.spots()]

    def spots(self) -> list[Spot]:
        """The same with frames."""
        found, end = [], 0
        for token_id, run in itertools.groupby(self._ids):
            start, end = end, end + len(list(run))
            is_repeat = start == 0 and token_id == self._before
            if token_id != self._search.blank and token_id not in self._search.no_text and not is_repeat:
                found.append(Spot(token_id, start, end, sum(self._best[start:end]) / (end - start)))
        return found

    def num_silent(self) -> int:
        """Frames at the end whose best token is none of a text."""
        silent = {self._search.blank, *self._search.no_text}
        return sum(1 for _ in itertools.takewhile(silent.__contains__, reversed(self._ids)))

    def copy(self) -> "GreedyPath":
        """A path that goes on from here by itself."""
        other = copy.copy(self)
        other._ids, other._best = list(self._ids), list(self._best)
        return other

    def after(self, frame: int) -> "GreedyPath":
        """The path of the frames from one on."""
        rest = type(self)(self._search, self._ids[frame - 1] if frame else self._before)
        self._hand_over(rest, frame)
        return rest

    def _hand_over(self, rest: "GreedyPath", frame: int) -> None:
        rest._ids, rest._best = self._ids[frame:], self._best[frame:]


class BeamPath(GreedyPath):
    """The best hypothesis of a prefix beam; its tokens stand where CTC's best path through them has them."""

    def __init__(self, search: Search, before: int | None = None) -> None:
        super().__init__(search, before)
        self._log_probs: list[torch.Tensor] = []
        self._beam: PrefixSearch | None = None

    def read(self, log_probs: torch.Tensor) -> None:
        """Go on by frames (T, V)."""
        super().read(log_probs)
        blank, no_text, beam_size, fusion = self._search
        masked = log_probs.clone()
        masked[:, list(no_text)] = NO_PATH
        if self._beam is None:
            self._beam = PrefixSearch(1, beam_size, masked, blank, fusion)
        self._beam.read(masked.unsqueeze(0))
        self._log_probs.append(masked)

    def copy(self) -> "BeamPath":
        """A path that goes on from here by itself."""
        other = super().copy()
        assert isinstance(other, BeamPath)
        other._log_probs = list(self._log_probs)
        other._beam = None if self._beam is None else self._beam.copy()
        return other

    def token_ids(self) -> list[int]:
        """The hypothesis so far."""
        return [] if self._beam is None else self._beam.found().to_lists()[0][0]

    def spots(self) -> list[Spot]:
        """The same with frames."""
        token_ids = self.token_ids()
        if not token_ids:
            return []
        log_probs = torch.cat(self._log_probs).unsqueeze(0)
        tokens = torch.tensor([token_ids], device=log_probs.device)
        lens = torch.tensor([log_probs.size(1)], device=log_probs.device)
        found = align(log_probs, lens, tokens, torch.full_like(lens, len(token_ids)), self._search.blank)
        return [Spot(*spot) for spot in zip(token_ids, *(part[0].tolist() for part in found[:3]), strict=True)]

    def _hand_over(self, rest: GreedyPath, frame: int) -> None:
        if self._log_probs and frame < self.num_frames:
            rest.read(torch.cat(self._log_probs)[frame:])


def start_path(search: Search) -> GreedyPath:
    """A path of no frames."""
    return GreedyPath(search) if search.beam_size == 1 else BeamPath(search)
