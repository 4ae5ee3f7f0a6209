#!/usr/bin/env python3
"""egs/librispeech/run.sh up to the statistics, on as many utterances as LibriSpeech has, of short audio.

Nobody waits for a training to learn that the preparation of 960 hours takes too much disk or time. The corpus is
generated: LibriSpeech's splits, speakers and numbers of utterances, whose audio are a few recordings that are cut short
and linked again and again, and whose transcripts are words of a text. Each stage is timed by itself, with the bytes
that it leaves. With several lengths of audio a line through them says what a stage takes at LibriSpeech's own length.

    python tools/bench/dry_run.py --audio ../shared/data/an4/flac --text ../shared/data/text/novels_pre1900.norm.txt.gz
        --work_dir dry --subset 100 --seconds 0.8 2.4
    python tools/bench/dry_run.py ... --subset 960 --seconds 0.8 --nj 4
"""

import argparse
import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from benching import new_parser, print_header

from espnet_larm.data.text import read_sentences
from espnet_larm.recipe.corpora.librispeech import NUM_UTTERANCES

ROOT = Path(__file__).parents[2]
STAGES = ("data", "speed", "format", "filter", "tokens", "stats")
TRAIN = {
    "100": ["train-clean-100"],
    "460": ["train-clean-100", "train-clean-360"],
    "960": ["train-clean-100", "train-clean-360", "train-other-500"],
}
# Hours of LibriSpeech (openslr.org/12) by its utterances: 982 h in 292,367.
MEAN_S = 12.1
PER_CHAPTER, CHAPTERS = 40, 3
FOLDERS = ("data", "dump", "exp")


class Cost(NamedTuple):
    """What a stage took.

    Attributes:
        seconds: Seconds.
        cpu_seconds: Seconds of all cores.
        num_bytes: Bytes that it left.
    """

    seconds: float
    cpu_seconds: float
    num_bytes: int


def main() -> None:
    """Make a corpus for each length, run the stages, print the rows."""
    parser = new_parser(__doc__)
    parser.add_argument("--audio", type=Path, required=True, help="folder with .flac files at 16 kHz")
    parser.add_argument("--text", type=Path, required=True, help="a sentence a line, plain or .gz, in capitals")
    parser.add_argument("--work_dir", type=Path, required=True, help="new folder for clones and corpora")
    parser.add_argument("--subset", choices=list(TRAIN), default="100", help="hours of training data (100)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.8], help="lengths of an utterance (0.8)")
    parser.add_argument("--nj", type=int, default=1, help="processes (1)")
    args = parser.parse_args()
    if args.work_dir.exists():
        raise SystemExit(f"--work_dir {args.work_dir} is there; name a new folder")
    work_dir = args.work_dir.resolve()
    work_dir.mkdir(parents=True)
    costs = []
    for seconds in args.seconds:
        corpus, recipe = work_dir / f"corpus_{seconds:g}", work_dir / f"clone_{seconds:g}"
        splits = [*TRAIN[args.subset], *(name for name in NUM_UTTERANCES if not name.startswith("train"))]
        number = make_corpus(corpus, splits, args, seconds)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(recipe)], check=True)
        print(f"{number} utterances of {seconds:g} s, --subset {args.subset}, --nj {args.nj}")
        print_header("stage", "seconds", "CPU seconds", "MB left")
        costs.append([])
        for stage in STAGES:
            cost = run_stage(recipe, stage, args, corpus)
            costs[-1].append(cost)
            print(f"| {stage} | {cost.seconds:.0f} | {cost.cpu_seconds:.0f} | {cost.num_bytes / 1e6:.0f} |", flush=True)
        shutil.rmtree(recipe)
        shutil.rmtree(corpus)
    if len(costs) > 1:
        print(f"by a line through {len(costs)} lengths, at {MEAN_S:g} s an utterance")
        print_header("stage", "CPU hours", "GB left")
        for number, stage in enumerate(STAGES):
            cpu = at_length(args.seconds, [each[number].cpu_seconds for each in costs])
            size = at_length(args.seconds, [float(each[number].num_bytes) for each in costs])
            print(f"| {stage} | {cpu / 3600:.2f} | {size / 1e9:.1f} |")


def at_length(lengths: Sequence[float], values: Sequence[float]) -> float:
    """What a line through the values says of LibriSpeech's mean length."""
    slope, start = np.polyfit(lengths, values, 1)
    return float(start + slope * MEAN_S)


def make_corpus(folder: Path, splits: Sequence[str], args: argparse.Namespace, seconds: float) -> int:
    """Write splits with audio of one length; gives the number of utterances."""
    short = folder / "short"
    short.mkdir(parents=True)
    files = list(cut(args.audio, short, seconds))
    texts, choice, number = sentences(args.text, max(1, round(2 * seconds))), random.Random(0), 0
    for index, split in enumerate(splits):
        count = NUM_UTTERANCES[split]
        for place in range(-(-count // PER_CHAPTER)):
            speaker, chapter = 1000 * (index + 1) + place // CHAPTERS, 100_000 + place
            chapter_dir = folder / split / str(speaker) / str(chapter)
            chapter_dir.mkdir(parents=True)
            with (chapter_dir / f"{speaker}-{chapter}.trans.txt").open("w") as lines:
                for each in range(min(PER_CHAPTER, count - place * PER_CHAPTER)):
                    name = f"{speaker}-{chapter}-{each:04d}"
                    os.link(choice.choice(files), chapter_dir / f"{name}.flac")
                    lines.write(f"{name} {next(texts)}\n")
                    number += 1
    return number


def cut(audio: Path, folder: Path, seconds: float) -> Iterator[Path]:
    """The loudest part of some recordings, as files of their own; a file may be linked 30,000 times."""
    for path in itertools.islice(sorted(audio.rglob("*.flac")), 200):
        samples, rate = soundfile.read(path)
        size = int(seconds * rate)
        if len(samples) < size:
            continue
        energy = np.concatenate([[0.0], np.cumsum(samples**2)])
        start = int(np.argmax(energy[size:] - energy[:-size]))
        soundfile.write(folder / path.name, samples[start : start + size], rate)
        yield folder / path.name


def sentences(path: Path, most: int) -> Iterator[str]:
    """Beginnings of a text's lines, over and over."""
    return itertools.cycle(" ".join(line.split()[:most]) for line in read_sentences([path], 200_000))


def run_stage(clone: Path, stage: str, args: argparse.Namespace, corpus: Path) -> Cost:
    """Run one stage of the recipe in a clone, with its output in a log."""
    recipe = clone / "egs" / "librispeech"
    command = [
        str(recipe / "run.sh"), "--subset", args.subset, "--librispeech", str(corpus), "--ngpu", "0",
        "--nj", str(args.nj), "--python", f"{sys.executable} -m espnet_larm", "--stage", stage, "--stop_stage", stage,
    ]  # fmt: skip
    before, size, begin = cpu_seconds(), size_of(recipe), time.perf_counter()
    with (args.work_dir / f"{stage}.log").open("a") as log:
        environment = {**os.environ, "PYTHONPATH": str(clone)}
        status = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    if status:
        raise SystemExit(f"stage {stage} ended with status {status}; {log.name} says why")
    return Cost(time.perf_counter() - begin, cpu_seconds() - before, size_of(recipe) - size)


def cpu_seconds() -> float:
    """Seconds of all cores that ended children have taken."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def size_of(recipe: Path) -> int:
    """Bytes of what the recipe has made."""
    paths = (path for name in FOLDERS if (recipe / name).is_dir() for path in (recipe / name).rglob("*"))
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
