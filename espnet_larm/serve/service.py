"""A model that many callers share: it checks what they ask, counts them, and recognises their recordings together."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from espnet_larm.errors import OptionError
from espnet_larm.listen.engine import Heard, Job, Request
from espnet_larm.listen.inputs import Audio
from espnet_larm.listen.speech import Stretch, find_speech_in
from espnet_larm.listen.transcriber import Progress, Transcriber, Transcription, collect
from espnet_larm.live.session import LiveRecognizer
from espnet_larm.recognize.config import AUTO, DecodeConfig
from espnet_larm.serve.batching import Batcher, Caller, Work
from espnet_larm.serve.errors import FULL, RequestError
from espnet_larm.serve.limits import Limits
from espnet_larm.serve.live import LiveService

# Plans that are kept: a model has few depths and languages.
MOST_JOBS = 64


class Counts(NamedTuple):
    """How much a model had to do.

    Attributes:
        batches: Its calls.
        stretches: Stretches of speech that it recognised in them.
    """

    batches: int = 0
    stretches: int = 0


class Service:
    """A model that many callers share.

    Args:
        transcriber: The model.
        name: What callers know it by.
        limits: How much is taken on.
        config: Options of decoding, for all callers.
        language: Code of the language that is spoken where a caller names none; a model without a choice of languages
            takes it as said of itself, and accepts callers who name it.
        vad: Leave out what is no speech.
        auto: Options of decoding for callers who ask for `auto` loops; by default `config`, and the rule that is
            calibrated beside the model.
        live: The same model for streams; None for one that hears none.
        why_not_live: Why it hears none.

    Attributes:
        loops: Depths that callers can ask for; empty for a model without loops.
        sample_rate_hz: The rate of the audio that the model takes.
        counts: How much the model had to do so far.
        live: What hears streams; None if the model hears none.
        why_not_live: Why it hears none.
        started: Seconds since the epoch when it was made.

    Raises:
        ValueError: The model cannot do what `config`, `language` and `auto` ask.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        name: str,
        limits: Limits = Limits(),  # noqa: B008  # immutable
        config: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
        language: str | None = None,
        vad: bool = True,
        auto: DecodeConfig | None = None,
        live: LiveRecognizer | None = None,
        why_not_live: str = "the server was not asked to.",
    ) -> None:
        self.name, self.limits, self.language, self.loops = name, limits, language, transcriber.loops
        self.sample_rate_hz = transcriber.sample_rate_hz
        self.started = int(time.time())
        self.num_requests = 0
        self._transcriber, self._config, self._vad = transcriber, config, vad
        self._auto = auto or replace(config, num_loops=AUTO)
        # The same request gives the same job, whose callers share batches.
        self._prepare = functools.lru_cache(MOST_JOBS)(transcriber.prepare)
        self._has_languages = transcriber.has_languages
        self._prepare(Request(language=language if self._has_languages else None, config=config))
        if auto is not None:
            self.prepare(auto=True)
        self._batcher = Batcher(limits.batch_seconds * self.sample_rate_hz, limits.batch_size)
        self.counts = Counts()
        self.live, self.why_not_live = None if live is None else LiveService(live, limits), why_not_live
        self._threads = ThreadPoolExecutor(limits.max_requests, "recording")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for requests during a block.

        Raises:
            RequestError: All are taken.
        """
        most = self.limits.max_requests
        if self.num_requests >= most:
            raise RequestError(FULL, f"{most} requests are at work or wait, and no more may; try again in a moment.")
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    def prepare(
        self, loops: tuple[int, ...] = (), language: str | None = None, words: bool = False, auto: bool = False
    ) -> Job:
        """Check what a caller asks against the model.

        Args:
            loops: Depths to give a text of, ascending; empty for the model's own.
            language: Code of the spoken language.
            words: Whether times of words must be measured.
            auto: Whether each piece of a recording has as many loops as it needs; with no loops named.

        Raises:
            ValueError: The model cannot do it; with what it can do.
        """
        # Some models go deeper than they were trained to, at any cost: that is not for callers to choose.
        if self.loops and (other := [str(loop) for loop in loops if loop not in self.loops]):
            raise OptionError(f"loops is {', '.join(other)}; allowed: {', '.join(map(str, self.loops))}.")
        if auto and not self.loops:
            raise OptionError("loops is auto, but this model has no loops; leave the option out.")
        if self._has_languages:
            language = language or self.language
        elif language == self.language:
            language = None
        request = Request(loops, language, words, self._auto if auto else self._config)
        job = self._prepare(request)
        # Who asks for words gets the same, and so shares batches with who does not.
        return self._prepare(request._replace(needs_words=False)) if words else job

    async def transcribe(self, job: Job, audio: Audio) -> Transcription:
        """Recognise a recording, together with those of other callers. Cancelling it drops what is not done yet.

        Args:
            job: What `prepare` gave.
            audio: A path, or a pair (samples, sample rate).

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or is longer than allowed.
        """
        caller = Caller()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lambda: collect(job, self.follow(job, audio, caller)))
        finally:
            caller.leave()

    def follow(self, job: Job, audio: Audio, caller: Caller) -> Iterator[Progress]:
        """Recognise a recording in the thread of the caller, and say how far it is.

        Args:
            job: What `prepare` gave.
            audio: A path, or a pair (samples, sample rate).
            caller: Who waits; work ends when it has gone.

        Raises:
            CallerGoneError: The caller has gone.
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, or is longer than allowed.
        """
        caller.check()
        hear = Work(job, functools.partial(self._count, job), Heard.part, self.limits.batch_wait_ms / 1000)
        # It waits for nobody: who comes meanwhile shares the next batch, and the model's.
        find = Work(self, self._find, lambda found, start, end, _: found[start:end], 0.0)
        shared = job._replace(hear=lambda waveforms: self._batcher.run(hear, waveforms, caller))
        following = self._transcriber.follow(
            shared,
            audio,
            vad=self._vad,
            most_s=self.limits.max_seconds,
            find=lambda waveforms, _: self._batcher.run(find, waveforms, caller),
        )
        for progress in following:
            yield progress
            caller.check()

    def close(self) -> None:
        """End all threads; recordings that are not done are dropped."""
        self._batcher.close()
        if self.live is not None:
            self.live.close()
        self._threads.shutdown(cancel_futures=True)

    def _count(self, job: Job, waveforms: Sequence[np.ndarray]) -> Heard:
        self.counts = Counts(self.counts.batches + 1, self.counts.stretches + len(waveforms))
        return job.hear(waveforms)

    def _find(self, waveforms: Sequence[np.ndarray]) -> list[list[Stretch]]:
        return find_speech_in(waveforms, self.sample_rate_hz)
