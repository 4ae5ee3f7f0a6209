"""Trainings of a grid: rows that differ from one configuration, each with its seeds, in one YAML file.

    config: conf/an4/train_larm.yaml      # the configuration that all rows start from
    schedule: {max_epoch: 6}              # changed in all rows
    reference: looped                     # the row that all others are compared with
    rows:
      looped: {title: the main configuration, seeds: [0, 1, 2]}
      no_clock: {title: without the clock, seeds: [0], options: {encoder_conf: {clock: false}}}

`options` is merged key by key, except where a row chooses another class (`encoder: transformer`): its `encoder_conf`
then starts empty.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from studies.plans import read_options, read_plan_file, read_reference, read_rows, read_yaml

PLAN_KEYS = ("config", "schedule", "reference", "rows")
ROW_KEYS = ("title", "seeds", "options")


class Row(NamedTuple):
    """One configuration.

    Attributes:
        name: Name of the row, which begins the names of its folders.
        title: Title in the table.
        seeds: Seeds, one training each.
        config: ESPnet's options, complete.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    config: dict[str, Any]


class Plan(NamedTuple):
    """A grid.

    Attributes:
        reference: Name of the row that the others are compared with.
        rows: Rows in the order of the table.
    """

    reference: str
    rows: tuple[Row, ...]


class Run(NamedTuple):
    """One training.

    Attributes:
        row: Name of the row.
        seed: Seed of the training.
    """

    row: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.row}_seed{self.seed}"


def read_plan(path: Path, root: Path) -> Plan:
    """Read and check a grid.

    Args:
        path: YAML file of the plan.
        root: Folder that its `config` is relative to.

    Raises:
        FileNotFoundError: The plan or its `config` is missing.
        ValueError: A key is missing or unknown, a value is of the wrong kind, or the reference is no row.
    """
    plan = read_plan_file(path, PLAN_KEYS, required=("config", "rows"))
    shared = merge(read_yaml(root / str(plan["config"])), read_options(f"{path}: schedule", plan.get("schedule")))

    def make(where: str, name: str, row: dict[str, Any]) -> Row:
        options = read_options(f"{where}: options", row.get("options"))
        return Row(name, str(row.get("title", name)), tuple(row["seeds"]), merge(shared, options))

    rows = read_rows(path, plan, ROW_KEYS, make)
    return Plan(read_reference(path, plan, [row.name for row in rows]), rows)


def merge(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other options: `x_conf` key by key, unless another x is chosen."""
    replaced = {f"{name}_conf" for name, value in options.items() if value != config.get(name)}
    merged = {name: value for name, value in config.items() if name not in replaced}
    for name, value in options.items():
        is_part = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = {**merged[name], **value} if is_part else value
    return merged


def runs_of(plan: Plan) -> list[Run]:
    """All trainings: the first seed of every row, then the second, ..., so that an unfinished grid has all rows."""
    most = max(len(row.seeds) for row in plan.rows)
    return [Run(row.name, row.seeds[index]) for index in range(most) for row in plan.rows if index < len(row.seeds)]
