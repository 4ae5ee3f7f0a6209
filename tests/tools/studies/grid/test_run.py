"""A grid end to end with a recipe that takes no time."""

import pytest
import yaml

from espnet_larm.origin import commit
from studies import runs
from studies.grid.run import count_parameters, main

# What training, decoding and scoring leave, as far as a grid reads it; `b` has one word of four wrong.
RECIPE = """#!/usr/bin/env bash
set -eu
called="$*"
while [ $# -gt 0 ]; do
    case $1 in --asr_exp) exp=$2 ;; --asr_config) config=$2 ;; esac
    shift
done
{behave}
mkdir -p "$exp/decode/test"
word=A; ! grep -q 'clock: false' "$config" || word=X
printf 'u1 %s B\\nu2 C D\\n' "$word" > "$exp/decode/test/text"
echo 'Model summary: Total Number of model parameters: 785.73 K' > "$exp/train.log"
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Calls the program; `behave` is what the recipe does before it is done."""
    monkeypatch.setattr(runs, "POLL_S", 0.01)
    (tmp_path / "ref").mkdir()
    (tmp_path / "ref/text").write_text("u1 A B\nu2 C D\n")
    (tmp_path / "train.yaml").write_text("encoder_conf: {clock: true}\n")
    rows = {
        "a": {"title": "with the clock", "seeds": [0, 1]},
        "b": {"title": "without", "seeds": [0], "options": {"encoder_conf": {"clock": False}}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"config": str(tmp_path / "train.yaml"), "rows": rows}))

    def call(*options, behave=":"):
        script = tmp_path / "run.sh"
        script.write_text(RECIPE.replace("{behave}", behave))
        script.chmod(0o755)
        paths = ["--plan", "plan.yaml", "--recipe", "run.sh", "--exp_dir", "exp", "--ref_dir", "ref"]
        return main(
            [*(part if "--" in part else str(tmp_path / part) for part in paths), "--decoded", "decode/test", *options]
        )

    call.exp_dir = tmp_path / "exp"
    call.ref_dir = tmp_path / "ref"
    return call


def test_all_rows_are_trained_and_compared_with_the_reference(grid):
    assert grid() == 0
    lines = (grid.exp_dir / "RESULTS.md").read_text().splitlines()
    assert "| with the clock | 0.79 M | 0.0 | 0.0 | 0.0 | 0.0, 0.0 |  |  |  | 0 |" in lines
    assert "| without | 0.79 M | 25.0 | 0.0 | 50.0 | 25.0 | +25.0 | +0.0 | +50.0 | 0 |" in lines
    assert "- runs: 3 of 3; seeds 0, 1" in lines and "test data: " in "".join(lines)
    assert f"- commits: {commit()}" in lines
    assert "(grid.png)" in "\n".join(lines) and (grid.exp_dir / "grid.png").is_file()


def test_a_failed_run_is_named_and_the_others_are_reported(grid, capsys):
    fails = '[ "$(basename "$exp")" != b_seed0 ]'
    assert grid(behave=fails) == 1
    assert "ERROR: b_seed0 ended with status 1: " in capsys.readouterr().err
    assert "- runs: 2 of 3; " in (grid.exp_dir / "RESULTS.md").read_text()
    assert grid() == 0


def test_an_interrupted_grid_ends_with_status_75_and_is_resumed(grid):
    signals = (
        '[ "$(basename "$exp")" != b_seed0 ] || { trap "exit 75" TERM; kill -TERM $PPID; while :; do sleep 0.1; done; }'
    )
    assert grid(behave=signals) == 75
    assert "- runs: 1 of 3; " in (grid.exp_dir / "RESULTS.md").read_text()
    assert grid() == 0


def test_a_report_alone_trains_nothing(grid, capsys):
    assert grid("--report_only") == 0
    assert "no run is done yet" in capsys.readouterr().out
    assert not grid.exp_dir.exists()


def test_options_behind_two_dashes_go_to_the_recipe(grid):
    assert grid("--", "--ngpu", "0", behave='echo "$called" > "$exp/called"') == 0
    assert (grid.exp_dir / "a_seed1/called").read_text().endswith("--asr_args --seed 1 --ngpu 0\n")


@pytest.mark.parametrize("option", ["--asr_args", "--asr-exp", "--stage=train"])
def test_options_that_would_override_a_runs_own_are_refused(grid, option):
    with pytest.raises(ValueError, match="after -- would override what the grid gives each run"):
        grid("--", "--ngpu", "0", option, "value")
    assert not (grid.exp_dir / "a_seed0").exists()


def test_a_missing_reference_is_said_before_anything_is_trained(grid):
    (grid.ref_dir / "text").unlink()
    with pytest.raises(FileNotFoundError, match="--ref_dir .*/ref: text is missing"):
        grid()
    assert not grid.exp_dir.exists()


def test_no_jobs_are_refused(grid):
    with pytest.raises(ValueError, match="--num_jobs 0 must be at least 1"):
        grid("--num_jobs", "0")


@pytest.mark.parametrize(("text", "number"), [("785.73 K", 785730), ("1.20 M", 1200000), ("93.00  ", 93)])
def test_parameters_are_read_from_espnets_summary(tmp_path, text, number):
    (tmp_path / "train.log").write_text(f"x\n    Total Number of model parameters: {text}\n")
    assert count_parameters(tmp_path / "train.log") == number


def test_a_log_without_a_summary_is_named(tmp_path):
    (tmp_path / "train.log").write_text("cut\n")
    with pytest.raises(ValueError, match=r"train\.log: the number of the model's parameters is not in it"):
        count_parameters(tmp_path / "train.log")
