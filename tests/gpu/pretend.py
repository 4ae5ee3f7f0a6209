"""A GPU that is not there: tensors with values on the CPU that say they are on `cuda:0`.

Within `PretendGpu`, what is asked for on "cuda" is a tensor of this kind; everything that torch does with one goes
through `__torch_dispatch__`, below autograd. There devices that a GPU would not mix raise, as they would on a GPU, and
what would wait for one is counted: values that the CPU asks for, results whose size depends on values, and copies to
the GPU that are not `non_blocking`. Autocast casts above autograd, by torch's lists for CUDA. Fake tensors know
devices, too, but have no values for a search to branch on. Here the values are the CPU's, so that a result can be
compared with the CPU's. What it does not show: kernels, memory, autocast inside of what torch has in C++, and code that
asks for CUDA itself.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from unittest import mock

import torch
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
aten = torch.ops.aten
# Copies between devices, which any mix is allowed in.
COPIES = {aten._to_copy.default, aten.copy_.default}
# Indices may be on the CPU; torch copies them.
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# Beside pointwise operations, these take a number as a tensor without dimensions from the CPU.
TAKE_NUMBERS = {
    aten.fill_.Tensor,
    aten.fill.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
    aten.where.self,
}
# The size of the result, or what is done, depends on values: the CPU waits for them.
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.unique_dim.default,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.equal.default,
    aten._ctc_loss.Tensor,
    aten._ctc_loss.default,
}


# What autocast computes in half precision on CUDA, and what in float32 (torch's documentation of `torch.amp`).
HALVED = {
    *(torch.nn.functional.linear, torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.matmul, torch.mm),
    *(torch.bmm, torch.addmm, torch.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__),
    *(torch.Tensor.mm, torch.Tensor.bmm, torch.nn.functional.scaled_dot_product_attention),
}
IN_FLOAT = {
    *(torch.softmax, torch.log_softmax, torch.nn.functional.softmax, torch.nn.functional.log_softmax),
    *(torch.Tensor.softmax, torch.Tensor.log_softmax, torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log),
    *(
        torch.pow,
        torch.Tensor.pow,
        torch.Tensor.__pow__,
        torch.rsqrt,
        torch.Tensor.rsqrt,
        torch.norm,
        torch.Tensor.norm,
    ),
    *(torch.sum, torch.Tensor.sum, torch.cumsum, torch.Tensor.cumsum, torch.nn.functional.layer_norm),
    *(torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss, torch.nn.functional.mse_loss),
    *(torch.nn.functional.cosine_similarity, torch.nn.functional.normalize),
}


class _Autocast(TorchFunctionMode):
    """Casts the arguments of torch's functions as autocast does on a GPU, where it is on and a tensor is on the GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.backward, torch.autograd.backward):
            with mock.patch.object(torch.autograd, "_engine_run_backward", self._run_backward):
                return func(*args, **kwargs)
        wanted = None
        if torch.is_autocast_enabled("cuda") and (func in HALVED or func in IN_FLOAT):
            wanted = torch.get_autocast_dtype("cuda") if func in HALVED else torch.float32
        if wanted is None or "dtype" in kwargs:
            return func(*args, **kwargs)

        def cast(each: Any) -> Any:
            is_cast = isinstance(each, GpuTensor) and each.is_floating_point() and each.dtype != torch.float64
            return each.to(wanted) if is_cast else each

        with torch.autocast("cuda", enabled=False):
            return func(*tree_map(cast, args), **tree_map(cast, kwargs))

    def _run_backward(self, *args: Any, **kwargs: Any) -> Any:
        """The backward pass in the mode, which torch takes off for it: it may compute activations again."""
        with self:
            return _engine_run_backward(*args, **kwargs)


