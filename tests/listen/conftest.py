"""Signals that are no speech, and recordings of people that are not in the repository."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000
# Beside a clone of the repository, or in it.
PLACES = [folder / "shared/data/an4/flac" for folder in Path(__file__).resolve().parents]


@pytest.fixture(scope="session")
def utterances() -> list[np.ndarray]:
    """Every thirtieth utterance of AN4, 0.7 to 6 s."""
    place = next((place for place in PLACES if place.is_dir()), None)
    if place is None:
        pytest.skip("shared/data/an4 is not here")
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(place.rglob("*.flac"))[::30]]


@pytest.fixture(scope="session")
def noises() -> dict[str, np.ndarray]:
    """60 s each of silence, of faint and loud white noise, and of a tune in chords with drums."""
    generator = np.random.default_rng(0)
    num_samples = 60 * RATE
    return {
        "silence": np.zeros(num_samples, np.float32),
        "faint": (1e-3 * generator.standard_normal(num_samples)).astype(np.float32),
        "loud": (0.05 * generator.standard_normal(num_samples)).astype(np.float32),
        "music": _tune(generator, num_samples),
    }


def _tune(generator: np.random.Generator, num_samples: int) -> np.ndarray:
    """Chords of five harmonics that decay, with a click of noise on each beat."""
    samples = np.zeros(num_samples)
    times = np.arange(int(0.9 * RATE)) / RATE
    for start in range(0, num_samples - len(times), RATE // 2):
        root = 110 * 2 ** (generator.integers(0, 24) / 12)
        notes = [np.sin(2 * np.pi * root * ratio * n * times) / n for ratio in (1, 1.25, 1.5) for n in range(1, 6)]
        click = generator.standard_normal(len(times)) * np.exp(-60 * times)
        samples[start : start + len(times)] += sum(notes) * np.exp(-3 * times) + click
    return (0.3 * samples / np.abs(samples).max()).astype(np.float32)
