"""What an LM's searches took: prompts, pooled or not, calls, tokens a call, and which drafts were accepted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.deep import INPUT
from espnet_larm.recognize.config import RELAXED, UNCHANGED
from espnet_larm.search.bookkeeping import FoundBeams
from espnet_larm.search.hypotheses import TokenHypothesis
from espnet_larm.search.multi_token import Found
from espnet_larm.speech_llm.editing.editor import Edited

# Who took an utterance's hypothesis with `accept: relaxed`: CTC alone, the LM as a whole, or the LM token by token.
BY_CTC, BY_LLM, BY_DECODING = "ctc", "llm", "decoding"
ORDINARY, GREEDY = "ordinary", {"beam_size": 1, "nbest": 1, "beam_type": "ordinary"}


class Prompts(NamedTuple):
    """Sizes of prompts, summed over utterances.

    Attributes:
        positions: Positions with all of the projector's tokens (`unpooled`), and behind each site that pools, by site.
        before: Speech tokens before each site.
        after: Speech tokens after each site.
    """

    positions: Mapping[str, int] = {}
    before: Mapping[str, int] = {}
    after: Mapping[str, int] = {}

    @classmethod
    def of(cls, lens: torch.Tensor, kept: Mapping[str, Kept]) -> "Prompts":
        """The sizes of a batch.

        Args:
            lens: Positions that the LM's first layer reads of each utterance (B,).
            kept: What pooling left, by site and in the order of the sites.
        """
        before = {site: int(each.before.sum()) for site, each in kept.items()}
        after = {site: int(each.after.sum()) for site, each in kept.items()}
        left = int(lens.sum()) + before.get(INPUT, 0) - after.get(INPUT, 0)
        positions = {"unpooled": left}
        for site in kept:
            left -= before[site] - after[site]
            positions[site] = left
        return cls(positions, before, after)

    def plus(self, other: "Prompts") -> "Prompts":
        """The sizes of both."""
        return Prompts(*(_sum(*pair) for pair in zip(self, other, strict=True)))

    def stats(self) -> dict[str, Any]:
        """Entries of `stats.json`."""
        speech = {site: {"before": self.before[site], "after": self.after[site]} for site in self.before}
        return {"prompt_positions": dict(self.positions), "speech_tokens": speech}


class Effort(NamedTuple):
    """What searches by an LM took. Efforts of several batches are added by `plus`.

    Attributes:
        num_calls: Calls of the LM, prefills included.
        num_row_calls: Utterances of all calls: the calls if each were decoded alone.
        num_row_tokens: Tokens that were read, of all rows (hypotheses) of all calls, a prompt being one.
        num_tokens: Tokens that were found, ends included: the calls if each gave one.
        num_words: Words of all best hypotheses.
        proposed: Number of drafts by their length.
        accepted: Number of drafts by how many of their tokens were accepted.
        prompts: Sizes of the prompts.
        accepted_by: Number of utterances by who took their hypothesis; empty but for `accept: relaxed`.
    """

    num_calls: int = 0
    num_row_calls: int = 0
    num_row_tokens: int = 0
    num_tokens: int = 0
    num_words: int = 0
    proposed: Mapping[int, int] = {}
    accepted: Mapping[int, int] = {}
    prompts: Prompts = Prompts()
    accepted_by: Mapping[str, int] = {}

    @classmethod
    def of(
        cls, found: Found | FoundBeams, best: Sequence[TokenHypothesis], texts: Sequence[str], prompts: Prompts
    ) -> "Effort":
        """The effort of one search.

        Args:
            found: The search's own counts.
            best: The best hypothesis of each utterance.
            texts: The same for people.
            prompts: Sizes of its prompts.
        """
        return cls(
            found.num_calls,
            found.num_row_calls,
            found.num_row_tokens,
            sum(each.num_steps for each in best),
            sum(len(text.split()) for text in texts),
            Counter(getattr(found, "proposed", ())),
            Counter(getattr(found, "accepted", ())),
            prompts,
        )

    @classmethod
    def of_edits(cls, edited: Edited, passes: int, texts: Sequence[str], prompts: Prompts) -> "Effort":
        """The effort of editing a batch.

        Args:
            edited: What was found.
            passes: Calls that it took.
            texts: The edited texts for people.
            prompts: Sizes of the prompts.
        """
        num_row_calls = passes * len(texts)
        num_row_tokens = edited.num_positions + num_row_calls
        num_tokens = sum(len(token_ids) + 1 for token_ids in edited.token_ids)
        num_words = sum(len(text.split()) for text in texts)
        return cls(passes, num_row_calls, num_row_tokens, num_tokens, num_words, prompts=prompts)

    def plus(self, other: "Effort") -> "Effort":
        """The effort of both."""
        return Effort(
            self.num_calls + other.num_calls,
            self.num_row_calls + other.num_row_calls,
            self.num_row_tokens + other.num_row_tokens,
            self.num_tokens + other.num_tokens,
            self.num_words + other.num_words,
            _sum(self.proposed, other.proposed),
            _sum(self.accepted, other.accepted),
            self.prompts.plus(other.prompts),
            _sum(self.accepted_by, other.accepted_by),
        )

    def acceptance(self) -> dict[int, float]:
        """The fraction of drafted tokens that were accepted, by the token of a call (2 to K)."""
        drafted, accepted = _by_token(self.proposed), _by_token(self.accepted)
        return {token: accepted.get(token, 0) / number for token, number in drafted.items()}

    def stats(self) -> dict[str, Any]:
        """Entries of `stats.json`: counts, and the ratios that `ratios` makes of them."""
        counts = {
            "row_calls": self.num_row_calls,
            "row_tokens": self.num_row_tokens,
            "tokens": self.num_tokens,
            "words": self.num_words,
            "drafted": {str(token): number for token, number in _by_token(self.proposed).items()},
            "accepted": {str(token): number for token, number in _by_token(self.accepted).items()},
            **self.prompts.stats(),
        }
        if self.accepted_by:
            counts["accepted_by"] = dict(self.accepted_by)
        return {**counts, **ratios(counts)}


def _sum(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _by_token(lengths: Mapping[int, int]) -> dict[int, int]:
    """How many drafts reach each token of a call, from how many have each length."""
    return {
        place + 1: sum(number for length, number in lengths.items() if length >= place)
        for place in range(1, max(lengths, default=0) + 1)
    }


def ratios(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Ratios of counts as `Effort.stats` has them, perhaps of several jobs together; those of nothing are left out."""
    wholes = {"tokens_per_row_call": ("tokens", "row_calls"), "row_calls_per_word": ("row_calls", "words")}
    return {
        **{name: counts[part] / counts[whole] for name, (part, whole) in wholes.items() if counts[whole]},
        "acceptance": {token: counts["accepted"].get(token, 0) / number for token, number in counts["drafted"].items()},
        **_fractions("accepted_by", counts),
        # Earlier versions did not count them.
        "retention": {
            site: each["after"] / each["before"]
            for site, each in counts.get("speech_tokens", {}).items()
            if each["before"]
        },
    }


