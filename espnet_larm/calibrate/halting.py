"""Training of the halting head: what a frozen model's loops would gain, and a linear layer that foretells it.

Shapes: U utterances, C checkpoint loops before the last, D model size, G folds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.calibrate.development import features_of, keys_with_text, loaded_batches
from espnet_larm.calibrate.loop_traces import Floats
from espnet_larm.llm.tokens import CTC_TEXT
from espnet_larm.recognize.audio import AudioTable, Preprocess
from espnet_larm.recognize.config import Batching
from espnet_larm.recognize.leaving.choosing import check_can_leave
from espnet_larm.recognize.leaving.halting_head import pool
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.bootstrap import Grouping

# Weights of the squares of the layer's weights that are tried on held-out utterances.
PENALTIES = (0.001, 0.01, 0.1, 1.0)
# Of the squares of biases, so that a loop whose labels are all alike has an end.
BIAS_PENALTY = 1e-4
NUM_FOLDS = 5
MOST_STEPS = 200


class Examples(NamedTuple):
    """What a set shows of a frozen model.

    Attributes:
        keys: Utterances, U.
        loops: Checkpoint loops, the last one too.
        pooled: Pooled frames at each loop before the last (U, C, 2 D), float64.
        losses: CTC losses a token at each loop (U, C + 1), nats.
        num_frames: Encoder frames of all utterances.
        num_left_out: Utterances that are too short for their text, or for a frame.
    """

    keys: list[str]
    loops: tuple[int, ...]
    pooled: torch.Tensor
    losses: Floats
    num_frames: int
    num_left_out: int

    def labels(self, delta: float) -> torch.Tensor:
        """Whether any deeper loop has a loss that is lower by more than `delta` (U, C), float64."""
        return torch.from_numpy((self.gains > delta).astype(np.float64))

    @property
    def gains(self) -> Floats:
        """By how much the best of all deeper losses is lower (U, C)."""
        deeper: Floats = np.minimum.accumulate(self.losses[:, :0:-1], axis=1)[:, ::-1]
        return self.losses[:, :-1] - deeper


class Fitted(NamedTuple):
    """A linear layer, and what it was found to be worth.

    Attributes:
        weight: (2 D,).
        biases: (C,).
        penalty: The weight of its squares that was best on held-out utterances.
        held_out: Mean logarithmic loss of held-out utterances at each loop (C,), nats.
        base: The same of a head that knows the loop alone (C,).
    """

    weight: torch.Tensor
    biases: torch.Tensor
    penalty: float
    held_out: torch.Tensor
    base: torch.Tensor


@torch.no_grad()
def collect(
    recognizer: Recognizer,
    table: AudioTable,
    references: Mapping[str, str],
    long_seconds: float,
    batching: Batching = Batching(),  # noqa: B008  # immutable
) -> Examples:
    """Run all loops of a frozen model on a set.

    Args:
        recognizer: The model.
        table: Audio. Utterances that are longer than `long_seconds` are left out.
        references: Texts by utterance.
        long_seconds: The longest utterance that decoding does not cut.
        batching: How to read and batch.

    Raises:
        ValueError: No utterance of the model can leave early, one has no text, or audio cannot be read; or all are too
            short.
    """
    model = recognizer.model
    check_can_leave(model)
    to_ids = _ids_maker(recognizer.preprocess)
    keys = keys_with_text(table, references, long_seconds * recognizer.sample_rate_hz)
    found: dict[str, tuple[torch.Tensor, list[float]]] = {}
    num_frames = 0
    for waveforms in loaded_batches(recognizer, table, keys, batching):
        features = features_of(recognizer, waveforms)
        if not features:
            continue
        texts = [to_ids(key, references[key]) for key in features]
        pooled, losses = [], []
        for read in read_outs(model, *pad_features(list(features.values()))):
            pooled.append(pool(read.hs_pad, read.hlens).cpu())
            losses.append(_losses(recognizer.heads.ctc.log_probs(read.hs_pad), read.hlens, texts, model.blank_id))
        num_frames += int(read.hlens.sum())
        rows = zip(features, torch.stack(pooled[:-1], dim=1), torch.stack(losses, dim=1).tolist(), strict=True)
        found.update({key: (of_one, of_loops) for key, of_one, of_loops in rows})
    usable = [key for key in keys if key in found and np.isfinite(found[key][1]).all()]
    if not usable:
        raise ValueError(f"none of {len(keys)} utterances is long enough for its text; name another data_dir.")
    return Examples(
        usable,
        tuple(model.encoder.allowed_loops(model.encoder.num_loops)),
        torch.stack([found[key][0] for key in usable]),
        np.array([found[key][1] for key in usable]),
        num_frames,
        len(keys) - len(usable),
    )


def _ids_maker(preprocess: Preprocess | None) -> Callable[[str, str], torch.Tensor]:
    """The function from an utterance and its text to the CTC head's tokens."""
    if preprocess is None:
        raise ValueError("the model was trained without a preprocessor, so that no text is spelled in its tokens.")

    def to_ids(key: str, text: str) -> torch.Tensor:
        # ESPnet's preprocessor takes texts, too.
        made = preprocess(key, {"text": text})  # type: ignore[dict-item]
        return torch.as_tensor(made[CTC_TEXT if CTC_TEXT in made else "text"], dtype=torch.long)

    return to_ids