class GpuTensor(torch.Tensor):
    """A tensor that says it is on the GPU.

    To torch's C++ it is a tensor of the device "meta" with the GPU's dispatch keys: autograd would look for streams of
    a GPU that is not there. What differs for "meta" is mended in the methods here.

    Attributes:
        values: Its values, on the CPU.
    """

    values: torch.Tensor
    is_cuda, is_meta = True, False
    # Else torch would make results that are on the CPU into tensors of this kind.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> Self:
        # torch makes no subclass of what was made in inference mode.
        with torch.inference_mode(False):
            empty = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
            made = torch.Tensor._make_subclass(cls, empty, device_for_backend_keys=GPU)
        made.values = values
        return made

    @property
    def device(self) -> torch.device:
        """The GPU."""
        return GPU

    def tolist(self) -> Any:
        """torch refuses it for subclasses; of a tensor on a GPU it is a copy, and a list of that."""
        return self.detach().cpu().tolist()

    def to(self, *args: Any, **options: Any) -> torch.Tensor:
        """The same tensor where only its device is asked for."""
        if args and isinstance(args[0], torch.Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        if args and args[0] in ("cuda", GPU, torch.device("cuda")):
            args = args[1:]
        if options.get("device") in ("cuda", GPU, torch.device("cuda")):
            del options["device"]
        return super().to(*args, **options) if args or options else self

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_lists_on_gpu(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_lists_on_gpu(index), value)

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        """Itself."""
        return self

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """On "meta" torch makes one without values."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=GPU)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of PretendGpu")

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"


class PretendGpu(TorchDispatchMode):
    """The mode in which there seems to be a GPU. Not for a machine that has one.

    Attributes:
        waits: How often the CPU waited for the GPU, by operation and the first line of ours that it comes from.
        copies: How often values went to the GPU, likewise; those that were not non_blocking are among the waits, too.
    """

    def __init__(self) -> None:
        super().__init__()
        assert not torch.cuda.is_available(), "here is a GPU: use it"
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self._patches: list[Any] = []
        self._lifted: list[bool] = []

    def put(self, value: Any) -> Any:
        """Tensors in lists, tuples and dictionaries on the GPU, others as they are; a module's in place."""
        return _put(value)

    @property
    def num_waits(self) -> int:
        """How often the CPU waited for the GPU."""
        return self.waits.total()

    def __enter__(self) -> Self:
        # As in torch's own mode of fake tensors: constants go to the GPU by a copy that a mode sees.
        self._lifted.append(torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()
        patches = [
            mock.patch.object(torch.cuda, "_lazy_init"),
            mock.patch.object(torch.cuda, "synchronize"),
            mock.patch.object(torch.cuda, "empty_cache"),
            # What autocast asks.
            mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", return_value=False),
            mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True),
        ]
        for patch in patches:
            patch.start()
        self._patches.append(patches)
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for patch in self._patches.pop():
            patch.stop()
        torch._C._set_only_lift_cpu_tensors(self._lifted.pop())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        ours = [each for each in given if isinstance(each, GpuTensor)]
        asked = kwargs.get("device")
        if ours:
            _check(func, args, kwargs, given)
        if asked is not None:
            kwargs["device"] = CPU
        self._count(func, args, kwargs, given, ours, asked)
        shapes = [(each.values.shape, each.values.stride()) for each in ours]
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if shapes != [(each.values.shape, each.values.stride()) for each in ours]:
            # Such as `transpose_`: what C++ knows of the shape changes alike.
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
        if not ours and (asked is None or asked.type == "cpu"):
            return found
        if asked is not None and asked.type == "cpu":
            # On the CPU from here on; as a copy, also where the values need none.
            own = {id(each.values) for each in ours}
            return tree_map(lambda each: each.clone() if id(each) in own else each, found)
        if func is aten.copy_.default and not isinstance(args[0], GpuTensor):
            return args[0]
        by_values = {id(each.values): each for each in ours}
        return tree_map(lambda each: _on_gpu(each, by_values), found)

    def _count(
        self, func: Any, args: Any, kwargs: Any, given: list[Any], ours: list[Any], asked: torch.device | None
    ) -> None:
        place = str(func), _caller()
        to_cpu = bool(ours) and (
            (func is aten._to_copy.default and asked is not None and asked.type == "cpu")
            or (func is aten.copy_.default and not isinstance(args[0], GpuTensor))
        )
        is_mask = func in INDEXING and any(
            isinstance(each, GpuTensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1] or ()
        )
        # repeat_interleave by a tensor of counts, unless the size of the result is said.
        repeats = func is aten.repeat_interleave.Tensor and bool(ours)
        goes_on = bool(kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2]))
        if to_cpu and goes_on:
            raise RuntimeError(f"a copy to the CPU that nothing waits for has no values yet, in {_caller()}")
        is_upload = (func is aten._to_copy.default and not ours and asked is not None and asked.type != "cpu") or (
            func in INDEXING | {aten.copy_.default} and 0 < len(ours) < len(given) and not to_cpu
        )
        if is_upload:
            self.copies[place] += 1
        if to_cpu or is_mask or repeats or (func in WAITING and ours) or (is_upload and not goes_on):
            self.waits[place] += 1


