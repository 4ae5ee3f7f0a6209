"""Runs of a grid with recipes in bash."""

import os
import signal
import subprocess

import pytest
import yaml

from espnet_larm.origin import commit
from studies.grid import running
from studies.grid.plan import Plan
from studies.grid.running import attempts, failures, is_done, run_grid, write_configs


def calls(exp_dir):
    """How often each run's recipe was called."""
    return {path.parent.name: len(path.read_text().splitlines()) for path in exp_dir.glob("*/calls")}


def run_all(plan, exp_dir, recipe, num_jobs=1):
    return list(run_grid(plan, exp_dir, recipe, num_jobs))


def test_every_run_is_given_to_the_recipe_with_its_configuration_folder_and_seed(plan, tmp_path, make_recipe):
    outcomes = run_all(plan, tmp_path / "exp", make_recipe('echo "$OMP_NUM_THREADS" > "$exp/threads"', "--ngpu", "0"))
    assert [outcome.run.name for outcome in outcomes] == ["a_seed0", "b_seed0", "a_seed1"]
    folder = tmp_path / "exp" / "a_seed1"
    assert (folder / "calls").read_text() == (
        f"--stage train --stop_stage score --asr_config {tmp_path}/exp/conf/a.yaml --asr_exp {folder} "
        "--asr_args --seed 1 --ngpu 0\n"
    )
    assert int((folder / "threads").read_text()) == len(os.sched_getaffinity(0))


def test_an_attempt_is_recorded_with_what_it_ran_on(plan, tmp_path, make_recipe):
    run_all(plan, tmp_path, make_recipe("true"), num_jobs=10**6)
    (record,) = attempts(tmp_path / "a_seed0")
    assert list(record) == ["started", "seconds", "status", "commit", "machine", "threads"]
    assert (record["status"], record["commit"], record["threads"]) == (0, commit(), "1")


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_at_most_num_jobs_run_at_once(plan, tmp_path, make_recipe, num_jobs):
    body = f'mkdir "{tmp_path}/at_work/$name"; ls "{tmp_path}/at_work" | wc -l > "$exp/most"; sleep 0.2\n'
    (tmp_path / "at_work").mkdir()
    run_all(plan, tmp_path / "exp", make_recipe(f'{body}rmdir "{tmp_path}/at_work/$name"'), num_jobs)
    assert max(int(path.read_text()) for path in tmp_path.glob("exp/*/most")) == num_jobs


def test_a_failed_run_does_not_stop_the_others_and_is_run_again(plan, tmp_path, make_recipe):
    outcomes = run_all(plan, tmp_path, make_recipe('[ "$name" != a_seed0 ]'))
    assert [outcome.run.name for outcome in failures(outcomes)] == ["a_seed0"] and len(outcomes) == 3
    assert not is_done(tmp_path / "a_seed0") and is_done(tmp_path / "b_seed0")
    outcomes = run_all(plan, tmp_path, make_recipe("true"))
    assert [outcome.run.name for outcome in outcomes] == ["a_seed0"]
    assert calls(tmp_path) == {"a_seed0": 2, "b_seed0": 1, "a_seed1": 1}
    assert [attempt["status"] for attempt in attempts(tmp_path / "a_seed0")] == [1, 0]


def test_what_a_recipe_says_is_kept(plan, tmp_path, make_recipe):
    for word in ("first", "second"):
        run_all(plan, tmp_path, make_recipe(f"echo {word} >&2; false"))
    assert (tmp_path / "a_seed0" / "grid.log").read_text() == "first\nsecond\n"


def test_sigterm_ends_the_running_ones_which_save_and_are_resumed(plan, tmp_path, make_recipe):
    exp_dir = tmp_path / "exp"
    # The second to start signals the grid, its parent.
    body = """trap 'echo saved > "$exp/saved"; kill $!; exit 75' TERM
        sleep 20 &
        : > "$exp/ready"
        if [ "$name" = b_seed0 ]; then
            while [ ! -f "$exp/../a_seed0/ready" ]; do sleep 0.01; done
            kill -TERM $PPID
        fi
        wait"""
    with pytest.raises(KeyboardInterrupt):
        run_all(plan, exp_dir, make_recipe(body), num_jobs=2)
    assert {path.parent.name for path in exp_dir.glob("*/saved")} == {"a_seed0", "b_seed0"}
    assert [attempts(exp_dir / name)[-1]["status"] for name in ("a_seed0", "b_seed0")] == [75, 75]
    assert len(run_all(plan, exp_dir, make_recipe("true"))) == 3


