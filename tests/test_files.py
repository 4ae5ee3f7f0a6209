"""Files that are whole or not there."""

import os
from random import Random

import pytest
import torch
import yaml

from espnet_larm.files import (
    epoch_of,
    is_whole,
    keep_under,
    move_synced,
    parse_yaml,
    read_tensors,
    read_yaml,
    replace_link,
    save_synced,
    write_beside,
    write_text,
)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "1epoch.pth"
    torch.save({"weight": torch.arange(1000.0)}, path)
    return path


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_truncated_or_missing_file_is_not_whole(saved, fraction):
    assert is_whole(saved)
    os.truncate(saved, int(saved.stat().st_size * fraction))
    assert not is_whole(saved)
    saved.unlink()
    assert not is_whole(saved)


def test_file_with_one_wrong_bit_is_not_whole_although_torch_loads_it(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    assert not is_whole(saved)
    assert not torch.equal(torch.load(saved)["weight"], torch.arange(1000.0))


def test_file_with_zeros_after_a_power_cut_is_not_whole(saved):
    saved.write_bytes(bytes(saved.stat().st_size))
    assert not is_whole(saved)


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


def damaged(content, seed):
    """The file with one bit flipped, cut off, or with bytes put in, at a place and in a way that `seed` draws."""
    random = Random(seed)
    place = random.randrange(len(content))
    if seed % 3 == 0:
        return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    if seed % 3 == 1:
        return content[:place]
    return content[:place] + random.randbytes(9) + content[place:]


# A flipped bit may be one in the version of the format.
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_damaged_file_of_tensors_is_whole_or_a_sentence(tmp_path, is_zip):
    weights = {f"layer{index}.weight": torch.arange(12.0).reshape(3, 4) for index in range(3)}
    path = tmp_path / "model.pth"
    torch.save({**weights, "step": 3}, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    num_refused = num_taken = 0
    for seed in range(150):
        path.write_bytes(damaged(content, seed))
        try:
            found = read_tensors(path)
        except ValueError as error:
            num_refused += str(path) in str(error)
        else:
            num_taken += 1
            # The older format has no checksums.
            assert not is_zip or all(torch.equal(found[name], weights[name]) for name in weights)
    assert num_refused > 75 and num_refused + num_taken == 150
    path.write_bytes(content)
    assert read_tensors(path)["step"] == 3


def test_a_file_that_would_run_code_is_refused_with_the_reason(tmp_path):
    torch.save({"weight": slice(1)}, tmp_path / "model.pth")
    for options in ({}, {"mmap": True}):
        with pytest.raises(ValueError, match=r"holds more than tensors and plain values, and may run code"):
            read_tensors(tmp_path / "model.pth", **options)
    with pytest.raises(FileNotFoundError, match=r"none.pth"):
        read_tensors(tmp_path / "none.pth")


def test_yaml_is_read_as_pyyaml_reads_it(tmp_path):
    content = {"token_list": ["<pad>", "▁", "null", "1e3", "'", "𝄞", "a: b"], "weight": 0.3, "none": None, "t": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    assert read_yaml(tmp_path / "config.yaml") == content
    with pytest.raises(yaml.YAMLError):
        parse_yaml("a: [")
