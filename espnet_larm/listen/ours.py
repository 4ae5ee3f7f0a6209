"""Our models as engines: from a pack, from an experiment's folder, from the hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from espnet_larm.errors import OptionError
from espnet_larm.listen.engine import WHOLE, Engine, Heard, Job, Merged, Request, refuse_language, refuse_loops
from espnet_larm.listen.segments import spread
from espnet_larm.recognize.batch import decode_batch
from espnet_larm.recognize.config import AUTO, DecodeConfig
from espnet_larm.recognize.long.transcribe import cutting_of, text_of_words
from espnet_larm.recognize.output.results import NO_NUMBERS, Hypothesis, Transcript
from espnet_larm.recognize.output.words import Word
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer

# How messages on the depth begin.
NUM_LOOPS_IS = "num_loops is "


class LarmEngine(Engine):
    """A recogniser of ours.

    Args:
        recognizer: The recogniser.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self.recognizer = recognizer
        self.sample_rate_hz = recognizer.sample_rate_hz
        encoder = recognizer.model.encoder
        self.loops = tuple(encoder.allowed_loops(encoder.num_loops)) if recognizer.has_loops else ()

    def prepare(self, request: Request) -> Job:
        """Check a request.

        A CTC head reads all depths out in one pass, whose cost is measured up to each; an LM runs once for each.

        Raises:
            ValueError: The model cannot do it; with what it can do.
        """
        refuse_language(request, "this model")
        if not self.loops:
            refuse_loops(request, "this model")
        wanted = request.loops or (self._own_depth(request),)
        plans = self._plans(request, wanted)
        if request.needs_words and not self._times_words(plans[0]):
            raise OptionError("words is true, but this model cannot tell when a word is said; leave the option out.")
        job = _LarmJob(self.recognizer, plans, wanted, self._times_words(plans[0]))
        return Job(wanted, cutting_of(request.config), job.hear, job.text_of)

    def _own_depth(self, request: Request) -> int:
        """The depth where none is asked for; WHOLE, too, where each utterance chooses its own."""
        if not self.loops or request.config.num_loops == AUTO:
            return WHOLE
        return request.config.fixed_loops or self.loops[-1]

    def _plans(self, request: Request, wanted: Sequence[int]) -> list[Plan]:
        if tuple(wanted) == (WHOLE,):
            return [self._plan(request.config)]
        # Each is checked, also where one pass serves all.
        plans = [self._plan(replace(request.config, num_loops=loop)) for loop in wanted]
        return plans[-1:] if plans[-1].llm is None else plans

    def _plan(self, config: DecodeConfig) -> Plan:
        try:
            return self.recognizer.plan(config)
        except ValueError as error:
            # Whoever listens knows the option by another name.
            if str(error).startswith(NUM_LOOPS_IS):
                raise OptionError(f"loops is {str(error).removeprefix(NUM_LOOPS_IS)}") from error
            raise

    def _times_words(self, plan: Plan) -> bool:
        heads = self.recognizer.heads
        if plan.llm is not None and not (heads.llm and heads.llm.can_align):
            return False
        return _tells_times(self.recognizer)


class _LarmJob:
    """Plans, one for all depths or one a depth, at work."""

    def __init__(self, recognizer: Recognizer, plans: Sequence[Plan], loops: Sequence[int], times_words: bool) -> None:
        self.recognizer, self.loops, self.times_words = recognizer, loops, times_words
        self.plans = [plan.with_words() if times_words else plan for plan in plans]

    def hear(self, waveforms: Sequence[np.ndarray]) -> Heard:
        preprocess = self.recognizer.preprocess
        if preprocess is not None:
            waveforms = [preprocess("piece", {"speech": samples})["speech"] for samples in waveforms]
        words: list[dict[int, tuple[Word, ...]]] = [{} for _ in waveforms]
        used: list[float | None] = [None] * len(waveforms)
        seconds: dict[int, float] = {}
        transcripts: list[Transcript] = []
        for plan in self.plans:
            transcripts, cost = decode_batch(self.recognizer.heads, waveforms, plan)
            read = self._read_outs(plan)
            seconds.update({loop: cost.read_outs[number] for loop, number in read.items()})
            for found, samples, transcript in zip(words, waveforms, transcripts, strict=True):
                found.update(self._words(transcript, read, len(samples)))
            used = [transcript.loops for transcript in transcripts]
        return Heard(list(words), seconds, [self._merged(transcript) for transcript in transcripts], used)

    def text_of(self, words: Sequence[Word]) -> str:
        if not self.times_words:
            return " ".join(word.text for word in words)
        return text_of_words(self.recognizer.heads, self.plans[-1], words)

    def _read_outs(self, plan: Plan) -> dict[int, int]:
        """By depth that was asked for, the number that the plan has for it."""
        if tuple(self.loops) == (WHOLE,):
            return {WHOLE: plan.numbers[-1]}
        return {loop: loop for loop in self.loops if loop in plan.numbers}

    def _merged(self, transcript: Transcript) -> Merged | None:
        edges = transcript.edges
        if edges is None or not _tells_times(self.recognizer):
            return None
        return Merged(tuple(map(self.recognizer.heads.frame_times.edge_s, edges)), edges[-1])

    def _words(self, transcript: Transcript, read: Mapping[int, int], num_samples: int) -> dict[int, tuple[Word, ...]]:
        if transcript.skipped == NO_NUMBERS:
            raise ValueError(f"{NO_NUMBERS}.")
        end_s = num_samples / self.recognizer.sample_rate_hz
        return {loop: self._timed(transcript.hypotheses[number], end_s) for loop, number in read.items()}

    def _timed(self, hypothesis: Hypothesis, end_s: float) -> tuple[Word, ...]:
        return hypothesis.words if self.times_words else spread(hypothesis.text, 0.0, end_s)


def _tells_times(recognizer: Recognizer) -> bool:
    """Whether the front end tells where its frames lie; not every one does."""
    return hasattr(recognizer.model.frontend, "hop_length")
