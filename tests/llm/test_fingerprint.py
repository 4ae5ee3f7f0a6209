"""The name of an LM's weights. That checkpoints are compared by it: tests/adaptation/test_llm_weights.py."""

import hashlib

import torch

from espnet_larm.llm.fingerprint import difference, fingerprint_of, hexadecimal


def test_it_is_the_sha256_of_names_shapes_and_values():
    layer = torch.nn.Linear(2, 1)
    expected = hashlib.sha256()
    for name, value in (("bias", layer.bias), ("weight", layer.weight)):
        expected.update(f"{name} {tuple(value.shape)}".encode() + value.detach().numpy().tobytes())
    assert hexadecimal(fingerprint_of(layer)) == expected.hexdigest()


def test_a_difference_is_said_with_both():
    one, two = (fingerprint_of(torch.nn.Linear(2, 1)) for _ in range(2))
    assert difference(one, one) is None
    assert f"(SHA-256 {hexadecimal(one)[:12]}, the checkpoint's {hexadecimal(two)[:12]})" in difference(one, two)
