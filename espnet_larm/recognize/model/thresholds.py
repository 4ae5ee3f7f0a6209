"""Thresholds of `accept: relaxed`, which `calibrate-drafts` has written beside a model, read where it is loaded."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.files.atomic import write_text
from espnet_larm.recognize.config import RELAXED, DecodeConfig

RELAXED_CALIBRATION = "relaxed_calibration.json"


class Thresholds(NamedTuple):
    """Thresholds of `accept: relaxed`.

    Attributes:
        relaxed_entropy: Nats that every frame of CTC must stay below.
        relaxed_tau: Probability that the LM must exceed for every token.
    """

    relaxed_entropy: float
    relaxed_tau: float


def read_thresholds(folder: Path) -> Thresholds | None:
    """What is calibrated beside a model for `accept: relaxed`; None if nothing is.

    Args:
        folder: The folder of the model's `config.yaml`.

    Raises:
        ValueError: The file is not what calibrate-drafts writes.
    """
    path = folder / RELAXED_CALIBRATION
    if not path.is_file():
        return None
    again = "remove it, or run espnet-larm calibrate-drafts again"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON; {again}.") from error
    try:
        found = Thresholds(*(float(entry[name]) for name in Thresholds._fields))
        DecodeConfig(accept=RELAXED, relaxed_entropy=found.relaxed_entropy, relaxed_tau=found.relaxed_tau)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold {' and '.join(Thresholds._fields)} that are allowed ({error}); {again}."
        ) from error
    return found


def write_thresholds(folder: Path, thresholds: Thresholds, facts: dict[str, Any]) -> Path:
    """Write what is calibrated for `accept: relaxed`; the path of the file.

    Args:
        folder: Where the file stands.
        thresholds: What was found.
        facts: What it was found with.
    """
    path = folder / RELAXED_CALIBRATION
    write_text(path, json.dumps({**thresholds._asdict(), **facts}, indent=2) + "\n")
    return path
