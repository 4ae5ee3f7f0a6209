"""Words that messages share, and whole phrases in docstrings and help."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from espnet_larm.errors import name_some
from espnet_larm.options import KEY
from espnet_larm.recognize.config import DecodeConfig

ROOT = Path(__file__).parents[1]
# A phrase that begins so has lost its noun: "Of the group size", "As trained".
BARE = re.compile(r"(of|as|those|that|these|likewise|which|whose)\b", re.IGNORECASE)
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
ENTRY = re.compile(r" {4}[^\s:][^:]*: +(\S.*)")
# Their sections are prose, whose first line may be an entry; other lines of it go on with a sentence.
PROSE = ("Returns", "Yields")


def faults(source):
    """Line and sentence of each docstring, help and option that begins without its noun, or is not there."""
    tree = ast.parse(source)
    texts = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for offset, phrase in phrases_of(ast.get_docstring(node) or ""):
                if BARE.match(phrase):
                    yield node.body[0].lineno + offset, f"bare: {phrase}"
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, text) for text in faults_of_call(node, texts))


def phrases_of(docstring):
    """Number and start of a docstring's first line, and of the first line of each entry of its sections."""
    section = is_first = None
    for number, line in enumerate(docstring.splitlines()):
        if number == 0:
            yield number, line
        elif line and not line.startswith(" "):
            found = SECTION.fullmatch(line)
            section, is_first = found and found[1], True
        elif section and line and (is_first or section not in PROSE):
            entry = ENTRY.match(line)
            if entry:
                yield number, entry[1]
            if section in PROSE:
                yield number, line.strip()
            is_first = False


def faults_of_call(call, texts):
    """What is wrong with the help of `add_argument`, or with the sentence of an option."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name == "add_argument":
        # What ** hands over may have it.
        said = keywords.get("help") or keywords.get(None)
    elif name in ("option", "Option"):
        said = next(iter(call.args[name == "option" :]), None) or keywords.get("sentence")
    else:
        return
    if said is None or (isinstance(said, ast.Constant) and not said.value):
        yield f"no sentence: {ast.unparse(call)}"
    elif BARE.match(start := start_of(said, texts)):
        yield f"bare: {start}"


def start_of(expression, texts):
    """What is known of the start of a string; empty if that is made when the program runs."""
    if isinstance(expression, ast.Name):
        named = texts.get(expression.id)
        return "" if named is None or isinstance(named, ast.Name) else start_of(named, texts)
    if isinstance(expression, ast.BinOp):
        return start_of(expression.left, texts)
    if isinstance(expression, ast.JoinedStr):
        return start_of(expression.values[0], texts) if expression.values else ""
    return expression.value if isinstance(expression, ast.Constant) and isinstance(expression.value, str) else ""


@pytest.mark.parametrize("folder", ["espnet_larm", "tests", "tools"])
def test_docstrings_and_help_are_whole_phrases(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_option_of_decoding_has_a_sentence():
    assert [field.name for field in dataclasses.fields(DecodeConfig) if not field.metadata[KEY].sentence] == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('"""Of groups."""', (1, "bare: Of groups.")),
        ('class A:\n    """As ESPnet has it."""', (2, "bare: As ESPnet has it.")),
        ('x = 1\ndef f():\n    """Those of a file."""', (3, "bare: Those of a file.")),
        ('def f(x):\n    """Do it.\n\n    Args:\n        x: Of the LM.\n    """', (5, "bare: Of the LM.")),
        ('class A:\n    """Good.\n\n    Attributes:\n        x (int): Likewise."""', (5, "bare: Likewise.")),
        ('def f(x):\n    """Do it.\n\n    Raises:\n        ValueError: Which no file has."""', (5, "bare: Which no")),
        ('def f(x):\n    """Do it.\n\n    Returns:\n        Of each row."""', (5, "bare: Of each row.")),
        ('def f(x):\n    """Do it.\n\n    Returns:\n        int: Whose ends met."""', (5, "bare: Whose ends met.")),
        ("p.add_argument('--x')", (1, "no sentence: p.add_argument('--x')")),
        ("p.add_argument('--x', help='')", (1, "no sentence: p.add_argument('--x', help='')")),
        ("p.add_argument('--x', help='of the experiment')", (1, "bare: of the experiment")),
        ("p.add_argument('--x', help=f'that of {name}')", (1, "bare: that of ")),
        ("said = 'likewise; ' + more\np.add_argument('--x', help=said)", (2, "bare: likewise; ")),
        ("x: int = option(1, 'of the CTC loss')", (1, "bare: of the CTC loss")),
        ("def f(x: Annotated[int, Option('', least=1)]): pass", (1, "no sentence: Option('', least=1)")),
    ],
)
def test_a_phrase_without_its_noun_is_found(source, fault):
    ((line, text),) = faults(source)
    assert line == fault[0] and text.startswith(fault[1])


@pytest.mark.parametrize(
    "source",
    [
        '"""Often used."""',
        'class A:\n    """Fractions\n    of a batch."""',
        'def f(x):\n    """Do.\n\n    That is all.\n\n    Args:\n        x: Tokens\n            of: it.\n    """',
        'def f(x):\n    """Do it.\n\n    Returns:\n        Tokens (B, T), and the number\n        of these.\n    """',
        "p.add_argument('--x', help='weight of CTC')",
        "p.add_argument('--x', help=argparse.SUPPRESS)",
        "p.add_argument('--x', help=f'{name} of all')",
        "p.add_argument('--x', help=describe(x))",
        "p.add_argument('--x', **common)",
        "x: int = option(1, 'hypotheses in the beam', least=1)",
    ],
)
def test_a_whole_phrase_is_not_a_fault(source):
    assert list(faults(source)) == []


def test_the_first_few_are_named_and_the_rest_counted():
    assert name_some(["a", "b", "c"], 3) == "a, b, c"
    assert name_some(["a", "b", "c", "d"], 2) == "a, b and 2 more"
