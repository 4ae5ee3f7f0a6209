"""The picture of a training."""

import pytest

from espnet_larm.train.curves import draw_curves, panels

HISTORY = {
    epoch: {
        "train": {"loss": 3.0 / epoch, "optim0_lr0": 0.1},
        "valid": {
            "loss": 4.0 / epoch,
            "loss_ctc": 2.0,
            "loss_interctc_layer2": 3.0,
            "loss_interctc_layer10": 2.5,
            "cer_ctc": 0.2,
        },
    }
    for epoch in (1, 2, 4)
}


def test_loops_stand_in_order_with_the_last_at_the_end():
    found = panels(HISTORY)
    assert list(found["validation CTC loss by loop"]) == ["loop 2", "loop 10", "last loop"]
    assert list(found["validation CER by loop"]) == ["last loop"]


def test_missing_epochs_are_left_out():
    assert panels(HISTORY)["loss"]["valid"] == ([1, 2, 4], [4.0, 2.0, 1.0])


@pytest.mark.parametrize("history", [HISTORY, {}, {1: {"train": {"loss": float("nan")}}}])
def test_picture_is_drawn(tmp_path, history):
    draw_curves(history, tmp_path / "images/curves.png")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["curves.png"]
    assert (tmp_path / "images/curves.png").read_bytes().startswith(b"\x89PNG")
