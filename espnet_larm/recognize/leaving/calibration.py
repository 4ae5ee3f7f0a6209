"""Thresholds that `espnet-larm calibrate-loops` has written beside a model, read where it is loaded.

The file has an entry for each way to decode, `ctc` and `llm`, since both lose words at other thresholds.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.files.atomic import write_text
from espnet_larm.recognize.config import LOOP_RULES

# Beside a model, and in its pack.
CALIBRATION, HEAD_FILE = "loops_calibration.json", "halting_head.json"
CTC, LLM = "ctc", "llm"


class Calibrated(NamedTuple):
    """What was found for one way to decode.

    Attributes:
        rule: The rule that was chosen.
        thresholds: Thresholds by rule; of those that have one.
    """

    rule: str
    thresholds: Mapping[str, float]


Calibration = Mapping[str, Calibrated]


def read_calibration(folder: Path) -> Calibration:
    """What is calibrated, by way to decode; empty where nothing is.

    Args:
        folder: The folder of the model's `config.yaml`.

    Raises:
        ValueError: The file is not what calibrate-loops writes.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return {}
    return {name: Calibrated(entry["rule"], entry["thresholds"]) for name, entry in _read(path).items()}


def write_calibration(folder: Path, name: str, calibrated: Calibrated, facts: Mapping[str, Any]) -> None:
    """Write the entry of one way to decode; another one's stays.

    Args:
        folder: Where the file stands.
        name: `ctc` or `llm`.
        calibrated: What was found.
        facts: What it was found with.

    Raises:
        ValueError: The file that is there is not what calibrate-loops writes.
    """
    path = folder / CALIBRATION
    entries = _read(path) if path.is_file() else {}
    entries[name] = {**calibrated._asdict(), **facts}
    write_text(path, json.dumps(entries, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    """The entries of a file, which may be a stranger's."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON; remove it, or run espnet-larm calibrate-loops again.") from error
    if not isinstance(entries, dict) or not all(_is_entry(entry) for entry in entries.values()):
        raise ValueError(
            f"{path} does not name a rule ({', '.join(LOOP_RULES)}) with thresholds that are numbers; remove it, or "
            "run espnet-larm calibrate-loops again."
        )
    return entries


def _is_entry(entry: Any) -> bool:
    thresholds = entry.get("thresholds") if isinstance(entry, dict) else None
    return (
        isinstance(thresholds, dict)
        and entry.get("rule") in LOOP_RULES
        and all(
            name in LOOP_RULES and isinstance(value, int | float) and math.isfinite(value)
            for name, value in thresholds.items()
        )
    )
