"""How well a causal LM predicts lines of text, and how far it is from the LM that it was made of.

Each line is read by itself, as `<s> line </s>`; each token but the first is predicted from those before it. A line
longer than the context is cut into rows that see nothing before them.
Shapes: N lines, B rows of a batch, L positions, M of them predict a token, m of those at once, D size, V tokens.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.chunks import by_chunks
from espnet_larm.llm.packing import PackedText
from espnet_larm.scoring.bootstrap import Floats, Interval, interval, resample_ratios


class LineSums(NamedTuple):
    """Sums over the predicted tokens of each line, float64 (N,).

    Attributes:
        tokens: Number of tokens.
        nats: Negative log-likelihood in nats.
        correct: Number of tokens with the highest logit.
        kl: KL(base || model) in nats; None without a base.
    """

    tokens: Floats
    nats: Floats
    correct: Floats
    kl: Floats | None


class Estimate(NamedTuple):
    """A mean over tokens, and the 95 % interval of resampled lines."""

    value: float
    interval: Interval


def lines_of(text: PackedText) -> list[torch.Tensor]:
    """The tokens of each sentence, its start and end included."""
    return list(text.tokens.split(text.lens))


@torch.no_grad()
def measure_lines(
    backbone: Backbone, lines: Sequence[torch.Tensor], base: Backbone | None = None, batch_size: int = 16
) -> LineSums:
    """Sums of the measures of each line, in the dtype of the weights; softmax is in float32, sums in float64.

    Args:
        backbone: LM, with or without added layers; only layers that text goes through in a search are called.
        lines: Tokens of each line, starts and ends included; two of them at least.
        base: LM with the same tokens, for KL; None for no KL.
        batch_size: Rows at a time.

    Raises:
        ValueError: The LMs differ in their numbers of tokens, or the text has tokens that they lack.
    """
    check_tokens(backbone, lines, base)
    sums = np.zeros((4, len(lines)))
    with texts_alone(backbone):
        for owners, ids, lens in _batches(lines, backbone.max_positions, batch_size):
            valid = torch.arange(1, ids.size(1)) < lens.unsqueeze(1)  # (B, L - 1)
            read = [_states(each, ids, lens)[valid] for each in (backbone, base) if each is not None]  # (M, D) each
            targets = ids[:, 1:][valid].to(read[0].device)
            values = by_chunks(functools.partial(_measure, backbone, base), backbone.vocab_size, targets, *read)
            rows = np.repeat(owners, valid.sum(1).numpy())
            for row, value in zip(sums, values, strict=False):
                np.add.at(row, rows, value.cpu().double().numpy())
    return LineSums(sums[0], sums[1], sums[2], None if base is None else sums[3])


def check_tokens(backbone: Backbone, lines: Sequence[torch.Tensor], base: Backbone | None) -> None:
    """Refuse tokens of another LM.

    Raises:
        ValueError: There is no text, a token that the LM lacks, or a base with other tokens.
    """
    if not sum(len(line) > 1 for line in lines):
        raise ValueError("there is no text of two tokens or more; give --text with words.")
    if base is not None and base.vocab_size != backbone.vocab_size:
        raise ValueError(
            f"--base has {base.vocab_size} tokens, the LM {backbone.vocab_size}: KL is between LMs of the same tokens; "
            "name the LM that the model was made of."
        )
    if (highest := max(int(line.max()) for line in lines if len(line))) >= backbone.vocab_size:
        raise ValueError(f"the text has token {highest}, but the LM only {backbone.vocab_size}: they are another LM's.")


def summarise(sums: LineSums, base: LineSums | None = None) -> dict[str, Estimate]:
    """Means over tokens with intervals, by name.

    Args:
        sums: Sums of the LM.
        base: Sums of its base on the same lines: nats above it come from the same resamples, so that their interval is
            narrower than that of a difference.
    """
    columns = {"nats_per_token": sums.nats, "accuracy": sums.correct}
    if sums.kl is not None:
        columns["kl_to_base"] = sums.kl
    if base is not None:
        columns["nats_above_base"] = sums.nats - base.nats
    return {
        name: Estimate(float(values.sum() / sums.tokens.sum()), interval(resample_ratios(values, sums.tokens)))
        for name, values in columns.items()
    }


@torch.no_grad()
def sample_lines(
    backbone: Backbone, start: int | None, end: int, num_lines: int, num_tokens: int, seed: int, batch_size: int = 16
) -> list[torch.Tensor]:
    """Draw lines from an LM at temperature 1.

    Args:
        backbone: LM to draw from.
        start: Token that begins a text.
        end: Token that ends a text.
        num_lines: Number of lines (N).
        num_tokens: Tokens after which a line is cut, the start not counted; it then has no end.
        seed: Seed of the draws; the batch size does not change them.
        batch_size: Lines at a time.

    Raises:
        ValueError: A number is out of its range, or no token begins a text.
    """
    if start is None:
        raise ValueError("the LM's tokenizer has no token that begins a text (bos_token): nothing to sample from.")
    if num_lines < 1 or not 1 <= num_tokens < backbone.max_positions:
        raise ValueError(
            f"--sample_lines {num_lines}, --sample_tokens {num_tokens}; allowed: 1 or more lines of 1 to "
            f"{backbone.max_positions - 1} tokens, the LM's context without the start."
        )
    chances = torch.rand(num_lines, num_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with texts_alone(backbone):
        drawn = torch.cat([_draw(backbone, start, end, part) for part in chances.split(batch_size)])
    lines = []
    for row in drawn:
        ends = (row == end).nonzero()
        length = int(ends[0]) + 1 if len(ends) else num_tokens
        lines.append(torch.cat([torch.tensor([start]), row[:length]]))
    return lines


@contextmanager
def texts_alone(backbone: Backbone) -> Iterator[None]:
    """Set eval mode for a while."""
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)


def _batches(
    lines: Sequence[torch.Tensor], max_positions: int, batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Line of each row, tokens (B, L) and lengths (B,), from the shortest rows on, for little padding."""
    rows = [(index, part) for index, line in enumerate(lines) for part in line.split(max_positions) if len(part) > 1]
    rows.sort(key=lambda row: len(row[1]))
    for begin in range(0, len(rows), batch_size):
        owners, parts = zip(*rows[begin : begin + batch_size], strict=True)
        ids = torch.nn.utils.rnn.pad_sequence([part.long() for part in parts], batch_first=True)
        yield list(owners), ids, torch.tensor([len(part) for part in parts])


