"""What the tests of calibrating commands share."""

import pytest
import torch


@pytest.fixture(scope="module")
def command(tiny_experiment, tmp_path_factory):
    """A command line for 4 loops that can all be read out."""
    folder = tmp_path_factory.mktemp("calibrated")
    config = tiny_experiment.with_config(folder / "config.yaml", encoder_conf={"checkpoint_period": 1, "clock": False})
    weights = torch.load(tiny_experiment.model, weights_only=True)
    del weights["encoder.clock.table"]
    torch.save(weights, folder / "model.pth")
    files = ["--asr_train_config", str(config), "--asr_model_file", str(folder / "model.pth")]
    return [*files, "--data_dir", str(tiny_experiment.data)]
