"""What the plans of all studies share: a YAML file with rows, each with a name, a title and seeds."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROW_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is no YAML.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name a YAML file.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error


def read_plan_file(path: Path, allowed: tuple[str, ...], required: tuple[str, ...] = ("rows",)) -> dict[str, Any]:
    """Read a plan and check its keys.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: The file is no YAML, has no row, or a key is missing or unknown.
    """
    plan = read_yaml(path)
    if not isinstance(plan, dict) or not isinstance(plan.get("rows"), dict) or not plan["rows"]:
        raise ValueError(f"{path}: `rows` is missing or empty; name at least one row.")
    check_keys(f"{path}", plan, allowed, required)
    return plan


def read_rows[Row](
    path: Path, plan: Mapping[str, Any], allowed: tuple[str, ...], make: Callable[[str, str, dict[str, Any]], Row]
) -> tuple[Row, ...]:
    """Read the rows of a plan in their order.

    Args:
        path: File of the plan, for messages.
        plan: The plan.
        allowed: Keys that a row may have; `seeds` is required.
        make: Makes a row of its place in the file, its name and its keys with their values.

    Raises:
        ValueError: A name cannot be that of a folder, or a row has wrong keys or seeds.
    """
    rows = []
    for key, row in plan["rows"].items():
        where, name = f"{path}: rows: {key}", str(key)
        if row is not None and not isinstance(row, Mapping):
            raise ValueError(f"{where} is {row}; allowed: {', '.join(allowed)} with their values.")
        if ROW_NAME.fullmatch(name) is None:
            raise ValueError(f"{where}: {name} names folders; allowed: letters, digits, '_', '.' and '-'.")
        found = dict(row or {})
        check_keys(where, found, allowed, required=("seeds",))
        _check_seeds(where, found["seeds"])
        rows.append(make(where, name, found))
    return tuple(rows)


def _check_seeds(where: str, seeds: Any) -> None:
    is_list = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    # Two trainings with one seed would write into one folder.
    if not is_list or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds is {seeds}; allowed: a list of different whole numbers, such as [0, 1, 2].")


def read_reference(path: Path, plan: Mapping[str, Any], names: list[str]) -> str:
    """Name of the row that the others are compared with; the first by default.

    Raises:
        ValueError: There is no such row.
    """
    reference = str(plan.get("reference", names[0]))
    if reference not in names:
        raise ValueError(f"{path}: reference is {reference}; allowed: {', '.join(names)}.")
    return reference


def read_options(where: str, found: Any) -> dict[str, Any]:
    """Options with their values; none for None.

    Raises:
        ValueError: It is something else.
    """
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{where} is {found}; allowed: options with their values.")
    return dict(found or {})


def check_keys(where: str, found: Mapping[str, Any], allowed: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
    """Refuse unknown keys, and missing ones.

    Raises:
        ValueError: The message names the keys.
    """
    if unknown := [key for key in found if key not in allowed]:
        raise ValueError(f"{where}: unknown key {', '.join(map(str, unknown))}; allowed: {', '.join(allowed)}.")
    if missing := [key for key in required if key not in found]:
        raise ValueError(f"{where}: {', '.join(missing)} is missing.")
