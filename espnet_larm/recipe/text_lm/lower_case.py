"""Copies an LM of capitals so that it reads and writes small letters: each token's letters change, no weight does.

For a recogniser of small letters and an LM of capitals, such as one of LibriSpeech's text. The tokens must be in
capitals alone: two that would become one are refused.

Examples:
    espnet-larm lower-case-lm --llm models/novels-3M --output_dir exp/novels-3M-lower
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from espnet_larm.recipe.text_lm.options import HelpWithDefaults

TOKENIZER = "tokenizer.json"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--llm", type=Path, required=True, help="folder of the LM, with a BPE tokenizer.json")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write, not there yet")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Copy."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.files.atomic import folder_beside

    path = args.llm / TOKENIZER
    if not path.is_file():
        raise FileNotFoundError(f"--llm {args.llm} has no {TOKENIZER}; name the folder of an LM with a tokenizer.")
    if args.output_dir.exists():
        raise ValueError(f"--output_dir {args.output_dir} is there already; name another, or remove it.")
    changed = lower_tokenizer(json.loads(path.read_text(encoding="utf-8")), str(path))
    with folder_beside(args.output_dir) as beside:
        part = beside / "lm"
        shutil.copytree(args.llm, part, copy_function=shutil.copyfile)
        (part / TOKENIZER).write_text(json.dumps(changed, ensure_ascii=False), encoding="utf-8")
        part.replace(args.output_dir)
    print(f"{args.output_dir}: {args.llm} with {len(changed['model']['vocab'])} tokens in small letters")
    return 0


def lower_tokenizer(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The content of a tokenizer.json with small letters in its tokens and merges, special tokens as they are.

    Raises:
        ValueError: It is no BPE, or two tokens would become one.
    """
    model = content.get("model", {})
    if model.get("type") != "BPE":
        raise ValueError(f"{name} is of type {model.get('type')}; allowed: BPE.")
    special = {each["content"] for each in content.get("added_tokens", ())}
    pairs = {token: token if token in special else token.lower() for token in model["vocab"]}
    if len({*pairs.values()}) != len(pairs):
        raise ValueError(f"{name} has tokens that differ in case alone; take an LM of capitals.")
    merges = [
        merge.lower() if isinstance(merge, str) else [part.lower() for part in merge] for merge in model["merges"]
    ]
    vocab = {pairs[token]: number for token, number in model["vocab"].items()}
    return {**content, "model": {**model, "vocab": vocab, "merges": merges}}
