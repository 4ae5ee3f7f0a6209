"""loop_sampling in real trainings: every epoch is made, and an interrupted one draws what an undisturbed one does."""

import math

import pytest
import torch

pytestmark = pytest.mark.slow

# With 2 loops, each a checkpoint, half of the steps run one, which has no intermediate loss.
OPTIONS = ("--encoder_conf", "loop_sampling=uniform")


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_interrupted_training_draws_what_an_undisturbed_one_does(trainings, tmp_path, num_processes):
    folders = [tmp_path / "plain", tmp_path / "interrupted"]
    processes = {"num_processes": num_processes}
    assert trainings.run(folders[0], *OPTIONS, **processes) == 0, trainings.log(folders[0])
    fault = {"at": "forward", "nth": 9, "do": "term"}
    assert trainings.run(folders[1], *OPTIONS, fault=fault, **processes) == 75, trainings.log(folders[1])
    assert trainings.run(folders[1], *OPTIONS, **processes) == 0, trainings.log(folders[1])
    assert trainings.outcome(folders[1]) == trainings.outcome(folders[0])
    weights = torch.load(folders[0] / "3epoch.pth", weights_only=True)
    seed, number = weights["encoder.sampling.draws"].tolist()
    # 3 epochs of 5 batches in each process, and none in validation.
    assert (seed, number) == (0, 15)
    states = torch.load(folders[0] / "checkpoint.pth", weights_only=False)
    for phases in states["reporter"]["stats"].values():
        assert math.isfinite(phases["train"]["loss"]) and math.isfinite(phases["valid"]["loss_interctc_layer1"])
