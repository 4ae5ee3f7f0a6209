#!/usr/bin/env python3
"""Load on `espnet-larm serve`: many callers at once beside one caller at a time, and their texts beside `transcribe`'s.

    python tools/bench/serve.py --model model.zip --recordings <an4>/flac/an4test_clstk
    python tools/bench/serve.py --model model.zip --recordings talks --clients 4 --requests 40 --rounds 2    small
    python tools/bench/serve.py ... --serve_options "--loops 2 --batch_wait_ms 20"

`espnet-larm transcribe` writes the texts first. Then a server of its own answers the same recordings in rounds, in
which the two ways take turns (A B A B ...): so many requests from one caller, then as many from `--clients` callers.
Prints requests a second, times of requests, their ratio with its range over the rounds, and requests that were lost or
answered with another text; the status is 1 if there are any. On a machine that others use, only the ratio counts.
"""

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
from benching import new_parser, print_header, ratios, spread

from espnet_larm.data.media import SUFFIXES
from espnet_larm.origin import cpu_model

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "espnet_larm")
URL = "/v1/audio/transcriptions"
# A client of a server that is overloaded must not give up by itself.
TIMEOUT_S = 600.0
COUNTS = ("batches", "stretches")


class Answer(NamedTuple):
    """An answer: the recording, its text (None if there is none), and what the request took in seconds."""

    recording: Path
    text: str | None
    seconds: float


class Round(NamedTuple):
    """The answers of some requests, and what they took together in seconds."""

    answers: list[Answer]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.answers) / self.seconds


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = new_parser(__doc__)
    parser.add_argument("--model", required=True, help="what --model of serve and transcribe takes")
    parser.add_argument("--recordings", type=Path, required=True, help="folder of recordings, searched")
    parser.add_argument("--clients", type=int, default=32, help="callers at once (32)")
    parser.add_argument("--requests", type=int, default=500, help="requests of each way, over all rounds (500)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the two ways (5)")
    parser.add_argument("--serve_options", default="", help="further options of serve, in one word")
    return parser


def find_recordings(folder: Path, number: int) -> list[Path]:
    """So many recordings, spread over the sorted files below a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise SystemExit(f"--recordings {folder} holds no recordings.")
    return [paths[index * len(paths) // number] for index in range(number)]


def transcribe(model: str, recordings: Sequence[Path]) -> dict[Path, str]:
    """The texts of `espnet-larm transcribe`."""
    paths = sorted(set(recordings))
    with tempfile.TemporaryDirectory() as folder:
        for index, path in enumerate(paths):
            (Path(folder) / f"{index:05}{path.suffix}").symlink_to(path.resolve())
        out = Path(folder) / "out"
        words = ["--model", model, "--output_dir", str(out), folder]
        subprocess.run([*COMMAND, "transcribe", *words], cwd=ROOT, check=True)
        return {path: (out / f"{index:05}.txt").read_text().removesuffix("\n") for index, path in enumerate(paths)}


@contextmanager
def serving(model: str, options: Sequence[str]) -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [*COMMAND, "serve", "--model", model, "--port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if " is served at " not in line:
                raise SystemExit(line + process.stderr.read())
            yield line.split(" is served at ")[1].partition(URL)[0]
        finally:
            process.terminate()
            print(process.stderr.read(), end="")
    if process.returncode != 0:
        raise SystemExit(f"the server ended with status {process.returncode}.")


async def ask(address: str, recordings: Sequence[Path], num_clients: int) -> Round:
    """Ask for the texts of recordings, each caller for one after the other."""
    left = [(path, path.read_bytes()) for path in reversed(recordings)]
    answers: list[Answer] = []

    async def call(client: httpx.AsyncClient) -> None:
        while left:
            path, content = left.pop()
            start = time.perf_counter()
            text = await text_of(client, path, content)
            answers.append(Answer(path, text, time.perf_counter() - start))

    async with httpx.AsyncClient(
        base_url=address, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None)
    ) as client:
        start = time.perf_counter()
        await asyncio.gather(*(call(client) for _ in range(num_clients)))
        return Round(answers, time.perf_counter() - start)


async def text_of(client: httpx.AsyncClient, path: Path, content: bytes) -> str | None:
    """The text of a recording; None if the request is lost."""
    try:
        response = await client.post(URL, files={"file": (path.name, content)})
    except httpx.HTTPError as error:
        print(f"{path.name}: {error!r}")
        return None
    if response.status_code != 200:
        print(f"{path.name}: {response.status_code} {response.text}")
        return None
    return response.json()["text"]


def counts_of(address: str) -> dict[str, int]:
    """How much the model had to do so far."""
    return {name: httpx.get(f"{address}/health").json()[name] for name in COUNTS}


def report(name: str, rounds: Sequence[Round], counts: Mapping[str, int]) -> None:
    """Print a row of the table."""
    seconds = [1000 * answer.seconds for each in rounds for answer in each.answers]
    batch = counts["stretches"] / max(1, counts["batches"])
    p50, p95 = np.percentile(seconds, [50, 95])
    cells = (name, len(seconds), spread([each.rate for each in rounds], 1), f"{p50:.0f}", f"{p95:.0f}", f"{batch:.1f}")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> int:
    """Measure.

    Returns:
        The exit status; 1 if a request was lost or a text is another.
    """
    args = get_parser().parse_args()
    print(" ".join(sys.argv), "|", f"{cpu_model()}, {os.cpu_count()} cores")
    recordings = find_recordings(args.recordings, args.requests)
    texts = transcribe(args.model, recordings)
    rounds: dict[int, list[Round]] = {1: [], args.clients: []}
    counts = {number: dict.fromkeys(COUNTS, 0) for number in rounds}
    with serving(args.model, shlex.split(args.serve_options)) as address:
        # The first requests find a model that has not been run.
        asyncio.run(ask(address, recordings[: args.clients], args.clients))
        for index in range(args.rounds):
            some = recordings[index :: args.rounds]
            for num_clients, done in rounds.items():
                before = counts_of(address)
                done.append(asyncio.run(ask(address, some, num_clients)))
                for name, number in counts_of(address).items():
                    counts[num_clients][name] += number - before[name]
    print_header("callers at once", "requests", "a second (range)", "p50, ms", "p95, ms", "stretches of speech a batch")
    for num_clients, done in rounds.items():
        report(str(num_clients), done, counts[num_clients])
    answers = [answer for done in rounds.values() for each in done for answer in each.answers]
    lost = sum(answer.text is None for answer in answers)
    other = sum(answer.text not in (None, texts[answer.recording]) for answer in answers)
    many, one = ([each.rate for each in rounds[number]] for number in (args.clients, 1))
    ratio = spread(ratios(many, one))
    print(f"\nthroughput of {args.clients} callers beside one: {ratio}; lost: {lost}; other texts: {other}")
    return 1 if lost or other else 0


if __name__ == "__main__":
    sys.exit(main())
