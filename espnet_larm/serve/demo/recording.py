"""What the page is told of a recording, in lines: its picture, the text as it comes, and at last all that is known."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from espnet_larm.listen.engine import WHOLE, Job, Merged
from espnet_larm.listen.inputs import open_blocks, refuse_longer
from espnet_larm.listen.transcriber import AtLoop, Progress, Transcription, collect
from espnet_larm.recognize.output.words import Word
from espnet_larm.scoring.alignment import align
from espnet_larm.serve.demo.spectrogram import spectrogram_of

Line = dict[str, Any]


def picture_line(path: Path, sample_rate_hz: int, most_s: float) -> Line:
    """The line `sound`: length and spectrogram of a file.

    Args:
        path: The file, of any format.
        sample_rate_hz: The rate to read it at.
        most_s: The longest recording that is allowed, in seconds.

    Raises:
        ValueError: It is no audio, damaged, or too long.
        ImportError: FFmpeg is needed, and not here.
    """
    blocks = refuse_longer(path, open_blocks(path, None, sample_rate_hz), sample_rate_hz, most_s)
    return {"kind": "sound", **spectrogram_of(blocks, sample_rate_hz).as_json()}


def text_lines(job: Job, following: Iterable[Progress]) -> Iterator[Line]:
    """A line `progress` after each part of a recording, and the line `result`.

    `mean_loops` of the result says how many loops were used, where the model chose them by itself.

    Args:
        job: What was asked for.
        following: What the recogniser says of the recording.

    Raises:
        ValueError: What `following` raises.
    """
    seen: list[Progress] = []
    for progress in following:
        seen.append(progress)
        added = {loop: " ".join(segment.text for segment in progress.segments[loop]) for loop in job.loops}
        yield {"kind": "progress", "end_s": progress.end_s, "added": added}
    merged = [each for progress in seen for each in progress.merged]
    found = collect(job, seen)
    yield {"kind": "result", "loops": _loops(found), "merged": _described(merged), "mean_loops": found.mean_loops}


def _loops(found: Transcription) -> list[Line]:
    """The text of each loop, ascending, and which of its words are others than those of the loop before."""
    at_loops = found.loops or {WHOLE: AtLoop(found.text, found.segments)}
    loops: list[Line] = []
    before: list[Word] | None = None
    for loop, at_loop in at_loops.items():
        words = [word for segment in at_loop.segments for word in segment.words]
        pairs = [(each.text, each.text) for each in words] if before is None else _aligned(before, words)
        changed = [old != new for old, new in pairs if new is not None]
        loops.append(
            {
                "loop": loop,
                "seconds": found.seconds[loop],
                "text": at_loop.text,
                "words": [_word(*pair) for pair in zip(words, changed, strict=True)],
                "num_gone": sum(new is None for _, new in pairs),
            }
        )
        before = words
    return loops


def _word(word: Word, is_changed: bool) -> Line:
    start_s, end_s = round(word.start_s, 3), round(word.end_s, 3)
    return {"text": word.text, "start_s": start_s, "end_s": end_s, "is_changed": is_changed}


def _aligned(before: Sequence[Word], words: Sequence[Word]) -> Sequence[tuple[str | None, str | None]]:
    """Each word beside the one that stood there at the loop before; None where there is none."""
    # A word of a token list may have a space in it.
    old, new = ("\n".join(each.text for each in row) for row in (before, words))
    (aligned,) = align([old], [new], str.splitlines)
    return aligned.pairs


def _described(merged: Sequence[Merged]) -> list[Line]:
    return [{"edges_s": [round(edge, 4) for edge in each.edges_s], "num_frames": each.num_frames} for each in merged]
