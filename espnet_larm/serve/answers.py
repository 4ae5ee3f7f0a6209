"""Transcriptions in OpenAI's forms."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from espnet_larm.listen.formats import FORMATS, Written
from espnet_larm.listen.segments import Segment
from espnet_larm.listen.transcriber import Transcription
from espnet_larm.recognize.output.words import Word
from espnet_larm.serve.fields import JSON, SEGMENT, TEXT, VERBOSE, WORD, Asked

# Names of our formats by OpenAI's, where they differ, and the types of those that have one of their own.
OURS = {TEXT: "txt"}
TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}
UNKNOWN = "unknown"


def answer(found: Transcription, asked: Asked, name: str, language: str | None) -> Response:
    """The response to whoever asked.

    Args:
        found: What is said.
        asked: What was asked for.
        name: Name of the recording.
        language: Code of its language, if that is known.
    """
    if asked.form in (JSON, VERBOSE):
        return JSONResponse(_as_json(found, asked, language))
    written = Written(name, "", None, found.duration_s, language, found.text, found.segments, words=False)
    content = FORMATS[OURS.get(asked.form, asked.form)](written)
    return PlainTextResponse(content, media_type=TYPES.get(asked.form))


def _as_json(found: Transcription, asked: Asked, language: str | None) -> dict[str, Any]:
    said = _said(found.text, found.segments, asked)
    if asked.form == VERBOSE:
        known = {"task": "transcribe", "language": language or UNKNOWN, "duration": round(found.duration_s, 3)}
        said = {**known, **said}
    if found.mean_loops is not None:
        said["mean_loops"] = round(found.mean_loops, 3)
    if len(asked.loops) > 1:
        said["loops"] = {
            str(loop): {**_said(each.text, each.segments, asked), "seconds": round(found.seconds[loop], 4)}
            for loop, each in found.loops.items()
        }
    return said


def _said(text: str, segments: Sequence[Segment], asked: Asked) -> dict[str, Any]:
    said: dict[str, Any] = {"text": text}
    if asked.form == VERBOSE and SEGMENT in asked.granularities:
        said["segments"] = [_segment(index, each) for index, each in enumerate(segments)]
    if asked.form == VERBOSE and WORD in asked.granularities:
        said["words"] = [_word(word) for segment in segments for word in segment.words]
    return said


def _segment(index: int, segment: Segment) -> dict[str, Any]:
    """All that OpenAI's segments have, which typed clients require; None is what a model does not tell."""
    text = segment.text.encode()
    return {
        "id": index,
        "seek": round(100 * segment.start_s),
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [token_id for word in segment.words for token_id in word.token_ids],
        "temperature": 0.0,
        "avg_logprob": _mean_logarithm(segment.words),
        "compression_ratio": len(text) / len(zlib.compress(text)),
        # What is no speech was left out before.
        "no_speech_prob": 0.0,
    }


def _mean_logarithm(words: Sequence[Word]) -> float | None:
    """The mean logarithm of the words' confidences."""
    values = [word.confidence for word in words]
    if not values or not all(value > 0 for value in values):
        return None
    return sum(map(math.log, values)) / len(values)


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
