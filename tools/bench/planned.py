#!/usr/bin/env python3
"""Memory that `espnet-larm plan` foretells beside what training steps take: resident memory on a CPU, torch's on a GPU.

A row is a configuration and a batch. The plan counts steps of two and four utterances and carries them on; then steps
of the whole batch are made in a process of their own, whose peak above what it had before the model is the measure.
Options of the training that a YAML leaves out follow it after a comma.

    python tools/bench/planned.py --case conf/an4/train_larm.yaml,--utterances,16,--vocab_size,30
        --case conf/librispeech/train_larm_100h.yaml,--utterances,6,--vocab_size,500
"""

import argparse
import multiprocessing
import os
import sys
from typing import NamedTuple

import torch
from benching import add_machine, new_parser, print_header
from memory import peak_seen, reset_peak, seen_now

from espnet_larm.cli.plan import COUNTED, get_parser, training_options, utterances_of

MIB = 2**20


class Row(NamedTuple):
    """Bytes of a step: planned, counted, and seen by the system."""

    parameters: int
    audio_s: float
    planned: int
    seen: int


def prepare(words: list[str], device: str):  # noqa: ANN201  # a model, its options and utterances
    """Build what a case names."""
    from espnet_larm.train.planning.step import build

    ours, others = get_parser().parse_known_args(["--config", *words])
    args = training_options(ours, others)
    trained = build(args, device)
    return args, trained, utterances_of(ours, args, trained.model)._replace(number=ours.utterances)


def plan(words: list[str], device: str, threads: int) -> tuple[int, float, int]:
    """Numbers of parameters, seconds of audio, and the planned peak."""
    from espnet_larm.train.planning.plan import Growth
    from espnet_larm.train.planning.step import count_step

    torch.set_num_threads(threads)
    args, trained, utterances = prepare(words, device)
    count_step(trained, utterances._replace(number=1, seconds=min(1.0, utterances.seconds), text_len=1))
    steps = [count_step(trained, utterances._replace(number=number), args.accum_grad) for number in COUNTED]
    parameters = sum(each.numel() for each in trained.model.parameters())
    return parameters, utterances.audio_s, Growth(*steps).peak(utterances.number)


def see(words: list[str], device: str, threads: int) -> int:
    """Bytes that steps of the whole batch took, the model included."""
    from espnet_larm.train.planning.step import time_steps

    torch.set_num_threads(threads)
    before = seen_now(device)
    _, trained, utterances = prepare(words, device)
    reset_peak(device)
    time_steps(trained, utterances, 1)
    return peak_seen(device) - before


def main(cmd: list[str] | None = None) -> None:
    """Print a row a case."""
    parser = new_parser(__doc__)
    add_machine(parser, threads=1)
    parser.add_argument("--case", nargs="+", required=True, help="YAML,--option,value,...: options of espnet-larm plan")
    args = parser.parse_args(cmd)
    print(" ".join(["tools/bench/planned.py", *(sys.argv[1:] if cmd is None else cmd)]))
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads")
    print_header("configuration", "parameters", "audio, s", "planned, MiB", "measured, MiB", "planned / measured")
    for case in args.case:
        row = measure(case.split(","), args)
        print(
            f"| {case.replace(',', ' ')} | {row.parameters:,} | {row.audio_s:.0f} | {row.planned / MIB:,.0f} "
            f"| {row.seen / MIB:,.0f} | {row.planned / row.seen:.2f} |",
            flush=True,
        )


def measure(words: list[str], args: argparse.Namespace) -> Row:
    """Plan, then measure, each in a process of its own."""
    # Freed blocks go back to the system at once, so that resident memory is what is alive.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        planned = pool.apply(plan, (words, args.device, args.threads))
    with context.Pool(1) as pool:
        return Row(*planned, pool.apply(see, (words, args.device, args.threads)))


if __name__ == "__main__":
    main()
