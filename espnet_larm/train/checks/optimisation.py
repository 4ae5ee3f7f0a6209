"""Tries an optimiser and its schedule on numbers of their own.

Many wrong values of `optim_conf` and `scheduler_conf` fail in a step only, or give a learning rate that is no number.
"""

import argparse
import inspect
import math
from typing import Any

import torch

from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler, AbsEpochStepScheduler, AbsValEpochStepScheduler

from espnet_larm import registry

NUM_STEPS = 3


def try_optimisation(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> None:
    """Make a few steps with the options of a training; its own optimiser stays as it is.

    Args:
        args: Options of the training.
        optimizer: The training's optimiser, whose groups of parameters count.

    Raises:
        ValueError: A step makes numbers infinite, the schedule gives a learning rate that is no number, or ESPnet
            cannot train with the optimiser. Classes raise further errors at values that they cannot take.
    """
    trial = _on_numbers(args, optimizer)
    if (closure := inspect.signature(trial.step).parameters.get("closure")) and closure.default is closure.empty:
        raise ValueError(
            f"optim: {args.optim} computes the loss several times a step, which ESPnet's training does not; choose "
            "another."
        )
    _step(args, trial)
    if args.scheduler is None:
        return
    schedule: Any = registry.classes_of("scheduler")[args.scheduler](trial, **args.scheduler_conf)
    for num_steps in range(NUM_STEPS):
        _check_rates(args, trial, num_steps)
        _step(args, trial)
        _advance(schedule)
    _check_rates(args, trial, NUM_STEPS)


def _on_numbers(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """An optimiser of the same options, with one number in each group."""
    groups = [{**group, "params": [_number_like(group["params"][0])]} for group in optimizer.param_groups]
    optimizer_class: Any = registry.classes_of("optim")[args.optim]
    made: torch.optim.Optimizer = optimizer_class(groups, **args.optim_conf)
    return made


def _number_like(parameter: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1, dtype=parameter.dtype, device=parameter.device))


def _step(args: argparse.Namespace, optimizer: torch.optim.Optimizer) -> None:
    numbers = [number for group in optimizer.param_groups for number in group["params"]]
    for number in numbers:
        number.grad = torch.ones_like(number)
    optimizer.step()
    if not all(bool(torch.isfinite(number).all()) for number in numbers):
        values = ", ".join(f"{key}: {value!r:.60}" for key, value in args.optim_conf.items())
        raise ValueError(f"optim_conf: a step of {args.optim} with {values} ends at infinity; choose smaller values.")


def _advance(schedule: Any) -> None:
    """Go one step on, and one epoch for schedules of epochs."""
    if isinstance(schedule, AbsBatchStepScheduler):
        schedule.step()
    if isinstance(schedule, AbsValEpochStepScheduler):
        schedule.step(1.0)
    elif isinstance(schedule, AbsEpochStepScheduler):
        schedule.step()


def _check_rates(args: argparse.Namespace, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if wrong := [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]:
        values = ", ".join(f"{key}: {value!r:.60}" for key, value in args.scheduler_conf.items())
        raise ValueError(
            f"scheduler_conf: {args.scheduler} with {values or 'its defaults'} gives a learning rate of {wrong[0]} "
            f"after {num_steps} steps; allowed: numbers from 0 on. Change its options, or optim_conf: lr."
        )
