"""Encoder output to hypotheses by an LM: greedy or with a beam, in batches, guarded; or by editing the CTC hypothesis.

An LM may repeat itself without end, stop in the middle, or go on where nobody speaks. A hypothesis has as many tokens a
second of speech as nobody speaks, at most; a loop is cut back to its first copy; an end is not believed that comes when
less than half of the CTC hypothesis has been said. Whatever a guard changed is marked, not hidden.
Shapes: B utterances, T frames, E encoder size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.data.text import on_one_line
from espnet_larm.pooling.affinity import Kept
from espnet_larm.recognize.config import PREFIX, RELAXED, DecodeConfig
from espnet_larm.recognize.ctc import CtcSearcher
from espnet_larm.recognize.drafting import Drafting, make_drafts, make_lookahead
from espnet_larm.recognize.ngrams import Fused
from espnet_larm.recognize.output.effort import BY_CTC, BY_DECODING, BY_LLM, Effort, Prompts
from espnet_larm.recognize.output.results import Hypothesis
from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc.scoring import log_probs_of
from espnet_larm.search.ctc_scorer import CtcScorer, Spell, same_tokens
from espnet_larm.search.hypotheses import Bounds, Ending, TokenHypothesis
from espnet_larm.search.multi_token import Opening, Scorer, greedy
from espnet_larm.search.ngram_scorer import NgramScorer, chain
from espnet_larm.search.prefix_beam import prefix_beam
from espnet_larm.speech_llm.editing.editor import Edited, edit
from espnet_larm.speech_llm.editing.nbest import EditPosteriors
from espnet_larm.speech_llm.spelling import INCOMPLETE

LEAST_TOKENS = 8
# A hypothesis this much longer than twice the CTC hypothesis is told.
FAR_CHARACTERS = 30
LIMIT, LOOP, EARLY_END, FAR_FROM_CTC = "limit", "loop", "early end", "far from CTC"
GUARDS = (LIMIT, LOOP, EARLY_END, FAR_FROM_CTC)


class LlmPlan(NamedTuple):
    """What an LM's search does, checked against its model.

    Attributes:
        config: All options; those of beam and guards are read here.
        ctc_weight: Weight of CTC's score of each token; 0 asks the LM alone.
        drafting: How many tokens a call may yield.
        ngram: The n-gram whose score is added; None for none.
        prompt: The prompt in place of training's; None for training's.
        pooling: The pooling of speech in place of training's; None for training's.
        edit_passes: How often the CTC hypothesis is edited; 0 where the LM decodes token by token.
    """

    config: DecodeConfig
    ctc_weight: float
    drafting: Drafting
    ngram: Fused | None = None
    prompt: Any = None
    pooling: Any = None
    edit_passes: int = 0


class LlmFound(NamedTuple):
    """What an LM's search gives.

    Attributes:
        nbest: Hypotheses of each utterance, the best first.
        effort: What the search took.
        kept: What pooling left of the speech, by site.
    """

    nbest: list[list[Hypothesis]]
    effort: Effort
    kept: Mapping[str, Kept]


class EditCandidate(NamedTuple):
    """A text that editing may give.

    Attributes:
        token_ids: The LM's tokens.
        by_editor: Log-probability by the editor, all alignments with the draft's positions together; -inf for none.
        by_ctc: Log-probability by the CTC head; 0 where it was not asked.
    """

    token_ids: list[int]
    by_editor: float
    by_ctc: float

    def score(self, ctc_weight: float) -> float:
        """(1 - ctc_weight) * editor + ctc_weight * CTC; -inf if one that has a say rules the text out."""
        parts = ((1.0 - ctc_weight, self.by_editor), (ctc_weight, self.by_ctc))
        return sum(weight * score for weight, score in parts if weight)


def best_edits(candidates: Sequence[EditCandidate], ctc_weight: float) -> list[EditCandidate]:
    """Candidates that no score rules out, best first, among equals as they were; the first where all are ruled out."""
    possible = [each for each in candidates if math.isfinite(each.score(ctc_weight))]
    return sorted(possible, key=lambda each: -each.score(ctc_weight)) or [*candidates[:1]]


class LlmSearcher:
    """A model's LM and its tokens. It holds nothing of a search.

    Args:
        model: The model, in eval mode, with a `speech_llm` decoder.
        ctc: Its CTC head, or None.
        spell: Spells the LM's tokens in those of a CTC head that has its own.
    """

    def __init__(self, model: ESPnetASRModel, ctc: CtcSearcher | None = None, spell: Spell | None = None) -> None:
        self.model = model
        self.ctc = ctc
        self.spell = spell if getattr(model, "has_own_ctc_tokens", False) else same_tokens

    @property
    def can_align(self) -> bool:
        """Whether the LM's hypotheses can be aligned with the CTC head's frames."""
        return self.ctc is not None and self.spell is not None

    def in_ctc_tokens(self, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The same hypotheses in the CTC head's tokens, by a model that `can_align`."""
        assert self.ctc is not None and self.spell is not None
        found = []
        for hypothesis in hypotheses:
            spelled = self.spell(hypothesis.token_ids, is_complete=True).sure
            token_ids = [token for token in spelled if token != self.model.blank_id]
            tokens = [self.ctc.token_list[token] for token in token_ids]
            found.append(hypothesis._replace(token_ids=token_ids, tokens=tokens))
        return found

    def find(self, hs_pad: torch.Tensor, hlens: torch.Tensor, plan: LlmPlan, seconds: Sequence[float]) -> LlmFound:
        """Search the best hypotheses of each utterance, at least one.

        Args:
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
            plan: How to search.
            seconds: Length of each utterance.

        Raises:
            ContextError: An utterance is longer than the LM's context.
        """
        ctc_best = self.ctc_hypotheses(hs_pad, hlens)
        if plan.edit_passes:
            return self._edit(hs_pad, hlens, plan, ctc_best)
        if plan.drafting.thresholds is None:
            return self._find(hs_pad, hlens, plan, seconds, ctc_best)
        assert self.ctc is not None
        # What is not a number is not below: the LM then reads the utterance.
        is_sure = (self.ctc.most_entropy(hs_pad, hlens) < plan.drafting.thresholds.relaxed_entropy).tolist()
        left = [row for row, sure in enumerate(is_sure) if not sure]
        taken = {row: self._taken(best) for row, best in enumerate(ctc_best) if best is not None and is_sure[row]}
        effort = Effort(
            num_tokens=sum(len(each.token_ids) + 1 for each in taken.values()),
            num_words=sum(len(each.text.split()) for each in taken.values()),
            accepted_by={BY_CTC: len(taken)},
        )
        found = LlmFound([], Effort(accepted_by={BY_LLM: 0, BY_DECODING: 0}), {})
        if left:
            rows = torch.tensor(left, device=hs_pad.device)
            rest = [seconds[row] for row in left], [ctc_best[row] for row in left]
            found = self._find(hs_pad[rows], hlens[rows.to(hlens.device)], plan, *rest)
        by_row = {row: [each] for row, each in taken.items()} | dict(zip(left, found.nbest, strict=True))
        return LlmFound([by_row[row] for row in range(len(hlens))], effort.plus(found.effort), found.kept)

    def _taken(self, ctc_best: Hypothesis) -> Hypothesis:
        """A CTC hypothesis as the LM's own, with CTC's score."""
        (token_ids,) = self._respelled([ctc_best])
        return ctc_best._replace(tokens=[self.model.token_list[token] for token in token_ids], token_ids=token_ids)

    def _find(
        self,
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        plan: LlmPlan,
        seconds: Sequence[float],
        ctc_best: Sequence[Hypothesis | None],
    ) -> LlmFound:
        """What `find` gives, by the LM for all; `ctc_best` has the CTC hypotheses."""
        config, decoder = plan.config, self.model.decoder
        begun = decoder.start(hs_pad, hlens, plan.prompt, plan.pooling)
        prompts = Prompts.of(begun.next_positions, begun.kept)
        room = (decoder.backbone.max_positions - begun.next_positions).clamp(min=0).tolist()
        limits = (LEAST_TOKENS + int(config.max_tokens_per_second * each) for each in seconds)
        bounds = [
            Bounds(min(limits), 0 if best is None else int(config.least_ctc_share * len(best.text)))
            for *limits, best in zip(limits, room, ctc_best, strict=True)
        ]
        eos = self.model.eos
        shared: dict[str, Any] = {
            "guards_loops": config.stops_loops,
            "scorer": self._scorer(hs_pad, hlens, plan),
            "measure": self._num_characters,
        }
        if config.is_beam:
            shared["lookahead"] = make_lookahead(plan.drafting, decoder)
            sizes = (config.beam_size, config.nbest)
            if config.beam_type == PREFIX:
                beams = prefix_beam(begun, bounds, eos, *sizes, **shared, string_of=self.string_of)
            else:
                beams = beam(begun, bounds, eos, *sizes, **shared)
            found: Any = beams
            rows = beams.hypotheses
        else:
            drafts = make_drafts(plan.drafting, decoder, lambda: self._respelled(ctc_best), eos)
            opening = None
            if (thresholds := plan.drafting.thresholds) is not None:
                opening = Opening([[*each, eos] for each in self._respelled(ctc_best)], thresholds.relaxed_tau)
            found = greedy(begun, bounds, eos, drafts, plan.drafting.verifies, **shared, opening=opening)
            rows = [[each] for each in found.hypotheses]
        nbest = [[self._hypothesis(each, one) for each in row] for row, one in zip(rows, ctc_best, strict=True)]
        best = [row[0] for row in rows]
        effort = Effort.of(found, best, [row[0].text for row in nbest], prompts)
        if plan.drafting.accept == RELAXED:
            by_llm = {BY_LLM: found.num_whole, BY_DECODING: len(nbest) - found.num_whole}
            effort = effort._replace(accepted_by=by_llm)
        return LlmFound(nbest, effort, begun.kept)

    def _edit(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, plan: LlmPlan, ctc_best: Sequence[Hypothesis | None]
    ) -> LlmFound:
        """The CTC hypotheses as the LM edits them."""
        passes, drafts = plan.edit_passes, self._respelled(ctc_best)
        edited = edit(self.model.decoder, (hs_pad, hlens), drafts, passes, plan.prompt, plan.pooling)
        found = [[pair] for pair in zip(edited.token_ids, edited.scores, strict=True)]
        if plan.config.beam_size > 1 or plan.ctc_weight > 0.0:
            weight, nbest_size = plan.ctc_weight, plan.config.nbest
            candidates = self.edit_candidates(edited, hs_pad, hlens, plan)
            found = [
                [(each.token_ids, each.score(weight)) for each in best_edits(row, weight)[:nbest_size]]
                for row in candidates
            ]
        nbest = [
            [
                Hypothesis(self.text_of(token_ids), [self.model.token_list[one] for one in token_ids], token_ids, score)
                for token_ids, score in row
            ]
            for row in found
        ]
        prompts = Prompts.of(edited.prompt_lens, edited.kept)
        texts = [row[0].text for row in nbest]
        return LlmFound(nbest, Effort.of_edits(edited, passes, texts, prompts), edited.kept)

    def edit_candidates(
        self, edited: Edited, hs_pad: torch.Tensor, hlens: torch.Tensor, plan: LlmPlan
    ) -> list[list[EditCandidate]]:
        """The best edits of each utterance and, where CTC has a say, its draft and the best CTC hypotheses, each once.

        Args:
            edited: What the passes over the drafts gave.
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
            plan: How to search.
        """
        size = plan.config.beam_size
        posteriors = EditPosteriors(self.model.decoder, edited.hidden, edited.layout)
        # A beam need not hold the best path of all.
        rows = [[own, *found] for own, found in zip(edited.token_ids, posteriors.search(size), strict=True)]
        if plan.ctc_weight > 0.0:
            assert self.ctc is not None
            others = [self._respelled(found) for found in self.ctc.find(hs_pad, hlens, size, size)]
            # Nor need CTC's: the drafts, its best paths, are candidates in any case.
            drafts = self.ctc_tokens(hs_pad, hlens)
            rows = [[*row, *more, draft] for row, more, draft in zip(rows, others, drafts, strict=True)]
        rows = [[list(text) for text in dict.fromkeys(map(tuple, row))] for row in rows]
        if plan.ctc_weight > 0.0:
            by_ctc = self._scores_by_ctc(rows, hs_pad, hlens)
        else:
            by_ctc = [[0.0] * len(row) for row in rows]
        return [
            [EditCandidate(*each) for each in zip(*parts, strict=True)]
            for parts in zip(rows, posteriors.score(rows), by_ctc, strict=True)
        ]

    def _scores_by_ctc(
        self, rows: list[list[list[int]]], hs_pad: torch.Tensor, hlens: torch.Tensor
    ) -> list[list[float]]:
        """The CTC head's log-probabilities of texts in the LM's tokens."""
        assert self.ctc is not None and self.spell is not None
        spell = self.spell
        spelled = [[list(spell(text, is_complete=True).sure) for text in row] for row in rows]
        return log_probs_of(self.ctc.log_probs(hs_pad), hlens, spelled, self.model.blank_id)

    def ctc_tokens(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> list[list[int]]:
        """The CTC hypothesis of each utterance in the LM's tokens; empty without a CTC head.

        Args:
            hs_pad: Encoder output (B, T, E).
            hlens: Valid frames (B,).
        """
        return self._respelled(self.ctc_hypotheses(hs_pad, hlens))

    def string_of(self, token_ids: list[int]) -> str:
        """The text that tokens spell, with a space at its end: where there is none, more of a word may follow."""
        spelled: str = self.model.decoder.tokenizer.decode(token_ids, skip_special_tokens=True)
        # Bytes that are no character yet all look the same.
        return spelled if INCOMPLETE not in spelled else f"{spelled} {token_ids}"

    def _num_characters(self, token_ids: list[int]) -> int:
        return len(self.text_of(token_ids))

    def _scorer(self, hs_pad: torch.Tensor, hlens: torch.Tensor, plan: LlmPlan) -> Scorer | None:
        """(1 - ctc_weight) * LM + ctc_weight * CTC + ngram_weight * n-gram, as ESPnet adds them; None for the LM."""
        scorers: list[Scorer] = []
        special = self.model.decoder.tokenizer.all_special_ids
        if plan.ctc_weight > 0.0 and self.ctc is not None and self.spell is not None:
            prefixes = CtcPrefixScores(self.ctc.log_probs(hs_pad), hlens, self.model.blank_id)
            scorers.append(CtcScorer(prefixes, self.spell, self.model.eos, plan.ctc_weight, special))
        if plan.ngram is not None and plan.ngram.weight > 0.0:
            _, weight, ngram = plan.ngram
            scorers.append(NgramScorer(ngram, len(hlens), self.model.eos, weight, special))
        return chain(scorers)

    def ctc_hypotheses(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> Sequence[Hypothesis | None]:
        """The greedy CTC hypothesis of each utterance; None without a CTC head."""
        if self.ctc is None:
            return [None] * len(hlens)
        return [best for (best,) in self.ctc.find(hs_pad, hlens)]

    def _respelled(self, ctc_best: Sequence[Hypothesis | None]) -> list[list[int]]:
        """CTC hypotheses in the LM's tokens."""
        tokenizer = self.model.decoder.tokenizer
        if getattr(self.model, "has_own_ctc_tokens", False):
            return [tokenizer.encode(each.text, add_special_tokens=False) if each else [] for each in ctc_best]
        special = set(tokenizer.all_special_ids)
        return [[token for token in each.token_ids if token not in special] if each else [] for each in ctc_best]

    def text_of(self, token_ids: list[int]) -> str:
        """The text of tokens, for people."""
        return on_one_line(self.model.decoder.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _hypothesis(self, found: TokenHypothesis, ctc_best: Hypothesis | None) -> Hypothesis:
        text = self.text_of(found.token_ids)
        tokens = [self.model.token_list[token_id] for token_id in found.token_ids]
        is_far = ctc_best is not None and len(text) > FAR_CHARACTERS + 2 * len(ctc_best.text)
        return Hypothesis(text, tokens, found.token_ids, found.score, guards=_guards_met(found, is_far))


def _guards_met(found: TokenHypothesis, is_far: bool) -> tuple[str, ...]:
    met = {
        LIMIT: found.ending is Ending.LIMIT,
        LOOP: found.ending is Ending.REPETITION,
        EARLY_END: found.was_held_open,
        # Told, not changed: which of the two is wrong is not known.
        FAR_FROM_CTC: is_far,
    }
    return tuple(name for name, is_met in met.items() if is_met)


def with_words_of(hypothesis: Hypothesis, timed: Hypothesis) -> Hypothesis:
    """A hypothesis with the times of the same text in the CTC head's tokens, which may lack some of its characters."""
    words, spelled = timed.words, hypothesis.text.split()
    if len(words) == len(spelled):
        words = tuple(word._replace(text=text) for word, text in zip(words, spelled, strict=True))
    return hypothesis._replace(words=words)
