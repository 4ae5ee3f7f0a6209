"""The halting head: how probable it is, at a checkpoint loop, that a deeper one has a lower CTC loss.

Source: RecurTrace, arXiv:2609.03379: one linear layer on a frozen model, trained on whether any deeper loop lowers the
loss by more than delta. Departures: it reads an utterance's frames pooled to their mean and deviation; one layer serves
all checkpoint loops, with a bias for each; losses are those of CTC, a token.
The file is JSON, so that a stranger's holds numbers and nothing else.
Shapes: B utterances, T frames, D model size.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_larm.files.atomic import write_text
from espnet_larm.recognize.config import HALTING
from espnet_larm.recognize.leaving.calibration import HEAD_FILE
from espnet_larm.recognize.leaving.rules import RULES, Rule, Seen
from espnet_larm.recognize.model.loading import read_weights

TRAIN = "espnet-larm train-halting-head"
# What its pooled frames depend on, apart from pre-trained models, which have a check of their own.
READ_PARTS = ("encoder.", "ctc.")


class HaltingHead(NamedTuple):
    """A trained head.

    Attributes:
        weight: (2 D,), of means and deviations, float64.
        biases: By checkpoint loop; the last one has none, since nothing is deeper.
        delta: By how many nats a token the loss of a deeper loop had to be lower to count.
        sha256: Digest of the weights of the encoder that it was trained on.
    """

    weight: torch.Tensor
    biases: Mapping[int, float]
    delta: float
    sha256: str

    @property
    def rule(self) -> Rule:
        """The rule by which utterances leave that it gives little to gain."""
        return RULES[HALTING]._replace(measure=self._measure)

    def _measure(self, seen: Sequence[Seen]) -> torch.Tensor:
        """Probabilities (B,) that a deeper loop is better."""
        now = seen[-1]
        bias = self.biases.get(now.number)
        if bias is None:
            return torch.zeros(len(now.hlens), dtype=torch.float64, device=now.hlens.device)
        return (pool(now.hs_pad, now.hlens) @ self.weight.to(now.hs_pad.device) + bias).sigmoid()


class FoundHead(NamedTuple):
    """A head that lies beside a model.

    Attributes:
        head: The head.
        sha256: Digest of the weights of that model's encoder, which should be the head's.
    """

    head: HaltingHead
    sha256: str


def pool(hs_pad: torch.Tensor, hlens: torch.Tensor) -> torch.Tensor:
    """Means and deviations of the frames of each utterance, (B, T, D) to (B, 2 D) in float64.

    Args:
        hs_pad: Encoder output (B, T, D), zero behind the lengths.
        hlens: Valid frames (B,).
    """
    frames, num_frames = hs_pad.double(), hlens.view(-1, 1)
    mean = frames.sum(dim=1) / num_frames
    mask = torch.arange(frames.size(1), device=hlens.device) < num_frames
    squares = (frames - mean.unsqueeze(1)).square().masked_fill(~mask.unsqueeze(2), 0.0)
    return torch.cat([mean, (squares.sum(dim=1) / num_frames).sqrt()], dim=1)


def digest_of(model_file: Path) -> str:
    """SHA-256 of the encoder and CTC head in a file of weights, whatever form the file has.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is unreadable.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(read_weights(model_file).items()):
        if name.startswith(READ_PARTS):
            values = tensor.float().contiguous()
            digest.update(f"{name} {tuple(values.shape)}".encode())
            digest.update(values.numpy().data)
    return digest.hexdigest()


def find_head(folder: Path, model_file: Path) -> FoundHead | None:
    """The head beside a model; None where there is none.

    Args:
        folder: The folder of the model's `config.yaml`.
        model_file: Its weights.

    Raises:
        ValueError: The file is not what train-halting-head writes.
    """
    path = folder / HEAD_FILE
    return FoundHead(_read(path), digest_of(model_file)) if path.is_file() else None


def head_of(model: Any, found: FoundHead | None) -> HaltingHead:
    """The head that lies beside a model, if it was trained on it.

    Args:
        model: An ESPnet model with loops.
        found: What `find_head` found.

    Raises:
        ValueError: There is none, or it is another model's.
    """
    if found is None:
        raise ValueError(f"loop_rule is {HALTING}, but there is no {HEAD_FILE} beside the model; run {TRAIN}.")
    head, encoder = found.head, model.encoder
    *loops, _ = encoder.allowed_loops(encoder.num_loops)
    differences = (
        ("checkpoint loops before the last", ", ".join(map(str, head.biases)), ", ".join(map(str, loops))),
        ("output_size", len(head.weight) // 2, encoder.output_size()),
        ("SHA-256 of the encoder", head.sha256[:12], found.sha256[:12]),
    )
    for what, its, here in differences:
        if its != here:
            raise ValueError(
                f"{HEAD_FILE} was trained on another model: {what} {its}, of the model beside it {here}; run {TRAIN} "
                "again, or remove the file."
            )
    return head


def write_head(folder: Path, head: HaltingHead, facts: Mapping[str, Any]) -> None:
    """Write a head beside its model.

    Args:
        folder: Where the file shall stand.
        head: The head.
        facts: What it was trained with.
    """
    biases = {str(loop): bias for loop, bias in head.biases.items()}
    content = {**facts, **head._asdict(), "biases": biases, "weight": head.weight.tolist()}
    write_text(folder / HEAD_FILE, json.dumps(content) + "\n")


def _read(path: Path) -> HaltingHead:
    """A file, which may be a stranger's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        biases = {int(loop): _finite(bias) for loop, bias in content["biases"].items()}
        weight = torch.tensor([_finite(each) for each in content["weight"]], dtype=torch.float64)
        return HaltingHead(weight, biases, _finite(content["delta"]), str(content["sha256"]))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is no halting head: numbers of {TRAIN} are missing; run it again.") from error


def _finite(value: Any) -> float:
    """A number of JSON.

    Raises:
        TypeError: It is none.
        ValueError: It is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return float(value)
