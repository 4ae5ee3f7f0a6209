"""How well a causal LM predicts lines of text, and how far it is from the LM that it was made of.

Each line is read by itself, as `<s> line </s>`; each token but the first is predicted from those before it. A line
longer than the context is cut into rows that see nothing before them.
Shapes: N lines, B rows of a batch, L positions, V tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.packing import PackedText
from espnet_larm.scoring.bootstrap import Floats, Interval, interval, resample_ratios

# stories260K needs 2 to 3 times as many tokens for a text in capitals.
MOST_TIMES_LONGER = 1.5
NUM_CASE_LINES = 1000


class LineSums(NamedTuple):
    """Sums over the predicted tokens of each line, float64 (N,).

    Attributes:
        tokens: How many.
        nats: Of the negative log-likelihood.
        correct: How many have the highest logit.
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
    """Measure, in the types of the weights; softmax is in float32, sums in float64.

    Args:
        backbone: With or without added layers; only those that texts go through in a search too are called.
        lines: Tokens of each, starts and ends included; two of them at least.
        base: For KL, with the same tokens.
        batch_size: Rows at a time.

    Raises:
        ValueError: The two LMs have other numbers of tokens, or the text has tokens that they do not have.
    """
    check_tokens(backbone, lines, base)
    sums = np.zeros((4, len(lines)))
    with texts_alone(backbone):
        for owners, ids, lens in _batches(lines, backbone.max_positions, batch_size):
            logits = _logits(backbone, ids, lens)  # (B, L - 1, V)
            targets = ids[:, 1:].to(logits.device)
            scores = logits.log_softmax(-1)
            valid = torch.arange(1, ids.size(1)) < lens.unsqueeze(1)  # (B, L - 1)
            values = [
                torch.ones_like(targets),
                -scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
                logits.argmax(-1) == targets,
            ]
            if base is not None:
                wanted = _logits(base, ids, lens).log_softmax(-1)
                values.append((wanted.exp() * (wanted - scores)).sum(-1))
            for row, value in zip(sums, values, strict=False):
                np.add.at(row, owners, value.cpu().double().masked_fill(~valid, 0).sum(1).numpy())
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
        sums: Of the LM.
        base: Of its base on the same lines: nats above it are from the same resamples, so their interval is narrower
            than a difference of two.
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
    """Draw lines from an LM as it is, at temperature 1.

    Args:
        backbone: Whose text it is.
        start: The token that begins a text.
        end: The one that ends it.
        num_lines: N.
        num_tokens: Where a line is cut, the start not counted; it then has no end.
        seed: The same lines come of the same one.
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


def check_case(tokenizer: Any, sentences: Sequence[str], name: str = "--text") -> None:
    """Refuse a text whose words would be short pieces only because of its case.

    Args:
        tokenizer: HF's.
        sentences: The text, of which the first NUM_CASE_LINES are looked at.
        name: What the message calls it.

    Raises:
        ValueError: In small letters, or in capitals, it has far fewer tokens.
    """
    some = list(sentences[:NUM_CASE_LINES])

    def count(texts: list[str]) -> float:
        ids = [token for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in row]
        # What is unknown may be one token a word; pack_sentences refuses it.
        return len(ids) if tokenizer.unk_token_id not in ids else float("inf")

    found = count(some)
    for style, other in (
        ("small letters", [text.lower() for text in some]),
        ("capitals", [text.upper() for text in some]),
    ):
        if MOST_TIMES_LONGER * (number := count(other)) < found < float("inf"):
            raise ValueError(
                f"{name} is in the wrong case for this LM: {len(some)} lines are {found} tokens, in {style} {number}; "
                f"give it in {style}."
            )


@contextmanager
def texts_alone(backbone: Backbone) -> Iterator[None]:
    """In eval mode, without what shortens prompts of speech."""
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)


@contextmanager
def lora_off(backbone: Backbone) -> Iterator[None]:
    """Without what LoRA adds."""
    layers = lora_layers(backbone)
    # peft freezes adapters that it turns off, and lets all learn that it turns on.
    learns = {name: each.requires_grad for name, each in backbone.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for name, each in backbone.named_parameters():
            each.requires_grad_(learns[name])


def lora_layers(backbone: Backbone) -> list[Any]:
    """peft's, which stand in the place of the LM's projections."""
    return [module for module in backbone.modules() if hasattr(module, "base_layer")]


def _batches(
    lines: Sequence[torch.Tensor], max_positions: int, batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Lines of each row, tokens (B, L) and their numbers (B,), from the shortest rows on: little padding."""
    rows = [(index, part) for index, line in enumerate(lines) for part in line.split(max_positions) if len(part) > 1]
    rows.sort(key=lambda row: len(row[1]))
    for begin in range(0, len(rows), batch_size):
        owners, parts = zip(*rows[begin : begin + batch_size], strict=True)
        ids = torch.nn.utils.rnn.pad_sequence([part.long() for part in parts], batch_first=True)
        yield list(owners), ids, torch.tensor([len(part) for part in parts])


def _logits(backbone: Backbone, ids: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """(B, L) to (B, L - 1, V), of all positions but the last."""
    device = next(backbone.parameters()).device
    positions = torch.arange(ids.size(1), device=device).expand(ids.shape)
    hidden = backbone(backbone.embed(ids.to(device)), positions, lens.to(device)).hidden
    return backbone.logits(hidden[:, :-1])


def _draw(backbone: Backbone, start: int, end: int, chances: torch.Tensor) -> torch.Tensor:
    """Tokens by inverting the distribution function at each chance (B, L), what is behind an end meaning nothing."""
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
