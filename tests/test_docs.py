"""What the pages promise is there: files, headings, commands, options, and the example of a plugin."""

import re
from pathlib import Path

import pytest
import yaml

from espnet_larm.cli.commands import COMMANDS
from espnet_larm.options import options_of
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.version import __version__
from tests.test_layers import LAYERS

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "docs/design.md"
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("**/*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
# Files of the examples, which a user makes.
EXAMPLES = {
    "conf/train_larm.yaml",
    "conf/train_larm_whisper_own.yaml",
    "conf/tiny/train_average.yaml",
    "tests/averaging/test_encoder.py",
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            file = page.parent / target if target else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@each_page
def test_commands_and_modules_are_there(page):
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"(?:espnet-larm|-m espnet_larm) ([a-z][a-z-]+)\b(?![./])", text):
        assert command in COMMANDS, command
    for module in re.findall(r"-m (studies\.[\w.]+)", text):
        assert (ROOT / "tools" / f"{module.replace('.', '/')}.py").exists(), module
    for path in re.findall(r"(?:tools|conf|egs|tests)/[\w/]+\.(?:py|sh|yaml)\b", text):
        assert path in EXAMPLES or (ROOT / path).exists(), path


@each_page
def test_python_is_written_as_python_takes_it(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
        for option in re.findall(r"DecodeConfig\((\w+)=", block):
            assert option in {name for name, *_ in options_of(DecodeConfig)}, option


def test_citation_and_changes_name_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert __version__ in re.findall(
        r"^## .*?([\d.]+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )


def test_the_example_of_a_plugin_is_the_tested_one():
    example = ROOT / "tests/example_plugin"
    assert (example / "average_encoder.py").read_text(encoding="utf-8") in blocks(DESIGN, "python")
    assert (example / "pyproject.toml").read_text(encoding="utf-8") in blocks(DESIGN, "toml")


def test_the_rows_of_imports_are_those_of_the_layers():
    rows = re.findall(r"^\| \d+ \| (.+?) \|", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    named = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert named == [set(row) for row in LAYERS]


def test_tests_that_the_code_names_are_there():
    code, tests = (
        {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))}
        for folder in ("espnet_larm", "tests")
    )
    named = {name: path for path, text in code.items() for name in re.findall(r"\b(test_\w+)(?!\w*\.py)\b", text)}
    files = {path: file for path, text in code.items() for file in re.findall(r"\b(tests/[\w/]+\.py)", text)}
    assert len(named) > 10
    assert [
        f"{path.name}: {name}"
        for name, path in named.items()
        if not any(f"def {name}(" in text for text in tests.values())
    ] == []
    assert [f"{path.name}: {file}" for path, file in files.items() if not (ROOT / file).is_file()] == []


def test_every_number_of_the_results_stands_on_the_page_that_its_row_links_to():
    page = ROOT / "docs/results.md"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if len(row) == 12 and re.fullmatch(r"[\d.]+", row[6])]
    assert len(rows) > 10
    for row in rows:
        ((target, _),) = LINK.findall(row[10])
        text = (page.parent / target).read_text(encoding="utf-8")
        stand_there = [re.compile(rf"(?<![\d.]){re.escape(number)}(?![\d])") for number in row[6:9]]
        assert any(all(number.search(line) for number in stand_there) for line in text.splitlines()), row
