"""Whatever ends a training, the same command leads to the model of an undisturbed one, bit for bit.

Each test ends a real process at a named point and resumes it; the options of conftest.py exercise dropout, SpecAugment,
a scheduler and gradient accumulation.
"""

import pytest

pytestmark = pytest.mark.slow

# An epoch has 5 batches of training, 2 steps, and 2 batches of validation.
KILLS = {
    "in_the_first_epoch": {"at": "step", "nth": 1},
    "in_a_step": {"at": "step", "nth": 4},
    "between_forward_and_step": {"at": "forward", "nth": 9},
    "in_validation": {"at": "forward", "nth": 14},
    "before_a_checkpoint": {"at": "save", "file": "checkpoint.pth", "nth": 2, "when": "before"},
    "inside_the_first_checkpoint": {"at": "save", "file": "checkpoint.pth", "nth": 1, "when": "half"},
    "inside_a_checkpoint": {"at": "save", "file": "checkpoint.pth", "nth": 2, "when": "half"},
    "between_checkpoint_and_epoch_file": {"at": "save", "file": "2epoch.pth", "nth": 1, "when": "before"},
    "inside_an_epoch_file": {"at": "save", "file": "2epoch.pth", "nth": 1, "when": "half"},
    "before_the_links": {"at": "link", "file": "latest.pth", "nth": 2},
    **{f"before_move_{nth}": {"at": "move", "nth": nth} for nth in range(1, 15)},
    "inside_the_average": {"at": "save", "file": "valid.loss.ave_2best.pth", "nth": 1, "when": "half"},
    "before_the_link_to_the_average": {"at": "link", "file": "valid.loss.ave.pth", "nth": 1},
}


def test_training_equals_espnets_own(trainings, undisturbed, tmp_path):
    options = ["--accum_grad", "1"]
    assert trainings.run(tmp_path / "ours", *options) == 0, trainings.log(tmp_path / "ours")
    assert trainings.run(tmp_path / "espnet", *options, upstream=True) == 0, trainings.log(tmp_path / "espnet")
    ours, espnets = (without_what_differs(trainings.outcome(tmp_path / name)) for name in ("ours", "espnet"))
    assert ours == espnets


def without_what_differs(outcome):
    """All but what ESPnet makes NaN of, and CTC's error rates, which it counts in padding, too (train/reported.py)."""
    for phases in outcome["checkpoint.pth"]["reporter"]["stats"].values():
        for values in phases.values():
            for name in [name for name, value in values.items() if value == "nan" or name.startswith("cer_")]:
                del values[name]
    return outcome


@pytest.mark.parametrize("point", KILLS)
def test_killed_training_resumes_to_the_same_model(trainings, undisturbed, tmp_path, point):
    folder = tmp_path / "killed"
    assert trainings.run(folder, fault={**KILLS[point], "do": "kill"}) == -9, trainings.log(folder)
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)
