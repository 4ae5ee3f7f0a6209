"""What an LM's searches took: prompts, pooled or not, calls, tokens a call, and which drafts were accepted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from espnet_larm.pooling.deep import INPUT, Kept
from espnet_larm.recognize.transcripts import ORDINARY, Search
from espnet_larm.search.beam import FoundBeams
from espnet_larm.search.hypotheses import Text
from espnet_larm.search.multi_token import Found


class Prompts:
    """Sizes of prompts, summed over utterances.

    Attributes:
        positions: With all of the projector's tokens (`unpooled`), and behind each place that pools, by its name.
        speech: Speech tokens before and after each of those places.
    """

    def __init__(self) -> None:
        self.positions: Counter[str] = Counter()
        self.speech: dict[str, Counter[str]] = {}

    @classmethod
    def of(cls, lens: torch.Tensor, kept: Mapping[str, Kept]) -> "Prompts":
        """Of a batch.

        Args:
            lens: What the LM's first layer reads of each utterance (B,).
            kept: What pooling left, by place and in the order of the places.
        """
        made = cls()
        made.speech = {
            place: Counter(before=int(each.before.sum()), after=int(each.after.sum())) for place, each in kept.items()
        }
        lost = {place: each["before"] - each["after"] for place, each in made.speech.items()}
        made.positions["unpooled"] = left = int(lens.sum()) + lost.get(INPUT, 0)
        for place, number in lost.items():
            made.positions[place] = left = left - number
        return made

    def add(self, other: "Prompts") -> None:
        """Count those of another batch."""
        self.positions.update(other.positions)
        for place, counts in other.speech.items():
            self.speech.setdefault(place, Counter()).update(counts)

    def stats(self) -> dict[str, Any]:
        """For `stats.json`."""
        speech = {place: dict(counts) for place, counts in self.speech.items()}
        return {"prompt_positions": dict(self.positions), "speech_tokens": speech}


class Effort:
    """What an LM's searches took so far.

    Attributes:
        num_calls: Calls of the LM, prefills included.
        num_row_calls: Utterances of all calls: the calls if each were decoded alone.
        num_row_tokens: Tokens that were read, of all rows (hypotheses) of all calls, a prompt being one.
        num_tokens: That were found, ends included: the calls if each gave one.
        num_words: Of all texts.
        prompts: What was read before them.
    """

    def __init__(self) -> None:
        self.num_calls = self.num_row_calls = self.num_row_tokens = self.num_tokens = self.num_words = 0
        self.prompts = Prompts()
        self._proposed: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()

    def add(self, found: Found, texts: Sequence[str]) -> None:
        """Count a greedy search."""
        self._add(found, found.texts, texts)
        self._proposed.update(found.proposed)
        self._accepted.update(found.accepted)

    def add_beams(self, found: FoundBeams, texts: Sequence[str]) -> None:
        """Count a beam search; tokens and words are those of the best texts."""
        self._add(found, [best for best, *_ in found.texts], texts)

    def _add(self, found: Found | FoundBeams, best: Sequence[Text], texts: Sequence[str]) -> None:
        self.num_calls += found.num_calls
        self.num_row_calls += found.num_row_calls
        self.num_row_tokens += found.num_row_tokens
        self.num_tokens += sum(text.num_steps for text in best)
        self.num_words += sum(len(text.split()) for text in texts)

    def acceptance(self) -> dict[int, float]:
        """Of each place of a draft, by the token of a call (2 to K): the share of those drafted that were accepted."""
        drafted, accepted = self._by_token(self._proposed), self._by_token(self._accepted)
        return {token: accepted.get(token, 0) / number for token, number in drafted.items()}

    def stats(self) -> dict[str, Any]:
        """For `stats.json`: counts, and what `shares` makes of them."""
        counts = {
            "row_calls": self.num_row_calls,
            "row_tokens": self.num_row_tokens,
            "tokens": self.num_tokens,
            "words": self.num_words,
            "drafted": {str(token): number for token, number in self._by_token(self._proposed).items()},
            "accepted": {str(token): number for token, number in self._by_token(self._accepted).items()},
            **self.prompts.stats(),
        }
        return {**counts, **shares(counts)}

    def _by_token(self, lengths: Counter[int]) -> dict[int, int]:
        """How many drafts reach each token of a call, from how many have each length."""
        return {
            place + 1: sum(number for length, number in lengths.items() if length >= place)
            for place in range(1, max(lengths, default=0) + 1)
        }


def shares(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Of counts as `Effort.stats` has them, perhaps of several jobs together; shares of nothing are left out."""
    wholes = {"tokens_per_row_call": ("tokens", "row_calls"), "row_calls_per_word": ("row_calls", "words")}
    return {
        **{name: counts[part] / counts[whole] for name, (part, whole) in wholes.items() if counts[whole]},
        "acceptance": {token: counts["accepted"].get(token, 0) / number for token, number in counts["drafted"].items()},
        # Earlier versions did not count them.
        "retention": {
            place: each["after"] / each["before"]
            for place, each in counts.get("speech_tokens", {}).items()
            if each["before"]
        },
    }


def describe_frames(frames: Mapping[str, int]) -> str:
    """Which share of the frames a front end has left, of counts as `stats.json` has them."""
    share = frames["left"] / max(1, frames["before"])
    return f"frames left by pooling: {frames['left']} of {frames['before']}, {share:.1%}"


def describe_search(stats: Mapping[str, Any]) -> str:
    """How an LM was searched, how many tokens its calls yielded, and which drafts were accepted."""
    # Decoded by an earlier version, it was greedy, or an ordinary beam whose width was not recorded.
    drafting, search = stats["drafting"], Search(**stats.get("search", {}))
    text = f"{search.beam_type} beam of {search.beam_size}; " if search.is_beam else ""
    text += f"drafts: {drafting['drafts']}"
    if search.beam_type == ORDINARY:
        text += f", {drafting['accept']}"
    text += f", at most {drafting['tokens_per_call']} tokens a call"
    if "tokens_per_row_call" in stats:
        text += f"; {stats['tokens_per_row_call']:.2f} tokens a call of an utterance"
    if "row_calls_per_word" in stats:
        text += f", {stats['row_calls_per_word']:.2f} calls a word"
    if search.is_beam and stats["row_calls"]:
        text += f"; {stats['row_tokens'] / stats['row_calls']:.1f} tokens of all hypotheses read a call"
    if stats["acceptance"]:
        text += f"; accepted: {', '.join(f'token {k} {share:.1%}' for k, share in stats['acceptance'].items())}"
    return text + describe_pooling(stats)


def describe_pooling(stats: Mapping[str, Any]) -> str:
    """Where speech was pooled, how, and what it left; nothing where it was not."""
    if not stats.get("pooling"):
        return ""
    places = (
        f"{place} ({', '.join(f'{name} {value}' for name, value in options.items() if value is not None)})"
        f" keeps {stats['retention'].get(place, 1.0):.1%} of the speech tokens"
        for place, options in stats["pooling"].items()
    )
    positions = " -> ".join(f"{number}" for number in stats["prompt_positions"].values())
    return f"; pooling: {', '.join(places)}; prompt positions {positions}"
