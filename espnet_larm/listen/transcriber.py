"""Recordings to text with times: cut, without what is no speech, recognised piece by piece, joined.

Memory does not grow with the length of a recording, but for the text.
Shapes: N samples.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from espnet_larm.listen.engine import WHOLE, Engine, Job, Merged, Request
from espnet_larm.listen.inputs import Audio, open_blocks, refuse_longer
from espnet_larm.listen.segments import Phrases, Segment
from espnet_larm.listen.speech import Finder, Stretch, find_speech_in
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.cutting import BATCH_SECONDS, Piece, batches, cut
from espnet_larm.recognize.machine import keep_memory_flat
from espnet_larm.recognize.output.words import Word

if TYPE_CHECKING:
    from espnet_larm.recognize.recognizer import Recognizer


class Transcription(NamedTuple):
    """What is said in a recording.

    Attributes:
        text: The whole text, at the deepest loop.
        segments: It in phrases with their times.
        duration_s: Length of the recording in seconds.
        loops: Text and segments by loop, ascending; empty for a model without loops.
        seconds: Seconds of computing by loop, those of finding speech and of reading left out.
        mean_loops: Mean number of loops of its speech, where the model chose them by itself (`num_loops: auto`); None
            otherwise.
    """

    text: str
    segments: tuple[Segment, ...]
    duration_s: float
    loops: Mapping[int, "AtLoop"]
    seconds: Mapping[int, float]
    mean_loops: float | None = None


class AtLoop(NamedTuple):
    """What a recording says at one loop: text and segments."""

    text: str
    segments: tuple[Segment, ...]


class Progress(NamedTuple):
    """What is known after some pieces of a recording.

    Attributes:
        end_s: Where in the recording they end, in seconds.
        segments: By loop, segments that are complete.
        seconds: By loop, seconds of computing that the last pieces took.
        merged: Merged frames of the stretches of speech in them, with times in the recording.
        used: Seconds of speech that the model chose loops for in the last pieces, and the same times the loops.
    """

    end_s: float
    segments: Mapping[int, Sequence[Segment]]
    seconds: Mapping[int, float]
    merged: Sequence[Merged] = ()
    used: tuple[float, float] = (0.0, 0.0)


class Transcriber:
    """A speech recogniser for recordings of any length, format and rate. It holds nothing of a call.

    Args:
        engine: The model.

    Attributes:
        loops: Depths that a text can be had of; empty for a model without loops.
        sample_rate_hz: The rate that the model takes; other audio is resampled.
        has_languages: Whether a request may name the spoken language.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.loops = engine.loops
        self.sample_rate_hz = engine.sample_rate_hz
        self.has_languages = engine.has_languages

    @property
    def recognizer(self) -> "Recognizer":
        """The recogniser below, for waveforms at the model's own rate, costs and plans; our models have one.

        Raises:
            TypeError: The model is one of transformers.
        """
        recognizer: Recognizer | None = getattr(self._engine, "recognizer", None)
        if recognizer is None:
            raise TypeError("recognizer belongs to our own models; this one is run by transformers.")
        return recognizer

    def transcribe(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        loops: int | str | Sequence[int] = (),
        language: str | None = None,
        vad: bool = True,
        config: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
    ) -> Transcription:
        """Recognise a recording.

        Args:
            audio: A path, a pair (samples, sample rate), or samples (N,): floats in [-1, 1], int16 or int32.
            sample_rate: The rate of samples that come without one, in Hz.
            loops: Depths to give a text of; the model's own by default. "auto" gives each piece as many as it needs.
            language: Code of the spoken language, for a multilingual Whisper; None lets it decide.
            vad: Leave out what is no speech. False gives all audio to the model.
            config: Options of decoding.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, samples have a wrong shape or are not finite, their rate is missing, or the
                model cannot do what is asked.
            TypeError: It is no audio.
        """
        job = self.prepare(_request(loops, language, config))
        return collect(job, self.follow(job, audio, sample_rate, vad))

    def segments(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        *,
        loops: int | str | None = None,
        language: str | None = None,
        vad: bool = True,
        config: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
    ) -> Iterator[Segment]:
        """Recognise a recording, and yield its segments while it is read.

        Args:
            audio: The recording, as `transcribe` takes it.
            sample_rate: The rate of samples that come without one, in Hz.
            loops: The depth to give the text of, or "auto"; the model's own by default.
            language: Code of the spoken language, for a multilingual Whisper; None lets it decide.
            vad: Leave out what is no speech.
            config: Options of decoding.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: What `transcribe` refuses; damage of a file comes after the segments before it.
            TypeError: It is no audio.
        """
        job = self.prepare(_request(() if loops is None else loops, language, config))
        following = self.follow(job, audio, sample_rate, vad)
        return (segment for progress in following for segment in progress.segments[job.loops[-1]])

    def prepare(self, request: Request) -> Job:
        """Check a request against the model, once for any number of recordings.

        Args:
            request: What is asked for.

        Raises:
            ValueError: The model cannot do it; with what it can do.
        """
        return self._engine.prepare(request)

    def follow(
        self,
        job: Job,
        audio: Audio,
        sample_rate: int | None = None,
        vad: bool = True,
        most_s: float = math.inf,
        find: Finder = find_speech_in,
    ) -> Iterator[Progress]:
        """Recognise a recording, and say how far it is.

        Args:
            job: What `prepare` gave.
            audio: The recording, as `transcribe` takes it.
            sample_rate: The rate of samples that come without one, in Hz.
            vad: Leave out what is no speech.
            most_s: The longest recording that is allowed, in seconds.
            find: Finds speech.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: What `transcribe` refuses, or the recording is longer than allowed.
            TypeError: It is no audio.
        """
        blocks = open_blocks(audio, sample_rate, self.sample_rate_hz)
        if most_s < math.inf:
            blocks = refuse_longer(audio, blocks, self.sample_rate_hz, most_s)
        return _follow(job, blocks, self.sample_rate_hz, find if vad else _everything)


