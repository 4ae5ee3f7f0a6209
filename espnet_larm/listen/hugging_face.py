"""Speech recognisers of transformers as engines: Whisper, and models with a CTC head (wav2vec2, Parakeet, ...).

Long audio is cut as for our models, and Whisper never sees silence alone, for which it makes up words.
Shapes: N samples, T frames, V tokens.
"""

import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCTC, AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from espnet_larm.errors import OptionError
from espnet_larm.listen.engine import (
    WHOLE,
    Engine,
    Heard,
    Job,
    Request,
    refuse_language,
    refuse_loops,
    refuse_options,
)
from espnet_larm.listen.segments import spread
from espnet_larm.recognize.long.cutting import Cutting
from espnet_larm.recognize.output.words import SPACE, WORD_STARTS, FrameTimes, Word, has_words, make_words

WHISPER = "whisper"
# Whisper's window is 30 s, and each call pays for all of it.
WHISPER_CUTTING = Cutting(30.0, 30.0, 15.0, 4.0)
CTC_CUTTING = Cutting(30.0, 30.0, 5.0, 4.0)
# Letters of scripts that are written without spaces: Thai to Burmese, Chinese, Japanese.
UNSPACED = re.compile("[\u0e00-\u109f\u3000-\u9fff\uff00-\uffef]")
# Stands for the part of a letter.
REPLACEMENT = "\ufffd"


def load_engine(source: str, device: str, dtype: str) -> Engine:
    """A recogniser of transformers.

    Args:
        source: Its folder, or its id on the hub; a folder is never looked up on the hub.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `bfloat16`, `float16`, `float32` or `float64`.

    Raises:
        FileNotFoundError: There is no such model, or the hub cannot be reached.
        ValueError: It is no recogniser that is known here, or a file of it is damaged.
    """
    disable_progress_bar()
    is_local = Path(source).is_dir()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=is_local)
        is_whisper = config.model_type == WHISPER
        if not is_whisper and config.model_type not in MODEL_FOR_CTC_MAPPING_NAMES:
            raise OptionError(
                f"model is {source}, a {config.model_type} of transformers; allowed: Whisper, and CTC models "
                f"({', '.join(sorted(MODEL_FOR_CTC_MAPPING_NAMES))})."
            )
        kind = AutoModelForSpeechSeq2Seq if is_whisper else AutoModelForCTC
        processor = AutoProcessor.from_pretrained(source, local_files_only=is_local)
        model = kind.from_pretrained(source, local_files_only=is_local, dtype=getattr(torch, dtype))
        if is_whisper:
            _keep_generation_options(model, source, is_local)
    except OSError as error:
        said = " ".join(str(error).split())
        raise FileNotFoundError(f"model is {source}, which transformers cannot load: {said}") from error
    model = model.eval().to(device)
    return WhisperEngine(model, processor) if is_whisper else CtcEngine(model, processor)


def _keep_generation_options(model: Any, source: str, is_local: bool) -> None:
    """Give a model its own options of generation, with the heads that tell times.

    transformers passes over a file that says it was made of the model's configuration, whatever else it holds.
    """
    name = "generation_config.json"
    path = cached_file(source, name, local_files_only=is_local, _raise_exceptions_for_missing_entries=False)
    if path is not None:
        options = json.loads(Path(path).read_bytes())
        # The last would force what language and task say, which it is replaced by.
        passed = ("_from_model_config", "forced_decoder_ids")
        options = {name: value for name, value in options.items() if name not in passed}
        model.generation_config = GenerationConfig.from_dict(options)


class WhisperEngine(Engine):
    """A Whisper.

    Args:
        model: `WhisperForConditionalGeneration`.
        processor: Its processor.
    """

    has_languages = True

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.sample_rate_hz = processor.feature_extractor.sampling_rate
        options = model.generation_config
        tokenizer = processor.tokenizer
        if getattr(options, "no_timestamps_token_id", None) is None:
            options.no_timestamps_token_id = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
        self.languages = sorted(token.strip("<|>") for token in getattr(options, "lang_to_id", None) or {})

    def prepare(self, request: Request) -> Job:
        """Check a request.

        Raises:
            ValueError: It asks for loops, a language that it does not know, or options of our models.
        """
        refuse_loops(request, "Whisper")
        refuse_options(request, "Whisper", "beam_size")
        has_heads = getattr(self.model.generation_config, "alignment_heads", None) is not None
        if request.needs_words and not has_heads:
            raise OptionError("words is true, but this Whisper names no alignment_heads; leave the option out.")
        job = _WhisperJob(self, self._language(request), request.config.beam_size, has_heads)
        return Job((WHOLE,), WHISPER_CUTTING, job.hear, job.text_of)

    def _language(self, request: Request) -> dict[str, str]:
        """What `generate` is told of the language; nothing where there is one language, or where it shall detect it."""
        allowed = self.languages or ["en"]
        if request.language is not None and request.language not in allowed:
            raise OptionError(f"language is {request.language}; allowed: {', '.join(allowed)}.")
        if not self.languages:
            return {}
        return {"task": "transcribe"} | ({} if request.language is None else {"language": request.language})


