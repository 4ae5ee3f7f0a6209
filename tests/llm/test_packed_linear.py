"""Linear layers with weights laid out for a CPU."""

import copy

import pytest
import torch

from espnet_larm.llm.packed_linear import LEAST_WEIGHTS, PackedLinear, pack_linear_layers


@pytest.fixture
def layers():
    """A plain layer and one that was packed, with the same weights."""
    plain = torch.nn.Linear(48, 40)
    packed = torch.nn.Sequential(copy.deepcopy(plain))
    pack_linear_layers(packed, least_weights=1)
    if type(packed[0]) is not PackedLinear:
        pytest.skip("no oneDNN here")
    return plain, packed[0]


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (3, 5, 48), (0, 48), (2, 0, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_the_plain_layer(layers, shape, bias):
    plain, packed = layers
    if not bias:
        plain.bias = packed.bias = None
    given = torch.randn(shape)
    with torch.no_grad():
        found = packed(given)
        assert found.shape == (*shape[:-1], 40)
        # In another order of sums.
        torch.testing.assert_close(found, plain(given), rtol=1e-5, atol=1e-5)
        odd = torch.randn(48, 6).t()
        torch.testing.assert_close(packed(odd), plain(odd), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_laid_out_anew(layers):
    plain, packed = layers
    given = torch.randn(2, 48)
    with torch.no_grad():
        before = packed(given)
        packed.weight.mul_(2)
        torch.testing.assert_close(packed(given) - packed.bias, 2 * (before - packed.bias), rtol=1e-5, atol=1e-5)
        packed.load_state_dict(plain.state_dict())
        torch.testing.assert_close(packed(given), before, rtol=1e-5, atol=1e-5)
        packed.weight = torch.nn.Parameter(torch.zeros(40, 48))
        assert torch.equal(packed(given), packed.bias.expand(2, -1))
        # Where the allocator could put new weights at the address of old ones.
        for number in range(1, 6):
            del packed.weight
            packed.weight = torch.nn.Parameter(torch.full((40, 48), float(number)))
            torch.testing.assert_close(packed(given), number * given.sum(1, keepdim=True) + packed.bias)
            packed.bfloat16().float()
            torch.testing.assert_close(packed(given), number * given.sum(1, keepdim=True) + packed.bias)


def test_small_layers_stay_as_they_are():
    rows = LEAST_WEIGHTS // 100
    module = torch.nn.Sequential(torch.nn.Linear(100, rows - 1), torch.nn.Linear(100, rows))
    pack_linear_layers(module)
    assert type(module[0]) is torch.nn.Linear and isinstance(module[1], torch.nn.Linear)


def test_training_and_other_types_are_the_plain_layers_bit_for_bit(layers):
    plain, packed = layers
    given = torch.randn(4, 48)
    with torch.no_grad():
        packed(given)
    assert torch.equal(packed(given), plain(given))
    packed(given).sum().backward()
    plain(given).sum().backward()
    assert torch.equal(packed.weight.grad, plain.weight.grad)
    with torch.no_grad():
        assert torch.equal(packed.double()(given.double()), plain.double()(given.double()))


def test_a_copy_of_a_packed_layer_is_its_own(layers):
    _, packed = layers
    given = torch.randn(2, 48)
    with torch.no_grad():
        before = packed(given)
        other = copy.deepcopy(packed)
        other.weight.zero_()
        assert torch.equal(other(given), other.bias.expand(2, -1))
        assert torch.equal(packed(given), before)
    assert list(packed.state_dict()) == ["weight", "bias"]
