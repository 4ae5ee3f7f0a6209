"""Frozen parameters stay out of the optimiser: weight decay would move them, and their states cost memory."""

import torch


def leave_frozen_out(optimizer: torch.optim.Optimizer) -> int:
    """Take parameters without `requires_grad` out of an optimiser that has not stepped yet.

    ESPnet hands over all parameters of a model.

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
