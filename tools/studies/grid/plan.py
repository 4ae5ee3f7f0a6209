"""Which trainings make up a grid: rows that differ from one configuration, each with its seeds, in one YAML.

    config: conf/an4/train_larm.yaml      # the configuration that all rows start from
    schedule: {max_epoch: 6}              # changed in all rows
    reference: looped                     # the row that all others are compared with
    rows:
      looped: {title: the main configuration, seeds: [0, 1, 2]}
      no_clock: {title: without the clock, seeds: [0], options: {encoder_conf: {clock: false}}}

`options` is merged key by key, except where a row chooses another class (`encoder: transformer`): its `encoder_conf`
then starts empty.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PLAN_KEYS = ("config", "schedule", "reference", "rows")
ROW_KEYS = ("title", "seeds", "options")
ROW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Row(NamedTuple):
    """One configuration.

    Attributes:
        name: Of its folders.
        title: For the table.
        seeds: One training each.
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
        rows: In the order of the table.
    """

    reference: str
    rows: tuple[Row, ...]


class Run(NamedTuple):
    """One training.

    Attributes:
        row: Name.
        seed: Of the training.
    """

    row: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}_seed{self.seed}"


def read_plan(path: Path, root: Path) -> Plan:
    """Read and check a grid.

    Args:
        path: The YAML.
        root: What its `config` is relative to.

    Raises:
        ValueError: A key is missing or unknown, a value is of the wrong kind, or the reference is no row.
    """
    plan = read_yaml(path)
    if not isinstance(plan, dict) or not isinstance(plan.get("rows"), dict) or not plan["rows"]:
        raise ValueError(f"{path}: `rows` is missing or empty; name at least one row.")
    check_keys(f"{path}", plan, PLAN_KEYS, required=("config", "rows"))
    shared = merge(read_yaml(root / str(plan["config"])), _options(f"{path}: schedule", plan.get("schedule")))
    rows = tuple(_read_row(f"{path}: rows: {name}", str(name), row, shared) for name, row in plan["rows"].items())
    reference = str(plan.get("reference", rows[0].name))
    if reference not in [row.name for row in rows]:
        raise ValueError(f"{path}: reference is {reference}; allowed: {', '.join(row.name for row in rows)}.")
    return Plan(reference, rows)


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


def read_yaml(path: Path) -> Any:
    """What a file holds.

    Raises:
        ValueError: It is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error


def _read_row(where: str, name: str, row: Any, shared: Mapping[str, Any]) -> Row:
    row = {} if row is None else row
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is {row}; allowed: {', '.join(ROW_KEYS)} with their values.")
    if ROW_NAME.fullmatch(name) is None:
        raise ValueError(f"{where}: {name} names folders; allowed: letters, digits, '_', '.' and '-'.")
    check_keys(where, row, ROW_KEYS, required=("seeds",))
    seeds = row["seeds"]
    is_list = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    # Two trainings of one seed would write into one folder.
    if not is_list or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds is {seeds}; allowed: a list of different whole numbers, such as [0, 1, 2].")
    options = _options(f"{where}: options", row.get("options"))
    return Row(name, str(row.get("title", name)), tuple(seeds), merge(shared, options))


def _options(where: str, found: Any) -> Mapping[str, Any]:
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{where} is {found}; allowed: options with their values.")
    return found or {}


def check_keys(where: str, found: Mapping[str, Any], allowed: tuple[str, ...], required: tuple[str, ...]) -> None:
    """Refuse keys that mean nothing, and the lack of others.

    Args:
        where: What the keys are of, for the message.
        found: With its keys.
        allowed: All that mean something.
        required: Those that must be there.

    Raises:
        ValueError: With the first of them.
    """
    if unknown := [key for key in found if key not in allowed]:
        raise ValueError(f"{where}: unknown key {', '.join(map(str, unknown))}; allowed: {', '.join(allowed)}.")
    if missing := [key for key in required if key not in found]:
        raise ValueError(f"{where}: {', '.join(missing)} is missing.")
