"""A study from end to end, with a tiny model."""

import fcntl
import json
import shutil

import pytest
import torch
import yaml

from studies.adaptation import run as adaptation_study
from studies.adaptation import running
from studies.adaptation.plan import Row
from studies.adaptation.reporting import Done, _at_equal, equal_wer

PLAN = {
    "schedule": {"num_steps": 4, "batch_size": 4, "warmup_steps": 1, "num_points": 2},
    "reference": "full",
    "rows": {
        "full": {"title": "all", "seeds": [0, 1], "lrs": [0.01, 0.1], "decoder_conf": {"adaptation": "full"}},
        "added": {"seeds": [0], "lrs": [0.01], "decoder_conf": {"adaptation": "depth_upscaling"}},
        "kept": {
            "seeds": [0],
            "lr_of": "added",
            "decoder_conf": {"adaptation": "depth_upscaling"},
            "model_conf": {"text_kl_weight": 1.0},
        },
    },
}


@pytest.fixture
def study(build_speech_llm, tiny_experiment, tmp_path):
    """Runs the program on seven utterances of noise; gives its table."""
    trained = build_speech_llm()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(trained.args)))
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    (tmp_path / "held_out.txt").write_text("A B C\nD\nB B A\n")
    (tmp_path / "other.txt").write_text("C A\nB D A\n")
    data = [shutil.copytree(tiny_experiment.data, tmp_path / "sets" / name) for name in ("tr", "dv", "te")]
    words = ["--plan", tmp_path / "plan.yaml", "--asr_train_config", tmp_path / "config.yaml"]
    words += ["--asr_model_file", tmp_path / "model.pth", "--train_dir", data[0], "--dev_dir", data[1]]
    words += ["--test_dirs", data[2], "--text", tmp_path / "held_out.txt", "--ngpu", "0"]
    words += ["--exp_dir", tmp_path / "exp", "--text_kl_text", tmp_path / "other.txt"]

    def study(*options):
        assert adaptation_study.main([*map(str, words), *options]) == 0
        path = tmp_path / "exp/RESULTS.md"
        return path.read_text() if path.is_file() else ""

    return study


@pytest.mark.slow
def test_a_study_ends_with_a_row_a_way_and_is_not_done_twice(study, tmp_path, monkeypatch):
    table = study()
    rows = [line for line in table.splitlines() if line.startswith(("| all", "| added", "| kept"))]
    assert len(rows) == 3
    names = {path.parent.name for path in (tmp_path / "exp").glob("*/result.json")}
    full = [json.loads((tmp_path / "exp" / f"full_lr{lr}_seed0/result.json").read_text()) for lr in ("0.01", "0.1")]
    best = min(full, key=lambda found: (found["best"]["dev_wer"], found["best"]["nats"]))["lr"]
    assert names == {"full_lr0.01_seed0", "full_lr0.1_seed0", f"full_lr{best:g}_seed1", "added_lr0.01_seed0",
                     "kept_lr0.01_seed0"}  # fmt: skip
    added = json.loads((tmp_path / "exp/added_lr0.01_seed0/result.json").read_text())
    assert added["text"]["is_base_when_dropped"] is True
    assert added["text"]["nats_above_base"]["value"] != 0
    assert len(added["points"]) == 2 and set(added["wer"]) == {"dev", "te"}
    assert len((tmp_path / "exp/added_lr0.01_seed0/te/text").read_text().splitlines()) == 7
    assert (tmp_path / "exp/adaptation_study.png").stat().st_size > 1000
    monkeypatch.setattr(running, "Fitting", None)
    assert study().split("- date")[0] == table.split("- date")[0]


def test_nothing_is_trained_for_a_report(study):
    assert study("--report_only") == ""


@pytest.mark.parametrize("option", [(), ("--report_only",)])
def test_runs_that_were_begun_with_something_else_are_not_mixed_in(study, tmp_path, option):
    study("--report_only")
    (tmp_path / "held_out.txt").write_text("A B\n")
    with pytest.raises(ValueError, match=r"was begun with something else \(texts: .*name another"):
        study(*option)
    (tmp_path / "held_out.txt").write_text("A B C\nD\nB B A\n")
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "reference": "kept"}))
    with pytest.raises(ValueError, match=r"something else \(plan: "):
        study(*option)


def test_a_row_that_cannot_be_built_is_told_before_any_learns(study, tmp_path):
    rows = {**PLAN["rows"], "last": {"seeds": [0], "lrs": [0.1], "decoder_conf": {"adaptation": "fulll"}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "rows": rows}))
    with pytest.raises(ValueError, match="adaptation is fulll; allowed"):
        study()
    assert not list((tmp_path / "exp").glob("*/*.pth"))


def test_two_studies_in_one_folder_are_refused(study, tmp_path):
    (tmp_path / "exp").mkdir()
    with (tmp_path / "exp/.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="a study is at work there"):
            study()


def test_sets_of_one_name_are_refused(study, tmp_path):
    with pytest.raises(ValueError, match="names of sets must differ"):
        study("--test_dirs", str(tmp_path / "sets/te"), str(tmp_path / "te"))


@pytest.fixture
def done():
    """A row of runs with given curves (error rate, nats), of an LM with 3 nats before; others were tried."""

    def done(*curves, tried=()):
        def result(curve):
            wer, nats = min(curve)
            return {
                "best": {"dev_wer": wer},
                "points": [{"dev_wer": wer, "nats": nats} for wer, nats in curve],
                "text": {"base_nats": 3.0, "nats_above_base": {"value": nats - 3.0}},
                "shares": [{"part": "LM", "trainable": 100, "total": 100}],
            }

        results = [result(curve) for curve in curves]
        row = Row("a", "a", (0,), (0.1,), None, {}, {})
        return Done(row, 0.1, results, [*results[:1], *map(result, tried)])

    return done


def test_rows_are_compared_at_an_error_rate_that_all_their_runs_reach(done):
    base = done([(60.0, 3.5), (30.0, 4.0)], [(50.0, 3.6), (40.0, 3.75), (35.0, 4.5)], tried=[[(37.0, 3.05)]])
    other = done([(70.0, 3.0), (38.0, 3.25)])
    assert equal_wer(other, base) == 38.0
    assert other.losses_at(38.0) == [0.25]
    assert base.losses_at(38.0) == [1.0, 1.5]
    assert base.losses_at(40.0) == [1.0, 0.75]
    assert base.least_loss_at(38.0) == pytest.approx(0.05)
    assert base.least_loss_at(36.0) == 1.0


def test_the_table_says_both_sides_at_equal_error_rates(done):
    base = done([(60.0, 3.5), (30.0, 4.0)], tried=[[(37.0, 3.05)]])
    other = done([(70.0, 3.0), (38.0, 3.25)])
    assert _at_equal(other, base) == "0.250 beside 1.000: 25 % at 38.0 %; at any rate 0.250 beside 0.050: 500 %"
    assert _at_equal(base, base) == ""
