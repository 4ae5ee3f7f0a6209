#!/usr/bin/env python3
"""Real time of a looped encoder of which frames that its CTC head says are blank skip feed-forward layers.

Random weights at the sizes of a configuration, random features. The probability above which frames skip is set so that
the first checkpoint loop skips the fraction that is asked for; what later ones skip is printed. Both ways take turns in
one process (A B A B ...); a ratio is the median of the turns' ratios. "Without" is a model without feed-forward layers
in those loops: no fraction could save more.

    python tools/bench/blank_skipping.py --shape an4
    python tools/bench/blank_skipping.py --shape librispeech --utterances 1 --frames 1000
"""

import argparse
import sys
import time

import torch
from benching import add_cpu_time, add_machine, add_repeats, new_parser, now, print_header, ratios, spread

from espnet2.asr.ctc import CTC

from espnet_larm.looped.encoder import LarmEncoder

NUM_FEATURES = 80
# encoder_conf and vocabulary of conf/an4/train_larm.yaml and conf/librispeech/train_larm_100h.yaml.
SHAPES = {
    "an4": {"output_size": 144, "attention_heads": 4, "linear_units": 288, "num_blocks": 2, "num_loops": 6,
            "checkpoint_period": 2, "block": "conformer", "subsampling_channels": 32},
    "librispeech": {"output_size": 384, "attention_heads": 6, "linear_units": 1536, "num_blocks": 4, "num_loops": 12,
                    "checkpoint_period": 4},
}  # fmt: skip
VOCAB_SIZES = {"an4": 30, "librispeech": 500}


class Bench:
    """An encoder, a batch and a clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        vocab_size = VOCAB_SIZES[args.shape]
        self.encoder = LarmEncoder(NUM_FEATURES, **SHAPES[args.shape]).to(args.device).eval()
        self.ctc = CTC(vocab_size, self.encoder.output_size()).to(args.device).eval()
        self.encoder.conditioning_layer = torch.nn.Linear(vocab_size, self.encoder.output_size()).to(args.device)
        self.batch = torch.randn(args.utterances, args.frames, NUM_FEATURES, device=args.device)
        self.lens = torch.full((args.utterances,), args.frames, device=args.device)
        self.device, self.clock = args.device, time.process_time if args.cpu_time else time.perf_counter

    def blanks(self, skip_blank: float = 1.0) -> list[torch.Tensor]:
        """Probabilities of blank (B, T) at each checkpoint loop."""
        outputs = self.encoder.read_outs(self.batch, self.lens, self.ctc, None, skip_blank)
        return [self.ctc.softmax(read.hs_pad)[..., 0] for read in outputs]

    def seconds(self, skip_blank: float) -> float:
        """Seconds of all loops."""
        begin = now(self.device, self.clock)
        for _ in self.encoder.read_outs(self.batch, self.lens, self.ctc, None, skip_blank):
            pass
        return now(self.device, self.clock) - begin


@torch.no_grad()
def main() -> None:
    """Take turns and print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="an4", help="sizes of the encoder (an4)")
    parser.add_argument("--utterances", type=int, default=8, help="utterances in the batch (8)")
    parser.add_argument("--frames", type=int, default=400, help="feature frames of each (400)")
    fractions_help = "fractions of frames that the first checkpoint loop says are blank (0.3 0.5 0.7)"
    parser.add_argument("--blank", type=float, nargs="+", default=[0.3, 0.5, 0.7], help=fractions_help)
    add_repeats(parser, 9)
    add_machine(parser, threads=1)
    add_cpu_time(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    first = bench.blanks()[0].flatten()
    ways = {f"{fraction:g}": float(first.quantile(1.0 - fraction)) for fraction in args.blank}
    # No probability is below 0.
    ways["without"] = -1.0
    skipped = {name: [float((each > way).float().mean()) for each in bench.blanks(way)] for name, way in ways.items()}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(args.repeats + 1):
        for name, way in ways.items():
            pair = bench.seconds(1.0), bench.seconds(way)
            if turn:
                runs[name].append(pair)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    print_header("blank", "skipped after each checkpoint loop", "all s (range)", "skipping s (range)", "ratio (range)")
    for name, pairs in runs.items():
        all_of_them, fewer = map(list, zip(*pairs, strict=True))
        fractions = ", ".join(f"{each:.2f}" for each in skipped[name][:-1])
        ratio = spread(ratios(all_of_them, fewer))
        print(f"| {name} | {fractions} | {spread(all_of_them, 3)} | {spread(fewer, 3)} | {ratio} |")


if __name__ == "__main__":
    main()
