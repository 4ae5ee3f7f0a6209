"""Makes the synthetic corpus of egs/mini, in LibriSpeech's layout. Needs the extra `mini` (eSpeak NG, GPL).

Examples:
    espnet-larm synthesise-speech --output_dir downloads/synthetic --minutes 20 --seed 1

eSpeak NG speaks the sentences of recipe/corpora/sentences.py. Each reader is a voice with a rate and pitch of its own;
dev and test readers speak with variants that no training reader has. Noise and gain vary from utterance to utterance.
Training and development utterances stand between silences, since recordings do; the test set's are bare, and
tools/bench/silence.py surrounds them. The seed decides everything.
Shapes: N samples.
"""

import argparse
import logging
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from espnet_larm.options import Option, number, seed
from espnet_larm.recipe.corpora.espeak import Espeak, Voice
from espnet_larm.recipe.corpora.sentences import make_sentence

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
CHAPTER = 1
SIGNAL_TO_NOISE_DB = (15.0, 30.0)
PEAK_DB = (-15.0, -3.0)
PITCH_JITTER, RATE_JITTER_WPM = 10, 20
# Silences before and after the speech, drawn by themselves: none, zeros, or faint noise (RMS relative to full scale).
SILENCE_KINDS = ("none", "digital", "faint")
# Longest silence of an utterance; each side has a half to all of it. Normalisation counts silences, so that a model is
# good at lengths that it was trained on: with 0 to 0.5 s in training, 1 s of zeros doubled the errors
# (egs/mini/RESULTS.md).
LONGEST_SILENCE_S = 1.25
FAINT_NOISE_DB = (-80.0, -45.0)
BARE_SPLITS = ("test-mini",)
NOTICE = """Synthetic speech: sentences of a small grammar, spoken by eSpeak NG (GPL-3.0-or-later), with noise added.
Error rates on it say that a recipe works, and nothing about human speech.
"""


class Reader(NamedTuple):
    """A voice that reads for one split.

    Attributes:
        id: Number, as LibriSpeech names its speakers.
        split: `train-mini`, `dev-mini` or `test-mini`.
        voice: Voice around which rate and pitch vary.
    """

    id: int
    split: str
    voice: Voice


ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc", "en-gb-x-gbcwmd", "en-gb-x-gbclan", "en-029")
# Each row has a variant for each accent.
TRAIN_VARIANTS = (
    "m1 f1 m3 f2 m4 f3 m6 f4",
    "Annie m7 Alicia m8 anika Andy belinda adam",
    "linda Alex steph david Denis benjamin edward caleb",
)


def _train_voice(number: int, variant: str) -> Voice:
    accent = ACCENTS[number % len(ACCENTS)]
    return Voice(f"{accent}+{variant}", rate_wpm=155 + 7 * (number % 5), pitch=40 + 4 * (number % 6))


READERS = (
    *(
        Reader(101 + number, "train-mini", _train_voice(number, variant))
        for number, variant in enumerate(" ".join(TRAIN_VARIANTS).split())
    ),
    Reader(201, "dev-mini", Voice("en+m2", 170, 50)),
    Reader(202, "dev-mini", Voice("en-us+Andrea", 170, 50)),
    Reader(301, "test-mini", Voice("en-us+m5", 170, 48)),
    Reader(302, "test-mini", Voice("en+f5", 170, 52)),
)
SPLIT_SHARES = {"train-mini": 0.84, "dev-mini": 0.06, "test-mini": 0.10}

