#!/usr/bin/env python3
"""A model on sets of recordings in the manner of the Open ASR leaderboard: WER of normalised words, and RTFx.

Source: `run_eval.py` of github.com/huggingface/open_asr_leaderboard, the form of which this follows: batches in the
set's order, audio decoded before the clock starts, a warm-up, references that are empty when normalised left out, RTFx
as seconds of audio a second of recognition, and a manifest of the results that its `score_results` reads. The same
options hold for all sets, as there.
Departures: English text goes through Whisper's own normaliser (`pip install whisper-normalizer`), of which the
leaderboard has a version of its own; names of sets are those of the manifests.

    python tools/bench/leaderboard.py --model_id model.zip --manifests test_clean.jsonl test_other.jsonl --batch_size 16
    python tools/bench/leaderboard.py --model_id whisper-frames --manifests my.tsv --decode num_loops=4 --device 0

A manifest is a table of one's own recordings (docs/tutorial/own_recordings.md), or NeMo's with `audio_filepath`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from benching import new_parser, print_header

import espnet_larm
from espnet_larm.errors import OptionError
from espnet_larm.files.atomic import write_text
from espnet_larm.listen.inputs import open_blocks
from espnet_larm.recipe.corpora.manifest import read_manifests
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.scoring.alignment import add_counts, align, split_words

# What the leaderboard leaves out of TED-LIUM.
NOT_SCORED = "ignore time segment in scoring"
CPU = -1

Normalise = Callable[[str], str]


class Sample(NamedTuple):
    """An utterance of a set.

    Attributes:
        audio: Path of its audio.
        reference: Its normalised transcript.
    """

    audio: str
    reference: str


class Result(NamedTuple):
    """An utterance that was recognised.

    Attributes:
        sample: The utterance.
        hypothesis: Its normalised hypothesis.
        audio_s: Seconds of audio.
        time_s: Its part of the seconds that its batch took.
    """

    sample: Sample
    hypothesis: str
    audio_s: float
    time_s: float


class Figures(NamedTuple):
    """Figures of a set: WER in percent, seconds of audio, seconds of recognition."""

    wer_percent: float
    audio_s: float
    time_s: float

    @property
    def rtfx(self) -> float:
        """Seconds of audio that a second recognises."""
        return self.audio_s / self.time_s


def english_normaliser() -> Normalise:
    """Whisper's normaliser of English text.

    Raises:
        ImportError: It is not installed.
    """
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise ImportError(
            "whisper_normalizer is not installed; pip install whisper-normalizer, or --normaliser none for texts "
            "that are compared as they are."
        ) from error
    normalise: Normalise = EnglishTextNormalizer()
    return normalise


def read_set(manifest: Path, normalise: Normalise, most: int | None) -> list[Sample]:
    """The utterances of a manifest whose normalised transcript holds a word, the first `most` of them.

    Raises:
        ValueError: There is none, or a line of the manifest is wrong.
    """
    samples = [Sample(each.audio, normalise(each.text).strip()) for each in read_manifests([manifest])]
    samples = [each for each in samples if each.reference not in ("", NOT_SCORED)]
    if not samples:
        raise ValueError(f"--manifests {manifest} has no transcript that holds a word; name a set with transcripts.")
    return samples[:most]


def recognise(
    recognizer: Any, samples: Sequence[Sample], batch_size: int, config: DecodeConfig, normalise: Normalise
) -> Iterator[Result]:
    """Recognise utterances in batches, and tell what each took.

    Args:
        recognizer: The model (`espnet_larm.load(...).recognizer`).
        samples: The utterances.
        batch_size: Number of utterances of a batch.
        config: How to decode.
        normalise: Function from a hypothesis to what is compared.
    """
    plan, rate_hz = recognizer.plan(config), recognizer.sample_rate_hz
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        waveforms = [np.concatenate(list(open_blocks(each.audio, None, rate_hz))) for each in batch]
        began = time.perf_counter()
        transcripts = recognizer.recognize(waveforms, plan)
        time_s = (time.perf_counter() - began) / len(batch)
        for sample, waveform, transcript in zip(batch, waveforms, transcripts, strict=True):
            yield Result(sample, normalise(transcript.text).strip(), len(waveform) / rate_hz, time_s)


def figures_of(results: Sequence[Result]) -> Figures:
    """Figures of a set, over all its words."""
    references, hypotheses = [each.sample.reference for each in results], [each.hypothesis for each in results]
    counts = add_counts([each.counts for each in align(references, hypotheses, split_words)])
    return Figures(counts.error_percent, sum(each.audio_s for each in results), sum(each.time_s for each in results))


def write_results(folder: Path, model_id: str, manifest: Path, results: Sequence[Result]) -> Path:
    """Write a set's results as the leaderboard's scripts do, and return the path."""
    lines = [
        json.dumps(
            {
                "audio_filepath": each.sample.audio,
                "duration": each.audio_s,
                "time": each.time_s,
                "text": each.sample.reference,
                "pred_text": each.hypothesis,
            },
            ensure_ascii=False,
        )
        for each in results
    ]
    name = model_id.strip("/").replace("/", "-")
    path = folder / f"MODEL_{name}_DATASET_{manifest.resolve().parent.name}_{manifest.stem}_test.jsonl"
    write_text(path, "".join(f"{line}\n" for line in lines))
    return path


def decode_config(options: Sequence[str]) -> DecodeConfig:
    """Options of decoding, NAME=VALUE each.

    Raises:
        OptionError: One has another form; errors of values are those of `DecodeConfig`.
    """
    pairs = [option.partition("=") for option in options]
    if wrong := [name for name, equals, _ in pairs if not equals or name not in DecodeConfig.__dataclass_fields__]:
        raise OptionError(f"--decode {wrong[0]}: allowed: NAME=VALUE with a name of docs/options.md, Decoding.")
    return DecodeConfig(**{name: yaml.safe_load(value) for name, _, value in pairs})


def get_parser() -> argparse.ArgumentParser:
    """Options of this program, named as the leaderboard's are."""
    parser = new_parser(__doc__)
    parser.add_argument("--model_id", required=True, help="pack, experiment's folder, or name, as espnet-larm takes it")
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="the sets, NAME.tsv or NAME.jsonl")
    parser.add_argument("--device", type=int, default=CPU, help=f"number of the GPU; {CPU}, the CPU, by default")
    parser.add_argument("--dtype", default="float32", help="type of the weights (float32); bfloat16 on GPUs")
    parser.add_argument("--batch_size", type=int, default=16, help="utterances recognised together (16)")
    parser.add_argument(
        "--warmup_steps", type=int, default=2, help="batches of the first set before the clock counts (2)"
    )
    parser.add_argument("--max_eval_samples", type=int, help="first utterances of each set; all by default")
    parser.add_argument(
        "--decode", nargs="*", default=[], metavar="NAME=VALUE", help="options of decoding (docs/options.md)"
    )
    parser.add_argument(
        "--normaliser",
        choices=("english", "none"),
        default="english",
        help="what is done to all texts before they are compared (english)",
    )
    parser.add_argument("--llm", help="folder or hub id of the model's LM, if it has one")
    parser.add_argument("--encoder", help="folder or hub id of its pre-trained encoder, if it has one")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("results"), help="where hypotheses are written (results)"
    )
    return parser


