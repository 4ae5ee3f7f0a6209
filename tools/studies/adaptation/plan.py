"""Ways of adapting an LM that are compared: the rows of one YAML file.

    decoder_conf: {projector: posterior, projector_frames: 2}   # for all rows
    schedule: {num_steps: 600}                                  # changes to Schedule's defaults
    reference: full                                             # the row that others are compared with
    rows:
      full: {title: full, seeds: [0, 1, 2], lrs: [0.0001, 0.0003, 0.001], decoder_conf: {adaptation: full}}
      added: {seeds: [0, 1, 2], lrs: [0.0003, 0.001, 0.003], decoder_conf: {adaptation: depth_upscaling}}
      lora: {seeds: [0], lr_of: added, decoder_conf: {adaptation: lora}}

A row's first seed is trained at each of its learning rates, the other seeds at the best of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from studies.plans import check_keys, read_options, read_plan_file, read_reference, read_rows

PLAN_KEYS = ("decoder_conf", "model_conf", "begin_with", "augment", "schedule", "reference", "rows")
ROW_KEYS = ("title", "seeds", "lrs", "lr_of", "decoder_conf", "model_conf")
CONFS = ("decoder_conf", "model_conf")


class Schedule(NamedTuple):
    """Training schedule of each run.

    Attributes:
        num_steps: Steps of the optimiser.
        batch_size: Utterances a step.
        warmup_steps: Steps over which learning rates rise from 0; they then fall linearly to `final_share`.
        final_share: Fraction of the highest learning rate at the last step.
        projector_lr: Learning rate of the projector, the same in all rows: a row's rates are those of its LM alone.
        weight_decay: Weight decay of all trained parameters.
        grad_clip: Largest norm of the gradient; longer ones are scaled down.
        num_points: Number of times a run is measured and saved, at equal distances, the last at the end.
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
    """One way of adapting the LM.

    Attributes:
        name: Name of the row, which begins the names of its folders.
        title: Title in the table.
        seeds: Seeds of its trainings.
        lrs: Learning rates of the LM's trained and added weights; empty where another row's is taken.
        lr_of: Row whose best learning rate is taken; None if the row has rates of its own.
        decoder_conf: Options of the decoder, which choose the adaptation.
        model_conf: Options of the model, which choose the losses.
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
        begin_with: Parts that begin with the weights of the trained model, beside encoder and CTC head.
        augment: Whether features of the training set go once through the model's SpecAugment.
        schedule: Training schedule of all runs.
        reference: Name of the row that the others are compared with.
        rows: Rows in the order of the table.
    """

    begin_with: tuple[str, ...]
    augment: bool
    schedule: Schedule
    reference: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


class Run(NamedTuple):
    """One training.

    Attributes:
        row: Name of the row.
        lr: Learning rate of the LM's trained and added weights.
        seed: Seed of weights, batches and dropout.
    """

    row: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.row}_lr{self.lr:g}_seed{self.seed}"


def read_plan(path: Path) -> Plan:
    """Read and check a study.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A key is missing or unknown, or a value is of the wrong kind.
    """
    plan = read_plan_file(path, PLAN_KEYS)
    shared = {name: read_options(f"{path}: {name}", plan.get(name)) for name in CONFS}

    def make(where: str, name: str, row: dict[str, Any]) -> Row:
        confs = {key: {**shared[key], **read_options(f"{where}: {key}", row.get(key))} for key in CONFS}
        lrs, lr_of = row.get("lrs"), row.get("lr_of")
        _check_rates(where, lrs, lr_of)
        return Row(name, str(row.get("title", name)), tuple(row["seeds"]), tuple(map(float, lrs or ())), lr_of, **confs)

    rows = read_rows(path, plan, ROW_KEYS, make)
    owners = [row.name for row in rows if row.lrs]
    for row in rows:
        if row.lr_of is not None and row.lr_of not in owners:
            raise ValueError(
                f"{path}: rows: {row.name}: lr_of is {row.lr_of}; allowed, since they have lrs: {', '.join(owners)}."
            )
    begin_with, augment = plan.get("begin_with") or [], plan.get("augment", False)
    if not isinstance(begin_with, list):
        raise ValueError(f"{path}: begin_with is {begin_with}; allowed: a list of names such as [decoder.projector].")
    if not isinstance(augment, bool):
        raise ValueError(f"{path}: augment is {augment}; allowed: true, false.")
    schedule = _read_schedule(path, read_options(f"{path}: schedule", plan.get("schedule")))
    reference = read_reference(path, plan, [row.name for row in rows])
    return Plan(tuple(map(str, begin_with)), augment, schedule, reference, rows)


def _check_rates(where: str, lrs: Any, lr_of: Any) -> None:
    if (lrs is None) == (lr_of is None):
        raise ValueError(f"{where}: give lrs (a list) or lr_of (another row), one of them.")
    is_list = isinstance(lrs, list) and lrs and all(type(lr) in (int, float) and lr >= 0 for lr in lrs)
    if lrs is not None and (not is_list or len(set(lrs)) < len(lrs)):
        raise ValueError(f"{where}: lrs is {lrs}; allowed: a list of different numbers of 0 or more, such as [0.001].")


def _read_schedule(path: Path, found: Mapping[str, Any]) -> Schedule:
    """Check types and ranges; values have the types of the defaults."""
    check_keys(f"{path}: schedule", found, Schedule._fields)
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
