"""setup.py names what is imported, and nothing that replaces ESPnet or its torch; requirements/ locks it."""

import ast
import re
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def imported(folder):
    """Top-level modules that the files of a folder import, Python's own and ours left out."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - {*sys.stdlib_module_names, "espnet_larm"}


def of_setup_py(name):
    """The list REQUIREMENTS or the table EXTRAS of setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.literal_eval(values[name])


def declared():
    """Names of the distributions in setup.py."""
    lines = [*of_setup_py("REQUIREMENTS"), *(line for lines in of_setup_py("EXTRAS").values() for line in lines)]
    return {canonical(Requirement(line).name) for line in lines}


def drawn_in(lines):
    """What pip looks at when these are required: all that they require in turn, those asked for first included."""
    found, left = [], [Requirement(line) for line in lines]
    seen = set()
    while left:
        requirement = left.pop()
        found.append(requirement)
        key = canonical(requirement.name), frozenset(requirement.extras)
        # Of ESPnet and torch themselves, what they need is theirs.
        if key in seen or key[0] in {"espnet", "torch", "torchaudio"}:
            continue
        seen.add(key)
        try:
            texts = requires(requirement.name) or []
        except PackageNotFoundError:
            continue
        left += [
            inner
            for inner in map(Requirement, texts)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *key[1]))
        ]
    return found


def locked(path):
    """Versions by name, and the text behind them, of a file in requirements/."""
    blocks = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:[0-9a-f]{64})*)$", path.read_text(), re.MULTILINE)
    return {canonical(name): (version, hashes) for name, version, hashes in blocks}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared():
    distributions = packages_distributions()
    missing = {
        module
        for module in imported(ROOT / "espnet_larm")
        if not {canonical(name) for name in distributions.get(module, [module])} & declared()
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("package", "old_versions"),
    [("espnet", ["202301", "202511"]), ("torch", ["2.4.0", "2.6.0"]), ("torchaudio", ["2.6.0"])],
)
def test_plain_install_accepts_the_espnet_and_torch_that_are_there(package, old_versions):
    asked = [each for each in drawn_in(of_setup_py("REQUIREMENTS")) if canonical(each.name) == package]
    assert package != "torch" or asked, "accelerate and peft ask for torch: drawn_in does not see what they need"
    for requirement in asked:
        for version in old_versions:
            assert requirement.specifier.contains(version), str(requirement)


def test_extra_espnet_brings_espnet_with_what_trains_and_the_torch_that_it_admits():
    extra = {requirement.name: requirement for requirement in map(Requirement, of_setup_py("EXTRAS")["espnet"])}
    assert extra["espnet"].extras == {"asr", "train"}
    espnets = {requirement.name: requirement for requirement in map(Requirement, requires("espnet"))}
    for name in ("torch", "torchaudio", "setuptools"):
        assert extra[name].specifier == espnets[name].specifier


def test_pythons_are_those_of_the_classifiers_the_doctor_and_the_locks():
    from espnet_larm.cli.doctor import PYTHONS

    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert re.findall(r"Python :: (3\.\d+)", text) == ["3.12", "3.13"]
    assert 'python_requires=">=3.12,<3.14"' in text
    assert PYTHONS == ((3, 12), (3, 13))
    assert [path.name for path in sorted((ROOT / "requirements").glob("py*.txt"))] == ["py312.txt", "py313.txt"]


@pytest.mark.parametrize("name", ["py312", "py313", "mini", "ngram", "microphone", "docs"])
def test_lock_has_a_hash_for_everything_and_no_host_or_path(name):
    path = ROOT / f"requirements/{name}.txt"
    text = path.read_text()
    assert len(text) < 500_000
    assert "://" not in text and "\n-" not in text and str(ROOT) not in text
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(locked(path)) == len(lines)
    assert all(hashes for _, hashes in locked(path).values())


@pytest.mark.parametrize("name", ["py312", "py313"])
def test_lock_holds_what_setup_py_asks_for(name):
    lock = {}
    for each in (name, "mini", "ngram", "microphone", "docs"):
        lock.update(locked(ROOT / f"requirements/{each}.txt"))
    extras = of_setup_py("EXTRAS")
    # --lm_eval_tasks alone uses it; nothing here installs it.
    del extras["lm-eval"]
    for requirement in map(
        Requirement, [*of_setup_py("REQUIREMENTS"), *(line for lines in extras.values() for line in lines)]
    ):
        version, _ = lock[canonical(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: renew with tools/lock.sh"


def test_what_builds_the_site_changes_nothing_that_is_installed():
    docs = locked(ROOT / "requirements/docs.txt").items()
    for name in ("py312", "py313"):
        lock = locked(ROOT / f"requirements/{name}.txt")
        assert [key for key, value in docs if lock.get(key, value) != value] == []


def test_what_is_under_the_gpl_or_built_with_a_compiler_is_not_in_the_lock_of_all():
    for path in (ROOT / "requirements").glob("py*.txt"):
        assert not {"espeakng-loader", "kenlm"} & set(locked(path))
