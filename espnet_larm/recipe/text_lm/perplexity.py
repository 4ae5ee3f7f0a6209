"""How well an LM predicts a text.

The text is read in blocks: within a block, each token but the first is predicted from those before it.
Shapes: B blocks, L positions of a block, V tokens.
"""

import math
from typing import NamedTuple

import torch

from espnet_larm.llm.packing import PackedText


class Perplexity(NamedTuple):
    """Of a text.

    Attributes:
        per_token: Of the tokens that were predicted.
        per_word: What this makes of a word, each sentence's end being counted as a word: comparable between tokenizers.
        num_tokens: How many were predicted.
    """

    per_token: float
    per_word: float
    num_tokens: int

    def __str__(self) -> str:
        """What the programs print."""
        return f"{self.per_token:.2f} per token, {self.per_word:.1f} per word ({self.num_tokens} tokens predicted)"


@torch.no_grad()
def measure_perplexity(
    model: torch.nn.Module, text: PackedText, block_size: int, num_blocks: int = 0, batch_size: int = 32
) -> Perplexity:
    """Measure it, in the type of the weights; the sums are float64.

    Args:
        model: HF's causal LM, left in eval mode or training as it was.
        text: In the LM's tokens; two of them at least.
        block_size: L.
        num_blocks: How many, from the start of the text; 0 for all, the shorter last one included.
        batch_size: Blocks at a time.

    Returns:
        The perplexities; words are those of all the text, as if the rest were predicted as well as these blocks.
    """
    device = next(model.parameters()).device
    chosen = text.tokens[: num_blocks * block_size] if num_blocks else text.tokens
    num_whole = len(chosen) // block_size
    whole = chosen[: num_whole * block_size].reshape(num_whole, block_size)
    batches = list(whole.split(batch_size)) if num_whole else []
    if len(rest := chosen[num_whole * block_size :]) > 1:
        batches.append(rest.unsqueeze(0))
    was_training, total, num_tokens = model.training, 0.0, 0
    model.eval()
    for batch in batches:
        ids = batch.to(device, torch.long)  # (B, L)
        logits = model(input_ids=ids).logits[:, :-1].float()  # (B, L - 1, V)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        total += losses.double().sum().item()
        num_tokens += losses.numel()
    model.train(was_training)
    mean = total / num_tokens
    tokens_per_word = len(text.tokens) / (text.num_words + text.num_sentences)
    return Perplexity(math.exp(mean), math.exp(mean * tokens_per_word), num_tokens)
