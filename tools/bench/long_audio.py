#!/usr/bin/env python3
"""Transcribes an hour in one call: peak memory beside that of a minute, and word errors by cutting and joining.

    python tools/bench/long_audio.py --model egs/an4/exp/asr_x --an4_root ../shared/data/an4 \
        --librispeech ../shared/data/mini_librispeech/LibriSpeech

Joins utterances of AN4's test set and of a corpus in LibriSpeech's layout, as they are and in their order, into a file
of `--minutes` minutes in a temporary folder. It and its last minute are transcribed in fresh processes. Words are
scored where they are: a word belongs to the utterance that it is in the middle of, by the times of the CTC alignment.
Beside it, the same utterances recognised alone. Some minutes on a core, 120 MB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from benching import SAMPLE_RATE_HZ, new_parser

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import Utterance
from espnet_larm.origin import describe_machine
from espnet_larm.recipe.corpora.an4 import read_an4
from espnet_larm.recipe.corpora.librispeech import read_librispeech
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.machine import peak_memory_bytes
from espnet_larm.recognize.packs import load
from espnet_larm.scoring.alignment import Counts, add_counts, align, split_words

SPLITS = ("dev-clean-2", "test-clean", "test-other", "train-clean-5")
# Speech may lie so far outside of its alignment's peaks.
TOLERANCE_S = 0.1


class Part(NamedTuple):
    """An utterance in the joined file."""

    corpus: str
    utterance: Utterance
    start_s: float
    end_s: float


def main() -> int:
    """Join, transcribe, print."""
    args = parse_args()
    if args.worker is not None:
        print(json.dumps(transcribe(args, args.worker)))
        return 0
    cut = [f"--{name}={getattr(args, name)}" for name in ("longest_piece", "shortest_piece", "overlap")]
    with tempfile.TemporaryDirectory() as folder:
        minute, hour = Path(folder) / "minute.flac", Path(folder) / "hour.flac"
        parts = join(args, hour, 60.0 * args.minutes)
        write_end(hour, minute, 60.0)
        results = {path: run_fresh(args, path, cut) for path in (minute, hour)}
    for path, result in results.items():
        print_cost(path.stem, result)
    low, high = (results[path]["peak_bytes"] - results[path]["loaded_bytes"] for path in (minute, hour))
    print(
        f"above the loaded model: {low / 2**20:.0f} MiB for the minute, {high / 2**20:.0f} MiB for {args.minutes:g} min"
    )
    print_words(parts, results[hour]["words"], recognise_alone(args, parts))
    return 0


def parse_args() -> argparse.Namespace:
    """Options of this program."""
    parser = new_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a pack or of an experiment")
    parser.add_argument("--asr_model_file", help="file of weights in the folder")
    parser.add_argument("--an4_root", type=Path, required=True, help="folder that holds AN4's etc/")
    parser.add_argument("--librispeech", type=Path, required=True, help=f"folder that holds {', '.join(SPLITS)}")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of the long file (60)")
    parser.add_argument(
        "--longest_piece", type=float, default=DecodeConfig.longest_piece, help="longest piece, in seconds"
    )
    parser.add_argument(
        "--shortest_piece", type=float, default=DecodeConfig.shortest_piece, help="shortest piece, in seconds"
    )
    parser.add_argument("--overlap", type=float, default=DecodeConfig.overlap, help="overlap of pieces, in seconds")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def utterances(args: argparse.Namespace) -> Iterator[tuple[str, Utterance]]:
    """AN4's test set, then the splits."""
    yield from (("AN4 test", utterance) for utterance in sorted(read_an4(args.an4_root)["test"]))
    for split in SPLITS:
        yield from ((split, utterance) for utterance in read_librispeech(args.librispeech, [split]))


def join(args: argparse.Namespace, path: Path, seconds: float) -> list[Part]:
    """Write whole utterances, nothing between them, until the file is long enough."""
    parts, end = [], 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, format="FLAC") as file:
        for corpus, utterance in utterances(args):
            samples = read_audio(utterance.audio).samples
            file.write(samples)
            parts.append(Part(corpus, utterance, end / SAMPLE_RATE_HZ, (end + len(samples)) / SAMPLE_RATE_HZ))
            end += len(samples)
            if end >= seconds * SAMPLE_RATE_HZ:
                return parts
    print(f"The corpora hold {end / SAMPLE_RATE_HZ / 60:.1f} minutes only.", file=sys.stderr)
    return parts


