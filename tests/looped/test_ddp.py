"""LarmEncoder in two processes: no parameter is unused in any variant, and the processes stay alike."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
VARIANTS = {
    "as it comes": {},
    "one loop": {"num_loops": 1, "checkpoint_period": 1},
    "one checkpoint": {"checkpoint_period": 3},
    "no feedback": {"feedback": False},
    "top-k feedback": {"feedback_top_k": 3},
    "no skip": {"skip": False},
    "naive loop": {"clock": False, "film": False, "feedback": False, "skip": False},
    "blocks of its own a loop": {"share_blocks": False},
    "conformer": {"block": "conformer"},
    "activations computed again": {"activation_checkpointing": True},
    "chunks drawn": {
        "block": "conformer",
        "streaming": {"chunk_frames": ["full", 1, 4], "left_chunks": [0, "all"]},
    },
    "loops drawn": {"loop_sampling": "uniform", "num_loops": 4, "checkpoint_period": 1},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the two processes report of each variant."""
    store = tmp_path_factory.mktemp("ddp") / "store"
    command = [sys.executable, str(HERE / "ddp_worker.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(store), json.dumps(VARIANTS)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [error[-3000:] for _, error in outputs]
    lines = [json.loads(line) for line in outputs[0][0].splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(results, variant):
    assert results[variant]["without"] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_processes_stay_alike_to_the_bit(results, variant):
    assert results[variant]["same"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_get_the_mean_of_their_gradients(results, variant):
    # Sums in another order.
    assert results[variant]["difference"] < 1e-5
