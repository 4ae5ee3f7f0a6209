"""What a program runs on, and how much memory it took."""

import ctypes
import os
import platform
import resource
from pathlib import Path

import torch

# glibc's malloc.h.
M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2**20


def describe_machine(device: torch.device) -> dict[str, str]:
    """Processor, its cores and threads in use, and the GPU if there is one in use."""
    described = {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


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
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.malloc_trim(0)
