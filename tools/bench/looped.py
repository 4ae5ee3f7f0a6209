#!/usr/bin/env python3
"""Cost of looping: the looped encoder beside an unshared stack of the same effective depth and checkpoints.

Both run in this process, in turn (A B A B ...), on random features; a ratio is the median of the pairs' ratios.
Head and feedback must cost V / (6 x blocks x d) of a transformer stack; the bound adds 5 %.

    python tools/bench/looped.py                          a small encoder, seconds to minutes on a CPU
    python tools/bench/looped.py --size 384 --blocks 4 --loops 12 --period 4 --batch 32 --device cuda --compile
"""

import argparse
import multiprocessing
import statistics
import sys
from collections.abc import Callable

import torch
from benching import add_machine, new_parser, now, print_header, resident_mib

from espnet2.asr.ctc import CTC

from espnet_larm.looped.encoder import LarmEncoder

NUM_FEATURES = 80
TOKENS_PER_UTTERANCE = 20
LOOP_PARTS_OFF = {"share_blocks": False, "clock": False, "film": False, "feedback": False, "skip": False}


class Contender(torch.nn.Module):
    """An encoder with its head: one forward pass, or one training step without the optimiser's."""

    def __init__(self, args: argparse.Namespace, vocab_size: int, **options: object) -> None:
        super().__init__()
        self.encoder = LarmEncoder(
            NUM_FEATURES,
            output_size=args.size,
            attention_heads=args.heads,
            linear_units=4 * args.size,
            num_blocks=args.blocks,
            num_loops=args.loops,
            checkpoint_period=args.period,
            block=args.block,
            subsampling_channels=32,
            dropout_rate=0.0,
            **options,
        )
        self.ctc = CTC(vocab_size, args.size)
        if self.encoder.interctc_use_conditioning:
            self.encoder.conditioning_layer = torch.nn.Linear(vocab_size, args.size)

    def forward(self, xs_pad: torch.Tensor, ilens: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Checkpoint outputs (B, T', D) each, last loop first, and their lengths (B,)."""
        result, hlens, _ = self.encoder(xs_pad, ilens, ctc=self.ctc)
        if torch.is_tensor(result):
            return [result], hlens
        return [result[0], *[output for _, output in result[1]]], hlens


def read_everything(contender: Contender, batch: tuple[torch.Tensor, ...]) -> None:
    """Inference: every checkpoint's best tokens."""
    with torch.no_grad():
        outputs, _ = contender(*batch[:2])
        for output in outputs:
            contender.ctc.argmax(output)


def train(contender: Contender, batch: tuple[torch.Tensor, ...]) -> None:
    """Loss at every checkpoint and its gradients."""
    outputs, hlens = contender(*batch[:2])
    sum(contender.ctc(output, hlens, *batch[2:]) for output in outputs).backward()
    contender.zero_grad(set_to_none=True)


def new_batch(args: argparse.Namespace, vocab_size: int) -> tuple[torch.Tensor, ...]:
    """Features (B, T, F), their lengths, tokens (B, L), their lengths."""
    torch.manual_seed(0)
    features = torch.randn(args.batch, args.frames, NUM_FEATURES)
    tokens = torch.randint(1, vocab_size, (args.batch, TOKENS_PER_UTTERANCE))
    lens = torch.full((args.batch,), args.frames), torch.full((args.batch,), TOKENS_PER_UTTERANCE)
    return tuple(tensor.to(args.device) for tensor in (features, lens[0], tokens, lens[1]))


def seconds(work: Callable[[], None], device: str) -> float:
    """Wall time of one call."""
    begin = now(device)
    work()
    return now(device) - begin


def paired(first: Callable[[], None], second: Callable[[], None], args: argparse.Namespace) -> tuple[list, list]:
    """Times of both, in turn, after a warm-up of each."""
    first(), second()
    pairs = [(seconds(first, args.device), seconds(second, args.device)) for _ in range(args.repeats)]
    return tuple(map(list, zip(*pairs, strict=True)))


def peak_mib(args: argparse.Namespace, vocab_size: int, options: dict) -> float:
    """Peak memory of training steps in a fresh process: allocated on a GPU, resident (less the start's) on a CPU."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of_training, (args, vocab_size, options))


def _peak_of_training(args: argparse.Namespace, vocab_size: int, options: dict) -> float:
    torch.set_num_threads(args.threads)
    contender = Contender(args, vocab_size, **options).to(args.device)
    batch = new_batch(args, vocab_size)
    before = resident_mib("VmHWM")
    for _ in range(2):
        train(contender, batch)
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_mib("VmHWM") - before


def compare(args: argparse.Namespace, vocab_size: int, top_k: int | None, compiled: bool) -> None:
    """Print a row a mode: time of both, ratio, bound, parameters, memory."""
    options = {"feedback_top_k": top_k}
    looped = Contender(args, vocab_size, **options).to(args.device)
    unshared = Contender(args, vocab_size, **LOOP_PARTS_OFF).to(args.device)
    batch = new_batch(args, vocab_size)
    sizes = [sum(parameter.numel() for parameter in each.parameters()) / 1e6 for each in (looped, unshared)]
    memory = [peak_mib(args, vocab_size, each) for each in (options, LOOP_PARTS_OFF)] if not args.no_memory else None
    if compiled:
        # The unshared baseline compiles a graph a loop; at the default of 8 the others would run eagerly.
        torch._dynamo.config.recompile_limit = 8 * args.loops
        looped.encoder, unshared.encoder = torch.compile(looped.encoder), torch.compile(unshared.encoder)
    must = vocab_size / (6 * args.blocks * args.size)
    for name, work, is_training in (("forward", read_everything, False), ("training step", train, True)):
        looped.train(is_training), unshared.train(is_training)
        ours, theirs = paired(lambda: work(looped, batch), lambda: work(unshared, batch), args)  # noqa: B023
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        mode = "compiled" if compiled else "eager"
        print(
            f"| {vocab_size} | {top_k or 'all'} | {mode} | {name} | {1e3 * statistics.median(ours):.1f} "
            f"| {1e3 * statistics.median(theirs):.1f} | {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f}-{ratios[-1]:.3f}) | {1.05 + must:.3f} "
            f"{'holds' if statistics.median(ratios) <= 1.05 + must else 'MISSED'} | {sizes[0]:.2f} / {sizes[1]:.2f} "
            + (f"| {memory[0]:.0f} / {memory[1]:.0f} |" if memory and is_training else "| |"),
            flush=True,
        )


def main() -> None:
    """Parse the options and print the table."""
    parser = new_parser(__doc__)
    add_machine(parser)
    for name, default, meaning in (
        ("size", 144, "model size d"),
        ("heads", 4, "attention heads"),
        ("blocks", 2, "blocks in the stack"),
        ("loops", 6, "loops"),
        ("period", 2, "checkpoint period"),
        ("batch", 16, "utterances in a batch"),
        ("frames", 400, "feature frames of an utterance"),
        ("repeats", 9, "pairs of runs"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} ({default})")
    parser.add_argument("--vocab", type=int, nargs="+", default=[30, 500], help="vocabulary sizes V (30 500)")
    parser.add_argument("--top_k", type=int, default=None, help="most probable tokens of a frame in the feedback (all)")
    parser.add_argument(
        "--block", default="transformer", choices=["transformer", "conformer"], help="kind of the blocks (transformer)"
    )
    parser.add_argument("--compile", action="store_true", help="measure with torch.compile too")
    parser.add_argument("--no_memory", action="store_true", help="leave out peak memory, which takes fresh processes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    print_header(
        *("V", "feedback", "mode", "", "looped ms", "unshared ms", "ratio (range)", "bound", "M parameters", "peak MiB")
    )
    for vocab_size in args.vocab:
        for top_k in {None, args.top_k}:
            for compiled in [False, True] if args.compile else [False]:
                compare(args, vocab_size, top_k, compiled)


if __name__ == "__main__":
    main()