class _WhisperJob:
    """Whisper at work."""

    def __init__(self, engine: WhisperEngine, language: dict[str, str], beam_size: int, has_heads: bool) -> None:
        self.engine, self.tokenizer, self.has_heads = engine, engine.processor.tokenizer, has_heads
        self.options = {**language, "num_beams": beam_size, "return_token_timestamps": has_heads}

    @torch.no_grad()
    def hear(self, waveforms: Sequence[np.ndarray]) -> Heard:
        engine, start = self.engine, _now(self.engine.model)
        rate = engine.sample_rate_hz
        features = engine.processor(
            list(waveforms), sampling_rate=rate, return_tensors="pt", return_attention_mask=True
        ).to(engine.model.device)
        found = engine.model.generate(
            features.input_features.to(engine.model.dtype), attention_mask=features.attention_mask, **self.options
        )
        seconds = _now(engine.model) - start
        ends_s = [len(samples) / rate for samples in waveforms]
        if self.has_heads:
            rows = zip(found["sequences"].tolist(), found["token_timestamps"].tolist(), ends_s, strict=True)
            words = [tuple(self._words(token_ids, times_s, end_s)) for token_ids, times_s, end_s in rows]
        else:
            texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
            words = [spread(text, 0.0, end_s) for text, end_s in zip(texts, ends_s, strict=True)]
        return Heard([{WHOLE: each} for each in words], {WHOLE: seconds})

    def text_of(self, words: Sequence[Word]) -> str:
        if not self.has_heads:
            return " ".join(word.text for word in words)
        return self._text(token_id for word in words for token_id in word.token_ids)

    def _words(self, token_ids: Sequence[int], times_s: Sequence[float], end_s: float) -> Iterator[Word]:
        """Words of a hypothesis; a token starts at its time, and ends where the next starts."""
        special = set(self.tokenizer.all_special_ids)
        kept = [place for place, token_id in enumerate(token_ids) if token_id not in special]
        for group in self._groups([token_ids[place] for place in kept]):
            first, last = kept[group[0]], kept[group[-1]]
            ids = tuple(token_ids[place] for place in kept[group[0] : group[-1] + 1])
            start_s, stop_s = (min(times_s[min(place, len(times_s) - 1)], end_s) for place in (first, last + 1))
            if text := self._text(ids):
                yield Word(text, start_s, max(start_s, stop_s), float("nan"), ids)

    def _groups(self, token_ids: Sequence[int]) -> Iterator[range]:
        """Places of each word's tokens. Scripts without spaces have a word a token, or as many as a letter takes."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(token_ids))
        start = 0
        for place, token in enumerate(tokens):
            if start < place and (token.startswith(WORD_STARTS) or self._is_unspaced(token_ids[start:place])):
                yield range(start, place)
                start = place
        if start < len(tokens):
            yield range(start, len(tokens))

    def _is_unspaced(self, token_ids: Sequence[int]) -> bool:
        text = self._text(token_ids)
        return bool(text) and text[-1] != REPLACEMENT and bool(UNSPACED.match(text[-1]))

    def _text(self, token_ids: Iterable[int]) -> str:
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()


class CtcEngine(Engine):
    """A model with a CTC head, searched greedily.

    Args:
        model: One of `AutoModelForCTC`.
        processor: Its processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.sample_rate_hz = processor.feature_extractor.sampling_rate
        tokenizer = processor.tokenizer
        names = tokenizer.convert_ids_to_tokens(range(model.config.vocab_size))
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        # By the house's name of a space, words are found as in our own models.
        self.tokens = [SPACE if name is not None and name == delimiter else name or "" for name in names]
        # The space of wav2vec2's tokenizers is a special token, too.
        self.special = {each for each in tokenizer.all_special_ids if self.tokens[each] != SPACE} | {
            model.config.pad_token_id
        }

    def prepare(self, request: Request) -> Job:
        """Check a request.

        Raises:
            ValueError: It asks for loops, a language, or options of our models.
        """
        refuse_loops(request, "this model")
        refuse_language(request, "this model")
        refuse_options(request, "this model")
        return Job((WHOLE,), CTC_CUTTING, self.hear, lambda words: " ".join(word.text for word in words))

    @torch.no_grad()
    def hear(self, waveforms: Sequence[np.ndarray]) -> Heard:
        """Recognise waveforms (N,), one by one: what a batch pads them with reaches the frames of many such models."""
        start = _now(self.model)
        words = [{WHOLE: self._words(samples)} for samples in waveforms]
        return Heard(list(words), {WHOLE: _now(self.model) - start})

    def _words(self, samples: np.ndarray) -> tuple[Word, ...]:
        rate = self.sample_rate_hz
        inputs = self.processor(samples, sampling_rate=rate, return_tensors="pt").to(self.model.device)
        values = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value for name, value in inputs.items()
        }
        posteriors = self.model(**values).logits[0].float().log_softmax(dim=-1).cpu()  # (T, V)
        best = posteriors.max(dim=-1)
        spans = _spans(best.indices.tolist(), best.values.tolist())
        kept = [span for span in spans if span[0] not in self.special]
        token_ids = [token_id for token_id, *_ in kept]
        times = FrameTimes(len(samples) / rate / len(posteriors), 1, None, 0.5)
        names = [self.tokens[token_id] for token_id in token_ids]
        return make_words(names, token_ids, [span[1:] for span in kept], times, _join, words=has_words(self.tokens))


def _spans(ids: Sequence[int], scores: Sequence[float]) -> list[tuple[int, int, int, float]]:
    """Runs of equal ids (T,): id, first frame, frame after the last, mean score."""
    spans, first = [], 0
    for token_id, run in itertools.groupby(ids):
        end = first + len(list(run))
        spans.append((token_id, first, end, sum(scores[first:end]) / (end - first)))
        first = end
    return spans


def _join(tokens: list[str]) -> str:
    return "".join(token.lstrip("".join(WORD_STARTS)) for token in tokens)


def _now(model: Any) -> float:
    """Seconds on a clock that waits for the GPU."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
