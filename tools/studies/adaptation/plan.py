"""Which ways of adapting an LM are compared, in one YAML.

    decoder_conf: {projector: posterior, projector_frames: 2}   # of all rows
    schedule: {num_steps: 600}                                  # what differs from Schedule's defaults
    reference: full                                             # whose loss of text the others are compared with
    rows:
      full: {title: full, seeds: [0, 1, 2], lrs: [0.0001, 0.0003, 0.001], decoder_conf: {adaptation: full}}
      added: {seeds: [0, 1, 2], lrs: [0.0003, 0.001, 0.003], decoder_conf: {adaptation: depth_upscaling}}
      lora: {seeds: [0], lr_of: added, decoder_conf: {adaptation: lora}}

A row's first seed is trained at each of its learning rates, the other seeds at the best of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from studies.grid.plan import ROW_NAME, check_keys, read_yaml

PLAN_KEYS = ("decoder_conf", "model_conf", "begin_with", "augment", "schedule", "reference", "rows")
ROW_KEYS = ("title", "seeds", "lrs", "lr_of", "decoder_conf", "model_conf")


class Schedule(NamedTuple):
    """How each run learns.

    Attributes:
        num_steps: Of the optimiser.
        batch_size: Utterances a step.
        warmup_steps: Over which learning rates rise from 0; they then fall, in a line, to `final_share`.
        final_share: Of the highest learning rate, at the last step.
        projector_lr: Of the projector, alike in all rows, so that a row's learning rates are those of its LM alone.
        weight_decay: Of all that learns.
        grad_clip: Largest norm of the gradient.
        num_points: How often a run is measured and saved, at equal distances, the last at the end.
    """

    num_steps: int = 600
    batch_size: int = 16
    warmup_steps: int = 50
    final_share: float = 0.05
    projector_lr: float = 0.001
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    num_points: int = 6

    @property
    def points(self) -> list[int]:
        """Steps after which a run is measured."""
        return [self.num_steps * number // self.num_points for number in range(1, self.num_points + 1)]


class Row(NamedTuple):
    """One way.

    Attributes:
        name: Of its folders.
        title: For the table.
        seeds: Of trainings.
        lrs: Learning rates of what learns of the LM, or was added to it; empty if it is another row's.
        lr_of: That row.
        decoder_conf: Its adaptation.
        model_conf: Its losses.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    lrs: tuple[float, ...]
    lr_of: str | None
    decoder_conf: dict[str, Any]
    model_conf: dict[str, Any]


class Plan(NamedTuple):
    """A study.

    Attributes:
        begin_with: What else of the trained model is begun with, beside encoder and CTC head.
        augment: Whether features of the training set go through the model's SpecAugment, once.
        schedule: Of all runs.
        reference: Name of the row that others are compared with.
        rows: In the order of the table.
    """

    begin_with: tuple[str, ...]
    augment: bool
    schedule: Schedule
    reference: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """By its name."""
        return next(row for row in self.rows if row.name == name)


class Run(NamedTuple):
    """One training.

    Attributes:
        row: Name.
        lr: Of the LM's part.
        seed: Of all that is random.
    """

    row: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}_lr{self.lr:g}_seed{self.seed}"


def read_plan(path: Path) -> Plan:
    """Read and check a study.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: A key is missing or unknown, or a value is of the wrong kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--plan {path} is missing; name the YAML of a study.")
    plan = read_yaml(path)
    if not isinstance(plan, Mapping) or not isinstance(plan.get("rows"), Mapping) or not plan["rows"]:
        raise ValueError(f"{path}: `rows` is missing or empty; name at least one row.")
    check_keys(f"{path}", plan, PLAN_KEYS, required=("rows",))
    shared = {name: _table(f"{path}: {name}", plan.get(name)) for name in ("decoder_conf", "model_conf", "schedule")}
    rows = tuple(_read_row(f"{path}: rows: {name}", str(name), row, shared) for name, row in plan["rows"].items())
    names = [row.name for row in rows]
    reference = str(plan.get("reference", names[0]))
    if reference not in names:
        raise ValueError(f"{path}: reference is {reference}; allowed: {', '.join(names)}.")
    for row in rows:
        owners = [each.name for each in rows if each.lrs]
        if row.lr_of is not None and row.lr_of not in owners:
            raise ValueError(
                f"{path}: rows: {row.name}: lr_of is {row.lr_of}; allowed, since they have lrs: {', '.join(owners)}."
            )
    begin_with = plan.get("begin_with") or []
    if not isinstance(begin_with, list):
        raise ValueError(f"{path}: begin_with is {begin_with}; allowed: a list of names such as [decoder.projector].")
    augment = plan.get("augment", False)
    if not isinstance(augment, bool):
        raise ValueError(f"{path}: augment is {augment}; allowed: true, false.")
    return Plan(tuple(map(str, begin_with)), augment, _read_schedule(path, shared["schedule"]), reference, rows)


def _table(where: str, found: Any) -> dict[str, Any]:
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{where} is {found}; allowed: options with their values.")
    return dict(found or {})


def _read_row(where: str, name: str, row: Any, shared: Mapping[str, dict[str, Any]]) -> Row:
    if ROW_NAME.fullmatch(name) is None:
        raise ValueError(f"{where}: {name} names folders; allowed: letters, digits, '_', '.' and '-'.")
    found = _table(where, row)
    check_keys(where, found, ROW_KEYS, required=("seeds",))
    seeds, lrs, lr_of = found["seeds"], found.get("lrs"), found.get("lr_of")
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)) or _repeats(seeds):
        raise ValueError(f"{where}: seeds is {seeds}; allowed: a list of different whole numbers, such as [0, 1, 2].")
    if (lrs is None) == (lr_of is None):
        raise ValueError(f"{where}: give lrs (a list) or lr_of (another row), one of them.")
    numbers = isinstance(lrs, list) and all(type(lr) in (int, float) and lr >= 0 for lr in lrs)
    if lrs is not None and (not numbers or not lrs or _repeats(lrs)):
        raise ValueError(f"{where}: lrs is {lrs}; allowed: a list of different numbers of 0 or more, such as [0.001].")
    confs = {
        key: {**shared[key], **_table(f"{where}: {key}", found.get(key))} for key in ("decoder_conf", "model_conf")
    }
    rates = tuple(float(lr) for lr in lrs or ())
    return Row(name, str(found.get("title", name)), tuple(seeds), rates, lr_of, **confs)


def _repeats(values: list[Any]) -> bool:
    return len(set(values)) < len(values)


def _read_schedule(path: Path, found: Mapping[str, Any]) -> Schedule:
    """With values of the types that the defaults have, in their ranges."""
    check_keys(f"{path}: schedule", found, Schedule._fields, required=())
    for name, value in found.items():
        kind = type(Schedule._field_defaults[name])
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise ValueError(f"{path}: schedule: {name} is {value}; allowed: a number, such as the default's.")
        least = 0 if name in ("warmup_steps", "weight_decay") else 1 if kind is int else 1e-12
        if value < least:
            raise ValueError(f"{path}: schedule: {name} is {value}; allowed: {least:g} or more.")
    made = Schedule(**found)
    if made.num_points > made.num_steps or made.warmup_steps >= made.num_steps:
        raise ValueError(
            f"{path}: schedule: num_steps is {made.num_steps}, num_points {made.num_points}, warmup_steps "
            f"{made.warmup_steps}; allowed: more steps than both."
        )
    return made
