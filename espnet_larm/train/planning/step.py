"""One training step of a configuration, counted: bytes by part, bytes alive at each moment, and FLOPs.

The model is built as a training builds it, and steps on noise and random texts of one length. SpecAugment is left out:
it makes little, and draws how many operations it takes. A looped encoder with loop_sampling runs the most loops.
"""

import argparse
import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from espnet2.train.trainer import autocast_args

from espnet_larm.train.learning import part_of
from espnet_larm.train.planning.live import LiveTensors
from espnet_larm.train.planning.shapes import ShapesOnly
from espnet_larm.train.task import LarmASRTask

Bytes = Mapping[str, int]
aten = torch.ops.aten


class Utterances(NamedTuple):
    """What stands in a batch.

    Attributes:
        number: Number of utterances.
        seconds: Length of each in seconds.
        text_len: Tokens of each transcript.
        sample_rate_hz: Samples a second.
        ctc_text_len: Tokens of each transcript to a CTC head that has its own; None for as many.
    """

    number: int
    seconds: float
    text_len: int
    sample_rate_hz: int
    ctc_text_len: int | None = None

    @property
    def audio_s(self) -> float:
        """Seconds of all together."""
        return self.number * self.seconds


class Step(NamedTuple):
    """Bytes and FLOPs of one training step.

    Attributes:
        number: Utterances of its batch.
        weights: Bytes of weights and buffers, by part.
        gradients: Bytes of gradients after the backward pass, by part.
        state: Bytes of the optimiser's state, by part.
        activations: Bytes that the forward pass leaves for the backward pass, by part.
        history: Bytes beside weights and state after each operation of forward and backward pass.
        update: Most bytes beside the weights while the optimiser steps.
        batch: Bytes of the batch itself.
        forward_flops: FLOPs of the forward pass.
        flops: FLOPs of forward and backward pass.
    """

    number: int
    weights: Bytes
    gradients: Bytes
    state: Bytes
    activations: Bytes
    history: list[int]
    update: int
    batch: int
    forward_flops: int
    flops: int

    @property
    def peak(self) -> int:
        """Most bytes that are alive at once in a later step, which finds the optimiser's state there."""
        fixed = sum(self.weights.values()) + self.batch
        return fixed + max(sum(self.state.values()) + max(self.history), self.update)


class Trained(NamedTuple):
    """A model, its optimiser, and the type it computes in.

    Attributes:
        model: The model, in training mode.
        optimizer: Its optimiser.
        amp_dtype: Half type of use_amp; None without.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    amp_dtype: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=self.amp_dtype)


def build(args: argparse.Namespace, device: str) -> Trained:
    """Build a training's model and optimiser, with initial weights.

    Args:
        args: Options of the training; what would read or write an experiment's files is left out of a copy.
        device: Where to build it.

    Raises:
        ValueError: An option is wrong.
        FileNotFoundError: A file that an option names is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = argparse.Namespace(
            **{**vars(args), "output_dir": folder, "specaug": None, "init_param": [], "resume": False}
        )
        model: Any = LarmASRTask.build_model(options).to(device).train()
        (optimizer,) = LarmASRTask.build_optimizers(options, model)
    if (sampling := getattr(model.encoder, "sampling", None)) is not None:
        sampling.loops = (max(sampling.loops),)
    # A CPU stands for a GPU that has bfloat16, whose bytes are as many as those of float16.
    half = torch.bfloat16 if torch.device(device).type == "cpu" else autocast_args.get("dtype", torch.float16)
    amp = half if args.use_amp else None
    return Trained(model, optimizer, amp)


def new_batch(model: Any, utterances: Utterances, device: str) -> dict[str, torch.Tensor]:
    """Make noise and random texts."""
    generator = torch.Generator().manual_seed(0)
    shape = utterances.number, round(utterances.seconds * utterances.sample_rate_hz)
    batch = {"speech": torch.randn(shape, generator=generator)}
    lists = {"text": (model.token_list, utterances.text_len)}
    if getattr(model, "has_own_ctc_tokens", False):
        lists["ctc_text"] = (model.ctc_token_list, utterances.ctc_text_len or utterances.text_len)
    for name, (tokens, length) in lists.items():
        # The first tokens are the blank and special ones, the last is the end, where a list has so many.
        first = min(3, len(tokens) - 2)
        size = utterances.number, length
        batch[name] = torch.randint(first, len(tokens) - 1, size, generator=generator)
    lens = {f"{name}_lengths": torch.full((len(each),), each.size(1)) for name, each in batch.items()}
    return {name: each.to(device) for name, each in {**batch, **lens}.items()}


