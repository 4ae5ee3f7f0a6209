#!/usr/bin/env python3
"""Cost of CTC decoding: greedy and prefix beam search beside the forward pass before them, and beside ESPnet's own.

All in this process, in turn, on the same model and utterances; starting and reading audio are not counted. "forward"
is features and encoder. ESPnet decodes with ctc_weight 1, an utterance at a time, and in our batches by its
`batch_decode`. A hypothesis's log-probability is the exact one of its text under the model's encoded, whatever search
found it.

    cd egs/an4 && python ../../tools/bench/ctc_decoding.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --data_dir dump/raw/test
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from benching import (
    SAMPLE_RATE_HZ,
    add_data,
    add_machine,
    add_model,
    add_repeats,
    new_parser,
    now,
    print_header,
    spread,
    words_wrong,
)
from torch.nn import functional

from espnet2.bin.asr_inference import Speech2Text

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import Utterance, read_dir
from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.posteriors import greedy


class Encoded(NamedTuple):
    """Encoder output of a batch (B, T, D), and its utterances."""

    indices: list[int]
    hs_pad: torch.Tensor
    lens: torch.Tensor


class Run(NamedTuple):
    """One repetition of one way to decode: seconds, and the token ids of each utterance."""

    seconds: float
    token_ids: list[list[int]]


class Bench:
    """The model, the utterances and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, args.device)
        self.model = self.recognizer.model
        self.device = self.recognizer.device
        utterances = read_dir(args.data_dir)
        self.texts = [utterance.text for utterance in utterances]
        self.waveforms = [samples_of(utterance, args.data_dir) for utterance in utterances]
        self.audio_seconds = sum(map(len, self.waveforms)) / SAMPLE_RATE_HZ
        lengths = [len(waveform) for waveform in self.waveforms]
        self.batches = list(batches_by_length(lengths, args.batch_seconds * SAMPLE_RATE_HZ, None))
        self.no_text = sorted({self.model.sos, self.model.eos})

    def forward(self) -> tuple[float, list[Encoded]]:
        """Seconds of features and encoder, and what they gave."""
        found, seconds = [], 0.0
        for indices in self.batches:
            start = now(self.device)
            features = [
                extract_features(self.model, torch.from_numpy(self.waveforms[index]).to(self.device))
                for index in indices
            ]
            *_, (_, hs_pad, lens, _) = read_outs(self.model, *pad_features(features))
            seconds += now(self.device) - start
            found.append(Encoded(indices, hs_pad, lens))
        return seconds, found

    def search(self, batches: Sequence[Encoded], beam_size: int) -> Run:
        """CTC head and search."""
        token_ids: list[list[int]] = [[] for _ in self.waveforms]
        start = now(self.device)
        for indices, hs_pad, lens in batches:
            log_probs = self.model.ctc.log_softmax(hs_pad)
            if beam_size == 1:
                found = greedy(log_probs, lens, self.model.blank_id, self.no_text).to_lists()
            else:
                nbest = prefix_beam(log_probs, lens, beam_size, self.model.blank_id).to_lists()
                found = [hypotheses[0] for hypotheses in nbest]
            for index, tokens in zip(indices, found, strict=True):
                token_ids[index] = tokens
        return Run(now(self.device) - start, token_ids)

    def espnet(self, speech2text: Speech2Text) -> Run:
        """ESPnet's program's class, an utterance at a time, with its own features and encoder."""
        start, token_ids = now(self.device), []
        for waveform in self.waveforms:
            result = speech2text(waveform)
            hypotheses = result[0] if isinstance(result, tuple) else result
            token_ids.append(hypotheses[0][2])
        return Run(now(self.device) - start, token_ids)

    def espnet_batched(self, speech2text: Speech2Text) -> Run:
        """ESPnet's `batch_decode`, in the same batches as ours."""
        start = now(self.device)
        token_ids: list[list[int]] = [[] for _ in self.waveforms]
        for indices in self.batches:
            found = speech2text.batch_decode([self.waveforms[index] for index in indices])
            for index, hypotheses in zip(indices, found, strict=True):
                token_ids[index] = hypotheses[0][2]
        return Run(now(self.device) - start, token_ids)

    def words_wrong(self, token_ids: Sequence[Sequence[int]]) -> str:
        """Word errors of all utterances."""
        tokens = [[self.model.token_list[token] for token in row] for row in token_ids]
        texts = [self.recognizer.tokens_to_text(row) for row in tokens]
        return words_wrong(self.texts, texts)

    def log_probability(self, batches: Sequence[Encoded], token_ids: Sequence[list[int]]) -> list[float]:
        """Exact log-probability of each text."""
        values = [0.0] * len(token_ids)
        for indices, hs_pad, lens in batches:
            log_probs = self.model.ctc.log_softmax(hs_pad)
            for row, index in enumerate(indices):
                target = torch.tensor([token_ids[index]], dtype=torch.long, device=self.device)
                loss = functional.ctc_loss(
                    log_probs[row : row + 1, : lens[row]].transpose(0, 1).double(),
                    target,
                    lens[row : row + 1],
                    torch.tensor([target.size(1)], device=self.device),
                    blank=self.model.blank_id,
                    reduction="sum",
                )
                values[index] = -loss.item()
        return values


