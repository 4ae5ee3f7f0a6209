"""Where figures come from: the command, commit, versions of packages, machine and date."""

import datetime as dt
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.version import __version__

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
# Entries of an origin, and how reports call them.
LABELS = {
    "commit": "commit", "command": "command", "machine": "machine", "versions": "made with", "date": "date",
}  # fmt: skip
PACKAGES = ("espnet", "torch", "torchaudio")


def origin_of(program: str, cmd: list[str] | None, device: "torch.device") -> dict[str, Any]:
    """Command, commit, versions, machine and date of figures that a program makes.

    Args:
        program: The start of its command line, `espnet-larm score` for example.
        cmd: Its arguments; None for those of this process.
        device: The device that it computes on.
    """
    words = [*program.split(), *(sys.argv[1:] if cmd is None else cmd)]
    return {
        "command": without_root(shlex.join(words)),
        "commit": commit(),
        "versions": versions(),
        "machine": describe_machine(device),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def footer(origin: Mapping[str, Any]) -> list[str]:
    """Markdown list of what `origin` has of commit, command, machine, versions and date."""
    return [
        f"- {label}: {in_words(origin[name]) if name != 'command' else f'`{origin[name]}`'}"
        for name, label in LABELS.items()
        if name in origin
    ]


def provenance(device: "torch.device", *packages: str) -> dict[str, Any]:
    """Record for a result: commit, versions (of further packages, too) and machine."""
    return {"commit": commit(), "versions": versions(*packages), "machine": describe_machine(device)}


def in_words(record: str | Mapping[str, str]) -> str:
    """Versions or a machine on one line: `cpu AMD EPYC, cores 2, ...`; a text stays as it is."""
    if isinstance(record, str):
        return record
    return ", ".join(f"{name} {value}" for name, value in record.items())


def commit() -> str:
    """Commit of the repository that holds the package, with `-dirty` if tracked files were changed."""
    outputs = []
    for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return f"not known (espnet_larm {__version__}; git is not installed)"
        if done.returncode != 0:
            return f"none (espnet_larm {__version__} outside a repository)"
        outputs.append(done.stdout.strip())
    return outputs[0] + ("-dirty" if outputs[1] else "")


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package, of those that decide numbers, of further `packages`, and of Python."""
    others = {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)}
    return {"espnet_larm": __version__, **others, "python": platform.python_version()}


def describe_machine(device: "torch.device") -> dict[str, str]:
    """Describe the processor, its cores and threads in use, and the GPU if there is one in use."""
    import torch

    described = {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    return described


def cpu_model() -> str:
    """Name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def without_root(text: str) -> str:
    """Name paths below the repository from its root."""
    return text.replace(f"{ROOT}/", "")
