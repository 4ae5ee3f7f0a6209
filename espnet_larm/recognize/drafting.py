"""How many tokens a call of an LM may yield: where drafts come from, and how they are accepted.

Source of `accept: relaxed`: Saon et al., Interspeech 2026, arXiv:2603.11243. The CTC hypothesis is taken if CTC is sure
of every frame; if not, if the LM believes every token; if not, decoding goes on behind the tokens that it believes.
Departures: the end of the hypothesis must be believed, too; the prompt is read in a call before the verifying one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.recognize.config import (
    CTC,
    HEAD,
    HEADS,
    LONGER,
    NONE,
    ORDINARY,
    PRODUCT,
    RELAXED,
    THRESHOLD,
    VERIFIED,
    DecodeConfig,
)
from espnet_larm.recognize.model.thresholds import RELAXED_CALIBRATION, Thresholds
from espnet_larm.search.drafts import Drafts, HeadDrafts, LongerDrafts, NoDrafts, TextDrafts
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
from espnet_larm.speech_llm.spelling import spell_with

# Of a CTC hypothesis more may be drafted than of heads, but a call that reads more costs more.
MAX_TOKENS_PER_CALL = 32
DEFAULT_CTC_TOKENS = 8
# Heads that are less sure than this leave the draft to CTC, where both are asked.
LONGER_TAU = 0.5
# A beam reads several guesses; those that heads believe less are hardly ever right. On AN4's development set
# 0, 0.02 and 0.05 gave 368, 367 and 367 calls in which a prefix beam of 4 read 7677, 6503 and 6275 tokens.
LEAST_TAU_OF_BEAM = 0.05


class Drafting(NamedTuple):
    """Options of drafts that `resolve` has checked and completed.

    Attributes:
        drafts: Where drafts come from, one of `config.SOURCES`.
        tokens_per_call: K, 1 or more: the tokens of a draft and the token behind it.
        accept: One of `config.ACCEPTS`.
        tau: Least probability of what heads draft; in a beam at least LEAST_TAU_OF_BEAM.
        tau_of: Whether tau bounds each head's probability (HEAD) or that of a whole draft (PRODUCT).
        thresholds: Thresholds of RELAXED; None of the others.
    """

    drafts: str = NONE
    tokens_per_call: int = 1
    accept: str = VERIFIED
    tau: float = 0.0
    tau_of: str = HEAD
    thresholds: Thresholds | None = None

    @property
    def verifies(self) -> bool:
        """Whether the LM checks each draft of next tokens; `accept: relaxed` is about whole hypotheses."""
        return self.accept != THRESHOLD

    def stats(self) -> dict[str, Any]:
        """The entry of `stats.json`."""
        options = self._asdict()
        thresholds = options.pop("thresholds")
        return options if thresholds is None else {**options, **thresholds._asdict()}


def resolve(
    config: DecodeConfig, decoder: SpeechLlmDecoder, has_ctc: bool, calibrated: Thresholds | None = None
) -> Drafting:
    """Check the options of drafts against a model, and choose what they leave open.

    Args:
        config: The options.
        decoder: The model's decoder, with its draft heads.
        has_ctc: Whether the model has a CTC head.
        calibrated: What is calibrated beside the model for `accept: relaxed`; None for nothing.

    Raises:
        ValueError: An option does not go with the model, the search or another option.
    """
    num_heads = decoder.heads.num_heads
    is_ordinary_beam = config.is_beam and (config.beam_type or ORDINARY) == ORDINARY
    if is_ordinary_beam and not config.names_drafts:
        # The same words as with heads, sooner unless calls cost much more than tokens: tools/bench/RESULTS.md.
        return Drafting()
    source = config.drafts or (HEADS if num_heads > 1 else CTC if config.accept == RELAXED else NONE)
    if source in (HEADS, LONGER) and num_heads == 1:
        raise ValueError(
            f"drafts is {source}, but the model has no draft heads (decoder_conf: num_heads 1); leave it out, take "
            "drafts: ctc, or train heads (egs/mini/run_heads.sh)."
        )
    if config.accept == RELAXED and not has_ctc:
        raise ValueError(
            f"accept is {RELAXED}, but the model has no CTC head, whose hypothesis it takes; set accept: {VERIFIED}."
        )
    if source in (CTC, LONGER) and not has_ctc:
        raise ValueError(f"drafts is {source}, but the model has no CTC head; leave it out.")
    most = {HEADS: num_heads, LONGER: num_heads, CTC: MAX_TOKENS_PER_CALL, NONE: 1}[source]
    chosen = config.tokens_per_call or {CTC: DEFAULT_CTC_TOKENS}.get(source, most)
    if chosen > most:
        why = {CTC: "with drafts of CTC", NONE: "without drafts"}.get(source, f"the model has {num_heads} heads")
        raise ValueError(f"tokens_per_call is {chosen}; allowed: 1 to {most} ({why}).")
    _check_thresholds(config, source)
    if config.is_beam:
        _check_beam(config, source)
    tau = config.draft_tau if config.draft_tau is not None else LONGER_TAU if source == LONGER else 0.0
    thresholds = _relaxed_thresholds(config, calibrated) if config.accept == RELAXED else None
    return Drafting(source, chosen, config.accept, tau, config.draft_tau_of, thresholds)


def _relaxed_thresholds(config: DecodeConfig, calibrated: Thresholds | None) -> Thresholds:
    """The given thresholds; what is left open, as it is calibrated."""
    found = {}
    for name in Thresholds._fields:
        value = getattr(config, name)
        if value is None and calibrated is None:
            raise ValueError(
                f"accept is {RELAXED}, but {name} is not set, and there is no {RELAXED_CALIBRATION} beside the model; "
                f"run espnet-larm calibrate-drafts --accept {RELAXED}, or set {name}."
            )
        found[name] = getattr(calibrated, name) if value is None else value
    return Thresholds(**found)


def _check_thresholds(config: DecodeConfig, source: str) -> None:
    if source not in (HEADS, LONGER):
        for name, value in config.set_options("draft_tau", "draft_tau_of").items():
            raise ValueError(f"{name} is {value}, but drafts is {source}: it is about what heads draft; leave it out.")
    if config.accept == THRESHOLD and source != HEADS:
        raise ValueError(f"accept is {THRESHOLD}, but drafts is {source}: only drafts of heads can go unverified.")
    if config.accept == THRESHOLD and config.draft_tau is None:
        raise ValueError(
            f"accept is {THRESHOLD}, which needs draft_tau; espnet-larm calibrate-drafts finds one on a "
            "development set."
        )


def _check_beam(config: DecodeConfig, source: str) -> None:
    """Refuse drafts that a beam cannot read."""
    if source not in (HEADS, NONE):
        raise ValueError(
            f"drafts is {source}, but a beam looks ahead by the model's heads alone; set drafts: {HEADS} or {NONE}, or "
            "beam_size: 1."
        )
    for name, value in config.set_options("accept", "draft_tau_of").items():
        allowed = {"accept": VERIFIED, "draft_tau_of": HEAD}[name]
        raise ValueError(f"{name} is {value}, which no beam knows; set {name}: {allowed}, or beam_size: 1.")


def make_lookahead(drafting: Drafting, decoder: SpeechLlmDecoder) -> Lookahead | None:
    """The guesses of a beam; None for a token a call."""
    if drafting.drafts == NONE or drafting.tokens_per_call == 1:
        return None
    least = math.log(max(drafting.tau, LEAST_TAU_OF_BEAM))
    return Lookahead(lambda hidden: decoder.draft_logits(hidden, drafting.tokens_per_call), least)


def make_drafts(
    drafting: Drafting, decoder: SpeechLlmDecoder, ctc_tokens: Callable[[], Sequence[Sequence[int]]], eos: int
) -> Drafts:
    """The source of drafts for a batch.

    Args:
        drafting: The checked options.
        decoder: The model's decoder, with its draft heads.
        ctc_tokens: Gives the CTC hypotheses in the LM's tokens.
        eos: The token that ends a hypothesis.
    """
    most = drafting.tokens_per_call - 1
    if most == 0 or drafting.drafts == NONE:
        return NoDrafts()

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        return decoder.draft_logits(hidden, drafting.tokens_per_call)

    sources: dict[str, Drafts] = {}
    if drafting.drafts != CTC:
        sources[HEADS] = HeadDrafts(logits_of, eos, drafting.tau, drafting.tau_of == PRODUCT)
    if drafting.drafts != HEADS:
        sources[CTC] = TextDrafts(ctc_tokens(), most, eos, spell_with(decoder.tokenizer))
    return LongerDrafts(list(sources.values())) if len(sources) > 1 else next(iter(sources.values()))
