"""Writes hypotheses in ESPnet's layout: `1best_recog/`, ... for the last read-out, and `loop<k>/` for each.

With `num_loops: auto` there is `auto/` instead, and `loops` beside `text` has the loops that each utterance used.
Times of words go into `ctm` beside `text`: lines `utterance channel start duration word confidence`, in seconds.
"""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from espnet_larm.data.text import visible
from espnet_larm.files.atomic import write_beside, write_text
from espnet_larm.recognize.output.results import Hypothesis, Transcript
from espnet_larm.recognize.output.words import format_ctm
from espnet_larm.scoring.experiment import AUTO, AUTO_NUMBER, is_of_a_decoding

FILES = ("text", "token", "token_int", "score")
CTM, LOOPS = "ctm", "loops"


class HypothesisWriter:
    """Files under an output folder, written beside their targets and moved when all is done.

    Args:
        output_dir: Made if it is not there. Without `stats.json` in it, a run was not completed.
        unit: `loop` or `layer`, the name of the read-outs' folders.
        numbers: Read-outs; the last is the result. One alone has no folder of its own if `unit` is `layer`.
        nbest: Hypotheses of the last read-out, `1best_recog/`, `2best_recog/`, ...; an utterance with fewer is not in
            the later ones.
        write_ctm: Write times of words too, of the best hypotheses.
    """

    def __init__(
        self, output_dir: Path, unit: str, numbers: list[int], nbest: int = 1, write_ctm: bool = False
    ) -> None:
        self.output_dir = output_dir
        self.best = [f"{rank}best_recog" for rank in range(1, nbest + 1)]
        shown = numbers if unit == "loop" or len(numbers) > 1 else []
        self.folders = {number: AUTO if number == AUTO_NUMBER else f"{unit}{number}" for number in shown}
        self.write_ctm = write_ctm
        self.write_loops = AUTO_NUMBER in numbers
        self.files: dict[Path, TextIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "HypothesisWriter":  # noqa: PYI034
        self._remove_earlier()
        for folder in (*self.best, *self.folders.values()):
            (self.output_dir / folder).mkdir(parents=True, exist_ok=True)
            for name in self._names(folder):
                path = self.output_dir / folder / name
                part = self._stack.enter_context(write_beside(path))
                self.files[path] = self._stack.enter_context(part.open("w", encoding="utf-8"))
        return self

    def _remove_earlier(self) -> None:
        """Remove hypotheses of an earlier decoding, which may have had other read-outs: this one may be killed."""
        (self.output_dir / "stats.json").unlink(missing_ok=True)
        for folder in self.output_dir.glob("*/"):
            if is_of_a_decoding(folder.name) and not folder.is_symlink():
                shutil.rmtree(folder)

    def _names(self, folder: str) -> list[str]:
        """Files of a folder; those of the second best and further hypotheses have no times of words."""
        is_best = folder not in self.best[1:]
        more = ((CTM, self.write_ctm), (LOOPS, self.write_loops))
        return [*FILES, *(name for name, is_written in more if is_written and is_best)]

    def write(self, key: str, transcript: Transcript) -> None:
        """Add an utterance to all files."""
        for folder, hypothesis in zip(self.best, (transcript.best, *transcript.others), strict=False):
            self._write(folder, key, hypothesis, transcript)
        for number, folder in self.folders.items():
            self._write(folder, key, transcript.hypotheses[number], transcript)

    def _write(self, folder: str, key: str, hypothesis: Hypothesis, transcript: Transcript) -> None:
        token_ids = " ".join(map(str, hypothesis.token_ids))
        values = (hypothesis.text, " ".join(map(visible, hypothesis.tokens)), token_ids, str(hypothesis.score))
        lines = {name: f"{key} {value}\n" for name, value in zip(FILES, values, strict=True)}
        lines[CTM] = format_ctm(key, hypothesis.words)
        # One that could not be encoded has used none.
        lines[LOOPS] = f"{key} {transcript.loops or 0:g}\n"
        for name in self._names(folder):
            self.files[self.output_dir / folder / name].write(lines[name])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


def write_stats(output_dir: Path, stats: dict[str, Any]) -> None:
    """`stats.json`, the mark of a completed run."""
    write_text(output_dir / "stats.json", json.dumps(stats, indent=2) + "\n")
