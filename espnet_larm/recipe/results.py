"""Stage 13, after scoring: RESULTS.md and a picture of everything scored in an experiment's folder.

Examples:
    espnet-larm results --exp_dir exp/asr_x

Writes `RESULTS.md` (tables by set and loop with intervals and real-time factors, and what they came from: commit,
configuration, command, seed, data, machine, date, versions) and `images/wer_by_loops.png`.
"""

import argparse
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.files.atomic import write_text
from espnet_larm.files.reading import read_yaml
from espnet_larm.origin import in_words, provenance, without_root
from espnet_larm.scoring.experiment import SetResult, find_results
from espnet_larm.scoring.picture import draw_wer
from espnet_larm.scoring.tables import apart_from_silence, format_summary, format_tables

if TYPE_CHECKING:
    from espnet_larm.train.journal import Spent
    from espnet_larm.train.learning import LearningPart

PICTURE = "images/wer_by_loops.png"
# Options that egs/utils/asr_parts.sh appends to the command in an experiment's run.sh.
RESUME_OPTIONS = '--stage train --stop_stage upload "$@"'


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder with config.yaml and scored sets below it")
    parser.add_argument("--note", default="", help="sentence at the top of RESULTS.md")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write both files and print the tables."""
    args = get_parser().parse_args(cmd)
    results = find_results(args.exp_dir)
    config = read_config(args.exp_dir / "config.yaml")
    conf = config.get("encoder_conf") or {}
    spoken, silent = apart_from_silence(results)
    drawn = draw_wer(spoken, args.exp_dir / PICTURE, conf.get("num_loops"))
    tables = [*silent, *format_tables(spoken)]
    lines = [
        f"# RESULTS of {args.exp_dir.resolve().name}",
        "",
        *([args.note, ""] if args.note else []),
        *format_summary(spoken),
        *([f"![Word error rate by loops and by compute]({PICTURE})", ""] if drawn else []),
        "Written by `python -m espnet_larm results`.",
        "",
        *(f"- {name}: {value}" for name, value in describe(args.exp_dir, config, results)),
        "",
        *tables,
    ]
    write_text(args.exp_dir / "RESULTS.md", "\n".join(lines).rstrip() + "\n")
    print("\n".join(tables))
    return 0


def read_config(path: Path) -> dict[str, Any]:
    """Read the options of the training; none if the file is not there."""
    return read_yaml(path) if path.is_file() else {}


def describe(exp_dir: Path, config: Mapping[str, Any], results: Sequence[SetResult]) -> Iterator[tuple[str, str]]:
    """Yield what the numbers came from: (name, text)."""
    # torch takes seconds to import.
    import torch

    from espnet_larm.train.journal import JOURNAL, read_journal

    scoring = provenance(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    yield "date", f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    yield "commit of scoring", scoring["commit"]
    yield "versions of scoring", in_words(scoring["versions"])
    yield "configuration", without_root(str(config.get("config") or "not recorded"))
    yield "command", command(exp_dir)
    yield "seed", str(config.get("seed", "not recorded"))
    yield from _describe_training(read_journal(exp_dir / JOURNAL))
    for name in ("train", "valid"):
        paths = [path for path, *_ in config.get(f"{name}_data_path_and_name_and_type") or []]
        yield f"{name} data", _describe_data(paths)
    yield "machine of scoring", in_words(scoring["machine"])
    for result in results:
        yield f"decoding of {result.tag}/{result.name}", describe_decoding(result.stats)


def _describe_training(spent: "Spent | None") -> Iterator[tuple[str, str]]:
    """Yield what the training came from, which need not be what scoring came from."""
    if spent is None:
        yield "training", "not recorded"
        return
    from espnet_larm.train.learning import LearningPart

    sessions = count(len(spent.starts), "session")
    if spent.starts[1:]:
        sessions += f", resumed {count(len(spent.starts) - 1, 'time')}"
    epochs = f"{count(len(spent.epochs), 'epoch')} in {duration(spent.seconds)}"
    yield "training", f"{epochs}; {sessions}; began {spent.starts[0]['time']}"
    yield "trainable", _describe_learning([LearningPart(**each) for each in spent.starts[-1].get("parameters", ())])
    yield "commits of training", all_of(start["commit"] for start in spent.starts)
    yield "versions of training", all_of(in_words(start["versions"]) for start in spent.starts)
    machines = (f"{in_words(start['machine'])}, processes {start['num_processes']}" for start in spent.starts)
    yield "machines of training", all_of(machines)


def _describe_learning(found: "Sequence[LearningPart]") -> str:
    """Say how much of the model learned, and of each part."""
    if not found:
        return "not recorded"
    from espnet_larm.train.learning import percent, sum_of

    total = sum_of(found)
    parts = (f"{each.part} {millions(each.trainable)} of {millions(each.total)}" for each in found)
    return f"{millions(total.trainable)} of {millions(total.total)} ({percent(total):.1f} %): {', '.join(parts)}"


def millions(number: int) -> str:
    """Write a number in millions: `0.94 M`."""
    return f"{number / 1e6:.2f} M"


def count(number: int, name: str) -> str:
    """Write a number with its noun: `1 epoch`, `2 epochs`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write a duration for people: `59 s`, `12 min 5 s` or `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def all_of(texts: Iterable[str]) -> str:
    """Join the texts that differ, in their order."""
    return "; ".join(dict.fromkeys(texts))


def command(exp_dir: Path) -> str:
    """Command that the recipe left in the experiment's run.sh."""
    script = exp_dir / "run.sh"
    lines = script.read_text(encoding="utf-8").splitlines() if script.is_file() else []
    for line in lines:
        if line.startswith("exec "):
            return f"`{without_root(line.removeprefix('exec ').removesuffix(RESUME_OPTIONS)).strip()}`"
    return "not recorded"


def _describe_data(paths: Sequence[str]) -> str:
    """Name the folders of data files, and how many utterances they have."""
    folders = list(dict.fromkeys(Path(path).parent for path in paths))
    described = []
    for folder in folders:
        text = folder / "text"
        num_utts = len(text.read_text(encoding="utf-8").splitlines()) if text.is_file() else None
        amount = "" if num_utts is None else f" ({count(num_utts, 'utterance')})"
        described.append(f"{without_root(str(folder))}{amount}")
    return ", ".join(described) or "not recorded"


def describe_decoding(stats: Mapping[str, Any]) -> str:
    """Say what was decoded, on which machine and with how much memory."""
    if not stats:
        return "not recorded"
    from espnet_larm.recognize.output.effort import describe_frames, describe_leaving, describe_search

    text = (
        f"{stats['num_utts']} utterances, {stats['audio_seconds'] / 60:.1f} min; {in_words(stats.get('machine', {}))}; "
    )
    text += f"peak memory {stats['peak_memory_bytes'] / 2**20:.0f} MiB"
    for name, what in (("skipped", "not decoded"), ("failed", "unreadable")):
        if stats.get(name):
            text += f"; {len(stats[name])} {what}"
    if "leaving" in stats:
        text += f"; {describe_leaving(stats)}"
    if "frames" in stats:
        text += f"; {describe_frames(stats['frames'])}"
    ngram = f", ngram_weight {stats['ngram_weight']} ({stats['ngram_file']})" if stats.get("ngram_file") else ""
    if "decoder_calls" in stats:
        guarded = ", ".join(f"{guard} {len(keys)}" for guard, keys in stats["guarded"].items())
        text += f"; {stats['decoder_calls']} decoder calls, ctc_weight {stats['ctc_weight']}{ngram}"
        text += f"; guards met: {guarded}"
        # Sets that an earlier version decoded have no such figures.
        text += f"; {describe_search(stats)}" if "drafting" in stats else ""
    elif ngram or stats.get("num_words") or stats.get("lm_file"):
        text += f"; beam_size {stats['search']['beam_size']}"
    if "decoder_calls" not in stats and (ngram or stats.get("num_words")):
        hotwords = f", {stats['num_hotwords']} hotwords" if stats["num_hotwords"] else ""
        text += f"{ngram}, word_bonus {stats['word_bonus']:g}, "
        text += f"{stats['num_words']} words{hotwords}, {'any others' if stats['is_open'] else 'no others'}"
    text += f", lm_weight {stats['lm_weight']:g} ({stats['lm_file']})" if stats.get("lm_file") else ""
    if stats.get("num_halved_batches"):
        text += f"; {stats['num_halved_batches']} times a batch was halved for lack of memory"
    return text
