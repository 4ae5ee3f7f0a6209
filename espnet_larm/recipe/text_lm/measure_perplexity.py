"""Stage 8: the perplexity of a text by an LM, trained here or ready-made.

Per word is comparable between LMs of other tokens; each sentence's end counts as a word. The text must be spelled as
the LM's was: in capitals, or not.

    python -m espnet_larm lm-perplexity --llm exp/lm --text data/test/text
"""

import argparse
from pathlib import Path

from espnet_larm.data.text import read_sentences
from espnet_larm.recipe.text_lm.lm_folder import trained_options
from espnet_larm.recipe.text_lm.program_options import HelpWithDefaults, add_ngpu, check_gpu

# Where nothing says what the LM was trained with.
BLOCK_SIZE = 256


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpWithDefaults)
    parser.add_argument("--llm", required=True, help="folder or hub id")
    text_help = "as llm_train takes them; by default what it held out: valid.txt of the LM's folder"
    parser.add_argument("--text", type=Path, nargs="+", default=[], help=text_help)
    parser.add_argument("--num_lines", type=int, default=0, help="last lines of the text alone; 0 for all")
    block_help = f"tokens of a block, which sees nothing before it; 0 for that of its training, or {BLOCK_SIZE}"
    parser.add_argument("--block_size", type=int, default=0, help=block_help)
    parser.add_argument("--num_blocks", type=int, default=0, help="first blocks alone; 0 for all")
    parser.add_argument("--batch_size", type=int, default=16, help="blocks at a time")
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Print text and perplexity."""
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
    from espnet_larm.recipe.text_lm.perplexity import measure_perplexity

    text = pack_sentences(load_tokenizer(args.llm), sentences)
    backbone = Backbone.from_pretrained(args.llm)
    block_size = _block_size(args.llm, args.block_size, backbone.max_positions)
    model = backbone.model.to("cuda" if args.ngpu else "cpu")
    perplexity = measure_perplexity(model, text, block_size, args.num_blocks, args.batch_size)
    print(f"{args.llm}: {text}\nperplexity: {perplexity}, in blocks of {block_size}")
    return 0


def _block_size(llm: str, wanted: int, max_positions: int) -> int:
    """The one that is wanted, or what the LM is used to."""
    if wanted > max_positions:
        raise ValueError(f"--block_size {wanted} is more than the {max_positions} positions of the LM; lower it.")
    trained = trained_options(Path(llm)) or {}
    return wanted or min(trained.get("block_size", BLOCK_SIZE), max_positions)
