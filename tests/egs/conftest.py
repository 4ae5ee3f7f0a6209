"""Running shell helpers of egs/utils."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a script in an empty folder with all helpers sourced."""
    helpers = "".join(
        f". {ROOT}/egs/utils/{name}.sh; "
        for name in ("log", "options", "jobs", "training", "files", "names", "asr_parts", "summary")
    )

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f"set -euo pipefail; {helpers}{script}"]
        # A session of its own, in which a test can send what a Ctrl-C sends: a signal to the whole group.
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, start_new_session=True
        )

    return run