def _losses(log_probs: torch.Tensor, hlens: torch.Tensor, texts: Sequence[torch.Tensor], blank: int) -> torch.Tensor:
    """CTC losses a token (B,) of log-probabilities (B, T, V); infinite where frames are too few for the text."""
    num_tokens = torch.tensor([len(text) for text in texts])
    # On the CPU, where the sums are the same in each run.
    padded = pad_sequence(list(texts), batch_first=True)
    losses = functional.ctc_loss(
        log_probs.transpose(0, 1).cpu(), padded, hlens.cpu(), num_tokens, blank=blank, reduction="none"
    )
    return losses.double() / num_tokens.clamp(min=1)


def fit(examples: Examples, delta: float, grouping: Grouping) -> Fitted:
    """Logistic regression on the labels, with the penalty that is best on held-out utterances.

    Args:
        examples: What the set shows.
        delta: By how many nats a token a deeper loss has to be lower.
        grouping: Groups of the utterances, which are held out together.

    Raises:
        ValueError: All labels are alike, or there are too few groups.
    """
    labels = examples.labels(delta)
    if (share := float(labels.mean())) in (0.0, 1.0):
        quantiles = " to ".join(f"{gain:.3g}" for gain in np.quantile(examples.gains, (0.05, 0.95)))
        raise ValueError(
            f"delta is {delta:g}, at which {'every' if share else 'no'} utterance gains from deeper loops, so that "
            f"there is nothing to foretell; name another one: gains are {quantiles} nats a token."
        )
    if grouping.num_groups < NUM_FOLDS:
        raise ValueError(f"the set has {grouping.num_groups} utterances; allowed: {NUM_FOLDS} or more.")
    mean, scale = examples.pooled.mean(dim=(0, 1)), examples.pooled.std(dim=(0, 1), correction=0)
    inputs = (examples.pooled - mean) / torch.where(scale > 0, scale, 1.0)
    fold_of = torch.from_numpy(grouping.group_of) % NUM_FOLDS
    held_out = {penalty: _held_out(inputs, labels, fold_of, penalty) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: float(held_out[penalty].mean()))
    weight, biases = _regress(inputs, labels, best)
    weight = weight / torch.where(scale > 0, scale, 1.0)
    return Fitted(
        weight,
        biases - mean @ weight,
        best,
        held_out[best],
        _held_out(torch.zeros_like(inputs[:, :, :1]), labels, fold_of, best),
    )


def _held_out(inputs: torch.Tensor, labels: torch.Tensor, fold_of: torch.Tensor, penalty: float) -> torch.Tensor:
    """Mean logarithmic loss at each loop (C,) of utterances that were not fitted."""
    losses = torch.empty_like(labels)
    for fold in range(NUM_FOLDS):
        is_out = fold_of == fold
        weight, biases = _regress(inputs[~is_out], labels[~is_out], penalty)
        losses[is_out] = functional.binary_cross_entropy_with_logits(
            inputs[is_out] @ weight + biases, labels[is_out], reduction="none"
        )
    return losses.mean(dim=0)


@torch.enable_grad()
def _regress(inputs: torch.Tensor, labels: torch.Tensor, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (F,) and biases (C,) for inputs (U, C, F) and labels (U, C)."""
    weight = torch.zeros(inputs.size(2), dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(inputs.size(1), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, biases], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        missed = functional.binary_cross_entropy_with_logits(inputs @ weight + biases, labels)
        total = missed + penalty / 2 * weight.square().sum() + BIAS_PENALTY / 2 * biases.square().sum()
        total.backward()
        return total.detach()

    optimizer.step(loss)
    return weight.detach(), biases.detach()


def format_labels(loops: Sequence[int], labels: torch.Tensor, fitted: Fitted) -> list[str]:
    """A table in Markdown: how often deeper loops are better, and how well held-out utterances are foretold.

    Args:
        loops: Checkpoint loops, the last one too.
        labels: What `Examples.labels` gives (U, C).
        fitted: The layer.
    """
    lines = ["| loop | a deeper one is better | loss of the head | loss of the loop alone |", "|---|---|---|---|"]
    columns = zip(loops, labels.mean(dim=0).tolist(), fitted.held_out.tolist(), fitted.base.tolist(), strict=False)
    return lines + [f"| {loop} | {rate:.1%} | {loss:.3f} | {base:.3f} |" for loop, rate, loss, base in columns]
