"""Refuses what a streaming encoder must not stand behind: parts that read the whole utterance."""

import argparse

import torch

# Front ends whose frames see no more than a window; null is features from files.
FRONTENDS = (None, "default", "sliding_window")
# Parts before and behind the encoder that work frame by frame.
PREENCODERS = (None, "linear")


def check_streaming(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Refuse parts that see the future of a frame around an encoder that is trained for streaming.

    Raises:
        ValueError: The front end, the normalisation or another part reads the whole utterance; or a loss of consistency
            has no posteriors, or an encoder that does not learn.
    """
    if (contexts := getattr(getattr(model, "encoder", None), "contexts", None)) is None:
        return
    if contexts.consistency_weight > 0:
        _check_consistency(contexts.consistency_weight, model)
    why = "which a frame of a stream has not heard; allowed with encoder_conf: streaming"
    if getattr(args, "normalize", None) == "utterance_mvn":
        raise ValueError(
            f"normalize is utterance_mvn, the mean of a whole utterance, {why}: global_mvn with stats_file, or null."
        )
    for kind, allowed in (("frontend", FRONTENDS), ("preencoder", PREENCODERS), ("postencoder", (None,))):
        name = getattr(args, kind, None)
        if name not in allowed:
            words = ", ".join("null" if each is None else each for each in allowed)
            raise ValueError(f"{kind} is {name}, which may read the whole utterance, {why}: {words}.")


def _check_consistency(given_weight: float, model: torch.nn.Module) -> None:
    given = f"encoder_conf: streaming: consistency_weight is {given_weight}"
    if getattr(model, "ctc", None) is None:
        raise ValueError(f"{given}, which compares CTC posteriors; set ctc_weight above 0, or leave it out.")
    if not any(each.requires_grad for name, each in model.named_parameters() if name.startswith("encoder.")):
        raise ValueError(f"{given}, but the encoder is frozen; let it learn (freeze_param), or leave the weight out.")
