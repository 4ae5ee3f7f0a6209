"""How much memory a program took, and how it gives memory back."""

import ctypes
import platform
import resource

import torch

from espnet_larm.process import give_memory_back

# glibc's malloc.h.
M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2**20
# In errors of other classes: of the CPU's allocator, of the driver, and of libraries that want room for themselves.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "CUDA error: out of memory", "HIP error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED",
)  # fmt: skip


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of tensors on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_memory_flat() -> None:
    """Make freed memory go back to the system, where the C library is able to (glibc). Holds for the whole process.

    Tensors of ever new sizes leave holes in the heap, with small blocks between them that oneDNN keeps for every shape:
    without this, a process grew by 8 MB a minute of audio. Large tensors get mappings of their own, as they do until
    glibc raises its threshold by itself, and free pages of the heap are given back. 10 ms.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    give_memory_back()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice; torch has no class of its own for it in all cases."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)