def collect(job: Job, following: Iterable[Progress]) -> Transcription:
    """All that is said in a recording.

    Args:
        job: What `prepare` gave.
        following: What `follow` yields.

    Raises:
        ValueError: What `following` raises.
    """
    segments: dict[int, list[Segment]] = {loop: [] for loop in job.loops}
    seconds = dict.fromkeys(job.loops, 0.0)
    end_s, speech_s, loop_s = 0.0, 0.0, 0.0
    for progress in following:
        end_s = progress.end_s
        speech_s, loop_s = speech_s + progress.used[0], loop_s + progress.used[1]
        for loop in job.loops:
            segments[loop] += progress.segments[loop]
            seconds[loop] += progress.seconds.get(loop, 0.0)
    loops = {loop: AtLoop(_text_of(job, found), tuple(found)) for loop, found in segments.items()}
    last = loops[job.loops[-1]]
    by_loop = {} if job.loops == (WHOLE,) else loops
    return Transcription(last.text, last.segments, end_s, by_loop, seconds, loop_s / speech_s if speech_s else None)


def _text_of(job: Job, segments: Iterable[Segment]) -> str:
    return job.text_of([word for segment in segments for word in segment.words])


def _follow(job: Job, blocks: Iterable[np.ndarray], rate: int, find: Finder) -> Iterator[Progress]:
    phrases = {loop: Phrases(job.text_of, job.cutting.overlap_s) for loop in job.loops}
    end_s = 0.0
    for batch in batches(cut(blocks, rate, job.cutting), BATCH_SECONDS * rate):
        words, seconds, merged, used = _hear(job, batch, rate, find)
        complete: dict[int, list[Segment]] = {loop: [] for loop in job.loops}
        for piece, found in zip(batch, words, strict=True):
            start_s, end_s = piece.start / rate, (piece.start + len(piece.samples)) / rate
            for loop in job.loops:
                complete[loop] += phrases[loop].add(found[loop], start_s, piece.overlap / rate, end_s)
        keep_memory_flat()
        yield Progress(end_s, complete, seconds, merged, used)
    yield Progress(end_s, {loop: phrases[loop].finish() for loop in job.loops}, {})


def _hear(
    job: Job, batch: Sequence[Piece], rate: int, find: Finder
) -> tuple[list[dict[int, list[Word]]], Mapping[int, float], list[Merged], tuple[float, float]]:
    """Words of each piece by loop, seconds of computing, merged frames, `Progress.used`; times are in the recording."""
    found_in = find([piece.samples for piece in batch], rate)
    stretches = [(index, stretch) for index, found in enumerate(found_in) for stretch in found]
    words: list[dict[int, list[Word]]] = [{loop: [] for loop in job.loops} for _ in batch]
    if not stretches:
        return words, {}, [], (0.0, 0.0)
    heard = job.hear([batch[index].samples[stretch.start : stretch.end] for index, stretch in stretches])
    starts_s = [(batch[index].start + stretch.start) / rate for index, stretch in stretches]
    for (index, _), start_s, found in zip(stretches, starts_s, heard.words, strict=True):
        for loop in job.loops:
            words[index][loop] += [word.later(start_s) for word in found[loop]]
    # Models of transformers merge none, and choose no loops, and say nothing.
    merged = [each.later(start_s) for start_s, each in zip(starts_s, heard.merged, strict=False) if each is not None]
    lengths = ((stretch.end - stretch.start) / rate for _, stretch in stretches)
    chosen = [(each, loops) for each, loops in zip(lengths, heard.used, strict=False) if loops is not None]
    used = (sum(each for each, _ in chosen), sum(each * loops for each, loops in chosen))
    return words, heard.seconds, merged, used


def _everything(waveforms: Sequence[np.ndarray], _: int) -> list[list[Stretch]]:
    """Find everything, whether it is speech or not."""
    return [[Stretch(0, len(samples))] for samples in waveforms]


def _request(loops: int | str | Sequence[int], language: str | None, config: DecodeConfig) -> Request:
    if isinstance(loops, str):
        # DecodeConfig refuses any other word.
        return Request((), language, False, replace(config, num_loops=loops))
    depths = (loops,) if isinstance(loops, int) else tuple(sorted(set(loops)))
    return Request(depths, language, False, config)
