"""egs/an4/run_baselines.sh: what it prepares, and what it calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

EGS = Path(__file__).parents[2] / "egs"


@pytest.fixture
def call(tmp_path):
    """Runs a copy of the script, whose recipe and python3 only note how they were called."""
    recipe = tmp_path / "egs/an4"
    recipe.mkdir(parents=True)
    shutil.copytree(EGS / "utils", tmp_path / "egs/utils")
    shutil.copy(EGS / "an4/run_baselines.sh", recipe)
    (recipe / "path.sh").write_text("")
    (tmp_path / "conf/an4").mkdir(parents=True)
    (tmp_path / "conf/an4/baselines.yaml").write_text("")
    for path in (recipe / "run.sh", tmp_path / "venv/bin/python3"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/usr/bin/env bash\necho "{path.name} $*" >> "{tmp_path}/calls"\n')
        path.chmod(0o755)

    def call(*options, folder=None):
        command = [recipe / "run_baselines.sh", *options]
        environment = {**os.environ, "ESPNET_LARM_VENV": str(tmp_path / "venv")}
        subprocess.run(command, check=True, cwd=folder, env=environment, capture_output=True)
        return (tmp_path / "calls").read_text().splitlines()

    return call


def test_data_are_prepared_before_the_grid_is_called(call):
    prepared, grid = call("--ngpu", "0", "--num_jobs", "2")
    assert prepared == "run.sh --ngpu 0 --stop_stage stats"
    assert grid.startswith("python3 -m studies.grid.run --plan ../../conf/an4/baselines.yaml --recipe run.sh ")
    assert grid.endswith("--num_jobs 2 -- --ngpu 0")


def test_a_relative_folder_of_the_corpus_is_the_callers(call, tmp_path):
    (tmp_path / "elsewhere/corpus").mkdir(parents=True)
    prepared, grid = call("--an4_root", "corpus", folder=tmp_path / "elsewhere")
    options = f"--ngpu 1 --an4_root {tmp_path}/elsewhere/corpus"
    assert prepared == f"run.sh {options} --stop_stage stats" and grid.endswith(f" -- {options}")


def test_features_of_streams_are_normalised_alike_in_all_runs(call):
    prepared, grid = call("--feats_normalize", "global_mvn")
    assert "--feats_normalize global_mvn" in prepared and grid.endswith(" -- --ngpu 1 --feats_normalize global_mvn")


def test_a_report_alone_prepares_nothing(call):
    (grid,) = call("--report_only", "true")
    assert grid.endswith("--report_only -- --ngpu 1")
