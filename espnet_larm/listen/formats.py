"""Transcriptions as files: text, subtitles, tables and JSON."""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from espnet_larm.listen.segments import Segment, wrap
from espnet_larm.recognize.output.words import Word


class Written(NamedTuple):
    """What a file says of one recording at one loop.

    Attributes:
        audio: Name of the recording.
        model: Name of the model.
        loop: The loop; None for a model without loops.
        duration_s: Length of the recording in seconds.
        language: Code of the language that was asked for; None if none was.
        text: The whole text.
        segments: It in phrases.
        words: Whether to write times of words, in WITH_WORDS.
        mean_loops: Mean number of loops where the model chose them by itself; None otherwise.
    """

    audio: str
    model: str
    loop: int | None
    duration_s: float
    language: str | None
    text: str
    segments: tuple[Segment, ...]
    words: bool
    mean_loops: float | None = None


def _as_txt(written: Written) -> str:
    """A paragraph; with times of words, a line a word: start, end, word."""
    if not written.words:
        return f"{written.text}\n"
    words = (word for segment in written.segments for word in segment.words)
    return "".join(f"{word.start_s:.2f}\t{word.end_s:.2f}\t{word.text}\n" for word in words)


def as_srt(written: Written, first: int = 1) -> str:
    """SubRip: numbered subtitles, from the number `first` on."""
    return "\n".join(
        f"{number}\n{_clock(start_s, ',')} --> {_clock(end_s, ',')}\n{text}\n"
        for number, (start_s, end_s, text) in enumerate(_cues(written), first)
    )


def _as_vtt(written: Written) -> str:
    """WebVTT: subtitles of web pages."""
    escaped = ((start, end, text.replace("&", "&amp;").replace("<", "&lt;")) for start, end, text in _cues(written))
    return "\n".join(
        ["WEBVTT\n", *(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n" for start, end, text in escaped)]
    )


def _as_tsv(written: Written) -> str:
    """A table: start and end in milliseconds, text; a row a segment, or with times of words a row a word."""
    rows: list[tuple[float, float, str]] = [(each.start_s, each.end_s, each.text) for each in written.segments]
    if written.words:
        rows = [(word.start_s, word.end_s, word.text) for each in written.segments for word in each.words]
    lines = (f"{round(1000 * start)}\t{round(1000 * end)}\t{' '.join(text.split())}\n" for start, end, text in rows)
    return "start\tend\ttext\n" + "".join(lines)


def as_json(written: Written) -> str:
    """All that is known; times in seconds."""
    known: dict[str, Any] = {
        "audio": written.audio,
        "model": written.model,
        "loop": written.loop,
        "mean_loops": None if written.mean_loops is None else round(written.mean_loops, 3),
        "duration": round(written.duration_s, 3),
        "language": written.language,
        "text": written.text,
        "segments": [_segment(each, written.words) for each in written.segments],
    }
    known = {name: value for name, value in known.items() if value is not None}
    return json.dumps(known, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Written], str]] = {
    "txt": _as_txt,
    "srt": as_srt,
    "vtt": _as_vtt,
    "tsv": _as_tsv,
    "json": as_json,
}
# They have a place for times of words; subtitles have none.
WITH_WORDS = frozenset(("txt", "tsv", "json"))


def _cues(written: Written) -> list[tuple[float, float, str]]:
    """Subtitles: start, end, lines."""
    return [(each.start_s, each.end_s, "\n".join(wrap(each.text))) for each in written.segments]


def _segment(segment: Segment, with_words: bool) -> dict[str, Any]:
    said = {"start": round(segment.start_s, 3), "end": round(segment.end_s, 3), "text": segment.text}
    return {**said, "words": [_word(word) for word in segment.words]} if with_words else said


def _word(word: Word) -> dict[str, Any]:
    said = {"word": word.text, "start": round(word.start_s, 3), "end": round(word.end_s, 3)}
    # Whisper does not say how sure it is of a word.
    return said if math.isnan(word.confidence) else {**said, "confidence": round(word.confidence, 3)}


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
