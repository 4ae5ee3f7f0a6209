"""Rules with thresholds from development sets, by hand."""

from pathlib import Path

import numpy as np
import pytest

from espnet_larm.calibrate.loop_traces import Traces
from studies.loop_oracle.held_out import Aim, Outcome, at_loop, choose, left_by, main, mixture
from studies.loop_oracle.kept import Kept, read_kept, write_kept

NAN = float("nan")
# Two utterances are right from loop 2 on and sure of it, two become right at loop 4; loop 6 is beyond training.
DEV = Traces(
    ["a", "b", "c", "d"],
    (2, 4, 6),
    [["A", "A", "A"]] * 4,
    np.array([[0, 0, 0], [0, 0, 1], [2, 0, 0], [1, 0, 0]]),
    np.array([5, 5, 5, 5]),
    {
        "confidence": np.array([[-0.1, -0.1, NAN], [-0.2, -0.1, NAN], [-0.9, -0.1, NAN], [-0.8, -0.1, NAN]]),
        "unchanged": np.array([[NAN, 0.0, 0.0]] * 4),
    },
    False,
)
TEST = DEV._replace(errors=np.array([[0, 0, 0], [1, 0, 1], [2, 0, 0], [1, 1, 0]]))
SPEAKERS = ["one", "one", "two", "two"]


def test_thresholds_are_chosen_on_dev_and_used_on_test() -> None:
    dev, test = DEV.up_to(4), TEST.up_to(4)
    lossless = choose(dev, ["confidence"], Aim(None, 0.0))
    assert lossless is not None and -0.8 < lossless.threshold <= -0.2
    found = left_by(test, lossless)
    np.testing.assert_array_equal(found.loops, [2, 2, 4, 4])
    np.testing.assert_array_equal(found.errors, [0, 1, 0, 1])
    # Up to 2.6 loops on average: one utterance may stay, the least sure.
    few = choose(dev, ["confidence", "unchanged"], Aim(0.65, None))
    assert few is not None and few.rule == "confidence"
    np.testing.assert_array_equal(left_by(test, few).loops, [2, 2, 4, 2])
    assert choose(dev, ["unchanged"], Aim(0.6, None)) is None


def test_a_mixture_is_what_a_choice_without_a_look_gives() -> None:
    found = mixture(TEST, 3.5)
    np.testing.assert_allclose(found.loops, 3.5)
    np.testing.assert_allclose(found.errors, [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(mixture(TEST, 6.0).errors, at_loop(TEST, 6).errors)
    assert isinstance(found, Outcome)


def _written(folder: Path, traces: Traces) -> str:
    path = folder / "loop_oracle.json"
    write_kept(Kept(traces, SPEAKERS, 4), path)
    return str(path)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    kept = read_kept(Path(_written(tmp_path, DEV)))
    assert kept.trained.loops == (2, 4) and kept.speakers == SPEAKERS and kept.traces.texts == DEV.texts
    np.testing.assert_array_equal(kept.traces.errors, DEV.errors)
    np.testing.assert_array_equal(kept.traces.numbers["unchanged"], DEV.numbers["unchanged"])


def test_the_report_shows_loops_beyond_training_and_the_rules(tmp_path: Path) -> None:
    dev, test = _written(tmp_path / "dev", DEV), _written(tmp_path / "test", TEST)
    # Two models alike: their errors are pooled, and rates stay as they are.
    assert main(["--dev", dev, dev, "--test", test, test, "--output_dir", str(tmp_path)]) == 0
    shown = (tmp_path / "held_out.md").read_text()
    assert "| 4 | 5.00 | +0.00 (+0.00, +0.00) |" in shown
    assert "| 6, beyond training | 5.00 | +0.00 (-10.00, +10.00) |" in shown
    # Loops 2, 2, 4, 4 of 4: 2 of 20 words wrong; at 3 loops without a look 2.5 are.
    assert "| 0 points | confidence | 75% | 10.00 | 12.50 | -2.50 (" in shown
    assert "| 60% of the loops | unchanged | no threshold on dev |" in shown


def test_files_that_do_not_match_are_refused(tmp_path: Path) -> None:
    dev = _written(tmp_path / "dev", DEV)
    other = tmp_path / "other/loop_oracle.json"
    write_kept(Kept(TEST, SPEAKERS, 2), other)
    with pytest.raises(ValueError, match="are not those of its --dev"):
        main(["--dev", dev, "--test", str(other), "--output_dir", str(tmp_path)])
    with pytest.raises(ValueError, match="one of each a model"):
        main(["--dev", dev, "--test", dev, dev, "--output_dir", str(tmp_path)])
    (tmp_path / "old.json").write_text('{"keys": []}')
    with pytest.raises(ValueError, match="run that again"):
        read_kept(tmp_path / "old.json")
