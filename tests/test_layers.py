"""Imports go one way, and what must be in one file only is."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# Top to bottom: a module imports from its own folder and from lower rows, never from its row or above.
LAYERS = (
    ("__main__", "bin", "espnet3"),
    ("study",),
    ("inference",),
    ("tasks", "packs", "grid"),
    ("train",),
    ("registered",),
    ("registry",),
    ("model", "decoder", "preprocessor"),
    ("encoder", "frontend", "llm"),
    ("search", "pooling", "data", "scoring", "ngram"),
    ("upstream", "origin", "process", "stated", "wording"),
)
RANKS = {name: rank for rank, row in enumerate(LAYERS) for name in row}
# What only these files may import, with everything below it.
RESERVED = {
    "transformers": ("llm/hugging_face.py", "llm/hugging_face_trainer.py"),
    "kenlm": ("ngram/kenlm_ngram.py",),
    "espnet2.legacy": ("upstream.py",),
}


class Import(NamedTuple):
    """An imported dotted name; `from a import b` is `a.b`."""

    name: str
    line: int
    at_top: bool


def imports(tree):
    """Every import of a module, those inside functions and for type checkers alone included."""
    inside = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_type_checkers(outer)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from (Import(f"{start}.{alias.name}", node.lineno, id(node) not in inside) for alias in node.names)


def is_for_type_checkers(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_within(name, package):
    return name == package or name.startswith(package + ".")


def violations(path, source):
    """What a file of espnet_larm, at `path` in it, does against the rules: sentences with its line."""
    tree = ast.parse(source)
    folder = path.partition("/")[0].removesuffix(".py")
    return [
        *(f"{path}:{line}: {text}" for line, text in import_violations(path, folder, list(imports(tree)))),
        *(f"{path}:{line}: {text}" for line, text in state_violations(path, tree)),
    ]


def import_violations(path, folder, found):
    if folder not in RANKS and folder != "__init__":
        yield 1, f"{folder} has no place in LAYERS"
        return
    for name, line, at_top in found:
        if name.startswith("."):
            yield line, "imports are absolute"
        for package, allowed in RESERVED.items():
            if is_within(name, package) and path not in allowed:
                yield line, f"{package} is imported in {', '.join(allowed)} only"
        if is_within(name, "espnet2.tasks") and at_top and folder != "tasks":
            yield line, "espnet2.tasks takes 10 s: import it at the top of tasks/ only"
    yield from upward_imports(folder, found)


def upward_imports(folder, found):
    for name, line, at_top in found:
        target = name.removeprefix("espnet_larm.").partition(".")[0]
        if not is_within(name, "espnet_larm") or target not in RANKS or target == folder:
            continue
        if folder == "__init__":
            if at_top:
                yield line, "importing espnet_larm imports nothing of it"
        elif RANKS[target] <= RANKS[folder]:
            yield line, f"{folder} may not import {target}"


def state_violations(path, tree):
    """Writes to ESPnet's modules and tables: registry.py's alone."""
    if path == "registry.py":
        return
    foreign = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and is_within(getattr(node, "module", None) or node.names[0].name, "espnet2")
        for alias in node.names
    }
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Attribute | ast.Subscript) and root_name(target) in foreign:
                yield node.lineno, "only registry.py writes to ESPnet's state"


def root_name(node):
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def test_imports_go_one_way():
    package = ROOT / "espnet_larm"
    found = [
        violation
        for path in sorted(package.rglob("*.py"))
        for violation in violations(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("encoder/x.py", "from espnet_larm.frontend.y import Y", "encoder may not import frontend"),
        ("encoder/x.py", "def f():\n    import espnet_larm.registry", "x.py:2: encoder may not import registry"),
        ("search/x.py", "from espnet_larm import decoder", "search may not import decoder"),
        ("upstream.py", "from espnet_larm.search import ctc", "upstream may not import search"),
        ("decoder/x.py", "from transformers import AutoModel", "transformers is imported in llm/hugging_face.py, llm/"),
        ("encoder/x.py", "import espnet2.legacy.nets", "espnet2.legacy is imported in upstream.py only"),
        ("bin/x.py", "from espnet2.tasks.asr import ASRTask", "at the top of tasks/ only"),
        ("bin/x.py", "from .y import z", "imports are absolute"),
        ("__init__.py", "from espnet_larm.inference.asr import load", "importing espnet_larm imports nothing of it"),
        ("other/x.py", "", "other has no place in LAYERS"),
        (
            "tasks/x.py",
            "from espnet2.tasks.asr import encoder_choices\nencoder_choices.classes['a'] = 1",
            "x.py:2: only registry.py writes",
        ),
        ("tasks/x.py", "import espnet2.asr.ctc\nespnet2.asr.ctc.CTC = None", "x.py:2: only registry.py writes"),
    ],
)
def test_violation_is_found(path, source, message):
    found = violations(path, source)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("llm/hugging_face.py", "import transformers"),
        ("bin/x.py", "from espnet_larm.bin.y import z\nfrom espnet_larm.encoder.larm import LarmEncoder"),
        ("bin/x.py", "from espnet_larm import __version__"),
        ("__init__.py", "def load():\n    from espnet_larm.inference.asr import load"),
        ("__init__.py", "if TYPE_CHECKING:\n    from espnet_larm.inference.asr import load"),
        ("inference/x.py", "def f():\n    from espnet2.tasks.asr import ASRTask"),
    ],
)
def test_what_the_rules_allow_is_not_a_violation(path, source):
    assert violations(path, source) == []