def _lists_on_gpu(index: Any) -> Any:
    """An index whose lists are tensors: of lists torch makes tensors on "meta", which have no values."""
    if isinstance(index, tuple):
        return tuple(_lists_on_gpu(each) for each in index)
    return torch.tensor(index, device=GPU) if isinstance(index, list) else index


def _values(each: Any) -> Any:
    return each.values if isinstance(each, GpuTensor) else each


def _on_gpu(each: Any, by_values: dict[int, GpuTensor]) -> Any:
    """A tensor of the result on the GPU; what was changed in place is what was given."""
    if not isinstance(each, torch.Tensor):
        return each
    return by_values.get(id(each)) if id(each) in by_values else GpuTensor(each)


def _check(func: Any, args: Any, kwargs: dict[str, Any], given: list[torch.Tensor]) -> None:
    """Raise where a GPU would, since an operation is given tensors of both devices."""
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"{func}: a generator of the CPU for a tensor of the GPU")
    strangers = [each for each in given if not isinstance(each, GpuTensor)]
    if not strangers or func in COPIES:
        return
    if func in INDEXING:
        indices = {id(each) for each in args[1] or ()}
        strangers = [each for each in strangers if id(each) not in indices]
        if isinstance(args[0], GpuTensor) and all(each.dim() == 0 for each in strangers):
            return
    takes_numbers = torch.Tag.pointwise in func.tags or func in TAKE_NUMBERS
    writes = func._schema.is_mutable and any(args[0] is each for each in strangers)
    if takes_numbers and not writes and all(each.dim() == 0 for each in strangers):
        return
    shapes = ", ".join(str(tuple(each.shape)) for each in strangers)
    raise RuntimeError(f"{func} is given tensors of the GPU, and {shapes} of the CPU, in {_caller()}")


def _caller() -> str:
    """The innermost line of the package, or of the test."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/espnet_larm/" in name or ("/tests/" in name and not name.endswith("/pretend.py")):
            return f"{name.rpartition('/espnet_larm/')[2].rpartition('/tests/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _put(value: Any) -> Any:
    if not isinstance(value, torch.nn.Module):
        return tree_map(lambda each: each.to(GPU) if isinstance(each, torch.Tensor) else each, value)
    made: dict[int, torch.nn.Parameter] = {}
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = torch.nn.Parameter(parameter.detach().to(GPU), parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(GPU)
    return value


@contextmanager
def pretend_gpu() -> Iterator[PretendGpu]:
    """The mode, with the attention of torch that has no kernel of its own on a GPU."""
    with PretendGpu() as gpu, _Autocast(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield gpu


class RealGpu:
    """A GPU that is there, for the same tests: it counts nothing."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.num_waits = 0

    def put(self, value: Any) -> Any:
        """Tensors and modules on the GPU."""
        if isinstance(value, torch.nn.Module):
            return value.to(GPU)
        return tree_map(lambda each: each.to(GPU) if isinstance(each, torch.Tensor) else each, value)
