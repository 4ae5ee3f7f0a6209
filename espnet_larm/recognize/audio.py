"""Waveforms of a `wav.scp` for decoding: read when they are needed, the next batch while this one is recognised."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_larm.data.audio import check_finite, past_end, read_audio
from espnet_larm.data.kaldi_dir import read_sources, read_table
from espnet_larm.data.stream import count_samples, stream_source

logger = logging.getLogger(__name__)

# Types of wav.scp, as ESPnet names them.
AUDIO_TYPES = ("sound", "kaldi_ark")
Preprocess = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


class Loaded(NamedTuple):
    """Audio of a batch.

    Attributes:
        waveforms: Samples (N,) by utterance.
        failed: Why an utterance could not be read.
    """

    waveforms: dict[str, np.ndarray]
    failed: dict[str, str]


class AudioTable:
    """The audio of a data folder.

    Args:
        wav_scp: Its `wav.scp`; `utt2num_samples` and `segments` are read where they lie beside.
        audio_type: ESPnet's name of the type, `sound` or `kaldi_ark`; a line of either may also be a command.
        sample_rate_hz: What the model was trained on.
        preprocess: The model's preprocessor, called as ESPnet does in decoding; None for none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The type is not supported.
    """

    def __init__(
        self, wav_scp: Path, audio_type: str, sample_rate_hz: int, preprocess: Preprocess | None = None
    ) -> None:
        if audio_type not in AUDIO_TYPES:
            raise ValueError(
                f"{wav_scp} is of type {audio_type}; allowed: {', '.join(AUDIO_TYPES)}. Others: "
                "python -m espnet_larm --upstream -m espnet2.bin.asr_inference."
            )
        self.wav_scp = wav_scp
        self.sources = read_sources(wav_scp)
        self.sample_rate_hz = sample_rate_hz
        self.preprocess = preprocess
        counts = wav_scp.with_name("utt2num_samples")
        self._failed: dict[str, str] = {}
        self.num_samples = {key: int(value) for key, value in read_table(counts).items()} if counts.is_file() else {}

    def keys(self, key_file: Path | None) -> list[str]:
        """Utterances to decode, in order.

        Args:
            key_file: Lines that begin with them; all of the table by default.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The table lacks some of them, or there are none.
        """
        keys = list(self.sources if key_file is None else read_table(key_file))
        if lacking := [key for key in keys if key not in self.sources]:
            raise ValueError(f"{key_file}: {len(lacking)} utterances are not in {self.wav_scp}, {lacking[0]} first.")
        if not keys:
            raise ValueError(f"{key_file or self.wav_scp} is empty; nothing to decode.")
        return keys

    def length(self, key: str) -> int:
        """The number of samples, from `utt2num_samples` or the audio's header; 0 if it cannot be read."""
        if key not in self.num_samples:
            try:
                self.num_samples[key] = count_samples(self.sources[key])
            except (OSError, ValueError) as error:
                # The batch that it falls into names the reason; nobody waits for a command a second time.
                self.num_samples[key], self._failed[key] = 0, str(error)
        return self.num_samples[key]

    def read(self, key: str) -> np.ndarray:
        """Samples (N,) of an utterance, float32 in [-1, 1].

        Raises:
            FileNotFoundError: The audio is missing.
            ValueError: It is truncated, no audio, or of another sample rate.
        """
        if key in self._failed:
            raise ValueError(self._failed[key])
        header, samples = read_audio(self.sources[key])
        if late := past_end(self.sources[key], header, samples):
            logger.warning("%s: %s", key, late)
        if header.sample_rate != self.sample_rate_hz:
            raise ValueError(
                f"{self.sources[key]} has {header.sample_rate} Hz, the model was trained on {self.sample_rate_hz} Hz; "
                "convert it (stage 3 of the recipes does)."
            )
        if self.preprocess is not None:
            samples = self.preprocess(key, {"speech": samples})["speech"]
            check_finite(f"{self.sources[key]}, preprocessed,", samples)
        return samples

    def stream(self, key: str) -> Iterator[np.ndarray]:
        """Blocks of samples (N,) of an utterance, as the preprocessor has not seen them.

        Raises:
            FileNotFoundError: The audio is missing.
            ValueError: It is truncated, no audio, or of another sample rate.
        """
        return stream_source(self.sources[key], self.sample_rate_hz)

    def load(self, keys: Iterable[str]) -> Loaded:
        """The audio of a batch; what cannot be read is named, not raised, so that the others are decoded."""
        loaded = Loaded({}, {})
        for key in keys:
            try:
                loaded.waveforms[key] = self.read(key)
            except (OSError, ValueError) as error:
                loaded.failed[key] = str(error)
        return loaded

    def load_ahead(self, batches: Sequence[Sequence[str]], num_workers: int) -> Iterator[Loaded]:
        """The batches in turn, each read while the one before is recognised.

        Args:
            batches: Utterances of each batch.
            num_workers: 0 reads in turn, without a thread.
        """
        if num_workers == 0:
            yield from map(self.load, batches)
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            following = reader.submit(self.load, batches[0]) if batches else None
            for index in range(len(batches)):
                assert following is not None
                loaded = following.result()
                if index + 1 < len(batches):
                    following = reader.submit(self.load, batches[index + 1])
                yield loaded
