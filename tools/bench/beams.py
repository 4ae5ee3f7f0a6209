#!/usr/bin/env python3
"""Compares beam searches of an LM: ordinary, verified with several tokens a call, and prefix beam.

Each search runs with and without CTC and n-gram scorers. For each one and each width, from the waveform on, in
batches: word error rate with its 95 % interval, calls of the LM one utterance at a time, tokens that all hypotheses
read, and the real-time factor. All searches run in turn in this process, after a few utterances that do not count.

    cd egs/an4 && python ../../tools/bench/beams.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/test --ngram_file exp/ngram/4gram.arpa
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benching import add_data, add_llm, add_machine, add_model, new_parser, print_header

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import HEADS, NONE, ORDINARY, PREFIX, Batching, DecodeConfig
from espnet_larm.recognize.decoding import decode_table
from espnet_larm.recognize.output.results import Transcript
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import add_counts, align, split_words
from espnet_larm.scoring.bootstrap import group_utterances, interval, resample_rates

NUM_WARM = 4
VERIFIED = "verified"
WAYS = {ORDINARY: (ORDINARY, NONE), VERIFIED: (ORDINARY, HEADS), PREFIX: (PREFIX, HEADS)}


class Row(NamedTuple):
    """Figures of a search.

    Attributes:
        way: One of WAYS.
        width: Width of the beam.
        nbest: Tokens of the hypotheses of each utterance.
        wer_percent: Word error rate.
        low_percent: Lower end of its 95 % interval.
        high_percent: Upper end of its 95 % interval.
        calls: Calls of the LM, summed over utterances.
        row_tokens: Tokens that all hypotheses have read.
        real_time_factor: Seconds of compute a second of audio.
    """

    way: str
    width: int
    nbest: dict[str, list[list[int]]]
    wer_percent: float
    low_percent: float
    high_percent: float
    calls: int
    row_tokens: int
    real_time_factor: float


class Taken:
    """Keeps transcripts in the place of `HypothesisWriter`."""

    def __init__(self) -> None:
        self.transcripts: dict[str, Transcript] = {}

    def write(self, key: str, transcript: Transcript) -> None:
        """Keep it."""
        self.transcripts[key] = transcript


class Bench:
    """A recogniser and a test set."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, args.device, llm=args.llm)
        utterances = read_dir(args.data_dir)[: args.utterances]
        self.texts = {utterance.id: utterance.text for utterance in utterances}
        self.grouping = group_utterances(
            list(self.texts), {utterance.id: utterance.speaker for utterance in utterances}
        )
        self.table = AudioTable(
            args.data_dir / "wav.scp", "sound", self.recognizer.sample_rate_hz, self.recognizer.preprocess
        )
        self.args = args

    def rows(self, **scorers: Any) -> Iterator[Row]:
        """Figures of all searches and widths."""
        for width in self.args.widths:
            for way in self.args.ways:
                yield self.row(way, width, **scorers)

    def row(self, way: str, width: int, **scorers: Any) -> Row:
        """Decode."""
        beam_type, drafts = WAYS[way]
        options: dict[str, Any] = {"drafts": drafts}
        if drafts == HEADS:
            options |= {"tokens_per_call": self.args.tokens_per_call, "draft_tau": self.args.tau}
        nbest = min(self.args.nbest, width)
        config = DecodeConfig(beam_size=width, nbest=nbest, beam_type=beam_type, **options, **scorers)
        plan, batching, taken = self.recognizer.plan(config), Batching(self.args.batch_seconds), Taken()
        decode_table(self.recognizer, self.table, list(self.texts)[:NUM_WARM], plan, batching, Taken())
        stats = decode_table(self.recognizer, self.table, list(self.texts), plan, batching, taken)
        hypotheses = [taken.transcripts[key].text for key in self.texts]
        counts = [one.counts for one in align(list(self.texts.values()), hypotheses, split_words)]
        (seconds,) = (each["seconds"] for each in stats["loops"].values())
        return Row(
            way,
            width,
            {key: [one.token_ids for one in (each.best, *each.others)] for key, each in taken.transcripts.items()},
            add_counts(counts).error_percent,
            *interval(resample_rates(counts, self.grouping)),
            stats["row_calls"],
            stats["row_tokens"],
            seconds / stats["audio_seconds"],
        )


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser, "decoder: speech_llm")
    add_llm(parser)
    add_data(parser, 60.0)
    add_machine(parser)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4, 8], help="widths of the beams (1 4 8)")
    parser.add_argument("--nbest", type=int, default=1, help="hypotheses to find and compare (1)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="searches to compare (all)")
    parser.add_argument(
        "--ctc_weights", type=float, nargs="+", default=[0.0, 0.3], help="weights of the CTC scorer (0 0.3)"
    )
    parser.add_argument("--ngram_file", type=Path, help="n-gram of the model's tokens (none)")
    parser.add_argument(
        "--ngram_weights", type=float, nargs="+", default=[0.0, 0.3], help="weights of --ngram_file (0 0.3)"
    )
    parser.add_argument("--tokens_per_call", type=int, help="most tokens a call yields (the model's number of heads)")
    parser.add_argument("--tau", type=float, help="least probability of a drafted token")
    parser.add_argument("--utterances", type=int, help="first utterances of the set to decode (all)")
    return parser


def report(rows: Sequence[Row]) -> None:
    """Print a table; each search is compared with the first of its width."""
    columns = "beam, way, WER % (95 %), calls, fewer, row-tokens, more, real-time factor, N-best as the first"
    print_header(*columns.split(", "))
    for row in rows:
        # The first way is the ordinary beam, if that is asked for.
        base = next(other for other in rows if other.width == row.width)
        same = sum(row.nbest[key] == other for key, other in base.nbest.items())
        print(
            f"| {row.width} | {row.way} | {row.wer_percent:.2f} ({row.low_percent:.2f}-{row.high_percent:.2f}) "
            f"| {row.calls} | {base.calls / row.calls:.2f} | {row.row_tokens} | {row.row_tokens / base.row_tokens:.2f} "
            f"| {row.real_time_factor:.4f} | {same} of {len(base.nbest)} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    args = get_parser().parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    for ngram_weight in args.ngram_weights if args.ngram_file else [0.0]:
        ngram = {"ngram_file": str(args.ngram_file), "ngram_weight": ngram_weight} if args.ngram_file else {}
        for ctc_weight in args.ctc_weights:
            print(f"\nctc_weight {ctc_weight}, ngram_weight {ngram_weight}")
            report(list(bench.rows(ctc_weight=ctc_weight, **ngram)))


if __name__ == "__main__":
    main()
