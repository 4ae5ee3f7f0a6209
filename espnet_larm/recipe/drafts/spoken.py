"""Drafts of plain text by way of speech: eSpeak NG reads it aloud, a recogniser writes it down.

eSpeak keeps state from one text to the next: a program that goes on behind a shard hears a little other speech than one
that began with the first. All else of a shard depends on its number and the seed.
"""

from collections.abc import Sequence

import numpy as np
import soxr
import torch

from espnet_larm.recipe.corpora.espeak import Espeak, Voice
from espnet_larm.recipe.corpora.synthesise import READERS, SAMPLE_RATE, speak_noisily, surround_with_silence
from espnet_larm.recipe.drafts.recognised import drafts_of
from espnet_larm.recognize.recognizer import Recognizer

# Texts that are recognised together.
TOGETHER = 8


class Spoken:
    """Makes drafts: each text has a voice, rate, pitch, loudness, noise and silences drawn for it.

    Args:
        recogniser: What writes down.
        errs: Whether it does so with dropout and SpecAugment.

    Raises:
        ImportError: eSpeak NG is not installed.
    """

    def __init__(self, recogniser: Recognizer, errs: bool) -> None:
        self.recogniser, self.errs = recogniser, errs
        self.espeak = Espeak()
        self.voices: tuple[Voice, ...] = tuple(reader.voice for reader in READERS)

    def __call__(self, texts: Sequence[str], generator: np.random.Generator) -> list[str]:
        """A draft of each text."""
        drafts: list[str] = []
        # Dropout and SpecAugment draw from torch.
        with torch.random.fork_rng():
            torch.manual_seed(int(generator.integers(2**31)))
            for start in range(0, len(texts), TOGETHER):
                part = texts[start : start + TOGETHER]
                waveforms = {str(row): self._speak(text, generator) for row, text in enumerate(part)}
                drafts += drafts_of(self.recogniser, waveforms, self.errs).values()
        return drafts

    def _speak(self, text: str, generator: np.random.Generator) -> np.ndarray:
        """Samples (N,) at the recogniser's rate."""
        voice = self.voices[int(generator.integers(len(self.voices)))]
        speech = surround_with_silence(speak_noisily(self.espeak, text, voice, generator), generator)
        rate = self.recogniser.sample_rate_hz
        return speech if rate == SAMPLE_RATE else soxr.resample(speech, SAMPLE_RATE, rate)
