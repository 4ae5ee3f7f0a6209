"""Room on the disk."""

import shutil

import pytest
import torch

from espnet_larm.files.disk import FullDiskError
from espnet_larm.train.staging import MARGIN_BYTES, Need, check_room, need_of, num_bytes


@pytest.fixture
def free(monkeypatch):
    def set_free(count):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, count))

    return set_free


def saved_bytes(states, path):
    torch.save(states, path)
    return path.stat().st_size


def test_need_covers_what_is_saved(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.BatchNorm1d(50))
    optimizer = torch.optim.Adam(model.parameters())
    before = need_of(model, [optimizer], 2)
    model(torch.randn(3, 100)).sum().backward()
    optimizer.step()
    need = need_of(model, [optimizer], 2)
    states = {"model": model.state_dict(), "optimizers": [optimizer.state_dict()]}
    written = saved_bytes(states, tmp_path / "a") + saved_bytes(model.state_dict(), tmp_path / "b")
    assert written - MARGIN_BYTES < need.epoch - MARGIN_BYTES < written < need.epoch
    assert before.epoch == pytest.approx(need.epoch, abs=100), "Adam's states are counted before its first step"
    assert need.averages == 2 * num_bytes(model.state_dict())


def test_too_little_room_is_an_error_with_the_figures(tmp_path, free):
    free(4_000_000)
    with pytest.raises(FullDiskError, match=r"4.0 MB free, and saving this epoch takes 5.0 MB.*same command"):
        check_room(tmp_path, Need(5_000_000, 0))


@pytest.mark.parametrize("megabytes", [6, 8])
def test_too_little_room_for_averages_is_said(tmp_path, free, caplog, megabytes):
    free(megabytes * 1_000_000)
    check_room(tmp_path, Need(5_000_000, 2_000_000))
    said = "enough for this epoch's 5.0 MB, not for the 2.0 MB of averaged models"
    assert said in caplog.text if megabytes < 7 else caplog.text == ""


def test_bytes_of_nested_states():
    assert num_bytes({"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.int64),)], "b": "text"}) == 12 + 16