def count_step(trained: Trained, utterances: Utterances, accum_grad: int = 1) -> Step:
    """Make one training step and count; on a CPU without the arithmetic of large operations.

    Args:
        trained: The model; its weights change, and learn nothing.
        utterances: The batch.
        accum_grad: Batches of a step. With more than one the last is counted, which finds gradients there.
    """
    model, optimizer = trained.model, trained.optimizer
    named = dict(model.named_parameters())
    batch = new_batch(model, utterances, str(next(iter(named.values())).device))
    spared = ShapesOnly() if batch["speech"].device.type == "cpu" else contextlib.nullcontext()
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    if accum_grad > 1:
        with spared:
            _loss(trained, batch).backward()
    before = sum(each.grad.nbytes for each in named.values() if each.grad is not None)
    live = LiveTensors(_tensors_there(model, batch))
    live.watch_model(model)
    counter = FlopCounterMode(display=False, custom_mapping=_COUNTED)
    with spared, live, counter:
        loss = _loss(trained, batch)
        activations, forward_flops = dict(live.live), counter.get_total_flops()
        loss.backward()
        flops, history = counter.get_total_flops(), [before + each for each in live.history]
        del loss
    live.unwatch()
    with live:
        live.peak = live.history[-1]
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
    gradients = {name: each.grad.nbytes for name, each in named.items() if each.grad is not None}
    state = {name: sum(each.nbytes for each in _tensors_of(optimizer.state.get(named[name]))) for name in named}
    weights = {name: each.nbytes for name, each in (*named.items(), *model.named_buffers())}
    size = sum(each.nbytes for each in batch.values())
    return Step(
        utterances.number,
        _sum_by_part(model, weights),
        _sum_by_part(model, gradients),
        _sum_by_part(model, state),
        activations,
        history,
        before + live.peak,
        size,
        forward_flops,
        flops,
    )


def time_steps(
    trained: Trained, utterances: Utterances, num_steps: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Make training steps, after one that does not count.

    Args:
        trained: The model; its weights change.
        utterances: The batch.
        num_steps: How many count.
        clock: Seconds since some moment.

    Returns:
        Seconds of a step.
    """
    model, optimizer = trained.model, trained.optimizer
    device = next(model.parameters()).device
    batch = new_batch(model, utterances, str(device))
    for index in range(num_steps + 1):
        if index == 1:
            start = _now(device, clock)
        optimizer.zero_grad(set_to_none=True)
        _loss(trained, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return (_now(device, clock) - start) / num_steps


def _loss(trained: Trained, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with trained.autocast():
        loss: torch.Tensor = trained.model(**batch)[0]
    return loss


def _now(device: torch.device, clock: Callable[[], float]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def _tensors_there(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    gradients = [each.grad for each in model.parameters() if each.grad is not None]
    return [*model.parameters(), *model.buffers(), *batch.values(), *gradients]


def _tensors_of(state: Mapping[str, Any] | None) -> list[torch.Tensor]:
    return [each for each in (state or {}).values() if isinstance(each, torch.Tensor)]


def _sum_by_part(model: Any, sizes: Bytes) -> Bytes:
    found: Counter[str] = Counter()
    for name, size in sizes.items():
        found[part_of(model, name)] += size
    return dict(found)


def _forward_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _convolution_backward_flops(grad: Any, signal: Any, kernel: Any, *others: Any, **_: Any) -> int:
    transposed, wanted = others[4], others[7]
    return sum(wanted[:2]) * int(conv_flop_count(signal, kernel, grad, transposed))


# torch counts attention's kernels of GPUs alone, and in a backward pass it takes convolutions within groups of
# channels for convolutions over all.
_COUNTED = {
    aten._scaled_dot_product_flash_attention_for_cpu: _forward_flops,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward_flops,
    aten.convolution_backward: _convolution_backward_flops,
}