def _fractions(name: str, counts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What part of all each count of a group is; nothing without the group, or of nothing."""
    group: Mapping[str, int] = counts.get(name, {})
    total = sum(group.values())
    return {f"{name}_fraction": {key: number / total for key, number in group.items()}} if total else {}


def describe_frames(frames: Mapping[str, int]) -> str:
    """The fraction of the frames that a front end has left, from counts as `stats.json` has them."""
    fraction = frames["left"] / max(1, frames["before"])
    return f"frames left by pooling: {frames['left']} of {frames['before']}, {fraction:.1%}"


def describe_leaving(stats: Mapping[str, Any]) -> str:
    """By which rule utterances left the encoder, and how many loops they used, from `stats.json`."""
    rule, mean = stats["leaving"], stats["mean_loops"]
    used = ", ".join(f"{loops}: {number}" for loops, number in stats["loops_used"].items())
    threshold = "" if rule["rule"] == UNCHANGED else f" {rule['threshold']:.4g}"
    words = f"rule {rule['rule']}{threshold}, from loop {rule['floor']} on"
    return f"mean loops {'-' if mean is None else f'{mean:.2f}'} ({words}; utterances by loops {used})"


def describe_search(stats: Mapping[str, Any]) -> str:
    """How an LM was searched, how many tokens its calls yielded, and which drafts were accepted."""
    # Decoded by an earlier version, it was greedy, or an ordinary beam whose width was not recorded.
    drafting, search = stats["drafting"], {**GREEDY, **stats.get("search", {})}
    is_ordinary = search["beam_type"] == ORDINARY
    is_beam = search["beam_size"] > 1 or not is_ordinary
    if search.get("edit_passes"):
        text = f"edited CTC hypotheses, calls for each: {search['edit_passes']}"
        if "row_calls_per_word" in stats:
            text += f"; {stats['row_calls_per_word']:.2f} calls a word"
        return text + _describe_pooling(stats)
    text = f"{search['beam_type']} beam of {search['beam_size']}; " if is_beam else ""
    text += f"drafts: {drafting['drafts']}"
    if is_ordinary:
        text += f", {drafting['accept']}"
    if drafting["accept"] == RELAXED:
        text += f" (entropy {drafting['relaxed_entropy']:.4g}, tau {drafting['relaxed_tau']:.4g})"
    text += f", at most {drafting['tokens_per_call']} tokens a call"
    if "tokens_per_row_call" in stats:
        text += f"; {stats['tokens_per_row_call']:.2f} tokens a call of an utterance"
    if "row_calls_per_word" in stats:
        text += f", {stats['row_calls_per_word']:.2f} calls a word"
    if is_beam and stats["row_calls"]:
        text += f"; {stats['row_tokens'] / stats['row_calls']:.1f} tokens of all hypotheses read a call"
    if stats["acceptance"]:
        text += f"; accepted: {', '.join(f'token {k} {fraction:.1%}' for k, fraction in stats['acceptance'].items())}"
    if "accepted_by_fraction" in stats:
        ways = (f"{way} {fraction:.1%}" for way, fraction in stats["accepted_by_fraction"].items())
        text += f"; utterances by who took their hypothesis: {', '.join(ways)}"
    return text + _describe_pooling(stats)


def _describe_pooling(stats: Mapping[str, Any]) -> str:
    """Where speech was pooled, how, and what it left; empty where it was not."""
    if not stats.get("pooling"):
        return ""
    sites = (
        f"{site} ({', '.join(f'{name} {value}' for name, value in options.items() if value is not None)})"
        f" keeps {stats['retention'].get(site, 1.0):.1%} of the speech tokens"
        for site, options in stats["pooling"].items()
    )
    positions = " -> ".join(f"{number}" for number in stats["prompt_positions"].values())
    return f"; pooling: {', '.join(sites)}; prompt positions {positions}"
