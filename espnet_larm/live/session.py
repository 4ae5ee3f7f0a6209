"""Live recognition: samples in as they are heard, partial and final texts out.

    recognizer = LiveRecognizer(espnet_larm.load("model.zip").recognizer)
    session = recognizer.start()
    for samples in microphone:  # (N,) at 16 kHz, any number at a time
        for event in session.feed(samples):
            print(event.is_final, event.text)
    events = session.finish()

Partial texts may be read at an early loop, before the deeper ones run. With `num_loops: auto` a chunk leaves by a rule
that looks at its own frames. Texts are those of the masked offline forward pass, whatever the pieces and whoever else
is heard in the same step (test_a_session_says_what_the_masked_offline_forward_says).
Shapes: N samples, B streams, T frames, V tokens.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from espnet2.asr.preencoder.linear import LinearProjection

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.frontend import LiveFrontend, Unheard
from espnet_larm.live.paths import Search
from espnet_larm.live.pcm import FULL_SCALE
from espnet_larm.live.step import Step
from espnet_larm.live.utterances import Event, Rules, Shown, Utterances
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.transcribe import text_of_words
from espnet_larm.recognize.output.words import Word
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.streaming.context import Context
from espnet_larm.streaming.encoder import StreamingEncoder
from espnet_larm.streaming.stream import StreamState

logger = logging.getLogger(__name__)

# Floats may pass 1.0 a little; numbers beyond this are in another unit.
MOST = 8.0


class Feed(NamedTuple):
    """What one of several sessions hears next.

    Attributes:
        session: The session.
        samples: Samples (N,), as `LiveSession.feed` takes them.
        is_last: Whether its stream ends with them.
    """

    session: "LiveSession"
    samples: np.ndarray
    is_last: bool = False


class Heard(NamedTuple):
    """How much a session has heard, and what it took.

    Attributes:
        audio_s: Seconds of audio.
        seconds: Seconds of computing; a step that several sessions shared is divided among them.
        shown: How steady its texts were.
        mean_loops: Loops that its frames have run, on average; 0 before the first chunk.
    """

    audio_s: float
    seconds: float
    shown: Shown
    mean_loops: float


class LiveRecognizer:
    """A model that recognises streams by CTC. It holds nothing of a stream; sessions of it may share steps.

    Args:
        recognizer: The model, `espnet_larm.load(...).recognizer` for example.
        config: Chunks, partial texts, and when texts become final.
        decoding: How CTC is searched: loops, beam, n-gram, hotwords.

    Attributes:
        context: What a frame sees.
        sample_rate_hz: The rate of the samples that it takes.
        latency_s: Seconds from the beginning of a chunk to the last sample that it needs; computing comes on top.

    Raises:
        ValueError: The model cannot be used live, or an option does not go with it; with what can be done.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: LiveConfig = LiveConfig(),  # noqa: B008  # immutable
        decoding: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
    ) -> None:
        model = recognizer.model
        self._encoder = _streaming_encoder(recognizer)
        self.frontend = LiveFrontend(model)
        self.context = _context_of(self._encoder, config)
        self.sample_rate_hz = recognizer.sample_rate_hz
        self._heads, self._model = recognizer.heads, model
        self._ctc, self._times = recognizer.heads.ctc, recognizer.heads.frame_times
        # Last of what may refuse the model, since it may read a large n-gram.
        self._plan = _plan_of(recognizer, decoding)
        self._start = self._encoder.start_streams(self.context, 1, decoding.fixed_loops, decoding.skip_blank)
        self._final_loop = self._start.settings.num_loops
        self._partial_loop = _partial_loop(self._encoder, config, self._final_loop)
        frame_s = self._times.hop_s * self._times.factor
        endpoint, most = (config.frames_of(each, frame_s) for each in (config.endpoint_s, config.max_utterance_s))
        self._rules = Rules(endpoint, most, config.frames_of(config.hold_s, frame_s) if config.hold_s else 0)
        fusion = None if self._plan.words is None else self._plan.words.fusion
        self._search = Search(model.blank_id, tuple(self._ctc.no_text), decoding.beam_size, fusion)
        half_window_s = self.frontend.margin / self.sample_rate_hz
        self.latency_s = self._times.hop_s * self._encoder.latency(self.context) + half_window_s

    @property
    def lets_chunks_leave(self) -> bool:
        """Whether chunks leave by a rule before the last loop."""
        return self._plan.leaving is not None

    def start(self) -> "LiveSession":
        """A session that has heard nothing."""
        has_own_partials = self._partial_loop != self._final_loop
        known = self._search, self._ctc.token_list, self._ctc.tokens_to_text, self._times, self._rules
        return LiveSession(self, self.frontend.start(), self._start, Utterances(*known, has_own_partials))

    def text_of(self, words: Sequence[Word]) -> str:
        """The text of some words of its events."""
        return text_of_words(self._heads, self._plan, words)

    @torch.no_grad()
    def feed(self, feeds: Sequence[Feed], on_partial: Callable[[int, Event], None] | None = None) -> list[list[Event]]:
        """Let several sessions hear something in one step.

        Nothing has changed if an error is raised.

        Args:
            feeds: Sessions of this recogniser, each once, and what they hear.
            on_partial: Called with a feed's place and a partial text where `partial_loop` is an early one, before the
                deeper loops of its chunk run. What it was called with is not in the result; nor is it called for what
                follows a text that has become final in this step. Final texts are the same with it and without.

        Returns:
            The events of each.

        Raises:
            ValueError: Samples are not (N,), or no finite numbers in [-1, 1]; or a session has ended, stands twice in
                feeds, or is of another recogniser.
            TypeError: Samples are of another type than int16, float32 and float64.
        """
        started = time.perf_counter()
        sessions = {id(feed.session) for feed in feeds if feed.session.recognizer is self}
        if len(sessions) < len(feeds):
            raise ValueError("feeds name a session twice, or one of another recogniser; allowed: own ones, each once.")
        heard = [self._features(feed) for feed in feeds]
        if not feeds:
            return []
        xs_pad = torch.nn.utils.rnn.pad_sequence([features for features, _ in heard], batch_first=True)
        lens = torch.tensor([len(features) for features, _ in heard], device=xs_pad.device)
        last = torch.tensor([feed.is_last for feed in feeds], device=xs_pad.device)
        if self._model.preencoder is not None:
            xs_pad, lens = self._model.preencoder(xs_pad, lens)
        state = StreamState.join([feed.session.state for feed in feeds])
        texts = [feed.session.utterances.copy() for feed in feeds]
        step = Step(texts, self._ctc, self._partial_loop, self._final_loop, self._plan.leaving, on_partial)
        is_early = on_partial is not None and self._partial_loop != self._final_loop
        reader = step.read_early if is_early or self._plan.leaving is not None else None
        outputs, state = self._encoder.stream(state, xs_pad, lens, self._model.ctc, last, reader)
        if reader is None:
            step.read(outputs)
        for feed, utterances, found in zip(feeds, texts, step.events, strict=True):
            found.extend(utterances.finish() if feed.is_last else [])
        for feed, (_, unheard), own, utterances in zip(feeds, heard, state.split(), texts, strict=True):
            feed.session.go_on(unheard, own, utterances, len(feed.samples), feed.is_last)
        spent = (time.perf_counter() - started) / len(feeds)
        for feed, frames, frame_loops in zip(feeds, step.num_frames, step.num_loops, strict=True):
            feed.session.seconds += spent
            feed.session.num_frames += frames
            feed.session.num_loops += frame_loops
        return step.events

    def _features(self, feed: Feed) -> tuple[torch.Tensor, Unheard]:
        if feed.session.is_over:
            raise ValueError("the session has ended; start a new one for what follows.")
        return self.frontend.advance(feed.session.unheard, _checked(feed.samples), feed.is_last)


