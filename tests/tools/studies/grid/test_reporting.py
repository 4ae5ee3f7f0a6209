"""The table of a grid and its picture."""

import matplotlib as mpl
import numpy as np

from studies.grid.comparing import RowResult, compare_rows
from studies.grid.plan import Row
from studies.grid.reporting import draw_grid, earlier_read_outs, format_table
from studies.seed_errors import SeedErrors

UNITS = np.full(4, 5.0)


def row(name, *seeds, loops=()):
    found = SeedErrors(tuple(range(len(seeds))), np.array(seeds, dtype=float), UNITS)
    read_outs = {**{f"loop{loop}": found for loop in loops}, "last": found}
    return RowResult(Row(name, name.upper(), found.seeds, {}), read_outs, (60.0, 180.0))


RESULTS = [
    row("base", [1, 1, 1, 1], [2, 2, 2, 2], loops=(2, 4, 10)),
    row("other", [3, 3, 3, 3], loops=(2, 4, 10)),
    row("plain", [0, 0, 0, 0]),
]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_has_read_outs_rates_by_seed_and_the_comparison():
    parameters = {"base": 785_730, "other": 1_200_000, "plain": 500}
    header, _, base, other, plain = format_table(RESULTS, compare_rows(RESULTS, "base", 100), parameters)
    assert cells(header) == [
        *("row", "parameters", "loop 2", "loop 4", "WER %", "from", "to", "WER % by seed"),
        *("beside the reference", "from", "to", "minutes"),
    ]
    assert cells(base) == ["BASE", "0.79 M", "30.0", "30.0", "30.0", "15.9", "44.1", "20.0, 40.0", "", "", "", "2"]
    assert cells(other)[:8] == ["OTHER", "1.20 M", "60.0", "60.0", "60.0", "60.0", "60.0", "60.0"]
    assert cells(other)[8:11] == ["+30.0", "+15.9", "+44.1"]
    assert cells(plain)[2:5] == ["", "", "0.0"]


def test_read_outs_that_one_row_has_alone_are_no_columns():
    rows = [row("a", [1, 1, 1, 1], loops=(2, 10, 12)), row("b", [1, 1, 1, 1], loops=(2, 4, 10, 12))]
    assert earlier_read_outs(rows) == ["loop2", "loop10"]


def test_picture_is_a_png(tmp_path):
    draw_grid(RESULTS, "base", tmp_path / "images/grid.png")
    assert (tmp_path / "images/grid.png").read_bytes().startswith(b"\x89PNG")
    assert mpl.image.imread(tmp_path / "images/grid.png").std() > 0.05
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["grid.png"]


def test_a_mean_outside_of_its_interval_is_drawn(tmp_path, monkeypatch):
    # As few resamples of skewed errors can give.
    monkeypatch.setattr("studies.grid.reporting.row_interval", lambda *_: (31.0, 29.0))
    draw_grid(RESULTS, "base", tmp_path / "grid.png")
    assert (tmp_path / "grid.png").is_file()
