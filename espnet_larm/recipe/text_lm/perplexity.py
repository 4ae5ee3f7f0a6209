"""Stage 8: the perplexity of a text by an LM, trained here or ready-made.

Per word is comparable between LMs of other tokens; each sentence's end counts as a word. The text must be spelled as
the LM's was: in capitals, or not. It is read in blocks: within a block, each token but the first is predicted from
those before it.
Shapes: B blocks, L positions of a block, V tokens.

Examples:
    espnet-larm lm-perplexity --llm exp/lm --text data/test/text
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_larm.data.text import read_sentences
from espnet_larm.recipe.text_lm.options import HelpWithDefaults, add_ngpu, check_gpu, trained_options

if TYPE_CHECKING:
    from espnet_larm.llm.packing import PackedText

# Block size of an LM whose training is not recorded.
BLOCK_SIZE = 256
# Of a batch: a block of 512 tokens of Gemma 3, in float32 512 MiB.
MOST_LOGITS = 2**27


class Perplexity(NamedTuple):
    """Perplexity of a text.

    Attributes:
        per_token: Perplexity of a token, over the tokens that were predicted.
        per_word: Perplexity of a word, each sentence's end counted as one: comparable between tokenizers.
        num_tokens: Number of tokens that were predicted.
    """

    per_token: float
    per_word: float
    num_tokens: int

    def __str__(self) -> str:
        """Line that the programs print."""
        return f"{self.per_token:.2f} per token, {self.per_word:.1f} per word ({self.num_tokens} tokens predicted)"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--llm", required=True, help="folder or hub id of the LM")
    text_help = "files as train-lm takes them; by default the text that it held out: valid.txt of the LM's folder"
    parser.add_argument("--text", type=Path, nargs="+", default=[], help=text_help)
    parser.add_argument("--num_lines", type=int, default=0, help="number of last lines of the text to read; 0 for all")
    block_help = f"tokens of a block, which sees nothing before it; 0 for that of its training, or {BLOCK_SIZE}"
    parser.add_argument("--block_size", type=int, default=0, help=block_help)
    parser.add_argument("--num_blocks", type=int, default=0, help="number of first blocks to read; 0 for all")
    parser.add_argument("--batch_size", type=int, default=16, help="blocks at a time")
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Measure, and print text and perplexity."""
    args = get_parser().parse_args(cmd)
    for name, least in (("batch_size", 1), ("num_lines", 0), ("num_blocks", 0)):
        if vars(args)[name] < least:
            raise ValueError(f"--{name} {vars(args)[name]} must be at least {least}.")
    if args.block_size == 1 or args.block_size < 0:
        raise ValueError(f"--block_size {args.block_size}; allowed: 2 or more, or 0.")
    check_gpu(args.ngpu)
    sentences = read_sentences(args.text or [Path(args.llm) / "valid.txt"])[-args.num_lines :]
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import Backbone, load_tokenizer
    from espnet_larm.llm.packing import pack_sentences

    text = pack_sentences(load_tokenizer(args.llm), sentences)
    backbone = Backbone.from_pretrained(args.llm)
    block_size = _block_size(args.llm, args.block_size, backbone.max_positions)
    model = backbone.model.to("cuda" if args.ngpu else "cpu")
    perplexity = measure_perplexity(model, text, block_size, args.num_blocks, args.batch_size)
    print(f"{args.llm}: {text}\nperplexity: {perplexity}, in blocks of {block_size}")
    return 0


def _block_size(llm: str, wanted: int, max_positions: int) -> int:
    """Block size that is wanted, or else that of the LM's training."""
    if wanted > max_positions:
        raise ValueError(f"--block_size {wanted} is more than the {max_positions} positions of the LM; lower it.")
    trained = trained_options(Path(llm)) or {}
    return wanted or min(trained.get("block_size", BLOCK_SIZE), max_positions)


def measure_perplexity(
    model: Any, text: "PackedText", block_size: int, num_blocks: int = 0, batch_size: int = 32
) -> Perplexity:
    """Measure the perplexity of a text in the type of the weights, with sums in float64.

    Args:
        model: Hugging Face's causal LM, left in eval or training mode as it was.
        text: Text in the LM's tokens; two of them at least.
        block_size: Tokens of a block, L.
        num_blocks: Number of blocks from the start of the text; 0 for all, the shorter last one included.
        batch_size: Most blocks at a time; fewer where their logits would take more than a block's, or 512 MiB.

    Returns:
        The perplexities; words are those of all the text, as if the rest were predicted as well as these blocks.
    """
    import torch

    device = next(model.parameters()).device
    chosen = text.tokens[: num_blocks * block_size] if num_blocks else text.tokens
    num_whole = len(chosen) // block_size
    whole = chosen[: num_whole * block_size].reshape(num_whole, block_size)
    rows = min(batch_size, max(1, MOST_LOGITS // (block_size * model.config.vocab_size)))
    batches = list(whole.split(rows)) if num_whole else []
    if len(rest := chosen[num_whole * block_size :]) > 1:
        batches.append(rest.unsqueeze(0))
    was_training, total, num_tokens = model.training, 0.0, 0
    model.eval()
    for batch in batches:
        ids = batch.to(device, torch.long)  # (B, L)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, :-1].float()  # (B, L - 1, V)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        total += losses.double().sum().item()
        num_tokens += losses.numel()
    model.train(was_training)
    mean = total / num_tokens
    tokens_per_word = len(text.tokens) / (text.num_words + text.num_sentences)
    return Perplexity(math.exp(mean), math.exp(mean * tokens_per_word), num_tokens)
