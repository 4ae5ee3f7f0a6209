"""Error rates of rows, their means and intervals."""

import json

import numpy as np
import pytest

from espnet_larm.scoring.bootstrap import draw_groups, group_utterances
from studies.grid.comparing import RowResult, compare_rows, read_row
from studies.grid.plan import Row
from studies.seed_errors import SeedErrors, resample, row_interval

ROW = Row("a", "A", (0, 1, 2), {})
REFERENCES = {"u1": "A B", "u2": "A B C D", "u3": "A", "u4": "B"}
GROUPING = group_utterances(list(REFERENCES), {})


def errors(*rows, units=(2, 4, 1, 1)):
    return SeedErrors(tuple(range(len(rows))), np.array(rows, dtype=float), np.array(units, dtype=float))


def result(name, found):
    return RowResult(Row(name, name, found.seeds, {}), {"last": found}, (1.0,))


def write_run(exp_dir, name, text, status=0, loops=()):
    for folder in ("", *loops):
        path = exp_dir / name / "decode/test" / folder / "text"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{key} {words}\n" for key, words in text.items()))
    records = [{"seconds": 60.0, "status": 75}, {"seconds": 30.0, "status": status}]
    (exp_dir / name / "grid.json").write_text(json.dumps(records))


def test_a_row_has_the_errors_of_its_finished_seeds_at_every_read_out(tmp_path):
    write_run(tmp_path, "a_seed0", {**REFERENCES, "u1": "A X"}, loops=("loop2", "loop4"))
    write_run(tmp_path, "a_seed1", REFERENCES, status=1)
    write_run(tmp_path, "a_seed2", {**REFERENCES, "u2": ""}, loops=("loop2", "loop4"))
    found = read_row(ROW, tmp_path, "decode/test", REFERENCES, GROUPING)
    assert list(found.read_outs) == ["loop2", "loop4", "last"] and found.last.seeds == (0, 2)
    assert found.last.errors.tolist() == [[1, 0, 0, 0], [0, 4, 0, 0]] and found.last.units.tolist() == [2, 4, 1, 1]
    assert found.last.by_seed.tolist() == [12.5, 50] and found.last.mean == 31.25


def test_the_time_of_a_run_holds_its_interrupted_attempts(tmp_path):
    write_run(tmp_path, "a_seed0", REFERENCES)
    assert read_row(ROW, tmp_path, "decode/test", REFERENCES, GROUPING).seconds == (90.0,)


def test_a_row_without_a_finished_run_has_no_result(tmp_path):
    assert read_row(ROW, tmp_path, "decode/test", REFERENCES, GROUPING) is None


def test_a_text_that_is_not_where_the_option_says_is_named(tmp_path):
    write_run(tmp_path, "a_seed0", REFERENCES)
    with pytest.raises(FileNotFoundError, match=r"a_seed0/decode/tset/text is missing: --decoded decode/tset"):
        read_row(ROW, tmp_path, "decode/tset", REFERENCES, GROUPING)


def test_resamples_are_those_of_a_plain_loop_with_the_same_draws():
    found = errors([1, 0, 0, 1], [0, 4, 1, 0], [2, 2, 0, 0])
    seeds = np.random.default_rng([7, 3]).multinomial(3, [1 / 3] * 3, size=40)
    groups = np.concatenate(list(draw_groups(4, 40)))
    expected = []
    for drawn_seeds, drawn_groups in zip(seeds, groups, strict=True):
        rates = []
        for seed, times in enumerate(drawn_seeds):
            wrong = sum(found.errors[seed, group] * often for group, often in enumerate(drawn_groups))
            words = sum(found.units[group] * often for group, often in enumerate(drawn_groups))
            rates += [100 * wrong / words] * times
        mean = 100 * (found.errors.mean(axis=0) @ drawn_groups) / (found.units @ drawn_groups)
        expected.append(mean + (sum(rates) / 3 - mean) * (3 / 2) ** 0.5)
    np.testing.assert_allclose(resample(found, 7, 40), expected)
    assert row_interval(found, 7, 40) == tuple(np.percentile(resample(found, 7, 40), (2.5, 97.5)))


def test_a_row_of_one_seed_draws_speakers_alone():
    found = errors([1, 0, 0, 1])
    groups = np.concatenate(list(draw_groups(4, 40)))
    np.testing.assert_allclose(resample(found, 0, 40), 100 * (groups @ found.errors[0]) / (groups @ found.units))
    assert np.array_equal(resample(found, 0, 40), resample(found, 5, 40))


def test_rows_are_compared_on_the_same_speakers():
    # One word more is wrong in every group, so that each resample has the same difference but for its words.
    base = errors([1, 2, 0, 0], units=(5, 5, 5, 5))
    worse = errors([2, 3, 1, 1], units=(5, 5, 5, 5))
    ((name, found),) = compare_rows([result("base", base), result("worse", worse)], "base", 200).items()
    assert name == "worse" and found.points == pytest.approx(20)
    assert found.interval == pytest.approx((20, 20))


def test_seeds_that_differ_widen_the_interval_of_a_comparison():
    base = errors([1, 1, 1, 1], units=(5, 5, 5, 5))
    spread = errors([0, 0, 0, 0], [2, 2, 2, 2], units=(5, 5, 5, 5))
    found = compare_rows([result("base", base), result("spread", spread)], "base", 400)["spread"]
    assert found.points == 0 and found.interval == pytest.approx((-20 * 2**0.5, 20 * 2**0.5))


def test_resampled_means_vary_as_means_of_so_many_trainings_do():
    """The variance of a mean of n is the unbiased variance of one, divided by n."""
    seeds = np.random.default_rng(0).integers(0, 9, size=5)
    found = errors(*([seed] for seed in seeds), units=(9,))
    rates = resample(found, 0, 40_000)
    assert np.var(rates) == pytest.approx(np.var(found.by_seed, ddof=1) / 5, rel=0.03)


def test_nothing_is_compared_while_the_reference_has_no_result():
    assert compare_rows([result("a", errors([1, 0, 0, 0]))], "base", 10) == {}
