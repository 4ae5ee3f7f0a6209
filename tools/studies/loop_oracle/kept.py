"""The file of what a set does at each loop, which the report of one run writes and other reports count from."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_larm.calibrate.loop_traces import Traces
from studies.reports import write_text


class Kept(NamedTuple):
    """A set decoded by a model.

    Attributes:
        traces: What it does at every loop, those beyond training too.
        speakers: The speaker of each utterance.
        num_loops: The deepest loop of training.
    """

    traces: Traces
    speakers: list[str]
    num_loops: int

    @property
    def trained(self) -> Traces:
        """What it does at the loops of training."""
        return self.traces.up_to(self.num_loops)


def write_kept(kept: Kept, path: Path) -> None:
    """Write a JSON file."""
    traces = kept.traces
    # JSON has no NaN.
    numbers = {
        name: [[None if np.isnan(value) else value for value in row] for row in rows.tolist()]
        for name, rows in traces.numbers.items()
    }
    content = {
        "keys": traces.keys,
        "speakers": kept.speakers,
        "num_loops": kept.num_loops,
        "loops": traces.loops,
        "texts": traces.texts,
        "errors": traces.errors.tolist(),
        "words": traces.words.tolist(),
        "numbers": numbers,
        "is_by_llm": traces.is_by_llm,
    }
    write_text(path, json.dumps(content))


def read_kept(path: Path) -> Kept:
    """Read what `write_kept` has written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of this kind.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: np.array(rows, dtype=np.float64) for name, rows in content["numbers"].items()}
        traces = Traces(
            content["keys"],
            tuple(content["loops"]),
            content["texts"],
            np.array(content["errors"], dtype=np.int64),
            np.array(content["words"], dtype=np.int64),
            numbers,
            content["is_by_llm"],
        )
        return Kept(traces, content["speakers"], content["num_loops"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no loop_oracle.json of studies.loop_oracle.run; run that again.") from error
