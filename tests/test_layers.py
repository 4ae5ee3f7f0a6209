"""Imports go one way, and what must be in one file only is."""

import ast
import collections
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "espnet_larm"
# Top to bottom: a module imports from its own folder and from lower rows, never from its row or above.
LAYERS = (
    ("__main__", "espnet3"),
    ("cli",),
    ("serve",),
    ("calibrate", "listen", "live", "recipe"),
    ("recognize", "registered"),
    ("train",),
    ("speech_llm", "pack", "program"),
    ("adaptation", "pooling", "pretrained", "registry"),
    ("llm", "search", "looped", "fast_conformer", "data", "scoring"),
    ("streaming",),
    ("draws", "errors", "files", "options", "origin", "process", "upstream"),
    ("version",),
)
RANKS = {name: rank for rank, row in enumerate(LAYERS) for name in row}
MOST_FLOORS = 9
MOST_FILES = 13
# What only these files may import, with everything below it.
RESERVED = {
    "transformers": ("llm/hugging_face.py", "listen/hugging_face.py", "recipe/text_lm/training.py"),
    "kenlm": ("search/kenlm_ngram.py",),
    "huggingface_hub": ("pack/hub.py",),
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
        if is_within(name, "espnet2.tasks") and at_top and path != "train/task.py":
            yield line, "espnet2.tasks takes 10 s: import it at the top of train/task.py only"
    yield from upward_imports(folder, found)


def upward_imports(folder, found):
    for name, line, at_top in found:
        target = name.removeprefix("espnet_larm.").partition(".")[0]
        if not is_within(name, "espnet_larm") or target not in RANKS or target == folder:
            continue
        if folder == "__init__":
            if at_top and target != "version":
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


def import_graph(package):
    """By module of a package, the modules of it that it imports anywhere, inside functions too."""
    sources = {path.relative_to(package).with_suffix("").as_posix(): path for path in sorted(package.rglob("*.py"))}
    modules = {name.replace("/", "."): path for name, path in sources.items()}
    return {module: set(imported_modules(path, modules)) for module, path in modules.items()}


def imported_modules(path, modules):
    for name, _, _ in imports(ast.parse(path.read_text(encoding="utf-8"))):
        inner = "__init__" if name == "espnet_larm" else name.removeprefix("espnet_larm.")
        if is_within(name, "espnet_larm"):
            yield from (each for each in (inner, inner.rpartition(".")[0]) if each in modules)


def find_circle(graph):
    """Modules of which each imports the next, and the last the first; empty if there is no such circle."""
    done = set()

    def walk(name, route):
        if name in route:
            return [*route[route.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*route, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def floors_of(graph):
    """By node, 1 for what imports nothing, else one more than the highest that it imports."""

    @functools.cache
    def floor(name):
        return 1 + max((floor(other) for other in graph[name]), default=0)

    return {name: floor(name) for name in graph}


def rooms_of(graph):
    """The same graph between folders, files outside folders standing for themselves."""
    rooms = {}
    for name, others in graph.items():
        room = name.partition(".")[0]
        rooms.setdefault(room, set()).update({other.partition(".")[0] for other in others} - {room})
    return rooms


def test_no_module_imports_itself_by_way_of_others():
    assert find_circle(import_graph(PACKAGE)) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_the_house_has_few_floors_and_no_crowded_folder():
    floors = floors_of(rooms_of(import_graph(PACKAGE)))
    assert max(floors.values()) <= MOST_FLOORS, floors
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    crowded = {str(path): count for path in folders if (count := len(list(path.glob("*.py")))) > MOST_FILES}
    assert crowded == {}


def test_a_function_that_only_its_module_names_begins_with_an_underscore():
    sources = [
        path
        for folder in ("espnet_larm", "tools", "tests", "egs", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sh", ".md"}
    ]
    words = {path: set(re.findall(r"\w+", path.read_text())) for path in sources}
    used = collections.Counter(word for each in words.values() for word in each)
    lonely = {
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in sources
        if path.is_relative_to(PACKAGE)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and used[node.name] == 1
    }
    assert lonely == set()


def test_imports_go_one_way():
    found = [
        violation
        for path in sorted(PACKAGE.rglob("*.py"))
        for violation in violations(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("looped/x.py", "from espnet_larm.search.y import Y", "looped may not import search"),
        ("looped/x.py", "def f():\n    import espnet_larm.registry", "x.py:2: looped may not import registry"),
        ("search/x.py", "from espnet_larm import speech_llm", "search may not import speech_llm"),
        ("upstream.py", "from espnet_larm.search import ctc", "upstream may not import search"),
        (
            "speech_llm/x.py",
            "from transformers import AutoModel",
            "transformers is imported in llm/hugging_face.py",
        ),
        ("looped/x.py", "import espnet2.legacy.nets", "espnet2.legacy is imported in upstream.py only"),
        ("cli/x.py", "from espnet2.tasks.asr import ASRTask", "at the top of train/task.py only"),
        ("cli/x.py", "from .y import z", "imports are absolute"),
        ("__init__.py", "from espnet_larm.recognize.packs import load", "importing espnet_larm imports nothing of it"),
        ("other/x.py", "", "other has no place in LAYERS"),
        (
            "train/task.py",
            "from espnet2.tasks.asr import encoder_choices\nencoder_choices.classes['a'] = 1",
            "task.py:2: only registry.py writes",
        ),
        ("train/x.py", "import espnet2.asr.ctc\nespnet2.asr.ctc.CTC = None", "x.py:2: only registry.py writes"),
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
        ("cli/x.py", "from espnet_larm.cli.y import z\nfrom espnet_larm.looped.encoder import LarmEncoder"),
        ("cli/x.py", "from espnet_larm import __version__"),
        ("__init__.py", "def load():\n    from espnet_larm.recognize.packs import load"),
        ("__init__.py", "if TYPE_CHECKING:\n    from espnet_larm.recognize.packs import load"),
        ("recognize/x.py", "def f():\n    from espnet2.tasks.asr import ASRTask"),
    ],
)
def test_what_the_rules_allow_is_not_a_violation(path, source):
    assert violations(path, source) == []
