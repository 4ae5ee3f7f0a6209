#!/usr/bin/env python3
"""Real seconds of num_loops auto beside all utterances running the same loops, in paired turns in one process.

Encoder, search and the rule are timed; front end and reading of audio are not, since both ways share them. A way is a
number of loops, or a rule with its threshold: `6`, `unchanged`, `confidence:-0.05`; `auto` is what is calibrated beside
the model. Ratios are medians of the ratios within a turn, first way over each other. Other models (--peer) take their
turns, too, with all their layers.

    cd egs/an4 && python ../../tools/bench/leaving.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --data_dir dump/raw/test --ways 6 4 auto confidence:-0.05
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from benching import (
    add_cpu_time,
    add_data,
    add_llm,
    add_machine,
    add_model,
    add_repeats,
    new_parser,
    print_header,
    ratios,
    spread,
)

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import AUTO, DecodeConfig
from espnet_larm.recognize.model.features import batches_by_length
from espnet_larm.recognize.output.results import Transcript
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import add_counts, align, split_words


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser)
    add_llm(parser)
    add_data(parser, 60.0)
    add_repeats(parser, 5)
    add_machine(parser, threads=1)
    add_cpu_time(parser)
    parser.add_argument("--ways", nargs="+", required=True, help="numbers of loops, auto, or rules with thresholds")
    peer_help = "a name, the config.yaml and the weights of another model of the same data; may be repeated"
    parser.add_argument(
        "--peer", nargs=3, action="append", default=[], metavar=("NAME", "CONFIG", "FILE"), help=peer_help
    )
    parser.add_argument("--utterances", type=int, help="utterances to decode, spread over the set (all)")
    return parser


def config_of(way: str) -> DecodeConfig:
    """The options of a way, such as 6, auto, unchanged or confidence:-0.05."""
    if way.isdigit():
        return DecodeConfig(num_loops=int(way))
    if way == AUTO:
        return DecodeConfig(num_loops=AUTO)
    rule, _, threshold = way.partition(":")
    return DecodeConfig(num_loops=AUTO, loop_rule=rule, loop_threshold=float(threshold) if threshold else None)


def decode(
    recognizer: Recognizer, plan: Plan, batches: Sequence[dict[str, torch.Tensor]]
) -> tuple[float, dict[str, Transcript]]:
    """Seconds without the front end's, and the transcripts."""
    seconds, found = 0.0, {}
    for batch in batches:
        transcripts, cost = recognizer.decode(list(batch.values()), plan)
        seconds += max(cost.read_outs.values()) - cost.features
        found.update(zip(batch, transcripts, strict=True))
    return seconds, found


def main() -> None:
    """Decode in turns and print the table."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, args.device, llm=args.llm)
    peers = {name: Recognizer.from_files(config, weights, args.device) for name, config, weights in args.peer}
    if args.cpu_time:
        for each in (recognizer, *peers.values()):
            each.heads.now = time.process_time  # type: ignore[method-assign]
    plans = {way: (recognizer, recognizer.plan(config_of(way))) for way in args.ways}
    plans.update({name: (peer, peer.plan(DecodeConfig())) for name, peer in peers.items()})
    references = read_table(args.data_dir / "text")
    table = AudioTable(args.data_dir / "wav.scp", "sound", recognizer.sample_rate_hz, recognizer.preprocess)
    keys = table.keys(None)
    if args.utterances and args.utterances < len(keys):
        keys = [keys[place * len(keys) // args.utterances] for place in range(args.utterances)]
    lengths = [table.length(key) for key in keys]
    groups = batches_by_length(lengths, args.batch_seconds * recognizer.sample_rate_hz)
    batches = [dict(table.load([keys[index] for index in group]).waveforms) for group in groups]
    runs: dict[str, list[float]] = {way: [] for way in plans}
    found: dict[str, dict[str, Transcript]] = {}
    for turn in range(args.repeats + 1):
        for way, (model, plan) in plans.items():
            seconds, found[way] = decode(model, plan, batches)
            if turn:
                runs[way].append(seconds)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    audio = sum(lengths) / recognizer.sample_rate_hz
    print(f"{len(keys)} utterances, {audio:.0f} s in {len(batches)} batches; {args.repeats} turns")
    print_header("way", "mean loops", "WER %", "s (range)", f"{args.ways[0]} / way (range)")
    for way, seconds in runs.items():
        used = [each.loops for each in found[way].values() if each.loops is not None]
        loops = f"{statistics.mean(used):.2f}" if used else f"{int(way):.2f}" if way in args.ways else ""
        aligned = align([references[key] for key in keys], [found[way][key].text for key in keys], split_words)
        rate = add_counts([one.counts for one in aligned]).error_percent
        ratio = spread(ratios(runs[args.ways[0]], seconds))
        print(f"| {way} | {loops} | {rate:.2f} | {spread(seconds)} | {ratio} |")


if __name__ == "__main__":
    main()
