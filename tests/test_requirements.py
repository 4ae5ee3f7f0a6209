"""setup.py names every package that is imported."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

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


def declared():
    """Names of the distributions in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    extras = ast.literal_eval(values["EXTRAS"])
    lines = [*ast.literal_eval(values["REQUIREMENTS"]), *(line for lines in extras.values() for line in lines)]
    return {canonical(re.match(r"[A-Za-z0-9_.-]+", line)[0]) for line in lines}


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
