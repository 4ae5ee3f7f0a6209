"""Tables and picture of results whose read-outs are not all known, scored or timed."""

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes

from espnet_larm.scoring.experiment import ReadOutResult, SetResult
from espnet_larm.scoring.picture import draw_wer
from espnet_larm.scoring.tables import format_tables


def scores(rate):
    counts = {"sentences": 1, "units": 100, "correct": 90, "substitutions": 10, "deletions": 0, "insertions": 0}
    rates = {"error_percent": rate, "interval_percent": [rate - 1, rate + 1], "sentence_error_percent": 50.0}
    return {"wer": {**counts, **rates}}


def result(*read_outs, unit="loop", audio_seconds=60.0):
    return SetResult("decode", "test", unit, list(read_outs), {"audio_seconds": audio_seconds}, {})


@pytest.fixture
def labels(monkeypatch):
    """(text, x, y) of every label that is drawn."""
    found = []
    monkeypatch.setattr(Axes, "annotate", lambda _, text, point, *__, **___: found.append((text, *point)))
    return found


def test_a_point_has_the_label_of_its_own_read_out(tmp_path, labels):
    timed, untimed, unscored = (2, scores(30.0), 1.0), (4, scores(20.0), None), (6, {}, 3.0)
    read_outs = [ReadOutResult(*values) for values in (timed, untimed, unscored, (8, scores(10.0), 4.0))]
    assert draw_wer([result(*read_outs)], tmp_path / "wer.png")
    assert labels == [("2", 1.0, 30.0), ("8", 4.0, 10.0)]


def test_curves_have_their_names_at_them_and_loops_their_paired_changes(tmp_path, monkeypatch):
    written, text = [], Axes.text
    monkeypatch.setattr(
        Axes, "text", lambda axes, x, y, words, **how: (written.append(words), text(axes, x, y, words, **how))[1]
    )
    read_outs = [ReadOutResult(number, scores(rate), None) for number, rate in ((2, 30.0), (4, 20.0))]
    change = {"from": "loop2", "to": "loop4", "points": -10.0, "interval_points": [-12.0, -8.0], "verdict": "falls"}
    one = SetResult("decode", "test", "loop", read_outs, {}, {"wer": [change]})
    assert draw_wer([one], tmp_path / "wer.png")
    assert written == ["  test", "-10.0\n(-12.0 to -8.0)"]
    written.clear()
    assert draw_wer([one, one._replace(name="other")], tmp_path / "wer.png")
    assert written == ["  test", "  other"]


@pytest.mark.parametrize("read_out", [ReadOutResult(None, scores(20.0), None), ReadOutResult(None, scores(20.0), 2.0)])
def test_a_read_out_of_unknown_number_is_a_line_and_no_loop_0(tmp_path, monkeypatch, labels, read_out):
    ticks, lines = [], []
    set_xticks, axhline = Axes.set_xticks, Axes.axhline
    monkeypatch.setattr(Axes, "set_xticks", lambda axes, xs: (ticks.append(list(xs)), set_xticks(axes, xs)))
    monkeypatch.setattr(Axes, "axhline", lambda axes, y, **how: (lines.append(y), axhline(axes, y, **how))[1])
    known = ReadOutResult(2, scores(30.0), 1.0)
    assert draw_wer([result(known), result(read_out)], tmp_path / "wer.png")
    assert ticks == [[2]] and lines == [20.0]
    assert [text for text, *_ in labels] == ["2", "last"][: 1 + (read_out.seconds is not None)]


def test_only_a_read_out_of_unknown_number_makes_a_picture(tmp_path):
    assert draw_wer([result(ReadOutResult(None, scores(20.0), None))], tmp_path / "wer.png", trained_loops=6)
    assert mpl.image.imread(tmp_path / "wer.png").std() > 0.02


def test_nothing_scored_makes_no_picture(tmp_path):
    assert not draw_wer([result(ReadOutResult(2, {}, None))], tmp_path / "wer.png")


@pytest.mark.parametrize(
    ("unit", "number", "shown"),
    [("loop", 2, "2"), ("layer", 3, "layer 3"), ("loop", None, "last"), ("layer", None, "last")],
)
def test_table_names_a_read_out_as_what_it_is(unit, number, shown):
    *_, row, _ = format_tables([result(ReadOutResult(number, scores(20.0), None), unit=unit)])
    assert row.split("|")[2] == shown
