"""The synthetic corpus; needs eSpeak NG, the extra `mini`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.recipe.corpora.librispeech import read_librispeech
from espnet_larm.recipe.corpora.synthesise import (
    LONGEST_SILENCE_S,
    READERS,
    SAMPLE_RATE,
    surround_with_silence,
    synthesise_corpus,
)

pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed (extra `mini`)")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    roots = [tmp_path_factory.mktemp("synthetic") / "corpus" for _ in range(2)]
    for root in roots:
        # A process each: the library keeps state from one utterance to the next.
        program = [
            sys.executable,
            "-m",
            "espnet_larm",
            "synthesise-speech",
            "--minutes",
            "1",
            "--output_dir",
            str(root),
        ]
        subprocess.run(program, check=True, capture_output=True)
    return roots


def test_the_seed_decides_every_byte(corpora: list[Path]) -> None:
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*") if path.is_file()} for root in corpora
    )
    assert first == second


def test_it_is_laid_out_as_librispeech_and_audible(corpora: list[Path]) -> None:
    for utterance in read_librispeech(corpora[0], ["train-mini", "dev-mini", "test-mini"]):
        samples, rate = soundfile.read(utterance.audio)
        assert rate == 16000 and len(samples) > 8000 and 0.1 < abs(samples).max() < 0.8


SPEECH = np.full(800, 0.25, dtype=np.float32)


def silences(num_utterances: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What stands before and after each of some utterances."""
    found = []
    for index in range(num_utterances):
        samples = surround_with_silence(SPEECH, np.random.default_rng(index))
        start = int(np.argmax(samples == SPEECH[0]))
        assert np.array_equal(samples[start : start + len(SPEECH)], SPEECH)
        found.append((samples[:start], samples[start + len(SPEECH) :]))
    return found


def test_silence_is_short_and_far_below_the_speech() -> None:
    sides = [side for pair in silences(200) for side in pair]
    assert 1.0 * SAMPLE_RATE < max(map(len, sides)) <= LONGEST_SILENCE_S * SAMPLE_RATE
    assert sum(len(side) < 0.25 * SAMPLE_RATE for side in sides) > len(sides) / 2
    assert max(abs(side).max() for side in sides if len(side)) < 0.04


def test_a_side_has_no_digital_or_faint_silence_equally_often() -> None:
    sides = [side for pair in silences(300) for side in pair]
    is_digital = [len(side) > 0 and not side.any() for side in sides]
    is_faint = [len(side) > 0 and bool(side.any()) for side in sides]
    assert all(150 < sum(kind) < 250 for kind in (is_digital, is_faint))


def test_the_two_sides_have_kinds_of_their_own_and_lengths_of_one_scale() -> None:
    pairs = silences(200)
    kinds = {tuple((len(side) > 0, bool(side.any())) for side in pair) for pair in pairs}
    assert len(kinds) == 9
    # To a sample each.
    assert all(2 * min(map(len, pair)) >= max(map(len, pair)) - 2 for pair in pairs if all(map(len, pair)))


def test_training_and_development_speech_stands_between_silences_and_the_test_sets_does_not(
    corpora: list[Path],
) -> None:
    ends = {}
    for split in ("train-mini", "dev-mini", "test-mini"):
        audio = [
            soundfile.read(utterance.audio, dtype="int16")[0] for utterance in read_librispeech(corpora[0], [split])
        ]
        # Speech has noise of its own from its first sample on.
        ends[split] = any(not side.any() for samples in audio for side in (samples[:50], samples[-50:]))
    assert ends == {"train-mini": True, "dev-mini": True, "test-mini": False}


def test_it_is_called_synthetic(corpora: list[Path]) -> None:
    assert (corpora[0] / "README").read_text().startswith("Synthetic speech")


def test_dev_and_test_variants_are_not_heard_in_training() -> None:
    variants: dict[str, set[str]] = {}
    for reader in READERS:
        variants.setdefault(reader.split, set()).add(reader.voice.name.partition("+")[2])
    assert not variants["train-mini"] & (variants["dev-mini"] | variants["test-mini"])
    assert not variants["dev-mini"] & variants["test-mini"]


def test_an_existing_corpus_is_not_overwritten(corpora: list[Path]) -> None:
    with pytest.raises(ValueError, match="is there already"):
        synthesise_corpus(corpora[0], minutes=0.1, seed=1)
