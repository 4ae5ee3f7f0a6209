"""What the reports of all studies share: tables in Markdown, figures, what the numbers came from, whole files."""

import datetime as dt
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_larm.origin import versions, without_root

RESULTS = "RESULTS.md"


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place, then move it there: readers see the old file or the new one.

    Args:
        path: The file; its folder is made.
        write: Writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in Markdown."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean of values, and the values themselves if there are several."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    each = ", ".join(f"{value:.{digits}f}" for value in sorted(values))
    return mean if len(values) == 1 else f"{mean} ({each})"


def origin_lines(facts: Mapping[str, str]) -> list[str]:
    """What numbers came from, a line a fact; versions of packages and the date stand last."""
    every = {
        **facts,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
    }
    return [f"- {name}: {value}" for name, value in every.items()]


def different(values: Iterable[Any]) -> str:
    """Different values in their order, joined by commas."""
    return ", ".join(dict.fromkeys(map(str, values)))


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a whole PNG."""
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=dpi))


def command_of(program: str, cmd: Sequence[str] | None) -> str:
    """The command that called a study's program.

    Args:
        program: Module of the program.
        cmd: Its arguments; None for those of this process.
    """
    return without_root(shlex.join(["python", "-m", program, *(sys.argv[1:] if cmd is None else cmd)]))
