"""Encoder output to hypotheses by an LM: greedy or with a beam, in batches, guarded.

An LM may repeat itself without end, stop in the middle, or go on where nobody speaks. A text has as many tokens a
second of speech as nobody speaks, at most; a loop is cut back to its first copy; an end is not believed that comes when
less than half of what the CTC head hears has been said. Whatever a guard changed is marked, not hidden.
Shapes: B utterances, T frames, E encoder size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.recognize.ctc_search import Searcher
from espnet_larm.recognize.drafting import Drafting, check_lookahead, make_drafts, make_lookahead, resolve
from espnet_larm.recognize.effort import Effort, Prompts
from espnet_larm.recognize.ngrams import Fused
from espnet_larm.recognize.transcripts import BEAM_TYPES, GREEDY, PREFIX, Hypothesis, Search
from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScorer
from espnet_larm.search.ctc_scorer import CtcAdviser, Spell, same_tokens
from espnet_larm.search.hypotheses import Bounds, Ending, Text
from espnet_larm.search.multi_token import Adviser, greedy
from espnet_larm.search.ngram_scorer import NgramAdviser, chain
from espnet_larm.search.prefix_beam import prefix_beam
from espnet_larm.speech_llm.spelling import INCOMPLETE

LEAST_TOKENS = 8
# A text this much longer than twice what CTC hears is said.
FAR_CHARACTERS = 30
LIMIT, LOOP, EARLY_END, FAR_FROM_CTC = "limit", "loop", "early end", "far from CTC"
GUARDS = (LIMIT, LOOP, EARLY_END, FAR_FROM_CTC)


class Guards(NamedTuple):
    """What texts are held to.

    Attributes:
        max_tokens_per_second: Of speech, above 0; LEAST_TOKENS are always allowed. Fast speech has 7 syllables a
            second; a tokenizer that knows a language needs one or two tokens for each, one that spells it about 20.
        least_ctc_share: A text may end when it has this share of the characters of the CTC head's text, 0 to 1; 0 lets
            it end anywhere.
        stops_loops: Whether loops are ended.
    """

    max_tokens_per_second: float = 24.0
    least_ctc_share: float = 0.5
    stops_loops: bool = True


class LlmSearcher:
    """A model's LM and its tokens.

    Args:
        model: In eval mode, with a `speech_llm` decoder.
        ctc: The model's CTC head, or None.
        spell: From the LM's tokens to those of a CTC head that has its own.

    Attributes:
        guards: What texts are held to.
        ctc_weight: Of CTC's opinion on each token; 0 asks the LM alone.
        fused: The n-gram that is added to both, None for none.
        drafting: How many tokens a call may yield, and how.
        effort: What the searches took so far.
    """

    def __init__(self, model: ESPnetASRModel, ctc: Searcher | None = None, spell: Spell | None = None) -> None:
        self.model = model
        self.ctc = ctc
        self.spell = spell if getattr(model, "has_own_ctc_tokens", False) else same_tokens
        self.guards = Guards()
        self.ctc_weight = 0.0
        self.fused: Fused | None = None
        self.drafting = resolve(model.decoder, ctc is not None)
        self.effort = Effort()

    def set_ctc_weight(self, ctc_weight: float) -> None:
        """Let CTC be heard, 0 (not) to below 1.

        Raises:
            ValueError: How the LM's tokens are spelled in those of the CTC head is not known.
        """
        if ctc_weight > 0 and self.spell is None:
            raise ValueError(
                f"ctc_weight is {ctc_weight}, but the CTC head has tokens of its own, and no preprocessor: speech_llm "
                "says how a text is spelled in them; set ctc_weight: 0.0."
            )
        _check_verified("ctc_weight", ctc_weight, self.drafting)
        self.ctc_weight = ctc_weight

    def set_ngram(self, fused: Fused | None) -> None:
        """Let an n-gram be heard: its weight times the logarithm (base 10, as ESPnet has it) is added; None for none.

        Raises:
            ValueError: Drafts are taken unverified.
        """
        if fused is not None:
            _check_verified("ngram_weight", fused.weight, self.drafting)
        self.fused = fused

    def set_drafting(self, **options: Any) -> None:
        """Let a call yield several tokens; options as those of `drafting.resolve`.

        Raises:
            ValueError: An option is out of its range, or the model has not what it needs.
        """
        drafting = resolve(self.model.decoder, self.ctc is not None, **options)
        _check_verified("ctc_weight", self.ctc_weight, drafting)
        _check_verified("ngram_weight", self.fused.weight if self.fused else 0.0, drafting)
        self.drafting = drafting

    @property
    def can_align(self) -> bool:
        """Whether texts can be found in the CTC head's frames."""
        return self.ctc is not None and self.spell is not None

    def in_ctc_tokens(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The same texts in the CTC head's tokens, of a model that `can_align`."""
        assert self.ctc is not None and self.spell is not None
        found = []
        for hypothesis in hypotheses:
            spelled = self.spell(hypothesis.token_ids, is_complete=True).sure
            token_ids = [token for token in spelled if token != self.model.blank_id]
            tokens = [self.ctc.token_list[token] for token in token_ids]
            found.append(hypothesis._replace(token_ids=token_ids, tokens=tokens))
        return found

    def find(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, search: Search, seconds: Sequence[float]
    ) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance, at least one.

        Args:
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
            search: Greedy, or with a beam.
            seconds: Of each utterance.

        Raises:
            ValueError: The beam does not go with the drafts that are set.
            ContextError: An utterance is longer than the LM's context.
        """
        self.check_search(search)
        heard = self._heard(hs_pad, hlens)
        begun = self.model.decoder.start(hs_pad, hlens)
        prompts = Prompts.of(begun.next_positions, self.model.decoder.pooling.kept)
        room = (self.model.decoder.backbone.max_positions - begun.next_positions).clamp(min=0).tolist()
        limits = (LEAST_TOKENS + int(self.guards.max_tokens_per_second * each) for each in seconds)
        bounds = [
            Bounds(min(limits), 0 if text is None else int(self.guards.least_ctc_share * len(text.text)))
            for *limits, text in zip(limits, room, heard, strict=True)
        ]
        eos, adviser = self.model.eos, self._adviser(hs_pad, hlens)
        shared: dict[str, Any] = {
            "guards_loops": self.guards.stops_loops,
            "adviser": adviser,
            "measure": self._num_characters,
        }
        if search.is_beam:
            shared["lookahead"] = make_lookahead(self.drafting, self.model.decoder)
            if search.beam_type == PREFIX:
                beams = prefix_beam(
                    begun, bounds, eos, search.beam_size, search.nbest, **shared, string_of=self.string_of
                )
            else:
                beams = beam(begun, bounds, eos, search.beam_size, search.nbest, **shared)
            nbest = [[self._hypothesis(text, one) for text in row] for row, one in zip(beams.texts, heard, strict=True)]
            self.effort.add_beams(beams, [best.text for best, *_ in nbest])
            self.effort.prompts.add(prompts)
            return nbest
        drafts = make_drafts(self.drafting, self.model.decoder, lambda: self._respelled(heard), eos)
        found = greedy(begun, bounds, eos, drafts, self.drafting.verifies, **shared)
        hypotheses = [self._hypothesis(text, one) for text, one in zip(found.texts, heard, strict=True)]
        self.effort.add(found, [hypothesis.text for hypothesis in hypotheses])
        self.effort.prompts.add(prompts)
        return [[hypothesis] for hypothesis in hypotheses]

    def check_search(self, search: Search) -> None:
        """Refuse what is no search, or a beam that does not go with the drafts.

        Raises:
            ValueError: As said.
        """
        if search.beam_size < 1:
            raise ValueError(f"beam_size is {search.beam_size}; allowed: 1 (greedy) or more.")
        if not 1 <= search.nbest <= search.beam_size:
            raise ValueError(f"nbest is {search.nbest}; allowed: 1 to beam_size, which is {search.beam_size}.")
        if search.beam_type not in BEAM_TYPES:
            raise ValueError(f"beam_type is {search.beam_type}; allowed: {', '.join(BEAM_TYPES)}.")
        if search.is_beam:
            check_lookahead(self.drafting)

    def heard_in_lm_tokens(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> list[list[int]]:
        """What the CTC head hears in each utterance, spelled as the LM spells; nothing without a CTC head.

        Args:
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
        """
        return self._respelled(self._heard(hs_pad, hlens))

    def string_of(self, token_ids: list[int]) -> str:
        """What tokens spell, a space at an end included: more of a word may follow behind none."""
        spelled: str = self.model.decoder.tokenizer.decode(token_ids, skip_special_tokens=True)
        # Bytes that are no character yet all look the same.
        return spelled if INCOMPLETE not in spelled else f"{spelled} {token_ids}"

    def _num_characters(self, token_ids: list[int]) -> int:
        return len(self._decode(token_ids))

    def _adviser(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> Adviser | None:
        """(1 - ctc_weight) * LM + ctc_weight * CTC + ngram_weight * n-gram, as ESPnet adds them; None for the LM."""
        advisers: list[Adviser] = []
        special = self.model.decoder.tokenizer.all_special_ids
        if self.ctc_weight > 0.0 and self.ctc is not None and self.spell is not None:
            scorer = CtcPrefixScorer(self.ctc.log_probs(hs_pad), hlens, self.model.blank_id)
            advisers.append(CtcAdviser(scorer, self.spell, self.model.eos, self.ctc_weight, special))
        if self.fused is not None and self.fused.weight > 0.0:
            _, weight, ngram = self.fused
            advisers.append(NgramAdviser(ngram, len(hlens), self.model.eos, weight, special))
        return chain(advisers)

    def _heard(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> list[Hypothesis | None]:
        """What the CTC head hears in each utterance; None without a CTC head."""
        if self.ctc is None:
            return [None] * len(hlens)
        return [best for (best,) in self.ctc.find(hs_pad, hlens, GREEDY)]

    def _respelled(self, heard: Sequence[Hypothesis | None]) -> list[list[int]]:
        """What the CTC head heard in the LM's tokens."""
        tokenizer = self.model.decoder.tokenizer
        if getattr(self.model, "has_own_ctc_tokens", False):
            return [tokenizer.encode(each.text, add_special_tokens=False) if each else [] for each in heard]
        special = set(tokenizer.all_special_ids)
        return [[token for token in each.token_ids if token not in special] if each else [] for each in heard]

    def _decode(self, token_ids: list[int]) -> str:
        return " ".join(self.model.decoder.tokenizer.decode(token_ids, skip_special_tokens=True).split())

    def _hypothesis(self, found: Text, heard: Hypothesis | None) -> Hypothesis:
        text = self._decode(found.token_ids)
        tokens = [self.model.token_list[token_id] for token_id in found.token_ids]
        is_far = heard is not None and len(text) > FAR_CHARACTERS + 2 * len(heard.text)
        return Hypothesis(text, tokens, found.token_ids, found.score, guards=_guards_met(found, is_far))


def _check_verified(name: str, weight: float, drafting: Drafting) -> None:
    """Refuse a weight of what has no say on drafts that are taken as they are."""
    if weight > 0 and not drafting.verifies:
        heard = "CTC" if name == "ctc_weight" else "an n-gram"
        raise ValueError(
            f"{name} is {weight} and accept is {drafting.accept}: what is not verified cannot hear {heard}; set "
            f"{name}: 0.0 or accept: verified."
        )


def _guards_met(text: Text, is_far: bool) -> tuple[str, ...]:
    met = {
        LIMIT: text.ending is Ending.LIMIT,
        LOOP: text.ending is Ending.REPETITION,
        EARLY_END: text.was_held_open,
        # Only said: which of the two is wrong is not known.
        FAR_FROM_CTC: is_far,
    }
    return tuple(name for name, is_met in met.items() if is_met)


def with_words_of(hypothesis: Hypothesis, timed: Hypothesis) -> Hypothesis:
    """A hypothesis with the times of the same text in the CTC head's tokens, which may lack some of its characters."""
    words, spelled = timed.words, hypothesis.text.split()
    if len(words) == len(spelled):
        words = tuple(word._replace(text=text) for word, text in zip(words, spelled, strict=True))
    return hypothesis._replace(words=words)
