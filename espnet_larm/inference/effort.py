"""What an LM's searches took: calls, tokens a call, which drafts were accepted; and what pooling left."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from espnet_larm.inference.transcripts import ORDINARY, Search
from espnet_larm.search.beam import FoundBeams
from espnet_larm.search.multi_token import Found
from espnet_larm.search.texts import Text


class Effort:
    """What an LM's searches took so far.

    Attributes:
        num_calls: Calls of the LM, prefills included.
        num_row_calls: Utterances of all calls: the calls if each were decoded alone.
        num_row_tokens: Tokens that were read, of all rows (hypotheses) of all calls, a prompt being one.
        num_tokens: That were found, ends included: the calls if each gave one.
        num_words: Of all texts.
    """

    def __init__(self) -> None:
        self.num_calls = self.num_row_calls = self.num_row_tokens = self.num_tokens = self.num_words = 0
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
    }


def describe_pooling(frames: Mapping[str, int]) -> str:
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
    return text
