"""Files are whole or the old ones."""

import os

import pytest
import torch

from espnet_larm.files.atomic import keep_under, move_synced, replace_link, save_synced, write_beside, write_text
from espnet_larm.files.checkpoint import epoch_of
from espnet_larm.files.reading import is_whole


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "1epoch.pth"
    torch.save({"weight": torch.arange(1000.0)}, path)
    return path


def test_moved_file_replaces_the_old_one(tmp_path, saved):
    (tmp_path / "old").write_text("old")
    move_synced(saved, tmp_path / "old")
    assert is_whole(tmp_path / "old") and not saved.exists()


def test_text_is_whole_or_the_old_one(tmp_path):
    write_text(tmp_path / "made" / "x.txt", "é\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "made" / "x.txt", "half \ud800")
    assert [path.read_bytes() for path in (tmp_path / "made").iterdir()] == ["é\n".encode()]


def test_saving_leaves_no_part(tmp_path):
    (tmp_path / "beside").mkdir()
    save_synced({"a": 1}, tmp_path / "x.pth", tmp_path / "beside")
    assert torch.load(tmp_path / "x.pth") == {"a": 1} and list((tmp_path / "beside").iterdir()) == []


def test_second_name_survives_the_first_ones_replacement(tmp_path, saved):
    (tmp_path / "kept").write_text("older")
    content = saved.read_bytes()
    keep_under(saved, "kept")
    assert saved.read_bytes() == content
    move_synced(tmp_path / "kept", tmp_path / "moved")
    saved.unlink()
    assert (tmp_path / "moved").read_bytes() == content


def test_second_name_without_hard_links(tmp_path, saved, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    content = saved.read_bytes()
    keep_under(saved, "kept")
    assert (tmp_path / "kept").read_bytes() == content


def test_link_is_pointed_elsewhere(tmp_path):
    for target in ("a", "b", "b"):
        replace_link(tmp_path / "link", target)
    assert (tmp_path / "link").readlink().name == "b" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("name", "epoch"), [("12epoch.pth", 12), ("latest.pth", None), ("xepoch.pth", None)])
def test_epoch_of_a_file(tmp_path, name, epoch):
    assert epoch_of(tmp_path / name) == epoch


def test_a_text_that_breaks_off_leaves_the_old_one_and_follows_no_link(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / ".old.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TypeError), write_beside(tmp_path / "old") as part, part.open("w") as file:
        file.writelines(["half", None])
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"
    write_text(tmp_path / "old", "new")
    assert (tmp_path / "old").read_text() == "new"
