r"""Stages 6 and 7: trains a small Llama from text, tokenizer included, that can stand wherever an LM is named.

It is trained on blocks of `<s> sentence </s>` and measured on text that it never sees. The same command resumes it; a
SIGTERM lets it save and end with status 75. --output_dir gets config.json, weights and tokenizer as Hugging Face's
programs load them, training.json (how it was made, and its perplexity) and valid.txt (what that was measured on).
What was begun in a folder is continued with the same options only. The folder has `tokenizer/` (with the LM's
config.json, so that its tokens are known before its weights) and, while it is trained, `checkpoints/`.

Examples:
    espnet-larm train-lm --text novels.txt.gz --num_valid_lines 6000 --output_dir exp/lm
    espnet-larm train-lm --config conf/librispeech/train_lm_3m.yaml --text data/train/text more.txt \
        --valid_text data/dev/text --output_dir exp/lm --ngpu 0
"""

import argparse
import json
import logging
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_larm.data.text import fingerprint, read_sentences
from espnet_larm.files.atomic import folder_beside, move_synced, write_text
from espnet_larm.files.locks import locked
from espnet_larm.origin import provenance
from espnet_larm.recipe.text_lm.options import (
    OPTIONS,
    RECORD,
    SCHEDULES,
    HelpWithDefaults,
    ModelSize,
    Schedule,
    add_fields,
    add_ngpu,
    begun_options,
    check_gpu,
    check_options,
    check_same,
    options_of_yaml,
    read_bool,
    trained_options,
)
from espnet_larm.train.stopping import REQUEUE_STATUS, StopRequest

if TYPE_CHECKING:
    from espnet_larm.llm.packing import PackedText

PROGRAM = "python -m espnet_larm train-lm"
# Packages whose versions decide numbers, beside those that origin names.
PACKAGES = ("transformers", "tokenizers")
# The last files to be moved in: nothing loads a folder without config.json, and with a record it is complete.
LAST_FILES = ("config.json", RECORD)

logger = logging.getLogger(__name__)


class Texts(NamedTuple):
    """Texts in the LM's tokens.

    Attributes:
        train: Text to learn from.
        valid: Text to measure on.
        valid_sentences: The text to measure on, in words.
    """

    train: "PackedText"
    valid: "PackedText"
    valid_sentences: list[str]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--config", type=Path, help="YAML with further options; the command line overrides it")
    text_help = "plain or .gz, a sentence a line; in files called `text`, Kaldi's, the first word is an id and not read"
    parser.add_argument("--text", type=Path, nargs="+", required=True, help=text_help)
    valid_help = "files to measure on, read alike"
    parser.add_argument("--valid_text", type=Path, nargs="+", default=[], help=valid_help)
    lines_help = "number of last lines of --text to measure on where --valid_text is not given"
    parser.add_argument("--num_valid_lines", type=int, default=1000, help=lines_help)
    blocks_help = "number of their blocks that are measured; 0 for all"
    parser.add_argument("--num_valid_blocks", type=int, default=256, help=blocks_help)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the LM, made here")
    parser.add_argument("--tokenizer_only", type=read_bool, default=False, help="true ends with OUTPUT_DIR/tokenizer")
    vocab_help = "tokens of the BPE tokenizer, special ones included"
    parser.add_argument("--vocab_size", type=int, default=1000, help=vocab_help)
    add_fields(parser.add_argument_group("size of the Llama"), ModelSize, {})
    add_fields(parser.add_argument_group("training"), Schedule, {"lr_schedule": SCHEDULES})
    parser.add_argument("--save_steps", type=int, default=500, help="steps between two checkpoints")
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Train tokenizer and LM, or what is left of it.

    Returns:
        0, or REQUEUE_STATUS after a SIGTERM.
    """
    words = sys.argv[1:] if cmd is None else cmd
    args = _parse(words)
    with locked(args.output_dir):
        return _train_rest(args, words)


def _train_rest(args: argparse.Namespace, words: list[str]) -> int:
    """Train what is left of tokenizer and LM."""
    size = ModelSize(*(vars(args)[name] for name in ModelSize._fields))
    schedule = Schedule(*(vars(args)[name] for name in Schedule._fields))
    check_options(size, schedule)
    sentences, valid_sentences = _read(args)
    tokenizer_options = {
        "text": [fingerprint(path) for path in args.text],
        "num_valid_lines": 0 if args.valid_text else args.num_valid_lines,
        **{name: vars(args)[name] for name in ("vocab_size", "max_positions")},
    }
    valid_files = [fingerprint(path) for path in args.valid_text]
    options = {**tokenizer_options, "valid_text": valid_files, **size._asdict(), **schedule._asdict()}
    done = trained_options(args.output_dir)
    check_same(args.output_dir, done, options)
    if done is not None:
        print(f"{args.output_dir} is trained already ({args.output_dir / RECORD}); nothing is left to do")
        return 0
    config, texts = _prepare(args, size, tokenizer_options, sentences, valid_sentences)
    if args.tokenizer_only:
        return 0
    check_same(args.output_dir, begun_options(args.output_dir / "checkpoints", "checkpoint-*"), options)
    write_text(args.output_dir / "checkpoints" / OPTIONS, as_json(options))
    return _train(args, schedule, config, texts, {"options": options, "command": f"{PROGRAM} {shlex.join(words)}"})


def _parse(words: list[str]) -> argparse.Namespace:
    parser = get_parser()
    args = parser.parse_args(words)
    if args.config is not None:
        args = parser.parse_args([*options_of_yaml(args.config, parser), *words])
    if args.save_steps < 1:
        raise ValueError(f"--save_steps {args.save_steps} must be at least 1.")
    if not args.tokenizer_only:
        check_gpu(args.ngpu)
    return args


def _read(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Read the text to train on, and the text to measure on."""
    sentences = read_sentences(args.text)
    if args.valid_text:
        return sentences, read_sentences(args.valid_text)
    if not 0 < args.num_valid_lines < len(sentences):
        raise ValueError(
            f"--num_valid_lines {args.num_valid_lines} of {len(sentences)} sentences are to be held out; allowed: 1 to "
            f"{len(sentences) - 1}, or give --valid_text."
        )
    return sentences[: -args.num_valid_lines], sentences[-args.num_valid_lines :]