class LiveSession:
    """A stream that is being recognised; `LiveRecognizer.start` makes it. One thread at a time may use it.

    Its memory does not grow with its length.

    Attributes:
        recognizer: The recogniser that it belongs to.
        unheard: Samples whose features are to come.
        state: The encoder's state.
        utterances: What is said.
        is_over: Whether it has ended.
        seconds: Seconds of computing.
        num_frames: Encoder frames so far.
        num_loops: The loops that they have run, all together.
    """

    def __init__(
        self, recognizer: LiveRecognizer, unheard: Unheard, state: StreamState, utterances: Utterances
    ) -> None:
        self.recognizer, self.unheard, self.state, self.utterances = recognizer, unheard, state, utterances
        self.is_over, self.seconds, self._num_samples = False, 0.0, 0
        self.num_frames = self.num_loops = 0

    def feed(self, samples: np.ndarray, on_partial: Callable[[Event], None] | None = None) -> list[Event]:
        """Hear the next samples.

        Args:
            samples: (N,) at the recogniser's rate, floats in [-1, 1] or int16; any number of them.
            on_partial: Called with partial texts of an early `partial_loop` before the deeper loops run, as
                `LiveRecognizer.feed` says; they are not in the result then.

        Returns:
            What has become final, and the partial text if it is another one than before, with `num_loops: auto` after
            each chunk; often nothing.

        Raises:
            ValueError: Samples are not (N,), or no finite numbers in [-1, 1]; or the session has ended.
            TypeError: Samples are of another type than int16, float32 and float64.
        """
        told = None if on_partial is None else lambda _, event: on_partial(event)
        return self.recognizer.feed([Feed(self, samples)], told)[0]

    def finish(self) -> list[Event]:
        """End the stream.

        Returns:
            What was not final yet.

        Raises:
            ValueError: The session has ended before.
        """
        return self.recognizer.feed([Feed(self, np.zeros(0, np.float32), True)])[0]

    @property
    def heard(self) -> Heard:
        """How much it has heard so far, and what that took."""
        audio_s = self._num_samples / self.recognizer.sample_rate_hz
        return Heard(audio_s, self.seconds, self.utterances.shown, self.num_loops / max(1, self.num_frames))

    def go_on(
        self, unheard: Unheard, state: StreamState, utterances: Utterances, num_samples: int, is_over: bool
    ) -> None:
        """Keep what a step has left; the recogniser calls it."""
        self.unheard, self.state, self.utterances, self.is_over = unheard, state, utterances, is_over
        self._num_samples += num_samples


