#!/usr/bin/env python3
"""Decoding with an LM: ours at one utterance and in batches, beside Hugging Face's `generate` and ESPnet's beam search.

All in this process, in turn, on the same LM and the same encoder output; starting and reading audio are not counted.
Times are medians of repetitions that go through all ways in turn; ratios are medians of the ratios within a repetition.
A model of an experiment, or with --random an LM of 30 million random weights whose texts have --tokens tokens.
With --drafts also several tokens a call: ours with drafts of the heads, of the CTC head and of both, Hugging Face's
prompt lookup and early exit; how many calls that saves, what the lengths of the texts allow, what is drafted along the
transcripts, and whether long texts stay greedy search's.

    cd egs/an4 && python ../../tools/bench/decoding.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/test
    python tools/bench/decoding.py --random
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Sequence

import torch
from benching import add_data, add_machine, add_model, add_repeats, new_parser, now, print_header, ratios, spread
from decoding_inputs import Inputs, of_experiment, random_inputs
from drafted_report import report_drafts, report_long, report_references
from drafted_ways import Drafted, hugging_face_ways, our_ways
from llm_ways import Calls, Espnet, Frames, HuggingFace, Ours, Peak, Run, Way, margins_where_parted

from espnet_larm.llm.packed_linear import unpack_linear_layers
from espnet_larm.recognize.drafting import MAX_TOKENS_PER_CALL
from espnet_larm.search.multi_token import Found

HF_SINGLY, HF_BATCHED = "HF generate, one by one", "HF generate, batched"
SINGLY, BATCHED = "ours, one by one", "ours, batched"
CACHED, UNCACHED = "ESPnet beam {}, our cached scorer", "ESPnet beam {}, uncached"
# What is compared in the report: a ratio of the first to the second, and what is wanted of it.
Ratios = Sequence[tuple[str, str, float | None]]
RATIOS: Ratios = (
    (HF_SINGLY, BATCHED, 4.0),
    (HF_BATCHED, BATCHED, 1.0),
    (HF_SINGLY, SINGLY, None),
    (UNCACHED, CACHED, 5.0),
)


class Bench:
    """The ways, the frames and the clock."""

    def __init__(self, inputs: Inputs, args: argparse.Namespace) -> None:
        self.inputs = inputs
        decoder, eos = inputs.decoder, inputs.eos
        hugging_face = HuggingFace(decoder, eos)
        ours = Ours(decoder, eos)
        self.calls = Calls(decoder.backbone, hugging_face.model)
        self.ways: dict[str, tuple[Way, bool]] = {
            HF_SINGLY: (hugging_face, False),
            HF_BATCHED: (hugging_face, True),
            SINGLY: (ours, False),
            BATCHED: (ours, True),
        }
        # What HF says against ways of its own that do not work.
        self.drafted: dict[str, Drafted] = {}
        self.refusals: list[str] = []
        if args.drafts:
            self.drafted = our_ways(inputs, args.tokens_per_call, args.taus)
            theirs, self.refusals = hugging_face_ways(inputs, hugging_face, max(args.tokens_per_call))
            self.drafted |= theirs
        self.espnet: dict[str, Way] = {}
        if args.beam_size:
            self.espnet = {
                name.format(args.beam_size): Espnet(decoder, eos, args.beam_size, is_cached)
                for name, is_cached in ((CACHED, True), (UNCACHED, False))
            }

    def run(self, way: Way, is_batched: bool, batches: Sequence[Frames], most: int | None = None) -> Run:
        """Decode all."""
        parts = list(batches) if is_batched else [one for batch in batches for one in batch.singly()]
        token_ids: list[list[int]] = [[] for _ in range(self.inputs.num_utts)]
        searches: list[tuple[list[int], Found]] = getattr(way, "searches", [])
        searches.clear()
        peak, self.calls.count, start = Peak(self.inputs.device), 0, now(self.inputs.device)
        for frames in parts:
            for index, found in zip(frames.indices, way(frames, most), strict=True):
                token_ids[index] = found
        return Run(now(self.inputs.device) - start, self.calls.count, peak.mib(), token_ids, list(searches))

    def ratios(self) -> Ratios:
        """Pairs of ways whose seconds are compared, with the wanted ratio."""
        ours = ((BATCHED, name, 1.5) if way.is_batched else (SINGLY, name, 2.2) for name, way in self.drafted.items())
        return [
            *RATIOS,
            *((slow, fast, None if fast.startswith("HF") else wanted) for slow, fast, wanted in ours),
            *((HF_SINGLY, name, None) for name in self.drafted if name.startswith("HF")),
        ]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser, "decoder: speech_llm", required=False)
    add_data(parser, 160.0, required=False)
    add_repeats(parser, 5)
    add_machine(parser)
    parser.add_argument(
        "--random", action="store_true", help="decode with 30 M random weights instead of a trained model"
    )
    parser.add_argument(
        "--utterances", type=int, help="utterances to decode, spread over the set (all; 16 with --random)"
    )
    parser.add_argument("--tokens", type=int, default=50, help="with --random, tokens of each hypothesis (50)")
    parser.add_argument("--beam_size", type=int, default=4, help="width of ESPnet's beam search; 0 leaves it out (4)")
    parser.add_argument("--espnet_utterances", type=int, default=8, help="utterances for ESPnet's search (8)")
    parser.add_argument(
        "--drafts", action="store_true", help="decode with drafts from all sources too, several tokens a call"
    )
    parser.add_argument(
        "--tokens_per_call",
        type=tokens_per_call,
        nargs="+",
        default=[2, 4, 6, 8],
        help="with --drafts, most tokens a call yields (K), from 2; above the number of heads, CTC alone (2 4 6 8)",
    )
    parser.add_argument(
        "--taus",
        type=float,
        nargs="*",
        default=[],
        help="with --drafts, least probabilities of a head's draft to try (none)",
    )
    parser.add_argument(
        "--long_tokens",
        type=int,
        default=400,
        help="with --drafts, tokens of long hypotheses to compare; 0 for none (400)",
    )
    parser.add_argument("--long_utterances", type=int, default=4, help="utterances for long hypotheses (4)")
    parser.add_argument("--unpacked", action="store_true", help="use torch's own linear layers in ours, as in HF")
    parser.add_argument(
        "--bfloat16", action="store_true", help="decode with the LM in bfloat16 too, and compare hypotheses"
    )
    return parser


def tokens_per_call(value: str) -> int:
    """An option's value."""
    number = int(value)
    if not 2 <= number <= MAX_TOKENS_PER_CALL:
        raise argparse.ArgumentTypeError(f"{number}; allowed: 2 to {MAX_TOKENS_PER_CALL}")
    return number


