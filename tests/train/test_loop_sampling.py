"""What steps draw in real trainings: every epoch is made, and an interrupted one draws what an undisturbed one does."""

import math

import pytest
import torch

pytestmark = pytest.mark.slow

# With 2 loops, each a checkpoint, half of the steps run one, which has no intermediate loss.
LOOPS = ("--encoder_conf", "loop_sampling=uniform")
CHUNKS = ("--encoder_conf", "streaming={chunk_frames: [full, 2], left_chunks: [0, 1]}", "--normalize", "none")
CONSISTENCY = (
    "--encoder_conf",
    "streaming={chunk_frames: [full, 2], left_chunks: [0, 1], consistency_weight: 0.2}",
    "--normalize",
    "none",
)


@pytest.mark.parametrize(
    ("options", "name", "num_processes"),
    [(LOOPS, "sampling", 1), (LOOPS, "sampling", 2), (CHUNKS, "contexts", 2), (CONSISTENCY, "contexts", 2)],
)
def test_an_interrupted_training_draws_what_an_undisturbed_one_does(trainings, tmp_path, options, name, num_processes):
    folders = [tmp_path / "plain", tmp_path / "interrupted"]
    processes = {"num_processes": num_processes}
    assert trainings.run(folders[0], *options, **processes) == 0, trainings.log(folders[0])
    fault = {"at": "forward", "nth": 9, "do": "term"}
    assert trainings.run(folders[1], *options, fault=fault, **processes) == 75, trainings.log(folders[1])
    assert trainings.run(folders[1], *options, **processes) == 0, trainings.log(folders[1])
    assert trainings.outcome(folders[1]) == trainings.outcome(folders[0])
    weights = torch.load(folders[0] / "3epoch.pth", weights_only=True)
    seed, number = weights[f"encoder.{name}.draws"].tolist()
    # 3 epochs of 5 batches in each process, and none in validation.
    assert (seed, number) == (0, 15)
    states = torch.load(folders[0] / "checkpoint.pth", weights_only=False)
    for phases in states["reporter"]["stats"].values():
        assert math.isfinite(phases["train"]["loss"]) and math.isfinite(phases["valid"]["loss_interctc_layer1"])
        # The mean of the steps in chunks, which are the same in both processes.
        consistency = phases["train"].get("loss_consistency")
        assert (consistency is not None and consistency > 0) == (options is CONSISTENCY)
