"""Finds what was decoded and scored in an experiment's folder: `<exp>/<inference tag>/<set>/`, `loop<k>/` in each."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

READ_OUT = re.compile(r"(loop|layer)(\d+)")
# Folder and number of the read-out of utterances that each left at a loop of its own.
AUTO, AUTO_NUMBER = "auto", 0
NBEST = re.compile(r"\d+best_recog")
MEASURES = ("wer", "cer", "ter")


class ReadOutResult(NamedTuple):
    """Scores and cost of one read-out of one set.

    Attributes:
        number: Number of the loop or layer; None if decoding gave the hypotheses of its last one alone, AUTO_NUMBER
            where each utterance has left at a loop of its own.
        scores: Content of `scores.json` by measure.
        seconds: Time of compute; None if it was not measured.
    """

    number: int | None
    scores: dict[str, dict[str, Any]]
    seconds: float | None


class SetResult(NamedTuple):
    """One set, decoded in one way.

    Attributes:
        tag: Inference tag.
        name: Name of the set.
        unit: `loop` or `layer`.
        read_outs: Read-outs by ascending number.
        stats: Content of `stats.json` of the decoding; empty without one.
        differences: Changes between read-outs, by measure.
    """

    tag: str
    name: str
    unit: str
    read_outs: list[ReadOutResult]
    stats: dict[str, Any]
    differences: dict[str, list[dict[str, Any]]]

    @property
    def mean_loops(self) -> float | None:
        """Mean number of loops of an utterance, where each has its own."""
        return self.stats.get("mean_loops")

    @property
    def audio_seconds(self) -> float | None:
        """Duration of the audio that was decoded."""
        return self.stats.get("audio_seconds")


def read_out_folders(folder: Path) -> dict[str, Path]:
    """Find `loop2/`, `loop4/`, ... (or `layer6/`, ...) of a decoded set, in order of the numbers."""
    found = [(number, path) for path in folder.glob("*/") if (number := _read_out_number(path.name)) is not None]
    return {path.name: path for _, path in sorted(found)}


def _read_out_number(name: str) -> int | None:
    """Find the k of `loop<k>` or `layer<k>`, AUTO_NUMBER of `auto`; None for any other folder."""
    if name == AUTO:
        return AUTO_NUMBER
    match = READ_OUT.fullmatch(name)
    return int(match[2]) if match else None


def name_of(number: int | None) -> str:
    """What `stats.json` calls a read-out."""
    return AUTO if number == AUTO_NUMBER else str(number)


def mean_loops(used: Mapping[str, int]) -> float | None:
    """Mean number of loops, from numbers of utterances by the loops they used; None without any."""
    num_utts = sum(used.values())
    return sum(float(loops) * number for loops, number in used.items()) / num_utts if num_utts else None


def is_of_a_decoding(name: str) -> bool:
    """Whether a folder of this name holds hypotheses of one decoding."""
    return NBEST.fullmatch(name) is not None or _read_out_number(name) is not None


def find_results(exp_dir: Path) -> list[SetResult]:
    """Find all scored sets of an experiment, sorted by inference tag and set.

    Raises:
        FileNotFoundError: Nothing was scored.
    """
    # A development set that is decoded lies in org/, as ESPnet has it.
    patterns = ("*/*/score_wer/scores.json", "*/org/*/score_wer/scores.json")
    folders = sorted(path.parent.parent for pattern in patterns for path in exp_dir.glob(pattern))
    # by_loops/ is score_loops' own, with results of its own.
    folders = [folder for folder in folders if not folder.is_relative_to(exp_dir / "by_loops")]
    if not folders:
        raise FileNotFoundError(f"{exp_dir}/*/*/score_wer/scores.json: nothing is scored yet; run --stage score first.")
    return [_read_set(folder, *folder.relative_to(exp_dir).parts) for folder in folders]


def _read_set(folder: Path, tag: str, *names: str) -> SetResult:
    stats = _read_json(folder / "stats.json")
    costs = stats.get("loops", {})
    last = _read_scores(folder)
    read_outs = []
    for name, path in read_out_folders(folder).items():
        number = _read_out_number(name)
        read_outs.append(ReadOutResult(number, _read_scores(path), _seconds(costs, number)))
    if not read_outs:
        only = max((AUTO_NUMBER if name == AUTO else int(name) for name in costs), default=None)
        read_outs = [ReadOutResult(only, last, _seconds(costs, only))]
    differences = {measure: scores.get("differences", []) for measure, scores in last.items()}
    return SetResult(tag, "/".join(names), stats.get("unit", "loop"), read_outs, stats, differences)


def _read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    found = {measure: _read_json(folder / f"score_{measure}" / "scores.json") for measure in MEASURES}
    return {measure: scores for measure, scores in found.items() if scores}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _seconds(costs: dict[str, Any], number: int | None) -> float | None:
    return costs.get(name_of(number), {}).get("seconds")
