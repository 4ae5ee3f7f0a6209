"""Damaged files are recognised, and a stranger's run nothing."""

import os
from random import Random

import pytest
import torch
import yaml
from safetensors.torch import save_file

from espnet_larm.files.reading import is_whole, parse_yaml, read_tensors, read_yaml


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
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_a_damaged_file_of_tensors_is_whole_or_a_sentence(tmp_path, kind):
    weights = {f"layer{index}.weight": torch.arange(12.0).reshape(3, 4) for index in range(3)}
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    if kind == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=kind == "zip")
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
            # The other formats have no checksums; packs have.
            assert kind != "zip" or all(torch.equal(found[name], weights[name]) for name in weights)
    assert num_refused > 75 and num_refused + num_taken == 150
    path.write_bytes(content)
    assert torch.equal(read_tensors(path)["layer2.weight"], weights["layer2.weight"])


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
