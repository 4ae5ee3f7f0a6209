"""Frozen parameters stay out of the optimiser."""

import logging
from argparse import Namespace

import pytest
import torch

from espnet_larm.train.learning import leave_frozen_out


def half_frozen():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[0].requires_grad_(False)
    return model


def test_frozen_parameters_do_not_move_by_weight_decay():
    model = half_frozen()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    assert leave_frozen_out(optimizer) == 12
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    # A gradient that something left behind.
    model[0].weight.grad = torch.ones(3, 3)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed == ["1.weight", "1.bias"]
    assert len(optimizer.state) == 2


def test_groups_without_trainable_parameters_go():
    model = half_frozen()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[1].parameters()}], lr=0.1)
    leave_frozen_out(optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_nothing_to_train_is_refused():
    model = half_frozen().requires_grad_(False)
    with pytest.raises(ValueError, match="freeze_param: all parameters of the model are frozen"):
        leave_frozen_out(torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("exclude_weight_decay", [False, True])
def test_task_builds_optimizers_without_frozen_parameters(larm_task, caplog, tmp_path, exclude_weight_decay):
    model = half_frozen()
    args = Namespace(
        optim="adamw",
        optim_conf={"lr": 0.1},
        sharded_ddp=False,
        exclude_weight_decay=exclude_weight_decay,
        exclude_weight_decay_conf={},
        init_param=[],
        freeze_param=[],
        resume=False,
        output_dir=str(tmp_path),
    )
    with caplog.at_level(logging.INFO):
        (optimizer,) = larm_task.build_optimizers(args, model)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model[1].parameters()}
    assert "12 frozen parameters are left out of the optimiser" in caplog.text
