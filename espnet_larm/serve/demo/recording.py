"""One recording of the page: read, recognised, and told in lines as the text comes.

Shapes: N samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_larm.data.audio_error import AudioError
from espnet_larm.errors import DataError
from espnet_larm.listen.engine import WHOLE, Job, Merged
from espnet_larm.listen.inputs import open_blocks
from espnet_larm.listen.transcriber import Progress, Transcriber, Transcription, collect
from espnet_larm.recognize.output.words import Word
from espnet_larm.scoring.alignment import align
from espnet_larm.serve.demo.spectrogram import spectrogram_of

Line = dict[str, Any]


def read_recording(path: Path, name: str, sample_rate_hz: int, most_s: float) -> np.ndarray:
    """Read a file of any format.

    Args:
        path: The file.
        name: Its name for whoever sent it.
        sample_rate_hz: The rate to read it at.
        most_s: Most seconds.

    Returns:
        Samples (N,).

    Raises:
        DataError: It is no audio, damaged, or too long.
        ImportError: FFmpeg is needed, and not here.
    """
    blocks, num_samples = [], 0
    try:
        for block in open_blocks(path, None, sample_rate_hz):
            blocks.append(block)
            num_samples += len(block)
            if num_samples > most_s * sample_rate_hz:
                raise DataError(f"{name} is longer than {most_s:g} s; allowed: up to {most_s:g} s. Send a part of it.")
    except AudioError as error:
        raise DataError(f"{error.what.replace(str(path), name)}.") from error
    return np.concatenate(blocks)


def tell(transcriber: Transcriber, job: Job, samples: np.ndarray) -> Iterator[Line]:
    """Recognise a recording.

    Args:
        transcriber: The model.
        job: What its `prepare` gave.
        samples: (N,) at its rate.

    Yields:
        Lines of these kinds: `audio` with the spectrogram; `progress` with what has been added to the text of each
        loop; `result` with all texts and times of words.

    Raises:
        ValueError: The model cannot recognise it.
    """
    rate = transcriber.sample_rate_hz
    yield {"kind": "audio", "seconds": len(samples) / rate, **spectrogram_of(samples, rate).as_json()}
    seen: list[Progress] = []
    for progress in transcriber.follow(job, (samples, rate)):
        seen.append(progress)
        yield {
            "kind": "progress",
            "end_s": progress.end_s,
            "added": {loop: " ".join(segment.text for segment in progress.segments[loop]) for loop in job.loops},
        }
    yield _result(collect(job, seen), [merged for progress in seen for merged in progress.merged])


def _result(found: Transcription, merged: Sequence[Merged]) -> Line:
    texts = {loop: (at.text, _words(at.segments)) for loop, at in found.loops.items()}
    texts = texts or {WHOLE: (found.text, _words(found.segments))}
    loops: list[Line] = []
    before: list[Word] | None = None
    for loop, (text, words) in texts.items():
        pairs = [(each.text, each.text) for each in words] if before is None else _aligned(before, words)
        changed = [old != new for old, new in pairs if new is not None]
        loops.append(
            {
                "loop": loop,
                "seconds": found.seconds[loop],
                "text": text,
                "words": [_word(*pair) for pair in zip(words, changed, strict=True)],
                "num_gone": sum(new is None for _, new in pairs),
            }
        )
        before = words
    return {"kind": "result", "loops": loops, "merged": [each._asdict() for each in merged]}


def _words(segments: Sequence[Any]) -> list[Word]:
    return [word for segment in segments for word in segment.words]


def _word(word: Word, is_changed: bool) -> Mapping[str, Any]:
    return {
        "text": word.text,
        "start_s": round(word.start_s, 3),
        "end_s": round(word.end_s, 3),
        "is_changed": is_changed,
    }


def _aligned(before: Sequence[Word], words: Sequence[Word]) -> Sequence[tuple[str | None, str | None]]:
    """Each word beside the one that stood there at the loop before; None where there is none."""
    # A word of a token list may have a space in it.
    old, new = ("\n".join(each.text for each in row) for row in (before, words))
    (aligned,) = align([old], [new], str.splitlines)
    return aligned.pairs
