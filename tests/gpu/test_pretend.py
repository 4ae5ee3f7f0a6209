"""The GPU that is not there refuses what a GPU refuses, counts what waits for one, and computes what the CPU does."""

import pytest
import torch

from tests.gpu.pretend import GPU, GpuTensor, pretend_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def gpu():
    with pretend_gpu() as gpu:
        yield gpu


MIXES = {
    "sum": lambda there, here: there + here,
    "product": lambda there, here: there @ here,
    "in place": lambda there, here: here.add_(there),
    "concatenation": lambda there, here: torch.cat([there, here]),
    "gather": lambda there, here: there.gather(1, here.long()),
    "choice": lambda there, here: torch.where(here > 0, there, there),
    "mask": lambda there, here: there.masked_fill(here > 0, 0.0),
    "values": lambda there, here: there.index_put((torch.tensor([0]),), here[0]),
    "indexed": lambda there, here: here[there.long()],
    "attention": lambda there, here: torch.nn.functional.scaled_dot_product_attention(there, here, here),
    "embedding": lambda there, here: torch.nn.functional.embedding(here.long(), there),
    "number in place": lambda there, here: here.sum().add_(there.sum()),
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_of_devices_raises(gpu, mix):
    there, here = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="of the CPU, in gpu/test_pretend.py|have the same device type"):
        MIXES[mix](there, here)


def test_what_a_gpu_takes_from_the_cpu_is_taken(gpu):
    there, number = torch.arange(6.0, device="cuda").view(2, 3), torch.tensor(2.0)
    for found in (there + number, number * there, there[torch.tensor([1, 0])], there.masked_fill(there > 1, number)):
        assert isinstance(found, GpuTensor) and found.device == GPU
    there[torch.tensor([0])] = 5.0
    here = torch.zeros(2, 3).copy_(there)
    assert not isinstance(here, GpuTensor) and here.tolist() == [[5.0, 5.0, 5.0], [3.0, 4.0, 5.0]]


def test_autocast_computes_products_in_half_precision_and_sums_and_gradients_in_float32(gpu):
    torch.manual_seed(0)
    linear, xs = gpu.put(torch.nn.Linear(5, 4)), torch.randn(3, 5, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        hidden = linear(xs)
        scores = hidden.log_softmax(1)
        assert (hidden.dtype, scores.dtype) == (torch.bfloat16, torch.float32)
        assert (xs @ xs.T).dtype == torch.bfloat16 and (xs + xs).dtype == torch.float32
        with torch.autocast("cuda", enabled=False):
            assert linear(xs).dtype == torch.float32
    scores[:, 0].sum().backward()
    assert linear.weight.grad.dtype == torch.float32 and linear.weight.grad.is_cuda
    assert linear(xs).dtype == torch.float32
    here = torch.nn.Linear(5, 4)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert here(torch.randn(3, 5)).dtype == torch.float32


def test_a_copy_to_the_cpu_that_nothing_waits_for_raises(gpu):
    each = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match=r"has no values yet, in gpu/test_pretend.py"):
        each.to("cpu", non_blocking=True)
    with pytest.raises(RuntimeError, match="has no values yet"):
        torch.zeros(2).copy_(each, non_blocking=True)


def test_a_copy_to_the_gpu_waits_unless_it_is_said_that_it_need_not(gpu):
    here = torch.arange(3.0)
    there = here.to("cuda", non_blocking=True)
    there.copy_(here, non_blocking=True)
    assert (gpu.copies.total(), gpu.num_waits) == (2, 0)
    for copy in (here.to, lambda device: torch.tensor([1], device=device), lambda _: there.copy_(here)):
        copies, waits = gpu.copies.total(), gpu.num_waits
        copy("cuda")
        assert (gpu.copies.total(), gpu.num_waits) == (copies + 1, waits + 1)
    assert there.tolist() == [0.0, 1.0, 2.0]


WAITS = {
    "item": lambda each: each.sum().item(),
    "list": lambda each: each.tolist(),
    "copy": lambda each: each.cpu(),
    "copy into": lambda each: torch.zeros(3).copy_(each),
    "decision": lambda each: bool((each > 1).any()),
    "number": lambda each: int(each.max()),
    "end of a slice": lambda each: torch.arange(9)[: each.long().sum()],
    "nonzero": lambda each: each.nonzero(),
    "mask": lambda each: each[each > 1],
    "mask that is written to": lambda each: each.index_put((each > 1,), each.sum()),
    "different": lambda each: each.unique(),
    "equal": lambda each: torch.equal(each, each + 1),
    "repeated": lambda each: each.repeat_interleave(each.long()),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_is_counted_once_with_its_place(gpu, wait):
    each = torch.tensor([1.0, 2.0, 3.0]).to("cuda", non_blocking=True)
    assert gpu.num_waits == 0 and gpu.copies.total() == 1
    WAITS[wait](each)
    assert gpu.num_waits == 1
    ((_, place),) = gpu.waits
    assert place.startswith("gpu/test_pretend.py:")


def test_what_stays_on_the_gpu_waits_for_nothing(gpu):
    each = torch.randn(3, 4, device="cuda")
    (each.softmax(-1) * 2).sum(0).masked_fill(each[0] > 0, 0.0).view(2, 2)[1, 0].clone().clamp(min=0).topk(1, dim=0)
    each[1] = each[0, :4].cumsum(0)
    each.transpose_(0, 1)
    assert each.shape == (4, 3) and each.is_cuda
    assert gpu.num_waits == 0


def test_a_training_step_is_that_of_the_cpu():
    def step(device, linear, xs):
        optimizer = torch.optim.AdamW(linear.parameters(), lr=0.1)
        loss = linear(xs).relu().logsumexp(1).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(linear.parameters(), 0.1)
        optimizer.step()
        return [loss, norm, *linear.parameters(), *(each.grad for each in linear.parameters())]

    torch.manual_seed(0)
    here, xs = torch.nn.Linear(5, 4), torch.randn(3, 5)
    there = torch.nn.Linear(5, 4)
    there.load_state_dict(here.state_dict())
    expected = step("cpu", here, xs)
    with pretend_gpu() as gpu:
        given = gpu.put(there), gpu.put(xs)
        gpu.waits.clear()
        found = step("cuda", *given)
        assert all(isinstance(each, GpuTensor) for each in found)
        assert gpu.num_waits == 0
        assert all(torch.equal(each.cpu(), other) for each, other in zip(found, expected, strict=True))


def test_a_list_is_an_index(gpu):
    xs = torch.arange(6.0, device="cuda").view(2, 3)
    xs[[1], 0] = 9.0
    assert xs[1, [0, 2]].tolist() == [9.0, 5.0] and xs[[False, True]].tolist() == [[9.0, 4.0, 5.0]]


def test_weights_that_are_one_stay_one(gpu):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    module[1].weight = module[0].weight
    gpu.put(module)
    assert module[0].weight is module[1].weight
    assert {each.device for each in (*module.parameters(), *module.buffers())} == {GPU}


def test_outside_of_the_mode_nothing_is_computed():
    with pretend_gpu():
        each = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="outside of PretendGpu"):
        each + 1
