#!/usr/bin/env python3
"""Every way to decode that a model with an LM offers, in batches of 1, 8 and 32: words, calls, seconds, memory.

From the waveform on: features, encoder and search count, reading audio does not. All ways take turns in this process,
on the same audio and batches, after a repetition that does not count. A call is one of the LM, a prefill included;
calls a word and tokens a call are of one utterance, so that batches change them only by rounding. A way that the model
does not offer is named with the reason. `relaxed` takes the thresholds that are calibrated beside the model, or those
given.

    cd egs/an4 && python ../../tools/bench/ways.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/test --repeats 3
    python tools/bench/ways.py ... --device cuda --ways greedy relaxed --relaxed_entropy 0.7 --relaxed_tau 0.2
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benching import (
    add_cpu_time,
    add_machine,
    add_model,
    add_repeats,
    new_parser,
    now,
    print_header,
    ratios,
    spread,
    words_wrong,
)
from llm_ways import Peak

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batch import Waveform
from espnet_larm.recognize.config import CTC, EDIT, HEADS, NONE, PREFIX, RELAXED, DecodeConfig
from espnet_larm.recognize.model.features import batches_by_length
from espnet_larm.recognize.output.effort import BY_CTC, BY_DECODING, BY_LLM, Effort
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer

GREEDY = "greedy"
# Options of `DecodeConfig` by name; another way is another line. BEAM stands for --beam_size.
BEAM = object()
WAYS: Mapping[str, Mapping[str, Any]] = {
    "CTC alone": {"ctc_weight": 1.0},
    GREEDY: {"drafts": NONE},
    "beam": {"drafts": NONE, "beam_size": BEAM},
    "prefix beam": {"beam_type": PREFIX, "beam_size": BEAM},
    "verified heads": {"drafts": HEADS},
    "verified CTC": {"drafts": CTC},
    "relaxed": {"accept": RELAXED},
    "edit": {"search": EDIT},
}
SIZES = (1, 8, 32)


class Run(NamedTuple):
    """One repetition of a way over all utterances.

    Attributes:
        seconds: Seconds of the repetition.
        mib: Peak of memory above what stood before.
        texts: Hypothesis of each utterance.
        effort: What the LM's searches took.
    """

    seconds: float
    mib: float
    texts: list[str]
    effort: Effort


class Audio(NamedTuple):
    """Utterances in memory.

    Attributes:
        waveforms: Samples of each.
        texts: Its reference.
        seconds: Seconds of all.
    """

    waveforms: list[Waveform]
    texts: list[str]
    seconds: float

    def batches(self, size: int) -> list[list[int]]:
        """Indices of utterances in batches of a size, by length."""
        return batches_by_length(list(map(len, self.waveforms)), math.inf, size)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser, "decoder: speech_llm")
    add_places(parser)
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    add_machine(parser)
    add_repeats(parser, 3)
    add_cpu_time(parser)
    parser.add_argument("--utterances", type=int, help="utterances to decode, spread over the set (all)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="ways to decode (all)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="utterances in a batch (1 8 32)")
    parser.add_argument("--beam_size", type=int, default=4, help="width of the beams (4)")
    thresholds_help = "threshold of relaxed, instead of the one calibrated beside the model"
    parser.add_argument("--relaxed_entropy", type=float, help=thresholds_help)
    parser.add_argument("--relaxed_tau", type=float, help=thresholds_help)
    return parser


def load(recognizer: Recognizer, args: argparse.Namespace) -> Audio:
    """The utterances of the folder, or some of them, evenly spaced in its order."""
    utterances = read_dir(args.data_dir)
    utterances = utterances[:: max(1, len(utterances) // (args.utterances or len(utterances)))][: args.utterances]
    table = AudioTable(args.data_dir / "wav.scp", "sound", recognizer.sample_rate_hz, recognizer.preprocess)
    waveforms: list[Waveform] = [table.read(utterance.id) for utterance in utterances]
    seconds = sum(map(len, waveforms)) / recognizer.sample_rate_hz
    return Audio(waveforms, [utterance.text for utterance in utterances], seconds)


def plans_of(recognizer: Recognizer, args: argparse.Namespace) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plans of the ways that the model offers, and for the others why it does not."""
    plans, refusals = {}, {}
    for name in args.ways:
        options = {key: args.beam_size if value is BEAM else value for key, value in WAYS[name].items()}
        if options.get("accept") == RELAXED:
            options |= {"relaxed_entropy": args.relaxed_entropy, "relaxed_tau": args.relaxed_tau}
        try:
            plans[name] = recognizer.plan(DecodeConfig(**options))
        except ValueError as error:
            refusals[name] = str(error)
    return plans, refusals


