"""Pictures of egs/an4: drawn from its tables, which have what the pictures need."""

import matplotlib as mpl
import pictures
import pytest

TEXT = (pictures.FOLDER / "RESULTS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "draw",
    [
        pictures.draw_loops,
        pictures.draw_seconds,
        pictures.draw_baselines,
        pictures.draw_adaptation,
        pictures.draw_cosines,
    ],
)
def test_a_picture_is_drawn_from_the_page(draw, tmp_path):
    draw(TEXT, tmp_path / "picture.png")
    assert mpl.image.imread(tmp_path / "picture.png").std() > 0.05


def test_rates_are_those_of_the_table():
    row = pictures.table_with(TEXT, "row", "parameters")[0]
    assert pictures.rate_of(row[4:7]) == (12.9, 9.6, 16.4) and pictures.numbers(row[7]) == [12.0, 12.8, 13.7]


def test_a_table_that_is_missing_is_named():
    with pytest.raises(ValueError, match="no table begins with the columns loops, WER %"):
        pictures.table_with("| loops | CER % |\n|---|---|\n| 2 | 3 |\n", "loops", "WER %")