def samples_of(utterance: Utterance, data_dir: Path) -> "torch.Tensor":
    """Samples of an utterance; its path may be relative to the data folder."""
    source = utterance.audio
    audio = read_audio(source if Path(source.rpartition(":")[0] or source).exists() else str(data_dir / source))
    if audio.header.sample_rate != SAMPLE_RATE_HZ:
        raise ValueError(f"{source} has {audio.header.sample_rate} Hz; allowed: {SAMPLE_RATE_HZ}.")
    return audio.samples


@torch.inference_mode()
def main() -> None:
    """Run all ways in turn and print the table."""
    parser = new_parser(__doc__)
    add_model(parser)
    add_data(parser, 60.0)
    add_repeats(parser, 5)
    add_machine(parser)
    parser.add_argument(
        "--beam_size", type=int, default=10, help="width of the prefix beam and of ESPnet's second search (10)"
    )
    parser.add_argument(
        "--espnet_repeats", type=int, default=1, help="repetitions of ESPnet's slow search; 0 for none (1)"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    beams = (1, args.beam_size)
    theirs = {
        f"ESPnet, beam {beam}": Speech2Text(
            args.asr_train_config, args.asr_model_file, device=args.device, ctc_weight=1.0, beam_size=beam
        )
        for beam in beams
        if args.espnet_repeats
    }
    forwards: list[float] = []
    runs: dict[str, list[Run]] = {}
    for repetition in range(args.repeats + 1):
        seconds, encoded = bench.forward()
        ways: dict[str, Callable[[], Run]] = {
            "greedy": lambda: bench.search(encoded, 1),  # noqa: B023
            f"prefix beam {args.beam_size}": lambda: bench.search(encoded, args.beam_size),  # noqa: B023
        }
        if 0 < repetition <= args.espnet_repeats:
            for name, each in theirs.items():
                ways[name] = lambda each=each: bench.espnet(each)
                ways[f"{name}, batched"] = lambda each=each: bench.espnet_batched(each)
        found = {name: way() for name, way in ways.items()}
        if repetition:
            forwards.append(seconds)
            for name, run in found.items():
                runs.setdefault(name, []).append(run)
    report(args, bench, forwards, runs, encoded)


def report(
    args: argparse.Namespace,
    bench: Bench,
    forwards: Sequence[float],
    runs: dict[str, list[Run]],
    encoded: Sequence[Encoded],
) -> None:
    """Print a row a way; ratios are medians over repetitions, each to the forward pass of the same repetition."""
    audio = bench.audio_seconds
    print(" ".join(sys.argv), f"| torch {torch.__version__}, {args.device}, {args.threads} threads")
    print(
        f"{len(bench.waveforms)} utterances, {audio:.0f} s; batches of {args.batch_seconds:.0f} s; {args.repeats} times"
    )
    middle = statistics.median(forwards)
    print(f"forward: {spread(forwards, 3)} s, real-time factor {middle / audio:.5f}")
    columns = "search, s after forward, adds to forward, total real-time factor, words wrong, log-probability"
    print_header(*columns.split(", "))
    for name, repetitions in runs.items():
        spent = statistics.median(run.seconds for run in repetitions)
        is_theirs = name.startswith("ESPnet")
        share = statistics.median(run.seconds / base for run, base in zip(repetitions, forwards, strict=False))
        exact = bench.log_probability(encoded, repetitions[-1].token_ids)
        total = spent if is_theirs else spent + middle
        print(
            f"| {name} | {'-' if is_theirs else f'{spent:.3f}'} | {'-' if is_theirs else f'{100 * share:.1f} %'} "
            f"| {total / audio:.5f} | {bench.words_wrong(repetitions[-1].token_ids)} | {sum(exact):.3f} |"
        )
    compare(bench, runs, encoded, f"prefix beam {args.beam_size}")


def compare(bench: Bench, runs: dict[str, list[Run]], encoded: Sequence[Encoded], ours: str) -> None:
    """Print for how many utterances our beam's hypothesis is more or less probable than ESPnet's."""
    best = bench.log_probability(encoded, runs[ours][-1].token_ids)
    for name, repetitions in runs.items():
        if not name.startswith("ESPnet"):
            continue
        other = bench.log_probability(encoded, repetitions[-1].token_ids)
        gaps = [mine - theirs for mine, theirs in zip(best, other, strict=True)]
        above, below = sum(gap > 1e-4 for gap in gaps), sum(gap < -1e-4 for gap in gaps)
        print(
            f"{ours} beside {name}: more probable {above}, as probable {len(gaps) - above - below}, less {below}",
            end="",
        )
        print(f" (by {-min(gaps):.4f} at most)" if below else "")


if __name__ == "__main__":
    main()
