"""A `DecodeConfig` checked once against a model: what the searches are told, whole."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.pooling.in_llm import speech_pooling_of
from espnet_larm.recognize.config import AUTO, LLM_OPTIONS, VERIFIED, WORD_OPTIONS, DecodeConfig
from espnet_larm.recognize.drafting import Drafting, resolve
from espnet_larm.recognize.editing import passes_of
from espnet_larm.recognize.leaving.calibration import Calibration
from espnet_larm.recognize.leaving.choosing import choose_leaving
from espnet_larm.recognize.leaving.halting_head import FoundHead
from espnet_larm.recognize.leaving.leave import Leaving
from espnet_larm.recognize.llm_search import LlmPlan, LlmSearcher
from espnet_larm.recognize.model.read_outs import has_loops, read_out_numbers
from espnet_larm.recognize.model.text_lm import Rescorer, load_rescorer
from espnet_larm.recognize.model.thresholds import Thresholds
from espnet_larm.recognize.ngrams import WordFusion, load_ngram, load_word_fusion
from espnet_larm.scoring.experiment import AUTO_NUMBER
from espnet_larm.speech_llm.prompt import make_prompt

logger = logging.getLogger(__name__)

UPSTREAM = "python -m espnet_larm --upstream -m espnet2.bin.asr_inference"


class Plan(NamedTuple):
    """How one model decodes. `Recognizer.plan` makes it; it may be used any number of times, by several threads.

    Attributes:
        config: All options.
        numbers: Loops (layers of an encoder without loops) that a transcript has hypotheses of, ascending. AUTO_NUMBER
            alone with `num_loops: auto`.
        llm: What the LM's search does; None where CTC alone decodes.
        leaving: When utterances leave, with `num_loops: auto`; None where all run the same loops.
        words: What scores words where CTC alone decodes; None if nothing does.
        rescorer: The text LM that rescores the beam there; None if none does.
    """

    config: DecodeConfig
    numbers: tuple[int, ...]
    llm: LlmPlan | None
    leaving: Leaving | None = None
    words: WordFusion | None = None
    rescorer: Rescorer | None = None

    @property
    def last_loop(self) -> int | None:
        """The last loop that the encoder may run; None for the trained number, or an encoder without loops."""
        return self.config.fixed_loops if self.leaving is None else self.leaving.num_loops

    def with_words(self) -> "Plan":
        """The same with times of words."""
        return self if self.config.with_words else self._replace(config=replace(self.config, with_words=True))


def make_plan(
    model: Any,
    searcher: LlmSearcher | None,
    config: DecodeConfig,
    calibration: Calibration | None = None,
    thresholds: Thresholds | None = None,
    halting_head: FoundHead | None = None,
) -> Plan:
    """Check options against a model.

    Args:
        model: An ESPnet model.
        searcher: Its LM's searcher; None for a model without an LM.
        config: The options.
        calibration: What is calibrated beside the model, for `num_loops: auto`.
        thresholds: The same for `accept: relaxed`.
        halting_head: The halting head beside the model, for `num_loops: auto`.

    Raises:
        ValueError: An option does not go with the model or with another option.
        FileNotFoundError: The n-gram, or a file of the text LM, is not there.
        ImportError: kenlm, which reads n-grams, is not installed.
    """
    check_loops(model.encoder, config.fixed_loops)
    _check_skipping(model, config.skip_blank)
    is_by_llm = _uses_llm(model, searcher, config.ctc_weight)
    leaving = None
    numbers = read_out_numbers(model.encoder, config.fixed_loops)
    if config.num_loops == AUTO:
        leaving = choose_leaving(model, config, calibration or {}, is_by_llm, halting_head)
        numbers = [AUTO_NUMBER]
    if not is_by_llm:
        _refuse_llm_options(config)
        tokens = getattr(model, "ctc_token_list", model.token_list)
        weights = next(model.ctc.parameters())
        rescorer = load_rescorer(config, tokens, weights.device, weights.dtype)
        return Plan(config, tuple(numbers), None, leaving, load_word_fusion(config, tokens), rescorer)
    for name, value in config.set_options(*WORD_OPTIONS).items():
        raise ValueError(
            f"{name} is {value}: an option of CTC's prefix beam, but the LM decodes; leave it out, or set ctc_weight: "
            "1.0."
        )
    assert searcher is not None
    # An LM reads one encoder output, the last: reading others would cost as much again.
    return Plan(config, tuple(numbers[-1:]), _llm_plan(model, searcher, config, thresholds), leaving)


def check_loops(encoder: Any, num_loops: int | None) -> None:
    """Refuse a number of loops that cannot be read out; None stands for the model's own.

    Raises:
        ValueError: With the allowed numbers, or since the encoder has no loops.
    """
    if num_loops is None:
        return
    if not has_loops(encoder):
        raise ValueError(f"num_loops is {num_loops}, but {type(encoder).__name__} has no loops; leave the option out.")
    encoder.check_loops(num_loops)


def _check_skipping(model: Any, skip_blank: float) -> None:
    """Refuse to skip frames of a model in which none could be."""
    if skip_blank == 1.0:
        return
    start, encoder = f"skip_blank is {skip_blank}, but", model.encoder
    if not has_loops(encoder):
        raise ValueError(f"{start} {type(encoder).__name__} has no loops; leave the option out.")
    if model.ctc is None:
        raise ValueError(f"{start} the model has no CTC head, which finds blank frames; leave the option out.")
    if encoder.num_checkpoints == 1:
        raise ValueError(
            f"{start} the encoder has one checkpoint loop, {encoder.num_loops}, behind which there is none; leave the "
            "option out, or train with a smaller checkpoint_period."
        )


def _uses_llm(model: Any, searcher: LlmSearcher | None, ctc_weight: float | None) -> bool:
    """Whether the LM decodes: it does where there is one, unless ctc_weight is 1.0.

    Raises:
        ValueError: The model has no such head.
    """
    if ctc_weight is None:
        return searcher is not None
    if ctc_weight > 0.0 and model.ctc is None:
        raise ValueError(
            f"ctc_weight is {ctc_weight}, but the model has no CTC head (it was trained with model_conf: "
            "ctc_weight 0.0); leave the option out."
        )
    if ctc_weight == 0.0 and model.decoder is None:
        raise ValueError("ctc_weight is 0.0, but the model has a CTC head alone; set ctc_weight: 1.0.")
    if ctc_weight < 1.0 and model.decoder is None:
        logger.info("ctc_weight is %s, with nothing beside the CTC head: CTC decodes alone.", ctc_weight)
    elif ctc_weight < 1.0 and searcher is None:
        raise ValueError(
            f"ctc_weight is {ctc_weight}, but the model has no LM; set ctc_weight: 1.0, leave it out, or use "
            f"{UPSTREAM}."
        )
    if searcher is not None and ctc_weight == 1.0:
        logger.info("ctc_weight is 1.0: the LM is left aside, and the CTC head decodes.")
    return searcher is not None and ctc_weight < 1.0


def _refuse_llm_options(config: DecodeConfig) -> None:
    for name, value in config.set_options(*LLM_OPTIONS).items():
        raise ValueError(
            f"{name} is {value}: an option of an LM's search, but this model is decoded by CTC alone; leave it out."
        )


def _llm_plan(model: Any, searcher: LlmSearcher, config: DecodeConfig, thresholds: Thresholds | None) -> LlmPlan:
    decoder, ctc_weight = model.decoder, config.ctc_weight or 0.0
    passes = passes_of(config, model)
    if ctc_weight > 0.0 and searcher.spell is None:
        raise ValueError(
            f"ctc_weight is {ctc_weight}, but the CTC head has tokens of its own, and no preprocessor: speech_llm "
            "says how a text is spelled in them; set ctc_weight: 0.0."
        )
    drafting = Drafting() if passes else resolve(config, decoder, searcher.ctc is not None, thresholds)
    ngram = None
    if config.ngram_file is not None:
        special = decoder.tokenizer.all_special_ids
        ngram = load_ngram(Path(config.ngram_file), config.ngram_weight, model.token_list, model.eos, special)
    elif config.set_options("ngram_weight") and config.ngram_weight:
        # ESPnet passes over it, and recipes share one YAML for decoding with and without.
        logger.info("ngram_weight is %s, and no ngram_file is named: it weighs nothing.", config.ngram_weight)
    _check_verified("ctc_weight", ctc_weight, drafting, "CTC")
    _check_verified("ngram_weight", 0.0 if ngram is None else ngram.weight, drafting, "an n-gram")
    prompt = None
    if config.set_options("prefix", "suffix", "instruction"):
        prompt = make_prompt(decoder.tokenizer, config.prefix or "", config.suffix, config.instruction)
    pooling = None if config.pooling is None else speech_pooling_of(config.pooling, decoder.backbone)
    if pooling is not None:
        decoder.check_ctc(pooling, "pooling")
        if pooling.is_sampled:
            raise ValueError(
                "pooling: retention_sampling is of training alone; for decoding, give the retention that you want."
            )
    return LlmPlan(config, ctc_weight, drafting, ngram, prompt, pooling, passes)


def _check_verified(name: str, weight: float, drafting: Drafting, scorer: str) -> None:
    """Refuse a weight of a scorer that has no say on drafts that are taken as they are."""
    if weight > 0 and drafting.accept != VERIFIED:
        raise ValueError(
            f"{name} is {weight} and accept is {drafting.accept}: {scorer} cannot score tokens that are not verified; "
            f"set {name}: 0.0 or accept: verified."
        )