def _states(backbone: Backbone, ids: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, L - 1, D) that predict tokens (B, L) behind the first."""
    device = next(backbone.parameters()).device
    positions = torch.arange(ids.size(1), device=device).expand(ids.shape)
    return backbone(backbone.embed(ids.to(device)), positions, lens.to(device)).hidden[:, :-1]


def _measure(
    backbone: Backbone, base: Backbone | None, targets: torch.Tensor, states: torch.Tensor, *wanted: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Number, nats and hits of tokens (m,) behind states (m, D); with the base's states, the divergence too."""
    logits = backbone.logits(states)  # (m, V)
    scores = logits.log_softmax(-1)
    nats = -scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    measures = torch.ones_like(targets), nats, logits.argmax(-1) == targets
    if base is None:
        return measures
    target = base.logits(*wanted).log_softmax(-1)
    return (*measures, (target.exp() * (target - scores)).sum(-1))


def _draw(backbone: Backbone, start: int, end: int, chances: torch.Tensor) -> torch.Tensor:
    """Draw tokens by inverting the distribution function at each chance (B, L); tokens behind an end mean nothing."""
    device = next(backbone.parameters()).device
    num_rows, num_tokens = chances.shape
    cache, ones = backbone.new_cache(), torch.ones(num_rows, dtype=torch.long, device=device)
    drawn = torch.full((num_rows, num_tokens), end)
    last = torch.full((num_rows, 1), start)
    for position in range(num_tokens):
        positions = torch.full((num_rows, 1), position, device=device)
        hidden = backbone(backbone.embed(last.to(device)), positions, ones, cache=cache).hidden
        if position == 0:
            cache.seal()
        up_to = backbone.logits(hidden[:, 0]).double().softmax(-1).cumsum(-1).cpu()  # (B, V)
        last = torch.searchsorted(up_to, chances[:, position, None] * up_to[:, -1:], right=True)
        last = last.clamp(max=up_to.size(1) - 1)
        drawn[:, position] = last[:, 0]
        if bool((drawn[:, : position + 1] == end).any(1).all()):
            break
    return drawn
