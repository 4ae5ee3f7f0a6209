#!/usr/bin/env python3
"""Validation and formatting of a data folder as large as LibriSpeech's 960 hours: utterances a second, and memory.

The folder is generated: 281,241 utterances of 2,338 speakers with ids and texts of LibriSpeech's form, whose audio are
a few real, short files named again and again. Every line is decoded, but files come from the page cache, and they are
shorter than LibriSpeech's 12.3 s: hence hours decoded stand beside utterances. Seconds of CPU, of all processes, are
the same beside other work; seconds are not.

    python tools/bench/data.py --audio ../shared/data/an4/flac               everything, some minutes
    python tools/bench/data.py --audio ... --utterances 28124 --nj 2         a tenth, to see whether memory grows
"""

import itertools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import soundfile
from benching import new_parser, print_header

from espnet_larm.recipe import format_audio
from espnet_larm.recipe.make_tokens import character_tokens
from espnet_larm.recipe.validation import validate as validate_data

NUM_UTTERANCES = 28539 + 104014 + 148688
UTTERANCES_PER_SPEAKER = NUM_UTTERANCES // 2338
WORDS = "THE OF AND TO A IN WAS HE THAT HIS IT HER WITH AS FOR HAD YOU NOT BUT SHE THEY O'CLOCK".split()  # noqa: SIM905
MIN_S, MAX_S = 2.0, 6.0


def short_files(folder: Path, wanted: int) -> list[tuple[Path, float]]:
    """The first files of 2 to 6 s below a folder, with their seconds."""
    durations = ((path, soundfile.info(path).duration) for path in sorted(folder.rglob("*.flac")))
    found = list(itertools.islice((item for item in durations if MIN_S <= item[1] <= MAX_S), wanted))
    if not found:
        raise SystemExit(f"--audio {folder} holds no .flac files of {MIN_S:g} to {MAX_S:g} s; name another folder")
    return found


def ids(num_utterances: int) -> Iterator[tuple[str, str]]:
    """(utterance, speaker) in sorted order."""
    num_speakers = -(-num_utterances // UTTERANCES_PER_SPEAKER)
    for speaker in sorted(str(1000 + number) for number in range(num_speakers)):
        for number in range(UTTERANCES_PER_SPEAKER):
            yield f"{speaker}-{int(speaker) + 120000}-{number:04d}", speaker


def generate(folder: Path, num_utterances: int, files: list[tuple[Path, float]]) -> None:
    """Write the folder and a token list line by line."""
    words = random.Random(0)
    (folder / "tokens.txt").write_text("\n".join(character_tokens([*WORDS, " "])) + "\n")
    names = ("wav.scp", "text", "utt2spk")
    handles = {name: (folder / name).open("w") for name in names}
    listed = itertools.islice(ids(num_utterances), num_utterances)
    with (folder / "spk2utt").open("w") as spk2utt:
        for speaker, group in itertools.groupby(listed, key=lambda pair: pair[1]):
            spoken = [utterance for utterance, _ in group]
            spk2utt.write(f"{speaker} {' '.join(spoken)}\n")
            for utterance in spoken:
                handles["wav.scp"].write(f"{utterance} {words.choice(files)[0]}\n")
                handles["text"].write(f"{utterance} {' '.join(words.choices(WORDS, k=12))}\n")
                handles["utt2spk"].write(f"{utterance} {speaker}\n")
    for handle in handles.values():
        handle.close()


def measure(program: str, options: list[str]) -> dict[str, float]:
    """Seconds of a program in a fresh process, and peak MiB of it and of its largest worker."""
    command = [sys.executable, __file__, "--measured", program, *options]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    *said, last = done.stdout.splitlines()
    return json.loads(last) | {"seconds": time.perf_counter() - begin, "said": said[-1]}


def run_measured(program: str, options: list[str]) -> None:
    """In the fresh process: run the program, print its peaks."""
    main_of = {"validate_data": validate_data.main, "format_audio": format_audio.main}[program]
    if main_of(options) != 0:
        raise SystemExit(f"{program} found errors in the generated folder")
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in (own, workers))
    print(json.dumps({"own_mib": own.ru_maxrss / 1024, "worker_mib": workers.ru_maxrss / 1024, "cpu_seconds": cpu}))


def main() -> None:
    """Generate the folder, print a row a program."""
    parser = new_parser(__doc__)
    parser.add_argument("--audio", type=Path, required=True, help="folder with .flac files at 16 kHz")
    parser.add_argument("--files", type=int, default=100, help="number of different files to use (100)")
    parser.add_argument(
        "--utterances", type=int, default=NUM_UTTERANCES, help=f"utterances to generate ({NUM_UTTERANCES})"
    )
    parser.add_argument(
        "--nj",
        type=int,
        nargs="+",
        default=[1, os.cpu_count() or 1],
        help="numbers of processes, a row each (1 and all cores)",
    )
    parser.add_argument("--no_format", action="store_true", help="leave out stage 3")
    args = parser.parse_args()
    files = short_files(args.audio.resolve(), args.files)
    print(" ".join(sys.argv), f"| {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    mean_s = sum(seconds for _, seconds in files) / len(files)
    print(f"{args.utterances} utterances naming {len(files)} files of {mean_s:.2f} s on average")
    columns = "step, nj, seconds, utterances/s, CPU s, utterances/CPU s, audio decoded in h, main MiB, worker MiB"
    print_header(*columns.split(", "))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, args.utterances, files)
        common = ["--data_dirs", name]
        rows = [
            ("validate: files", 1, "validate_data", [*common, "--audio", "none"]),
            ("validate: files and paths", 1, "validate_data", [*common, "--audio", "stat"]),
            (
                "validate: files and spelling",
                1,
                "validate_data",
                [*common, "--audio", "none", "--token_list", str(folder / "tokens.txt")],
            ),
        ]
        rows += [("validate: all audio", nj, "validate_data", [*common, "--nj", str(nj)]) for nj in args.nj]
        formatted = ["--in_dir", name, "--output_dir", str(folder / "out")]
        if not args.no_format:
            rows.append(("stage 3", args.nj[-1], "format_audio", [*formatted, "--nj", str(args.nj[-1])]))
        for title, nj, program, options in rows:
            got = measure(program, options)
            decoded = args.utterances * mean_s / 3600 if "audio" in title or program == "format_audio" else 0.0
            print(
                f"| {title} | {nj} | {got['seconds']:.1f} | {args.utterances / got['seconds']:.0f} "
                f"| {got['cpu_seconds']:.1f} | {args.utterances / got['cpu_seconds']:.0f} | {decoded:.0f} "
                f"| {got['own_mib']:.0f} | {got['worker_mib'] if nj > 1 else 0:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        run_measured(sys.argv[2], sys.argv[3:])
    else:
        main()