MINUTES = Option("minutes of speech", above=0, most=100_000)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="root of the corpus; must not be there yet")
    parser.add_argument(
        "--minutes", type=number(float, MINUTES), default=20.0, help="speech in all splits, without silences (20)"
    )
    parser.add_argument("--seed", type=seed, default=1, help="seed of sentences, voices, noise and silences (1)")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Make the corpus and print its size."""
    args = get_parser().parse_args(cmd)
    made = synthesise_corpus(args.output_dir, args.minutes, args.seed)
    print(
        f"eSpeak NG -> {args.output_dir} (synthetic): " + ", ".join(f"{split} {m:.1f} min" for split, m in made.items())
    )
    return 0


def synthesise_corpus(root: Path, minutes: float, seed: int) -> dict[str, float]:
    """Write the corpus beside its place, then move it there.

    Args:
        root: Folder of the corpus; must not be there yet.
        minutes: Speech in all splits, at least reached; silences around it come on top.
        seed: Seed of sentences, voices, noise and silences.

    Returns:
        Minutes of speech by split.

    Raises:
        ValueError: `root` is there.
        ImportError: eSpeak NG is not installed.
    """
    if root.exists():
        raise ValueError(f"{root} is there already; move it away to make another corpus.")
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    espeak = Espeak()
    made: dict[str, float] = dict.fromkeys(SPLIT_SHARES, 0.0)
    for reader in READERS:
        num_readers = sum(other.split == reader.split for other in READERS)
        wanted_s = 60.0 * minutes * SPLIT_SHARES[reader.split] / num_readers
        logger.info("reader %d (%s) of %s", reader.id, reader.voice.name, reader.split)
        made[reader.split] += _write_reader(part, reader, espeak, wanted_s, seed) / 60.0
    (part / "README").write_text(NOTICE, encoding="utf-8")
    speakers = [f"{reader.id} | {reader.split} | {reader.voice.name}\n" for reader in READERS]
    (part / "SPEAKERS.TXT").write_text("".join(speakers), encoding="utf-8")
    part.replace(root)
    return made


def speak_noisily(espeak: Espeak, text: str, voice: Voice, generator: np.random.Generator) -> np.ndarray:
    """Speak with another rate, pitch, loudness and noise each time.

    Args:
        espeak: The synthesiser.
        text: What to say.
        voice: Around which rate and pitch vary.
        generator: Source of randomness.

    Returns:
        (N,) float32 at SAMPLE_RATE.
    """
    varied = voice._replace(
        rate_wpm=voice.rate_wpm + int(generator.integers(-RATE_JITTER_WPM, RATE_JITTER_WPM + 1)),
        pitch=voice.pitch + int(generator.integers(-PITCH_JITTER, PITCH_JITTER + 1)),
    )
    speech = soxr.resample(espeak.speak(text.lower(), varied), espeak.sample_rate, SAMPLE_RATE)
    noise_rms = np.sqrt(np.mean(speech**2)) * 10 ** (-generator.uniform(*SIGNAL_TO_NOISE_DB) / 20)
    noisy = speech + noise_rms * generator.standard_normal(len(speech))
    peak = 10 ** (generator.uniform(*PEAK_DB) / 20)
    return (noisy * (peak / np.abs(noisy).max())).astype(np.float32)


def surround_with_silence(speech: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Put a silence of its own kind and length before and after an utterance.

    Args:
        speech: (N,) float32 at SAMPLE_RATE.
        generator: Source of randomness.

    Returns:
        (N + what was added,) float32, in which the speech is unchanged.
    """
    # Short ones are frequent, which saves time of training; long ones come on both sides together.
    longest_s = LONGEST_SILENCE_S * generator.uniform() ** 2
    before, after = (_silence(longest_s, generator) for _ in range(2))
    return np.concatenate([before, speech, after])


def _silence(longest_s: float, generator: np.random.Generator) -> np.ndarray:
    """Make a silence of a half to all of `longest_s`, (N,) float32; or none."""
    kind = SILENCE_KINDS[generator.integers(len(SILENCE_KINDS))]
    num_samples = 0 if kind == "none" else round(generator.uniform(0.5, 1.0) * longest_s * SAMPLE_RATE)
    rms = 10 ** (generator.uniform(*FAINT_NOISE_DB) / 20) if kind == "faint" else 0.0
    return (rms * generator.standard_normal(num_samples)).astype(np.float32)


def _write_reader(root: Path, reader: Reader, espeak: Espeak, wanted_s: float, seed: int) -> float:
    """Write one chapter; return its seconds of speech."""
    folder = root / reader.split / str(reader.id) / str(CHAPTER)
    folder.mkdir(parents=True)
    words = random.Random(f"{seed}-{reader.id}")
    generator = np.random.default_rng([seed, reader.id])
    lines: list[str] = []
    num_samples = 0
    while num_samples < wanted_s * SAMPLE_RATE:
        text = make_sentence(words)
        samples = speak_noisily(espeak, text, reader.voice, generator)
        num_samples += len(samples)
        if reader.split not in BARE_SPLITS:
            # A generator of its own: the speech is the same with and without silences.
            samples = surround_with_silence(samples, np.random.default_rng([seed, reader.id, len(lines)]))
        name = f"{reader.id}-{CHAPTER}-{len(lines):04d}"
        soundfile.write(folder / f"{name}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{name} {text}\n")
    (folder / f"{reader.id}-{CHAPTER}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return num_samples / SAMPLE_RATE
