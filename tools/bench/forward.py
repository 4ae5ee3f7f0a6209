#!/usr/bin/env python3
"""Where the forward pass before CTC decoding spends its time, how much of the machine it uses, and what would help.

All in this process and in turn, on one model and a real test set; starting and reading audio are not counted. "Matrix
rate" is what torch reaches here, with the same threads, on one large float32 product; FLOPs are counted by torch
(products and convolutions; a Fourier transform is not among them). Every variant is a ratio to the plain forward pass
of the same repetition; utterances whose greedy hypothesis changes are counted.

    cd egs/an4 && python ../../tools/bench/forward.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --data_dir dump/raw/test
"""

import argparse
import contextlib
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from benching import add_data, add_machine, add_model, add_repeats, new_parser, now, print_header, ratios, spread
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.search.ctc.posteriors import greedy

MATRIX_SIZE = 4096
NUM_OPERATORS = 8


class Forward(NamedTuple):
    """One pass over the test set: seconds and FLOPs by part, and each utterance's tokens."""

    seconds: Counter[str]
    token_ids: list[list[int]]

    @property
    def total(self) -> float:
        """Seconds of features and encoder, without the head and its search."""
        return sum(self.seconds.values())


class Bench:
    """The model, the utterances and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, args.device)
        # Without gradients to follow, or torch's FLOP counter stumbles over parameters that a module returns.
        self.model = self.recognizer.model.requires_grad_(False)
        self.device = self.recognizer.device
        sources = [utterance.audio for utterance in read_dir(args.data_dir)]
        self.waveforms = [torch.from_numpy(read_audio(source).samples).to(self.device) for source in sources]
        self.audio_seconds = sum(map(len, self.waveforms)) / self.recognizer.sample_rate_hz

    def batches(self, batch_seconds: float) -> list[list[int]]:
        """Indices of the utterances in each batch, of similar length."""
        lengths = [len(waveform) for waveform in self.waveforms]
        return list(batches_by_length(lengths, batch_seconds * self.recognizer.sample_rate_hz, None))

    def forward(self, batch_seconds: float, dtype: torch.dtype = torch.float32) -> Forward:
        """Features, then the encoder under autocast to `dtype`, batch by batch."""
        seconds: Counter[str] = Counter()
        token_ids: list[list[int]] = [[] for _ in self.waveforms]
        casting = torch.autocast(self.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        for indices in self.batches(batch_seconds):
            start = now(self.device)
            xs_pad, lens = pad_features([extract_features(self.model, self.waveforms[index]) for index in indices])
            featured = now(self.device)
            with casting, self.timed_front_end(seconds):
                *_, (_, hs_pad, hlens, _) = read_outs(self.model, xs_pad, lens)
            encoded = now(self.device)
            seconds["features"] += featured - start
            seconds["encoder"] += encoded - featured
            log_probs = self.model.ctc.log_softmax(hs_pad.float())
            found = greedy(log_probs, hlens, self.model.blank_id, sorted({self.model.sos, self.model.eos})).to_lists()
            for index, tokens in zip(indices, found, strict=True):
                token_ids[index] = tokens
        seconds["encoder"] -= seconds["subsampling"]
        return Forward(seconds, token_ids)

    @contextlib.contextmanager
    def timed_front_end(self, seconds: Counter[str]) -> Iterator[None]:
        """Adds the subsampling's time, where the encoder has one by that name."""
        module = getattr(self.model.encoder, "subsampling", None)
        if module is None:
            yield
            return
        started: list[float] = []
        before = module.register_forward_pre_hook(lambda *_: started.append(now(self.device)))
        after = module.register_forward_hook(lambda *_: seconds.update(subsampling=now(self.device) - started.pop()))
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def count_flops(self, batch_seconds: float) -> dict[str, int]:
        """FLOPs of each part over the test set."""
        with FlopCounterMode(display=False) as features:
            inputs = [
                pad_features([extract_features(self.model, self.waveforms[index]) for index in indices])
                for indices in self.batches(batch_seconds)
            ]
        with FlopCounterMode(display=False) as encoder:
            for xs_pad, lens in inputs:
                *_, _ = read_outs(self.model, xs_pad, lens)
        module = getattr(self.model.encoder, "subsampling", None)
        with FlopCounterMode(display=False) as subsampling:
            for xs_pad, lens in inputs if module is not None else ():
                module(xs_pad, lens)
        first = subsampling.get_total_flops()
        rest = encoder.get_total_flops() - first
        return {"features": features.get_total_flops(), "subsampling": first, "encoder": rest}


def matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Best GFLOP/s of a large square product."""
    left = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats + 1):
        start = now(device)
        left @ left
        best = min(best, now(device) - start)
    return 2 * MATRIX_SIZE**3 / best / 1e9


def variants(bench: Bench, args: argparse.Namespace) -> dict[str, Callable[[], Forward]]:
    """Variants of the forward pass, the plain one first."""
    ways: dict[str, Callable[[], Forward]] = {"plain": lambda: bench.forward(args.batch_seconds)}
    for batch_seconds in args.other_batch_seconds:
        ways[f"batches of {batch_seconds:g} s"] = lambda size=batch_seconds: bench.forward(size)
    ways["encoder in bfloat16"] = lambda: bench.forward(args.batch_seconds, torch.bfloat16)
    convolutions = getattr(bench.model.encoder, "subsampling", None)
    if convolutions is not None:
        ways["channels last"] = _with_layout(bench, convolutions, args.batch_seconds)
    if args.compile:
        ways["compiled stack"] = _with_compiled_stacks(bench, args.batch_seconds)
    return ways


def _with_layout(bench: Bench, convolutions: torch.nn.Module, batch_seconds: float) -> Callable[[], Forward]:
    def run() -> Forward:
        convolutions.to(memory_format=torch.channels_last)
        try:
            return bench.forward(batch_seconds)
        finally:
            convolutions.to(memory_format=torch.contiguous_format)

    return run


def _with_compiled_stacks(bench: Bench, batch_seconds: float) -> Callable[[], Forward]:
    stacks = list(bench.model.encoder.stacks)
    compiled = [torch.compile(stack, dynamic=True) for stack in stacks]

    def run() -> Forward:
        for index, stack in enumerate(compiled):
            bench.model.encoder.stacks[index] = stack
        try:
            return bench.forward(batch_seconds)
        finally:
            for index, stack in enumerate(stacks):
                bench.model.encoder.stacks[index] = stack

    return run


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = new_parser(__doc__)
    add_model(parser)
    add_data(parser, 60.0)
    add_repeats(parser, 5)
    add_machine(parser)
    parser.add_argument(
        "--other_batch_seconds",
        type=float,
        nargs="*",
        default=[15.0, 240.0],
        help="further sizes of a batch to try (15 240)",
    )
    parser.add_argument("--compile", action="store_true", help="try torch.compile too, which needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    ways = variants(bench, args)
    runs: dict[str, list[Forward]] = {name: [] for name in ways}
    for repetition in range(args.repeats + 1):
        found = {name: way() for name, way in ways.items()}
        if repetition:
            for name, run in found.items():
                runs[name].append(run)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    print(f"{len(bench.waveforms)} utterances, {bench.audio_seconds:.0f} s; {args.repeats} times")
    report_parts(bench, args, runs["plain"])
    report_variants(runs)
    report_operators(bench, args.batch_seconds)


def report_parts(bench: Bench, args: argparse.Namespace, plain: Sequence[Forward]) -> None:
    """Print seconds, FLOPs and the fraction of the matrix rate of each part."""
    rates = {dtype: matrix_rate(bench.device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    full = rates[torch.float32]
    print(f"matrix rate: float32 {full:.0f} GFLOP/s, bfloat16 {rates[torch.bfloat16]:.0f} GFLOP/s")
    flops = bench.count_flops(args.batch_seconds)
    total = statistics.median(run.total for run in plain)
    print_header("part", "s (range)", "fraction", "GFLOP", "GFLOP/s", "of the matrix rate")
    for part, operations in (*flops.items(), ("all", sum(flops.values()))):
        spent = [run.total if part == "all" else run.seconds[part] for run in plain]
        middle = statistics.median(spent)
        speed = operations / middle / 1e9
        print(
            f"| {part} | {spread(spent, 3)} | {100 * middle / total:.0f} % "
            f"| {operations / 1e9:.1f} | {speed:.0f} | {100 * speed / full:.0f} % |"
        )


def report_variants(runs: dict[str, list[Forward]]) -> None:
    """Print each variant's time as a ratio to the plain one."""
    print_header("forward", "s", "times plain (range)", "utterances whose hypothesis changes")
    plain = runs["plain"]
    for name, found in runs.items():
        beside = ratios([run.total for run in found], [base.total for base in plain])
        changed = sum(mine != base for mine, base in zip(found[-1].token_ids, plain[-1].token_ids, strict=True))
        middle = statistics.median(run.total for run in found)
        print(f"| {name} | {middle:.3f} | {spread(beside, 3)} | {changed} of {len(plain[-1].token_ids)} |")


def report_operators(bench: Bench, batch_seconds: float) -> None:
    """Print the operators that take most of a plain pass."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        bench.forward(batch_seconds)
    events = profiler.key_averages()
    on_gpu = bench.device.type == "cuda"
    times = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    total = sum(times.values())
    print_header("operator", "fraction of a pass")
    for name, spent in sorted(times.items(), key=lambda item: -item[1])[:NUM_OPERATORS]:
        print(f"| {name} | {100 * spent / total:.0f} % |")


if __name__ == "__main__":
    main()
