"""A text LM of ESPnet's (`lm_train`) over the CTC head's tokens, which rescores the hypotheses of a prefix beam.

A hypothesis's score becomes log CTC + lm_weight x log LM, the end of the sentence included: what ESPnet's beam search
gives it with `ctc_weight: 1.0` (test_scores_are_those_of_espnets_own_program). All hypotheses of a batch are scored in
one call of the LM, 100 at a time.
Shapes: R hypotheses in all, L tokens of the longest.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.errors import name_some
from espnet_larm.files.reading import read_yaml
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.model.features import feature_dtype
from espnet_larm.recognize.model.loading import read_weights
from espnet_larm.recognize.output.results import Hypothesis

logger = logging.getLogger(__name__)


class Rescorer(NamedTuple):
    """An LM whose score is added to CTC's.

    Attributes:
        name: Name of its file of weights.
        weight: Weight of its logarithms, natural ones, above 0.
        model: ESPnet's `ESPnetLanguageModel`, in eval mode.
    """

    name: str
    weight: float
    model: Any

    def stats(self) -> dict[str, object]:
        """What `stats.json` says of it."""
        return {"lm_file": self.name, "lm_weight": self.weight}

    def rescore(self, found: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
        """The hypotheses of each utterance with the LM's share in their scores, best first; equal ones as they were."""
        scores = iter(self.log_probs([each.token_ids for hypotheses in found for each in hypotheses]))
        rescored = [
            [each._replace(score=each.score + self.weight * next(scores)) for each in hypotheses]
            for hypotheses in found
        ]
        return [sorted(hypotheses, key=lambda each: each.score, reverse=True) for hypotheses in rescored]

    def log_probs(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """The log-probability of each sentence with its end. A batch gives what each gives alone, to rounding.

        Args:
            texts: Token ids of each.
        """
        device = next(self.model.parameters()).device
        rows = [torch.tensor(text, dtype=torch.long) for text in texts]
        tokens = pad_sequence(rows, batch_first=True, padding_value=self.model.ignore_id)  # (R, L)
        lens = torch.tensor([len(text) for text in texts])
        with torch.no_grad():
            nll, _ = self.model.batchify_nll(tokens.to(device), lens.to(device))  # (R, L + 1)
        return [-each for each in nll.double().sum(1).tolist()]


def load_rescorer(
    config: DecodeConfig, tokens: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Rescorer | None:
    """Load the LM that options name; None if they name none, or give it no weight.

    Args:
        config: The options.
        tokens: The CTC head's tokens.
        device: Where to compute.
        dtype: Type of the recogniser's weights; the LM's is float32 at least.

    Raises:
        ValueError: The beam has one hypothesis, the LM is of other tokens or of a kind that scores no sentences, or
            weights and configuration do not belong together.
        FileNotFoundError: A file is not there.
    """
    if config.lm_file is None or config.lm_train_config is None:
        if config.set_options("lm_weight") and config.lm_weight:
            # ESPnet passes over it, and recipes share one YAML for decoding with and without.
            logger.info("lm_weight is %s, and no lm_file is named: it weighs nothing.", config.lm_weight)
        return None
    if config.beam_size == 1:
        raise ValueError(
            "lm_file rescores the hypotheses of a prefix beam, and beam_size is 1, which is greedy; set beam_size: 10, "
            "for example."
        )
    args = _read_config(Path(config.lm_train_config))
    if getattr(args, "model", "lm") != "lm":
        raise ValueError(f"lm_train_config {config.lm_train_config} has model: {args.model}; allowed: lm.")
    _check_tokens(args.token_list, tokens, config.lm_train_config)
    # Importing it takes seconds.
    from espnet2.tasks.lm import LMTask

    model = LMTask.build_model(args)
    _load_weights(model, Path(config.lm_file), config.lm_train_config)
    model.to(device, feature_dtype(dtype)).eval()
    return Rescorer(Path(config.lm_file).name, config.lm_weight, model) if config.lm_weight else None


def _read_config(path: Path) -> argparse.Namespace:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; --lm_train_config is the config.yaml of the LM's training.")
    config = read_yaml(path)
    if not isinstance(config.get("token_list"), list):
        raise ValueError(f"{path} holds no token_list; --lm_train_config is the config.yaml of the LM's training.")
    return argparse.Namespace(**config)


def _check_tokens(own: list[str], tokens: Sequence[str], path: str) -> None:
    """Refuse an LM of other tokens than the CTC head's, whose scores would mean nothing."""
    if own == list(tokens):
        return
    other = sorted(set(own) ^ set(tokens))
    differ = f"{name_some(other)} {'is' if len(other) == 1 else 'are'} in one alone" if other else "their order differs"
    raise ValueError(
        f"lm_train_config {path}: the LM has {len(own)} tokens, and they are not the CTC head's {len(tokens)} "
        f"({differ}); train it with the recogniser's --token_list."
    )


def _load_weights(model: torch.nn.Module, path: Path, config: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; --lm_file is the LM's weights (recipes: --inference_lm NAME).")
    weights, own = read_weights(path), model.state_dict()
    if other := sorted(set(own) ^ set(weights)) or [name for name in own if own[name].shape != weights[name].shape]:
        raise ValueError(
            f"{path} is not a checkpoint of {config} ({name_some(other)}); use the config.yaml that stands beside it."
        )
    model.load_state_dict(weights, strict=True)
