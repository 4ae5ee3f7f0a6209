"""Plans and recipes of seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from studies import runs
from studies.grid.plan import Plan, Row
from studies.grid.running import Recipe

# Takes asr.sh's options that a grid sets, notes how it was called, and does what RECIPE says.
HEAD = """#!/usr/bin/env bash
set -eu
called="$*"
while [ $# -gt 0 ]; do
    case $1 in
        --asr_exp) exp=$2 ;;
        --asr_config) config=$2 ;;
    esac
    shift
done
echo "$called" >> "$exp/calls"
name=$(basename "$exp")
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "POLL_S", 0.01)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe with a body in bash: `$exp` is the run's folder, `$name` its name, `$config` its configuration."""

    def make(body: str, *options: str) -> Recipe:
        # A file of its own: bash reads a script as it goes, and an earlier one may still be at work.
        script = tmp_path / f"run{len(list(tmp_path.glob('run*.sh')))}.sh"
        script.write_text(f"{HEAD}{body}\n")
        script.chmod(0o755)
        return Recipe(script, options)

    return make


@pytest.fixture
def plan() -> Plan:
    """Two rows, of two seeds and of one."""
    return Plan("a", (Row("a", "A", (0, 1), {"encoder": "x"}), Row("b", "B", (0,), {"encoder": "y"})))


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[..., Path]:
    """plan.yaml beside the configuration that it names, with keys replaced."""

    def write(**changes: object) -> Path:
        config = {"encoder": "larm", "encoder_conf": {"clock": True, "num_loops": 6}, "max_epoch": 9}
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        rows = {
            "a": {"title": "A", "seeds": [0, 1]},
            "b": {"seeds": [0], "options": {"encoder_conf": {"clock": False}}},
        }
        values = {"config": "train.yaml", "schedule": {"max_epoch": 2}, "reference": "a", "rows": rows, **changes}
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return write
