"""Writes hypotheses in ESPnet's layout: `1best_recog/` for the last read-out, and `loop<k>/` for each.

Times of words go into `ctm` beside `text`: lines `utterance channel start duration word confidence`, in seconds.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from espnet_larm.inference.recognizer import Hypothesis, Transcript
from espnet_larm.inference.words import format_ctm

BEST = "1best_recog"
FILES = ("text", "token", "token_int", "score")
CTM = "ctm"


class HypothesisWriter:
    """Files under an output folder, written beside their targets and moved when all is done.

    Args:
        output_dir: Made if it is not there. Without `stats.json` in it, a run was not completed.
        unit: `loop` or `layer`, the name of the read-outs' folders.
        numbers: Read-outs; the last is the result. One alone has no folder of its own if `unit` is `layer`.
        write_ctm: Write times of words too.
    """

    def __init__(self, output_dir: Path, unit: str, numbers: list[int], write_ctm: bool = False) -> None:
        self.output_dir = output_dir
        shown = numbers if unit == "loop" or len(numbers) > 1 else []
        self.folders = {number: f"{unit}{number}" for number in shown}
        self.names = (*FILES, CTM) if write_ctm else FILES
        self.files: dict[Path, TextIO] = {}

    def __enter__(self) -> "HypothesisWriter":  # noqa: PYI034
        (self.output_dir / "stats.json").unlink(missing_ok=True)
        for folder in (BEST, *self.folders.values()):
            (self.output_dir / folder).mkdir(parents=True, exist_ok=True)
            for name in self.names:
                path = self.output_dir / folder / name
                self.files[path] = path.with_name(f".{name}.part").open("w", encoding="utf-8")
        return self

    def write(self, key: str, transcript: Transcript) -> None:
        """Add an utterance to all files."""
        self._write(BEST, key, transcript.best)
        for number, folder in self.folders.items():
            self._write(folder, key, transcript.hypotheses[number])

    def _write(self, folder: str, key: str, hypothesis: Hypothesis) -> None:
        token_ids = " ".join(map(str, hypothesis.token_ids))
        values = (hypothesis.text, " ".join(hypothesis.tokens), token_ids, str(hypothesis.score))
        for name, value in zip(FILES, values, strict=True):
            self.files[self.output_dir / folder / name].write(f"{key} {value}\n")
        if CTM in self.names:
            self.files[self.output_dir / folder / CTM].write(format_ctm(key, hypothesis.words))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for path, file in self.files.items():
            file.close()
            if error is None:
                path.with_name(f".{path.name}.part").replace(path)


def write_stats(output_dir: Path, stats: dict[str, Any]) -> None:
    """`stats.json`, the mark of a completed run."""
    part = output_dir / ".stats.json.part"
    part.write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    part.replace(output_dir / "stats.json")
