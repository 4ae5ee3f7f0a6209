"""CTC posteriors of a stream to texts: partial ones while somebody speaks, a final one after a pause.

A pause is a time in which CTC finds no token at the last loop. Where there is none for long, all words but the last
become final, and the last goes on. Silence between utterances is dropped, so that memory does not grow.
Shapes: T frames, V tokens.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.live.paths import GreedyPath, Search, Spot, start_path
from espnet_larm.recognize.output.words import SPACE, FrameTimes, Word, group_tokens, has_words, make_words


class Event(NamedTuple):
    """A text of a stream.

    Attributes:
        is_final: Whether no later event changes it; the next one is about what follows.
        text: What is said since the last final text. A partial one may be empty: what was shown is withdrawn.
        start_s: Where it begins in the stream, in seconds; a partial one no earlier than there.
        end_s: Where it ends; of a partial text, where what was heard for it ends.
        words: Words of a final text with their times in the stream.
    """

    is_final: bool
    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()

    def message(self) -> dict[str, Any]:
        """It as JSON has it, times in seconds; a final text with its words."""
        said = {"text": self.text, "start": round(self.start_s, 3), "end": round(self.end_s, 3)}
        if not self.is_final:
            return {"type": "partial", **said}
        words = [
            {
                "word": word.text,
                "start": round(word.start_s, 3),
                "end": round(word.end_s, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in self.words
        ]
        return {"type": "final", **said, "words": words}


class Shown(NamedTuple):
    """How steady the texts of a stream were.

    Attributes:
        words: Words that were shown, each time that one was new at its place.
        withdrawn: How many of them a later partial or final text did not have there.
    """

    words: int = 0
    withdrawn: int = 0

    @property
    def share_withdrawn(self) -> float:
        """Withdrawn words by shown ones, 0 to 1."""
        return self.withdrawn / self.words if self.words else 0.0


class Rules(NamedTuple):
    """When texts are shown and become final, in frames.

    Attributes:
        endpoint: Frames without a token that end an utterance.
        most: Frames of an utterance after which its words become final without a pause.
        hold: Frames without a token after which the last word of a partial text is shown; 0 shows it at once.
    """

    endpoint: float
    most: float
    hold: float


class Utterances:
    """The utterances of one stream, one after the other.

    Args:
        search: How CTC is searched.
        token_list: Its tokens.
        tokens_to_text: Joins them to a text.
        times: How frames lie in time.
        rules: When texts are shown and become final.
        has_own_partials: Whether partial texts are read of other posteriors than final ones.

    Attributes:
        shown: How steady the texts were so far.
    """

    def __init__(
        self,
        search: Search,
        token_list: Sequence[str],
        tokens_to_text: Callable[[list[str]], str],
        times: FrameTimes,
        rules: Rules,
        has_own_partials: bool,
    ) -> None:
        self._search, self._tokens, self._to_text, self._times, self._rules = (
            search, token_list, tokens_to_text, times, rules
        )  # fmt: skip
        self._has_own_partials, self._has_words = has_own_partials, has_words(token_list)
        self._silent = {search.blank, *search.no_text}
        self.shown = Shown()
        self._first_frame = 0
        self._num_silent = 0
        self._begin(start_path(search), start_path(search) if has_own_partials else None)
        self._last_words: list[tuple[int, ...]] = []
        self._last_text = ""

    def copy(self) -> "Utterances":
        """The utterances so far, which go on from here by themselves."""
        other = copy.copy(self)
        other._begin(self._final.copy(), self._partial.copy() if self._has_own_partials else None)
        return other

    def foresee(self, partial: torch.Tensor) -> list[Event]:
        """Go on by frames whose final posteriors are still to come; `read` then gets these without the partial ones.

        Args:
            partial: Log-probabilities (T, V) that partial texts are read of, where they are read of own ones.

        Returns:
            At most one partial text.
        """
        self._partial.read(partial)
        return self._show()

    def read(self, final: torch.Tensor, partial: torch.Tensor | None) -> list[Event]:
        """Go on by some frames.

        Args:
            final: Log-probabilities (T, V) that final texts are read of.
            partial: The same of partial texts; None where `foresee` has read them.

        Returns:
            What has become final, and at most one partial text, at the end.
        """
        events: list[Event] = []
        begin, before = 0, self._final.num_frames
        for end, token_id in enumerate(final.argmax(dim=1).tolist(), 1):
            self._num_silent = self._num_silent + 1 if token_id in self._silent else 0
            is_pause = self._num_silent >= self._rules.endpoint
            if not is_pause and before + end - begin < self._rules.most:
                continue
            self._add(final[begin:end], None if partial is None else partial[begin:end])
            events += self._end() if is_pause else self._cut()
            begin, before = end, self._final.num_frames
        self._add(final[begin:], None if partial is None else partial[begin:])
        return events + self._show()

    def finish(self) -> list[Event]:
        """What is left becomes final, at the end of the stream."""
        return self._end()

    def _begin(self, final: GreedyPath, partial: GreedyPath | None) -> None:
        self._final = final
        self._partial = final if partial is None else partial

    def _add(self, final: torch.Tensor, partial: torch.Tensor | None) -> None:
        if len(final) == 0:
            return
        self._final.read(final)
        if self._has_own_partials and partial is not None:
            self._partial.read(partial)

    def _end(self) -> list[Event]:
        """All of it becomes final."""
        return self._leave(self._final.spots(), self._final.num_frames)

    def _cut(self) -> list[Event]:
        """All words but the last become final; one alone does."""
        spots = self._final.spots()
        groups = list(group_tokens(self._names([spot.token_id for spot in spots]), words=self._has_words))
        if len(groups) < 2:
            return self._end()
        following = groups[-1].start
        return self._leave(spots[:following], spots[following].start)

    def _leave(self, spots: Sequence[Spot], num_frames: int) -> list[Event]:
        """Some tokens become final, and as many frames are left behind."""
        words = self._words(spots)
        token_ids = [spot.token_id for spot in spots]
        text = self._to_text(self._names(token_ids)).strip()
        said = self._split(token_ids)
        # A partial text may have been shown of frames that the final one has not reached.
        is_all = num_frames == self._partial.num_frames
        self._count(said, self._last_words if is_all else self._last_words[: len(said)])
        events = []
        if text and words:
            events.append(Event(True, text, words[0].start_s, words[-1].end_s, words))
        elif self._last_text:
            events.append(Event(False, "", self._start_s(), self._end_s(self._final)))
        partial = self._partial.after(num_frames) if self._has_own_partials else None
        self._begin(self._final.after(num_frames), partial)
        self._first_frame += num_frames
        self._num_silent = min(self._num_silent, self._final.num_frames)
        self._last_words, self._last_text = self._last_words[len(said) :] if not is_all else [], ""
        return events

    def _show(self) -> list[Event]:
        """The partial text, if it is another one than was shown."""
        token_ids = self._partial.token_ids()
        names = self._names(token_ids)
        groups = list(group_tokens(names, words=self._has_words))
        is_open = bool(names) and names[-1] != SPACE and self._partial.num_silent() < self._rules.hold
        if is_open:
            groups = groups[:-1]
        kept = groups[-1].stop if groups else 0
        text = self._to_text(names[:kept]).strip()
        if text == self._last_text:
            return []
        said = [tuple(token_ids[group.start : group.stop]) for group in groups]
        self._count(said, self._last_words)
        self._last_words, self._last_text = said, text
        return [Event(False, text, self._start_s(), self._end_s(self._partial))]

    def _count(self, said: Sequence[tuple[int, ...]], before: Sequence[tuple[int, ...]]) -> None:
        """Compare words that are shown with those that were."""
        same = 0
        while same < min(len(said), len(before)) and said[same] == before[same]:
            same += 1
        self.shown = Shown(self.shown.words + len(said) - same, self.shown.withdrawn + len(before) - same)

    def _split(self, token_ids: Sequence[int]) -> list[tuple[int, ...]]:
        groups = group_tokens(self._names(token_ids), words=self._has_words)
        return [tuple(token_ids[group.start : group.stop]) for group in groups]

    def _words(self, spots: Sequence[Spot]) -> tuple[Word, ...]:
        token_ids = [spot.token_id for spot in spots]
        factor, centre = self._times.factor, self._times.centre
        first = (factor - 1 if centre is None else centre) + factor * self._first_frame
        times = self._times._replace(centre=first)
        spans = [(spot.start, spot.end, spot.log_prob) for spot in spots]
        names = self._names(token_ids)
        return make_words(names, token_ids, spans, times, self._to_text, words=self._has_words)

    def _names(self, token_ids: Sequence[int]) -> list[str]:
        return [self._tokens[token_id] for token_id in token_ids]

    def _start_s(self) -> float:
        return self._times.start_s(self._first_frame)

    def _end_s(self, path: GreedyPath) -> float:
        return self._times.start_s(self._first_frame + path.num_frames)