def test_the_grid_listens_to_sigterm_while_it_runs_only(plan, tmp_path, make_recipe):
    before = signal.getsignal(signal.SIGTERM)
    run_all(plan, tmp_path, make_recipe("true"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_reader_that_stops_ends_the_running_ones(plan, tmp_path, make_recipe):
    outcomes = run_grid(plan, tmp_path, make_recipe('[ "$name" = a_seed0 ] || exec sleep 20'), 2)
    next(outcomes)
    outcomes.close()
    assert attempts(tmp_path / "b_seed0")[-1]["status"] == -signal.SIGTERM


def test_a_run_that_still_works_is_not_started_twice(plan, tmp_path, make_recipe, monkeypatch):
    monkeypatch.setattr(running, "LOCK_PATIENCE_S", 0.0)
    # What a grid leaves behind that was killed.
    (tmp_path / "a_seed0").mkdir()
    with (tmp_path / "a_seed0" / "grid.log").open("ab") as log:
        import fcntl

        fcntl.flock(log, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["sleep", "20"], stdout=log)
    try:
        with pytest.raises(ValueError, match="a_seed0 is still at work"):
            run_all(plan, tmp_path, make_recipe("true"))
    finally:
        orphan.kill()
        orphan.wait()
    assert len(run_all(plan, tmp_path, make_recipe("true"))) == 3


def test_a_process_that_lingers_for_a_moment_is_waited_for(plan, tmp_path, make_recipe):
    (tmp_path / "a_seed0").mkdir()
    with (tmp_path / "a_seed0" / "grid.log").open("ab") as log:
        import fcntl

        fcntl.flock(log, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["sleep", "0.3"], stdout=log)
    assert len(run_all(plan, tmp_path, make_recipe("true"))) == 3
    assert orphan.wait() == 0


def test_a_recipe_at_work_holds_its_log(plan, tmp_path, make_recipe, monkeypatch):
    monkeypatch.setattr(running, "LOCK_PATIENCE_S", 0.0)
    outcomes = run_grid(plan, tmp_path, make_recipe('[ "$name" = a_seed0 ] || exec sleep 20'), 2)
    next(outcomes)
    with pytest.raises(ValueError, match="b_seed0 is still at work"):
        run_all(plan, tmp_path, make_recipe("true"))
    outcomes.close()


def test_configurations_are_written_a_row(plan, tmp_path):
    write_configs(plan, tmp_path)
    found = {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "conf").iterdir()}
    assert found == {"a.yaml": {"encoder": "x"}, "b.yaml": {"encoder": "y"}}


def test_a_plan_that_changed_before_the_start_is_written(plan, tmp_path):
    for changed in (plan, Plan("a", (plan.rows[0]._replace(config={"encoder": "z"}),))):
        write_configs(changed, tmp_path)
    assert yaml.safe_load((tmp_path / "conf/a.yaml").read_text()) == {"encoder": "z"}


@pytest.mark.parametrize("begun", ["grid.json", "grid.log"], ids=["ended_once", "in_its_first_attempt"])
def test_a_plan_that_changed_after_the_start_is_refused(plan, tmp_path, begun):
    write_configs(plan, tmp_path)
    (tmp_path / "a_seed1").mkdir()
    (tmp_path / "a_seed1" / begun).write_text("[]")
    changed = Plan("a", (plan.rows[0]._replace(config={"encoder": "z"}), plan.rows[1]))
    with pytest.raises(ValueError, match="a_seed1 was begun with another configuration than the plan now has for a"):
        write_configs(changed, tmp_path)
    write_configs(plan, tmp_path)


def test_configurations_that_are_as_they_were_are_left_alone(plan, tmp_path):
    # A recipe may be reading them.
    write_configs(plan, tmp_path)
    before = (tmp_path / "conf/a.yaml").stat()
    write_configs(plan, tmp_path)
    after = (tmp_path / "conf/a.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
