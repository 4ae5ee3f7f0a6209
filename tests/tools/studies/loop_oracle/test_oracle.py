"""The oracles of adaptive loops, by hand, and the report."""

import json

import numpy as np
import pytest

from espnet_larm.calibrate.loop_traces import Traces
from espnet_larm.scoring.bootstrap import Grouping
from studies.loop_oracle.oracle import EQUAL, FEWEST, Point, curves_of, loops_at_loss

TRACES = Traces(
    ["u0", "u1", "u2"],
    (2, 4, 6),
    [["A B", "A B", "A B"], ["X X", "A X", "A X"], ["A B", "A X", "X X"]],
    np.array([[0, 0, 0], [2, 1, 1], [0, 1, 2]]),
    np.array([2, 2, 2]),
    {"confidence": np.array([[-0.1, -0.1, -0.1], [-0.9, -0.4, -0.1], [-0.5, -0.5, -0.1]])},
    False,
)


def test_oracles_are_the_shallowest_of_their_kind():
    curves = curves_of(TRACES, Grouping("utterance", np.arange(3)))
    assert curves.fixed == [Point(2, pytest.approx(100 / 3)), Point(4, pytest.approx(100 / 3)), Point(6, 50)]
    # u0 at 2, u1 at 4, u2 at 6: the deepest loop's words in a third fewer loops.
    assert curves.oracles[EQUAL] == Point(4, 50) and curves.chosen[EQUAL] == {2: 1, 4: 1, 6: 1}
    assert curves.oracles[FEWEST] == Point(pytest.approx(8 / 3), pytest.approx(100 / 6))
    assert curves.chosen[FEWEST] == {2: 2, 4: 1, 6: 0}


def test_fewest_loops_at_a_loss():
    points = [Point(2, 10), Point(3, 8), Point(4, 9)]
    assert loops_at_loss(points, 9) == 3 and loops_at_loss(points, 10) == 2 and loops_at_loss(points, 7) is None


def test_a_set_is_decoded_and_reported(tiny_experiment, tmp_path, capsys):
    from studies.loop_oracle.run import main

    model = ["--asr_train_config", str(tiny_experiment.config), "--asr_model_file", str(tiny_experiment.model)]
    data = ["--data_dirs", str(tiny_experiment.data), "--output_dir", str(tmp_path)]
    assert main([*model, *data]) == 0
    shown = capsys.readouterr().out
    # With two checkpoint loops only the confidence can end before the last.
    assert "|fixed|2.00|" in shown.replace(" ", "") and "|confidence|2|" in shown.replace(" ", "")
    assert "divergence" not in shown and "oracle, equals the deepest" in shown
    kept = json.loads((tmp_path / "loop_oracle.json").read_text())
    assert kept["loops"] == [2, 4] and len(kept["errors"]) == 7 and (tmp_path / "loop_oracle.png").stat().st_size > 1000