@torch.no_grad()
def main() -> None:
    """Run all ways in turn and print the tables."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    # ESPnet's search says at every utterance that its bound was met.
    logging.disable(logging.WARNING)
    inputs = random_inputs(args) if args.random else of_experiment(args)
    if args.unpacked:
        unpack_linear_layers(inputs.decoder)
    bench = Bench(inputs, args)
    singly = [one for batch in inputs.batches for one in batch.singly()]
    few = spaced(singly, args.espnet_utterances)
    runs: dict[str, list[Run]] = {}
    first: dict[str, list[Run]] = {}
    for repetition in range(args.repeats + 1):
        found = {name: bench.run(*way, inputs.batches) for name, way in bench.ways.items()}
        found |= {name: bench.run(each.way, each.is_batched, inputs.batches) for name, each in bench.drafted.items()}
        found |= {name: bench.run(way, False, few) for name, way in bench.espnet.items()}
        started = {name: bench.run(*way, inputs.batches, most=1) for name, way in bench.ways.items()}
        started |= {name: bench.run(way, False, few, most=1) for name, way in bench.espnet.items()}
        if repetition:
            for name, run in found.items():
                runs.setdefault(name, []).append(run)
            for name, run in started.items():
                first.setdefault(name, []).append(run)
    report(args, inputs, runs, first, [index for one in few for index in one.indices], bench.ratios())
    if args.drafts:
        report_all_drafts(args, inputs, bench, runs, singly)
    if args.bfloat16:
        compare_bfloat16(inputs, runs[BATCHED][-1].token_ids)


def report(
    args: argparse.Namespace,
    inputs: Inputs,
    runs: dict[str, list[Run]],
    first: dict[str, list[Run]],
    few: Sequence[int],
    ratios_wanted: Ratios,
) -> None:
    """Print a row a way, and the ratios of ways."""
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    print(
        f"{inputs.num_utts} utterances, {inputs.audio_seconds:.0f} s in {len(inputs.batches)} batches of at most "
        f"{args.batch_seconds:.0f} s; {args.repeats} times; encoder {inputs.encoder_seconds:.2f} s"
    )
    columns = "decoding, utterances, s (range), RTF with encoder, calls, first token s, peak MiB"
    print_header(*columns.split(", "))
    for name, repetitions in runs.items():
        seconds = [run.seconds for run in repetitions]
        is_few = name.startswith("ESPnet")
        decoded = few if is_few else range(inputs.num_utts)
        num_utts, share = len(decoded), sum(inputs.seconds[index] for index in decoded)
        encoder = inputs.encoder_seconds * share / inputs.audio_seconds
        middle, num_parts = statistics.median(seconds), len(inputs.batches) if "batched" in name else num_utts
        begun = f"{statistics.median(run.seconds for run in first[name]) / num_parts:.4f}" if name in first else "-"
        print(
            f"| {name} | {num_utts} | {spread(seconds)} "
            f"| {(middle + encoder) / share:.4f} | {repetitions[-1].calls} | {begun} "
            f"| {max(run.mib for run in repetitions):.0f} |"
        )
    print_header("ratio of seconds", "median (range)", "wanted")
    for slow, fast, wanted in ratios_wanted:
        slow_runs, fast_runs = runs.get(slow.format(args.beam_size)), runs.get(fast.format(args.beam_size))
        if slow_runs and fast_runs:
            found = ratios([run.seconds for run in slow_runs], [run.seconds for run in fast_runs])
            print(
                f"| {slow} / {fast} | {spread(found)} | {'' if wanted is None else f'at least {wanted:g}'} |".replace(
                    "{}", str(args.beam_size)
                )
            )
    wanted_ids = runs[HF_SINGLY][-1].token_ids
    for name in (HF_BATCHED, SINGLY, BATCHED):
        same = sum(left == right for left, right in zip(wanted_ids, runs[name][-1].token_ids, strict=True))
        print(f"{name}: {same} of {inputs.num_utts} texts are those of HF one by one")
    if inputs.texts:
        print(f"words wrong, {BATCHED}: {inputs.words_wrong(runs[BATCHED][-1].token_ids)}")


def report_all_drafts(
    args: argparse.Namespace, inputs: Inputs, bench: Bench, runs: dict[str, list[Run]], singly: Sequence[Frames]
) -> None:
    """Tables about drafts, and the checks that need runs of their own."""
    for refusal in bench.refusals:
        print(refusal)
    if inputs.ctc_tokens is not None:
        print(f"CTC's texts, which ctc and longer draft from, took {inputs.ctc_seconds:.2f} s, not counted above")
    report_drafts(inputs, bench.drafted, runs, SINGLY, BATCHED)
    report_references(inputs, args.tokens_per_call)
    if args.long_tokens and args.long_utterances:
        report_long(inputs, spaced(singly, args.long_utterances), args)


def spaced(frames: Sequence[Frames], number: int) -> Sequence[Frames]:
    """Some utterances, evenly spaced in their order by length."""
    return frames[:: max(1, len(frames) // max(1, number))][:number]


def compare_bfloat16(inputs: Inputs, expected: Sequence[list[int]]) -> None:
    """Texts of the LM in bfloat16 beside those in float32."""
    half = inputs.in_bfloat16()
    found: list[list[int]] = [[] for _ in expected]
    way, margins = Ours(half, inputs.eos), []
    for frames in inputs.batches:
        texts = way(frames)
        wanted = [expected[index] for index in frames.indices]
        margins += margins_where_parted(inputs.decoder, frames, wanted, texts, inputs.eos)
        for index, text in zip(frames.indices, texts, strict=True):
            found[index] = text
    listed = ", ".join(f"{margin:.3f}" for margin in sorted(margins))
    print(f"LM in bfloat16: {len(margins)} of {len(expected)} texts differ; margins of float32's best two tokens where")
    print(f"they part (nats): {listed or '-'}")
    if inputs.texts:
        print(f"words wrong: {inputs.words_wrong(found)}")


if __name__ == "__main__":
    main()