def write_end(source: Path, path: Path, seconds: float) -> None:
    """Write the last seconds of a file: pieces as long as the whole file's, unlike AN4's at its start."""
    samples, rate = soundfile.read(source, start=-int(seconds * SAMPLE_RATE_HZ), dtype="float32")
    soundfile.write(path, samples, rate)


def run_fresh(args: argparse.Namespace, path: Path, options: Sequence[str]) -> dict[str, Any]:
    """Transcribe in a process of its own, whose memory nothing else has touched."""
    weights = ["--asr_model_file", args.asr_model_file] if args.asr_model_file else []
    roots = ["--an4_root", str(args.an4_root), "--librispeech", str(args.librispeech)]
    command = [sys.executable, __file__, "--model", str(args.model), *weights, *roots, *options, "--worker", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def transcribe(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Transcribe a file; figures that the worker prints."""
    recognizer = load(args.model, asr_model_file=args.asr_model_file)
    # The first utterance makes what later ones use again: threads, kernels, buffers.
    recognizer.recognize([np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)])
    loaded_bytes, start = peak_memory_bytes(recognizer.device), time.perf_counter()
    pieces = {"longest_piece": args.longest_piece, "shortest_piece": args.shortest_piece, "overlap": args.overlap}
    found = recognizer.transcribe_file(path, DecodeConfig(with_words=True, long_seconds=0.0, **pieces))
    return {
        "seconds": time.perf_counter() - start,
        "audio_seconds": soundfile.info(path).duration,
        "loaded_bytes": loaded_bytes,
        "peak_bytes": peak_memory_bytes(recognizer.device),
        "words": [word[:3] for word in found.best.words],
        "machine": describe_machine(recognizer.device),
    }


def recognise_alone(args: argparse.Namespace, parts: Sequence[Part]) -> list[str]:
    """Hypotheses of the utterances, each recognised by itself."""
    recognizer = load(args.model, asr_model_file=args.asr_model_file)
    return [recognizer.recognize([read_audio(part.utterance.audio).samples])[0].text for part in parts]


def print_cost(name: str, result: dict[str, Any]) -> None:
    """Print memory and time."""
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    print(
        f"{name}: {result['audio_seconds'] / 60:.1f} min of audio in {result['seconds']:.1f} s "
        f"(real-time factor {result['seconds'] / result['audio_seconds']:.4f}); peak memory "
        f"{result['peak_bytes'] / 2**20:.0f} MiB, {result['loaded_bytes'] / 2**20:.0f} MiB with the model loaded; "
        f"{machine}"
    )


def print_words(parts: Sequence[Part], words: Sequence[tuple[str, float, float]], alone: Sequence[str]) -> None:
    """Print word error rates by corpus, joined and alone, and the fraction of words within their utterance."""
    joined: list[list[str]] = [[] for _ in parts]
    ends = np.array([part.end_s for part in parts])
    within: list[list[bool]] = [[] for _ in parts]
    for text, start_s, end_s in words:
        index = min(int(np.searchsorted(ends, (start_s + end_s) / 2)), len(parts) - 1)
        joined[index].append(text)
        within[index].append(
            start_s >= parts[index].start_s - TOLERANCE_S and end_s <= parts[index].end_s + TOLERANCE_S
        )
    print("corpus            words  WER % joined  WER % alone  words inside their utterance %")
    for corpus in dict.fromkeys(part.corpus for part in parts):
        chosen = [index for index, part in enumerate(parts) if part.corpus == corpus]
        references = [parts[index].utterance.text for index in chosen]
        first = wer(references, [" ".join(joined[index]) for index in chosen])
        second = wer(references, [alone[index] for index in chosen])
        inside = np.mean([inside for index in chosen for inside in within[index]])
        print(
            f"{corpus:16} {first.units:6} {first.error_percent:13.2f} {second.error_percent:12.2f} {100 * inside:12.1f}"
        )


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Word errors of a corpus."""
    return add_counts([one.counts for one in align(references, hypotheses, split_words)])


if __name__ == "__main__":
    sys.exit(main())
