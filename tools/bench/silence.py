#!/usr/bin/env python3
"""Cost of silence around the speech: a test set is decoded by CTC with silence added on both sides.

Prints word error rates and numbers of word errors at each read-out of the encoder, for digital silence (zeros) and for
faint noise (white, 60 dB below full scale). The seed decides the noise, so that all models get the same. --vad first
cuts off what is no speech, as `espnet-larm transcribe` does.

    cd egs/mini && python ../../tools/bench/silence.py --exp_dir exp/asr_train_larm_raw_char_sp --data_dir dump/raw/test
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from benching import add_machine, new_parser

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.listen.speech import find_speech
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.output.results import EMPTY, Transcript
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import Counts, add_counts, align, split_words

DIGITAL, FAINT = KINDS = ("digital", "faint noise")
SECONDS = (0.0, 0.1, 0.25, 0.5, 1.0)
FAINT_NOISE_DB = -60.0
BATCH_SIZE = 16


class Row(NamedTuple):
    """Errors under one surrounding.

    Attributes:
        kind: One of KINDS.
        seconds: Seconds of silence on each side.
        counts: Word errors by the number of the read-out.
    """

    kind: str
    seconds: float
    counts: dict[int, Counts]


def surround(samples: np.ndarray, seconds: float, sample_rate_hz: int, noise: np.random.Generator | None) -> np.ndarray:
    """Add a silence before and after an utterance.

    Args:
        samples: (N,) in [-1, 1].
        seconds: Seconds of each silence.
        sample_rate_hz: Sample rate.
        noise: Draws white noise of FAINT_NOISE_DB below full scale; None adds zeros.

    Returns:
        (N + 2 seconds sample_rate_hz,) float32.
    """
    silences = np.zeros((2, round(seconds * sample_rate_hz)))
    if noise is not None:
        silences = 10 ** (FAINT_NOISE_DB / 20) * noise.standard_normal(silences.shape)
    return np.concatenate([silences[0], samples, silences[1]]).astype(np.float32)


class Bench:
    """A recogniser and a test set."""

    def __init__(self, args: argparse.Namespace) -> None:
        config, weights = args.exp_dir / "config.yaml", args.exp_dir / args.asr_model_file
        self.recognizer = Recognizer.from_files(config, weights, args.device)
        self.texts = {utterance.id: utterance.text for utterance in read_dir(args.data_dir)}
        table = AudioTable(
            args.data_dir / "wav.scp", "sound", self.recognizer.sample_rate_hz, self.recognizer.preprocess
        )
        gain = 10 ** (args.gain_db / 20)
        self.audio = {key: gain * table.read(key) for key in self.texts}
        self.seed, self.vad = args.seed, args.vad

    def rows(self, seconds: Sequence[float]) -> Iterator[Row]:
        """Measure each kind at each length; 0 seconds are alike in both."""
        for kind in KINDS:
            for length in seconds:
                yield self.row(kind, length)

    def row(self, kind: str, seconds: float) -> Row:
        """Decode."""
        noise = None if kind == DIGITAL else np.random.default_rng(self.seed)
        waveforms = [
            surround(samples, seconds, self.recognizer.sample_rate_hz, noise) for samples in self.audio.values()
        ]
        transcripts = self.recognize_speech(waveforms) if self.vad else self.recognize(waveforms)
        return Row(kind, seconds, count_errors(list(self.texts.values()), transcripts))

    def recognize(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Recognise waveforms (N,) in batches."""
        transcripts = []
        for start in range(0, len(waveforms), BATCH_SIZE):
            transcripts += self.recognizer.recognize(waveforms[start : start + BATCH_SIZE])
        return transcripts

    def recognize_speech(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Recognise the stretches of speech in waveforms (N,), and join the texts of each waveform."""
        found = [find_speech(samples, self.recognizer.sample_rate_hz) for samples in waveforms]
        pieces = [
            samples[each.start : each.end]
            for samples, stretches in zip(waveforms, found, strict=True)
            for each in stretches
        ]
        heard = iter(self.recognize(pieces))
        numbers = self.recognizer.plan().numbers
        return [join_transcripts([next(heard) for _ in stretches], numbers) for stretches in found]


def join_transcripts(transcripts: Sequence[Transcript], numbers: Sequence[int]) -> Transcript:
    """One transcript for stretches of a recording, with the read-outs of these numbers; empty texts for no stretch."""
    texts = {number: " ".join(each.hypotheses[number].text for each in transcripts) for number in numbers}
    return Transcript({number: EMPTY._replace(text=text) for number, text in texts.items()})


def count_errors(texts: Sequence[str], transcripts: Sequence[Transcript]) -> dict[int, Counts]:
    """Word errors of all utterances, by the number of the read-out."""
    found = {}
    for number in transcripts[0].hypotheses:
        hypotheses = [transcript.hypotheses[number].text for transcript in transcripts]
        found[number] = add_counts([one.counts for one in align(texts, hypotheses, split_words)])
    return found


def format_rows(rows: Sequence[Row]) -> Iterator[str]:
    """A table for RESULTS.md."""
    numbers = list(rows[0].counts)
    yield f"| silence | s on both sides |{''.join(f' WER %, loop {number} | errors |' for number in numbers)}"
    yield "|---" * (2 + 2 * len(numbers)) + "|"
    for row in rows:
        cells = "".join(
            f" {row.counts[number].error_percent:.2f} | {row.counts[number].errors} |" for number in numbers
        )
        yield f"| {row.kind} | {row.seconds:g} |{cells}"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_machine(parser, threads=1)
    parser.add_argument(
        "--exp_dir", type=Path, required=True, help="folder of the experiment, with config.yaml and weights"
    )
    parser.add_argument(
        "--asr_model_file", default="valid.loss.ave.pth", help="weights in the folder (valid.loss.ave.pth)"
    )
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=list(SECONDS),
        help="seconds of silence on each side (0 0.1 0.25 0.5 1)",
    )
    parser.add_argument("--gain_db", type=float, default=0.0, help="gain of the speech alone, in dB (0)")
    parser.add_argument("--vad", action="store_true", help="recognise the stretches of speech alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    return parser


def main() -> None:
    """Measure and print."""
    args = get_parser().parse_args()
    if min(args.seconds) < 0:
        raise SystemExit(f"--seconds {min(args.seconds):g} is not allowed; allowed: 0 or more.")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    for line in format_rows(list(Bench(args).rows(args.seconds))):
        print(line)


if __name__ == "__main__":
    main()
