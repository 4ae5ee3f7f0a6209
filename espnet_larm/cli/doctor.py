"""`python -m espnet_larm doctor`: versions, processor, GPU, broken plugins, what is missing and how to install it.

Examples:
    espnet-larm doctor
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from espnet_larm import registry
from espnet_larm.cli.environment import PACKAGE, Finding, check_environment, supported_espnet
from espnet_larm.origin import cpu_model

PYTHONS = ((3, 12), (3, 13))
# The versions in requirements/, which load together.
PAIR = {"torch": "2.14.1", "torchaudio": "2.11.1"}


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program, which has no options."""
    return argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def main(argv: list[str] | None = None) -> int:
    """Print which packages are there and which are missing.

    Args:
        argv: Arguments (only --help); by default those of this process.

    Returns:
        The exit status: 0 if everything needed is there and every plugin is sound, else 1.
    """
    get_parser().parse_args(argv)
    for line in describe_machine():
        print(line)
    problem = _obstacle()
    if problem:
        print(problem)
        return 1
    found = check_environment()
    for line in _describe_espnet(found):
        print(line)
    for finding in found:
        print(_row(finding))
    if "torch" in {finding.name for finding in found if finding.status == "ok"}:
        print(describe_gpu())
    # Plugins can be imported only where everything that they need is there.
    return _remedies(found) or _describe_plugins()


def describe_machine() -> list[str]:
    """Lines about Python and the processor."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"Python     {platform.python_version()} ({sys.executable}); supported: {_pythons()}",
        f"System     {platform.system()} {platform.release()}",
        f"Processor  {cpu_model()}, {cores} cores for this process, {memory_gib:.1f} GiB of memory",
    ]


def _describe_espnet(found: list[Finding]) -> list[str]:
    """A line about the installed ESPnet and the supported one."""
    return [
        f"ESPnet     {finding.version or 'none'}{f' ({finding.note})' if finding.note else ''}; "
        f"supported: {supported_espnet()}"
        for finding in found
        if finding.name == "espnet"
    ]


def describe_gpu() -> str:
    """A line about the GPUs of the driver and those that torch sees."""
    import torch

    with warnings.catch_warnings():
        # The line below tells of a driver that is too old for torch.
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        properties = [torch.cuda.get_device_properties(index) for index in range(count)]
        cards = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in properties)
        return f"GPU        {cards}; torch uses it through CUDA {torch.version.cuda}"
    cards = _cards_of_driver()
    if cards:
        return (
            f"GPU        {cards}, which torch (built for CUDA {torch.version.cuda}) does not see. Update the driver, "
            "or install a torch for its CUDA version: https://pytorch.org/get-started/locally"
        )
    return "GPU        none: training and decoding run on the processor (--ngpu 0)"


def _cards_of_driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(result.stdout.splitlines()) if result.returncode == 0 else ""


def _obstacle() -> str:
    """Why requirements cannot be looked up; empty if they can."""
    if sys.version_info[:2] not in PYTHONS:
        return f"Python {_pythons()} is needed: {_fresh_environment()}"
    try:
        importlib.import_module("packaging.requirements")
    except ImportError:
        return f"missing: packaging. {_pip_line(['packaging'])}"
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        root = Path(__file__).resolve().parents[2]
        return f"missing: {PACKAGE} itself is not installed. {_pip_line(['--editable', str(root)])}"
    return ""


def _pythons() -> str:
    return " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)


def _row(finding: Finding) -> str:
    status = f"{finding.status} (optional)" if finding.is_optional else finding.status
    needed = finding.requirement.removeprefix(finding.name) or "any"
    note = f"  # {finding.note}" if finding.note else ""
    return f"{status:<24} {finding.name:<16} {finding.version or '-':<12} needed: {needed}{note}"


def _remedies(found: list[Finding]) -> int:
    bad = [finding for finding in found if finding.status not in ("ok", "not tried")]
    needed = [finding for finding in bad if not finding.is_optional]
    pair = {finding.name: finding for finding in found if finding.name in PAIR}
    is_pair_bad = any(finding.status in ("wrong version", "broken") for finding in pair.values())
    espnet = {finding.name: finding.status for finding in found}.get("espnet", "ok")
    if espnet == "not supported" or (espnet == "not tried" and is_pair_bad):
        # Another torch would mend nothing, and break what works with that ESPnet.
        print(f"Needed:    ESPnet {supported_espnet()} in a fresh environment: {_fresh_environment()}")
        return 1
    if is_pair_bad:
        print(_describe_pair(pair))
        needed = [finding for finding in needed if finding.name not in PAIR]
    broken = [finding.requirement for finding in needed if finding.status == "broken"]
    absent = [finding.requirement for finding in needed if finding.status != "broken"]
    if absent:
        print(f"Needed:    {_pip_line(absent)}")
    if broken:
        print(f"Broken:    {_pip_line(['--force-reinstall', '--no-deps', *broken])}")
    optional = [finding.requirement for finding in bad if finding.is_optional]
    if optional:
        print(f"Optional:  {_pip_line(optional)}")
    if needed or is_pair_bad:
        return 1
    print("Everything that espnet_larm needs is there.")
    return 0


def _describe_pair(pair: dict[str, Finding]) -> str:
    """The fault of torch and torchaudio, and the line that installs versions that load together."""
    versions = " and ".join(f"{name} {pair[name].version or '(missing)'}" for name in PAIR if name in pair)
    reason = next((finding.note for finding in pair.values() if finding.status == "broken"), "")
    said = f"do not load together: {reason}" if reason else "are not what ESPnet allows."
    line = _pip_line([f"{name}=={version}" for name, version in PAIR.items()])
    if all(name in pair and pair[name].version.partition("+")[0] == version for name, version in PAIR.items()):
        # The same releases, of another build or damaged: pip would leave them.
        line = f"{shlex.join([sys.executable, '-m', 'pip', 'uninstall', '--yes', *PAIR])} && {line}"
    return f"Pair:      {versions} {said}\nNeeded:    {line}"


def _fresh_environment() -> str:
    """The line that makes a supported environment beside this one."""
    root = Path(__file__).resolve().parents[2]
    setup = root / "tools" / "setup.sh"
    if not setup.is_file():
        python = "python" + ".".join(map(str, PYTHONS[0]))
        return f"{python} -m venv espnet_larm && espnet_larm/bin/python -m pip install 'espnet-larm[espnet]'"
    folder = root / (".venv_fresh" if Path(sys.prefix) == root / ".venv" else ".venv")
    return shlex.join([str(setup), "--venv", str(folder)])


def _describe_plugins() -> int:
    broken = registry.survey().broken
    for entry_point, package, reason in broken:
        print(f"{'broken plugin':<24} {entry_point} of package {package}: {reason}")
    return 1 if broken else 0


def _pip_line(arguments: list[str]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])