def main() -> None:
    """Recognise all sets, write their results, and print the table."""
    args = get_parser().parse_args()
    for name in ("batch_size", "max_eval_samples"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise SystemExit(f"--{name} is {value}; allowed: 1 or more")
    config = decode_config(args.decode)
    normalise = english_normaliser() if args.normaliser == "english" else str
    sets = {manifest: read_set(manifest, normalise, args.max_eval_samples) for manifest in args.manifests}
    device = "cpu" if args.device == CPU else f"cuda:{args.device}"
    recognizer = espnet_larm.load(args.model_id, device, args.dtype, llm=args.llm, encoder=args.encoder).recognizer
    warm_up = next(iter(sets.values()))[: args.warmup_steps * args.batch_size]
    list(recognise(recognizer, warm_up, args.batch_size, config, normalise))
    print(" ".join(sys.argv))
    print_header("set", "utterances", "hours", "WER %", "RTFx")
    found = []
    for manifest, samples in sets.items():
        results = list(recognise(recognizer, samples, args.batch_size, config, normalise))
        write_results(args.output_dir, args.model_id, manifest, results)
        found.append((len(results), figures_of(results)))
        print(row(manifest.stem, *found[-1]), flush=True)
    if len(found) > 1:
        figures = [each for _, each in found]
        # As the leaderboard has it: the mean of the sets' WERs, and the whole audio by the whole time.
        wer_percent = sum(each.wer_percent for each in figures) / len(figures)
        total = Figures(wer_percent, sum(each.audio_s for each in figures), sum(each.time_s for each in figures))
        print(row("mean of sets", sum(number for number, _ in found), total))


def row(name: str, number: int, figures: Figures) -> str:
    """A row of the table."""
    return f"| {name} | {number} | {figures.audio_s / 3600:.2f} | {figures.wer_percent:.2f} | {figures.rtfx:.1f} |"


if __name__ == "__main__":
    main()
