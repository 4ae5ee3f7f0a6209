"""Tests of the errors that say that memory did not suffice."""

import pytest
import torch

from espnet_larm.recognize.machine import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: str(error)[:30] or "MemoryError",
)
def test_errors_of_allocators_drivers_and_libraries_count(error):
    assert is_out_of_memory(error)


def test_other_errors_do_not_count():
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