def _streaming_encoder(recognizer: Recognizer) -> StreamingEncoder:
    """The encoder, if model and audio can be used piece by piece."""
    model = recognizer.model
    if not isinstance(model.encoder, StreamingEncoder):
        raise ValueError(
            f"the model's encoder is {type(model.encoder).__name__}, which does not stream; allowed for live use: "
            "encoder: larm or fast_conformer, trained with encoder_conf: streaming."
        )
    if model.ctc is None:
        raise ValueError("the model has no CTC head, which live use reads; train with model_conf: ctc_weight above 0.")
    for name, part, allowed in (
        ("preencoder", model.preencoder, LinearProjection),
        ("postencoder", model.postencoder, type(None)),
    ):
        if part is not None and not isinstance(part, allowed):
            raise ValueError(f"the model has the {name} {type(part).__name__}, which may read the whole utterance.")
    if getattr(recognizer.preprocess, "speech_volume_normalize", None) is not None:
        raise ValueError("the model was trained with speech_volume_normalize, which needs the whole utterance.")
    return model.encoder


def _plan_of(recognizer: Recognizer, decoding: DecodeConfig) -> Plan:
    plan = recognizer.plan(decoding)
    if plan.leaving is not None:
        recognizer.model.encoder.check_chunks_can_leave()
    if plan.llm is not None:
        raise ValueError("the model's LM reads whole utterances; set ctc_weight 1.0 for live use, by its CTC head.")
    if plan.leaving is not None and decoding.loop_threshold is None and plan.leaving.rule.threshold is None:
        logger.warning(
            "chunks leave by %s at %g, which was calibrated for whole utterances and fits no chunk; set loop_rule and "
            "loop_threshold.",
            plan.leaving.name,
            plan.leaving.threshold,
        )
    return plan


def _context_of(encoder: StreamingEncoder, config: LiveConfig) -> Context:
    """What a frame sees: what is asked for, or what was trained."""
    contexts = encoder.contexts
    chunks = [] if contexts is None else [each for each in contexts.chunk_frames if each is not None]
    lefts = [] if contexts is None else [each for each in contexts.left_chunks if each is not None]
    chunk = min(chunks, default=None) if config.chunk_frames is None else config.chunk_frames
    left = max(lefts, default=None) if config.left_chunks is None else config.left_chunks
    if chunk is None or left is None:
        raise ValueError(
            "the model was not trained in chunks (encoder_conf: streaming); train it so, or name chunk_frames and "
            "left_chunks, with which it may recognise much worse."
        )
    return Context(left, chunk)


def _partial_loop(encoder: StreamingEncoder, config: LiveConfig, final_loop: int) -> int:
    allowed = encoder.allowed_loops(final_loop)
    loop = final_loop if config.partial_loop is None else config.partial_loop
    if loop not in allowed:
        raise ValueError(f"partial_loop is {loop}; allowed: {', '.join(map(str, allowed))}.")
    return loop


def _checked(samples: np.ndarray) -> torch.Tensor:
    """Samples (N,) as floats in [-1, 1]."""
    if not isinstance(samples, np.ndarray) or samples.dtype not in (np.int16, np.float32, np.float64):
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise TypeError(f"samples are of type {kind}; allowed: arrays of int16, float32, float64.")
    if samples.ndim != 1:
        raise ValueError(f"samples have the shape {samples.shape}; allowed: one dimension. Take a channel.")
    if samples.dtype == np.int16:
        return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)
    if not np.isfinite(samples).all():
        raise ValueError("samples are not all finite numbers; replace NaN and infinity.")
    if len(samples) and (largest := np.abs(samples).max()) > MOST:
        raise ValueError(f"samples go up to {largest:g}; floats lie in [-1, 1]: divide 16-bit samples by 32768.")
    return torch.from_numpy(samples)
