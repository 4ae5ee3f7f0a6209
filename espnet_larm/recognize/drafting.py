"""How many tokens a call of an LM may yield: where drafts come from, and how they are accepted."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from espnet_larm.search.drafts import Drafts, HeadDrafts, LongerDrafts, NoDrafts, TextDrafts
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

HEADS, CTC, LONGER, NONE = "heads", "ctc", "longer", "none"
SOURCES = (HEADS, CTC, LONGER, NONE)
VERIFIED, THRESHOLD = "verified", "threshold"
ACCEPTS = (VERIFIED, THRESHOLD)
HEAD, PRODUCT = "head", "product"
TAUS_OF = (HEAD, PRODUCT)
# Of CTC's text more may be drafted than of heads, but a call that reads more costs more.
MAX_TOKENS_PER_CALL = 32
DEFAULT_CTC_TOKENS = 8
# Heads that are less sure than this leave the draft to CTC, where both are asked.
LONGER_TAU = 0.5
# A beam reads several guesses; those that heads believe less are hardly ever right. On AN4's development set
# 0, 0.02 and 0.05 gave 368, 367 and 367 calls in which a prefix beam of 4 read 7677, 6503 and 6275 tokens.
LEAST_TAU_OF_BEAM = 0.05


class Drafting(NamedTuple):
    """Options that `resolve` has checked.

    Attributes:
        drafts: One of SOURCES.
        tokens_per_call: K, 1 or more: drafts and the token behind them.
        accept: VERIFIED (the texts are those of a token a call) or THRESHOLD (they need not be).
        tau: Least probability of what heads draft; in a beam LEAST_TAU_OF_BEAM at least.
        tau_of: Whether it is each head's (HEAD) or that of a draft as a whole (PRODUCT).
    """

    drafts: str = NONE
    tokens_per_call: int = 1
    accept: str = VERIFIED
    tau: float = 0.0
    tau_of: str = HEAD

    @property
    def verifies(self) -> bool:
        """Whether the LM checks each draft."""
        return self.accept == VERIFIED


def resolve(
    decoder: SpeechLlmDecoder,
    has_ctc: bool,
    drafts: str | None = None,
    tokens_per_call: int | None = None,
    accept: str = VERIFIED,
    tau: float | None = None,
    tau_of: str = HEAD,
) -> Drafting:
    """Check what is asked for, and choose the rest.

    Args:
        decoder: With its draft heads.
        has_ctc: Whether the model has a CTC head.
        drafts: By default the heads if there are some.
        tokens_per_call: By default as many as the model has heads; DEFAULT_CTC_TOKENS of CTC alone.
        accept: One of ACCEPTS.
        tau: By default 0, every draft is verified; LONGER_TAU where CTC may know better.
        tau_of: One of TAUS_OF.

    Raises:
        ValueError: An option is out of its range, or the model has not what it needs.
    """
    num_heads = decoder.heads.num_heads
    source = drafts or (HEADS if num_heads > 1 else NONE)
    for name, value, allowed in (("drafts", source, SOURCES), ("accept", accept, ACCEPTS), ("tau_of", tau_of, TAUS_OF)):
        if value not in allowed:
            raise ValueError(f"{name} is {value}; allowed: {', '.join(allowed)}.")
    if source in (HEADS, LONGER) and num_heads == 1:
        raise ValueError(
            f"drafts is {source}, but the model has no draft heads (decoder_conf: num_heads 1); leave it out, take "
            "drafts: ctc, or train heads (egs/mini/run_heads.sh)."
        )
    if source in (CTC, LONGER) and not has_ctc:
        raise ValueError(f"drafts is {source}, but the model has no CTC head; leave it out.")
    most = {HEADS: num_heads, LONGER: num_heads, CTC: MAX_TOKENS_PER_CALL, NONE: 1}[source]
    chosen = {CTC: DEFAULT_CTC_TOKENS}.get(source, most) if tokens_per_call is None else tokens_per_call
    if not 1 <= chosen <= most:
        why = {CTC: "with drafts of CTC", NONE: "without drafts"}.get(source, f"the model has {num_heads} heads")
        raise ValueError(f"tokens_per_call is {tokens_per_call}; allowed: 1 to {most} ({why}).")
    _check_thresholds(source, accept, tau, tau_of)
    chosen_tau = tau if tau is not None else LONGER_TAU if source == LONGER else 0.0
    return Drafting(source, chosen, accept, chosen_tau, tau_of)


def _check_thresholds(source: str, accept: str, tau: float | None, tau_of: str) -> None:
    if tau is not None and not tau >= 0.0:
        raise ValueError(f"tau is {tau}; allowed: 0 (all that heads draft) or more; above 1 nothing is drafted.")
    if source not in (HEADS, LONGER) and (tau is not None or tau_of != HEAD):
        name, value = ("tau", tau) if tau is not None else ("tau_of", tau_of)
        raise ValueError(f"{name} is {value}, but drafts is {source}: it is about what heads draft; leave it out.")
    if accept == THRESHOLD and source != HEADS:
        raise ValueError(f"accept is {THRESHOLD}, but drafts is {source}: only drafts of heads can go unverified.")
    if accept == THRESHOLD and tau is None:
        raise ValueError(
            f"accept is {THRESHOLD}, which needs tau; espnet_larm.cli.calibrate_drafts finds one on a development set."
        )


def check_lookahead(drafting: Drafting) -> None:
    """Refuse what a beam cannot do.

    Raises:
        ValueError: As said.
    """
    if drafting.drafts not in (HEADS, NONE):
        raise ValueError(
            f"drafts is {drafting.drafts}, but a beam looks ahead by the model's heads alone; set drafts: {HEADS} or "
            f"{NONE}, or beam_size: 1."
        )
    for name, value, allowed in (("accept", drafting.accept, VERIFIED), ("tau_of", drafting.tau_of, HEAD)):
        if value != allowed:
            raise ValueError(f"{name} is {value}, which no beam knows; set {name}: {allowed}, or beam_size: 1.")


def make_lookahead(drafting: Drafting, decoder: SpeechLlmDecoder) -> Lookahead | None:
    """Of a beam; None for a token a call."""
    if drafting.drafts == NONE or drafting.tokens_per_call == 1:
        return None
    least = math.log(max(drafting.tau, LEAST_TAU_OF_BEAM))
    return Lookahead(lambda hidden: decoder.draft_logits(hidden, drafting.tokens_per_call), least)


def make_drafts(
    drafting: Drafting, decoder: SpeechLlmDecoder, heard: Callable[[], Sequence[Sequence[int]]], eos: int
) -> Drafts:
    """Drafts of a batch.

    Args:
        drafting: What is asked for.
        decoder: With its draft heads.
        heard: Gives the tokens of the CTC head's texts, spelled as the LM spells.
        eos: Ends a text.
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
        sources[CTC] = TextDrafts(heard(), most, eos)
    return LongerDrafts(list(sources.values())) if len(sources) > 1 else next(iter(sources.values()))