def run(recognizer: Recognizer, plan: Plan, audio: Audio, size: int, clock: Callable[[], float]) -> Run:
    """Decode all."""
    texts, effort = [""] * len(audio.texts), Effort()
    peak, start = Peak(recognizer.device), now(recognizer.device, clock)
    for batch in audio.batches(size):
        decoded = recognizer.decode([audio.waveforms[index] for index in batch], plan)
        effort = effort.plus(decoded.cost.effort)
        for index, transcript in zip(batch, decoded.transcripts, strict=True):
            texts[index] = transcript.text
    return Run(now(recognizer.device, clock) - start, peak.mib(), texts, effort)


def rows_of(runs: Mapping[str, Sequence[Run]], audio: Audio, size: int) -> Iterator[str]:
    """A row of a table in Markdown for each way."""
    base = runs.get(GREEDY)
    for name, repetitions in runs.items():
        last, seconds = repetitions[-1], [each.seconds for each in repetitions]
        stats = last.effort.stats()
        ways = stats.get("accepted_by_fraction", {})
        same = sum(map(str.__eq__, last.texts, base[-1].texts)) if base else 0
        cells = [
            str(size),
            name,
            words_wrong(audio.texts, last.texts),
            f"{same} of {len(last.texts)}" if base else "-",
            f"{stats['row_calls_per_word']:.2f}" if last.effort.num_calls else "-",
            f"{stats['tokens_per_row_call']:.2f}" if last.effort.num_calls else "-",
            str(last.effort.num_calls),
            " / ".join(f"{100 * ways[way]:.0f}" for way in (BY_CTC, BY_LLM, BY_DECODING)) if ways else "-",
            spread(seconds),
            spread(ratios([each.seconds for each in base], seconds)) if base else "-",
            f"{max(each.mib for each in repetitions):.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure all ways and print a table."""
    args = get_parser().parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    files = args.asr_train_config, args.asr_model_file
    recognizer = Recognizer.from_files(*files, args.device, llm=args.llm, encoder=args.encoder)
    plans, refusals = plans_of(recognizer, args)
    audio = load(recognizer, args)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    amount = f"{len(audio.texts)} utterances, {audio.seconds:.0f} s of audio"
    print(f"{amount}; {args.repeats} times{', CPU time' if args.cpu_time else ''}; beams of {args.beam_size}")
    for name, reason in refusals.items():
        print(f"not measured: {name}: {reason}")
    columns = "batch, way, words wrong, texts as greedy, calls a word, tokens a call, calls in batches"
    columns += ", by CTC / the LM / decoding %, s (range), times as fast as greedy (range), peak MiB"
    print_header(*columns.split(", "))
    for size in args.sizes:
        runs: dict[str, list[Run]] = {name: [] for name in plans}
        for repetition in range(args.repeats + 1):
            for name, plan in plans.items():
                found = run(recognizer, plan, audio, size, clock)
                if repetition:
                    runs[name].append(found)
        for row in rows_of(runs, audio, size):
            print(row, flush=True)


if __name__ == "__main__":
    main()