def _prepare(
    args: argparse.Namespace, size: ModelSize, options: dict[str, Any], sentences: list[str], valid_sentences: list[str]
) -> tuple[Any, Texts]:
    """Make the LM's configuration, and the texts in tokens of the tokenizer that is there or that is trained."""
    # transformers takes seconds to import.
    from espnet_larm.llm.backbone import load_tokenizer
    from espnet_larm.llm.packing import pack_sentences
    from espnet_larm.recipe.text_lm.training import make_config, train_tokenizer

    folder = args.output_dir / "tokenizer"
    begun = begun_options(folder, "tokenizer.json")
    check_same(args.output_dir, begun, options)
    if begun is None:
        tokenizer = train_tokenizer(sentences, args.vocab_size, args.max_positions)
    else:
        tokenizer = load_tokenizer(str(folder))
    config = make_config(size, tokenizer)
    texts = Texts(pack_sentences(tokenizer, sentences), pack_sentences(tokenizer, valid_sentences), valid_sentences)
    # Saved only once the texts are known to fit: options that are written bind.
    if begun is None:
        _save_tokenizer(folder, tokenizer, config, options)
    print(f"tokenizer: {len(tokenizer)} tokens\ntraining text: {texts.train}\nheld-out text: {texts.valid}")
    return config, texts


def _save_tokenizer(folder: Path, tokenizer: Any, config: Any, options: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with folder_beside(folder) as part:
        tokenizer.save_pretrained(part)
        config.save_pretrained(part)
        _move_in(part, folder)
    write_text(folder / OPTIONS, as_json(options))


def _train(args: argparse.Namespace, schedule: Schedule, config: Any, texts: Texts, record: dict[str, Any]) -> int:
    import torch

    from espnet_larm.llm.packing import whole_blocks
    from espnet_larm.recipe.text_lm.perplexity import Perplexity, measure_perplexity
    from espnet_larm.recipe.text_lm.training import train_llama

    def measure(model: Any) -> Perplexity:
        return measure_perplexity(model, texts.valid, schedule.block_size, args.num_valid_blocks, schedule.batch_size)

    stop, start, checkpoints = StopRequest(), time.monotonic(), args.output_dir / "checkpoints"
    with stop.listen():
        model = train_llama(
            config,
            whole_blocks(texts.train, schedule.block_size),
            schedule,
            checkpoints,
            args.save_steps,
            bool(args.ngpu),
            measure,
            lambda: stop.is_made,
        )
    if model is None:
        logger.info("a SIGTERM came: the same command resumes from %s", checkpoints)
        return REQUEUE_STATUS
    perplexity = measure(model)
    record |= {
        "perplexity": perplexity._asdict(),
        "num_parameters": model.num_parameters(),
        "training_text": str(texts.train),
        "held_out_text": str(texts.valid),
        "seconds_since_resumed": round(time.monotonic() - start),
        **provenance(torch.device("cuda" if args.ngpu else "cpu"), *PACKAGES),
    }
    with folder_beside(args.output_dir / RECORD) as part:
        model.save_pretrained(part)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(args.output_dir / "tokenizer" / name, part)
        (part / "valid.txt").write_text("".join(f"{text}\n" for text in texts.valid_sentences), encoding="utf-8")
        (part / RECORD).write_text(as_json(record), encoding="utf-8")
        _move_in(part, args.output_dir)
    shutil.rmtree(checkpoints)
    print(f"{args.output_dir}: {record['num_parameters']} parameters; perplexity of the held-out text: {perplexity}")
    return 0


def as_json(content: dict[str, Any]) -> str:
    """Text of a JSON file."""
    return json.dumps(content, indent=2) + "\n"


def _move_in(part: Path, folder: Path) -> None:
    """Move the files of an LM or tokenizer to their folder, LAST_FILES at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {name: rank for rank, name in enumerate(LAST_FILES, 1)}
    for path in sorted(part.iterdir(), key=lambda path: (order.get(path.name, 0), path.name)):
        move_synced(path, folder / path.name)
