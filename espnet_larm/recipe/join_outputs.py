"""End of stage 12: joins the outputs of parallel decoding jobs in one folder.

Examples:
    espnet-larm join-outputs --input_dirs logdir/output.1 logdir/output.2 --output_dir exp/asr_x/decode_y/test

`1best_recog/` becomes the folder's own files; `loop<k>/` and `<n>best_recog/` keep their folders; `stats.json` is
summed. Such folders that only an earlier decoding made are removed, or they would be taken for this one's.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_larm.data.kaldi_dir import read_table, write_tables
from espnet_larm.files.atomic import write_text
from espnet_larm.files.locks import locked
from espnet_larm.scoring.experiment import is_of_a_decoding, mean_loops

LOOPS = "loops"
TABLES = ("text", "token", "token_int", "score", LOOPS)
CTM = "ctm"
BEST = "1best_recog"
NOT_ADDED = (
    *("peak_", "wall_", "ctc_weight", "ngram_weight", "lm_weight"),
    *("word_bonus", "oov_penalty", "num_words", "num_hotwords", "hotword_weight", "is_open"),
)
# Settings, which all jobs share, and ratios, which are made anew.
FROM_FIRST = (
    *("search", "drafting", "pooling", "leaving", "mean_loops"),
    *("acceptance", "retention", "tokens_per_row_call", "row_calls_per_word", "accepted_by_fraction"),
)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input_dirs", type=Path, nargs="+", required=True, help="outputs of the jobs")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Join the outputs and print the number of utterances."""
    args = get_parser().parse_args(cmd)
    with locked(args.output_dir):
        return _join(args)


def _join(args: argparse.Namespace) -> int:
    folders = sorted({path.parent.name for job in args.input_dirs for path in job.glob("*/text")})
    if BEST not in folders:
        raise FileNotFoundError(f"{args.input_dirs[0]}/{BEST}/text is missing; the decoding jobs wrote no result.")
    for name in folders:
        target = args.output_dir if name == BEST else args.output_dir / name
        tables = _join_tables([job / name for job in args.input_dirs])
        write_tables(target, tables)
        if LOOPS not in tables and (target / LOOPS).is_file():
            # Of an earlier decoding, in which each utterance had loops of its own.
            (target / LOOPS).unlink()
        join_ctm([job / name for job in args.input_dirs], target)
    for path in args.output_dir.glob("*/"):
        if is_of_a_decoding(path.name) and path.name not in folders:
            shutil.rmtree(path)
    statistics = [json.loads(path.read_text()) for job in args.input_dirs if (path := job / "stats.json").is_file()]
    if statistics:
        write_text(args.output_dir / "stats.json", json.dumps(join_statistics(statistics), indent=2) + "\n")
    num_utterances = len(read_table(args.output_dir / "text"))
    print(f"{len(args.input_dirs)} job(s) -> {args.output_dir}: {num_utterances} utterances")
    return 0


def _join_tables(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Join the lines of tables that have one name in several folders.

    Raises:
        ValueError: An utterance was decoded by two jobs.
    """
    joined: dict[str, dict[str, str]] = {}
    for folder in folders:
        for name in TABLES:
            if not (folder / name).is_file():
                continue
            lines, table = read_table(folder / name), joined.setdefault(name, {})
            if twice := sorted(lines.keys() & table.keys()):
                raise ValueError(f"{folder / name}: {twice[0]} was decoded by another job too; repeat stage 12.")
            table.update(lines)
    return joined


def join_ctm(folders: Sequence[Path], target: Path) -> None:
    """Join the times of words, by utterance; without any, remove the `ctm` of an earlier decoding."""
    lines = [
        line
        for folder in folders
        if (folder / CTM).is_file()
        for line in (folder / CTM).read_text(encoding="utf-8").splitlines(keepends=True)
    ]
    if not any((folder / CTM).is_file() for folder in folders):
        (target / CTM).unlink(missing_ok=True)
        return
    # The sort is stable: the words of an utterance stay in their order.
    write_text(target / CTM, "".join(sorted(lines, key=lambda line: line.split()[0])))


def join_statistics(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the records of several jobs into that of the whole set.

    Numbers are added, but the largest peak, wall time and weight is taken; texts and settings are the first job's.
    """
    joined: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            joined[key] = _join_values(key, joined[key], value) if key in joined else value
    if "loops_used" in joined:
        joined["mean_loops"] = mean_loops(joined["loops_used"])
    if "drafted" not in joined:
        return joined
    # Imports torch.
    from espnet_larm.recognize.output.effort import ratios

    return {**joined, **ratios(joined)}


def _join_values(key: str, first: Any, second: Any) -> Any:
    if key in FROM_FIRST:
        return first
    if isinstance(first, dict) and isinstance(second, dict):
        return join_statistics([first, second])
    if isinstance(first, bool | str) or first is None or second is None:
        return first
    if isinstance(first, list):
        return first if first == second else first + second
    return max(first, second) if key.startswith(NOT_ADDED) else first + second
