"""Learning parts of a model: counted, checked against what is declared frozen, and watched in training.

A module lists in `frozen_names()` the parameters that no training may change (in `decoder: speech_llm`, the LM's), and
names in `part_of(name)` the part that a parameter is counted in. ESPnet's `freeze_param` declares further frozen ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from espnet_larm.errors import name_some

# Type of the integers that a weight's bits are read as, by its size in bytes.
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class LearningPart(NamedTuple):
    """Numbers of a part that learn, and all of them.

    Attributes:
        part: Its name.
        trainable: Numbers that learn.
        total: All numbers.
    """

    part: str
    trainable: int
    total: int


def learning_parts(model: torch.nn.Module) -> list[LearningPart]:
    """Numbers that learn in each part, in the model's order; shared weights are counted in the first part."""
    counts: dict[str, list[int]] = {}
    for name, parameter in _parameters(model):
        count = counts.setdefault(part_of(getattr(model, "module", model), name), [0, 0])
        count[0] += parameter.numel() if parameter.requires_grad else 0
        count[1] += parameter.numel()
    return [LearningPart(part, trainable, total) for part, (trainable, total) in counts.items()]


def sum_of(found: Sequence[LearningPart]) -> LearningPart:
    """Sum over all parts: the count of parameters that is reported everywhere."""
    return LearningPart("all", sum(each.trainable for each in found), sum(each.total for each in found))


def part_of(model: torch.nn.Module, name: str) -> str:
    """The part that a parameter is counted in: the module right below the model, or a part that this module names."""
    child, _, rest = name.partition(".")
    tell = getattr(getattr(model, child), "part_of", None)
    return tell(rest) if tell else child


def format_parts(found: Sequence[LearningPart]) -> str:
    """A table as text; its last row is the sum."""
    rows = [
        (each.part, f"{each.trainable:,}", f"{each.total:,}", f"{percent(each):.1f}")
        for each in (*found, sum_of(found))
    ]
    lines = (("part", "trainable", "total", "%"), *rows)
    width = max(len(part) for part, *_ in lines)
    return "\n".join(f"    {part:<{width}} {first:>15} {second:>15} {last:>6}" for part, first, second, last in lines)


def percent(part: LearningPart) -> float:
    """Percentage of a part that learns; 0 if the part has no weights."""
    return 100 * part.trainable / part.total if part.total else 0.0


def check_frozen(
    model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer], freeze_param: Sequence[str]
) -> None:
    """Refuse weights that shall be frozen and are not, and frozen ones that an optimiser has.

    Args:
        model: The model that will be trained.
        optimizers: The model's optimisers.
        freeze_param: ESPnet's option: names of parameters, or what they begin with up to a dot.

    Raises:
        ValueError: There are such weights; it names the first and counts them.
    """
    # All names count: ESPnet knows the first name of a tied weight alone, and freezes nothing by another.
    weights = dict(model.named_parameters(remove_duplicate=False))
    declared = {*_named_by_option(weights, freeze_param), *_named_by_modules(model)}
    if learning := [name for name in weights if name in declared and weights[name].requires_grad]:
        raise ValueError(
            f"weights that shall be frozen (freeze_param, or decoder_conf: adaptation) would learn: {_some(learning)}. "
            "Name a tied weight by its first name; code that sets requires_grad has to leave them alone."
        )
    held = {id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]}
    if kept := [name for name, each in model.named_parameters() if id(each) in held and not each.requires_grad]:
        raise ValueError(f"frozen weights are in the optimiser, whose weight decay would move them: {_some(kept)}.")


def leave_frozen_out(optimizer: torch.optim.Optimizer) -> int:
    """Take parameters without `requires_grad` out of an optimiser that has not stepped yet.

    ESPnet hands over all parameters: weight decay would move frozen ones, and their states cost memory.

    Returns:
        How many numbers were taken out.

    Raises:
        ValueError: No parameter is left.
    """
    frozen = 0
    for group in optimizer.param_groups:
        frozen += sum(parameter.numel() for parameter in group["params"] if not parameter.requires_grad)
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    if not optimizer.param_groups:
        raise ValueError("freeze_param: all parameters of the model are frozen; leave some to train.")
    return frozen


class FrozenWeights:
    """Remembers the weights that do not learn, to tell when one of them has changed all the same.

    It compares the sum of each weight's bits, computed on the weight's device: 0.6 s for 360 M numbers on a core.

    Args:
        model: The model before training.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._sums = {name: _sum_of_bits(each) for name, each in _parameters(model) if not each.requires_grad}

    def check(self, model: torch.nn.Module) -> None:
        """Check that all are as they were.

        Raises:
            RuntimeError: Some are not; it names the first and counts them.
        """
        found = {name: _sum_of_bits(each) for name, each in _parameters(model) if name in self._sums}
        if changed := [name for name in found if found[name] != self._sums[name]]:
            raise RuntimeError(
                f"training has changed frozen weights: {_some(changed)}. Some code writes to them; nothing of this "
                "epoch is saved."
            )


def _named_by_option(weights: Iterable[str], freeze_param: Sequence[str]) -> Iterator[str]:
    names = list(weights)
    for start in freeze_param:
        found = [name for name in names if name == start or name.startswith(f"{start}.")]
        if not found:
            children = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ValueError(
                f"freeze_param: {start} names no parameter; allowed: {children}, and names of what is below them, "
                f"such as {names[0]}."
            )
        yield from found


def _named_by_modules(model: torch.nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        if names := getattr(module, "frozen_names", None):
            yield from (f"{prefix}.{name}".lstrip(".") for name in names())


def _parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters by their names without the wrapper of a distributed training."""
    yield from getattr(model, "module", model).named_parameters()


def _sum_of_bits(parameter: torch.nn.Parameter) -> int:
    weight = parameter.detach().contiguous()
    weight = torch.view_as_real(weight) if weight.is_complex() else weight
    return int(weight.view(INTEGERS[weight.element_size()]).sum(dtype=torch.int64))


def _some(names: Sequence[str]) -> str:
    return name_some(names, limit=2)
