"""From options and what is calibrated to the rule by which utterances leave."""

from typing import Any

from espnet_larm.recognize.config import HALTING, DecodeConfig
from espnet_larm.recognize.leaving.calibration import CALIBRATION, CTC, LLM, Calibration
from espnet_larm.recognize.leaving.halting_head import FoundHead, head_of
from espnet_larm.recognize.leaving.leave import Leaving
from espnet_larm.recognize.leaving.rules import RULES, Rule
from espnet_larm.recognize.model.read_outs import has_loops

CALIBRATE = "espnet-larm calibrate-loops"


def choose_leaving(
    model: Any, config: DecodeConfig, calibration: Calibration, is_by_llm: bool, halting_head: FoundHead | None = None
) -> Leaving:
    """The rule of `num_loops: auto`.

    Args:
        model: An ESPnet model.
        config: The options.
        calibration: What is calibrated beside the model.
        is_by_llm: Whether its LM decodes, which has thresholds of its own.
        halting_head: The halting head beside the model; None where there is none.

    Raises:
        ValueError: No utterance of this model could leave before the last loop, or rule or threshold is not known, or
            the rule needs a halting head, and there is none of this model.
    """
    check_can_leave(model)
    found = calibration.get(LLM if is_by_llm else CTC)
    name, threshold = config.loop_rule, config.loop_threshold
    if name is None and threshold is not None:
        raise ValueError(f"loop_threshold is {threshold}, but of which rule is not said; set loop_rule, too.")
    if name is None and found is None:
        raise ValueError(
            f"num_loops is auto, but there is no {CALIBRATION} beside the model that says when to leave"
            f"{' for decoding by its LM' if is_by_llm else ''}; run {CALIBRATE}, or set loop_rule and loop_threshold."
        )
    if name is None:
        assert found is not None
        name = found.rule
    rule = head_of(model, halting_head).rule if name == HALTING else RULES[name]
    if rule.threshold is not None and threshold is not None:
        raise ValueError(f"loop_threshold is {threshold}, but loop_rule {name} has none; leave it out.")
    if threshold is None:
        threshold = rule.threshold if found is None else found.thresholds.get(name, rule.threshold)
    if threshold is None:
        raise ValueError(
            f"loop_rule is {name}, and its threshold is not known; set loop_threshold, or run {CALIBRATE}, which "
            "writes it beside the model."
        )
    loops = model.encoder.allowed_loops(model.encoder.num_loops)
    if rule.num_compared >= len(loops):
        allowed = ", ".join(rules_of(model, halting_head))
        raise ValueError(
            f"loop_rule is {name}, which compares {rule.num_compared} checkpoint loops, but the model has "
            f"{len(loops)}: {', '.join(map(str, loops))}; allowed: {allowed}, or a model that was trained with a "
            "smaller checkpoint_period."
        )
    return Leaving(name, rule, threshold, loops[rule.num_compared - 1], loops[-1])


def rules_of(model: Any, halting_head: FoundHead | None) -> dict[str, Rule]:
    """The rules by which an utterance can leave before the last loop of a model.

    Args:
        model: An ESPnet model with loops.
        halting_head: The halting head beside it; None where there is none.

    Raises:
        ValueError: The halting head is another model's.
    """
    rules = {name: rule for name, rule in RULES.items() if rule.num_compared < model.encoder.num_checkpoints}
    del rules[HALTING]
    return rules if halting_head is None else {**rules, HALTING: head_of(model, halting_head).rule}


def check_can_leave(model: Any) -> None:
    """Refuse a model of which no utterance can leave early.

    Raises:
        ValueError: With the reason.
    """
    start = "num_loops is auto, but"
    if not has_loops(model.encoder):
        raise ValueError(f"{start} {type(model.encoder).__name__} has no loops; leave the option out.")
    if model.encoder.num_checkpoints == 1:
        raise ValueError(
            f"{start} the encoder has one checkpoint loop, {model.encoder.num_loops}, before which nothing can be read "
            "out; leave the option out, or train with a smaller checkpoint_period."
        )
    if model.ctc is None:
        raise ValueError(f"{start} the model has no CTC head, by which rules look at an utterance; set a number.")
    if model.postencoder is not None:
        raise ValueError(f"{start} the model has a postencoder, which reads the last loop alone; set a number.")
