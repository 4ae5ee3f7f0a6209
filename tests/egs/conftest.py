"""Running shell helpers of egs/utils, and asr.sh on a tiny corpus of noise."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.kaldi_dir import Utterance, write_dir

ROOT = Path(__file__).parents[2]
Recipe = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def bash(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script in an empty folder with all helpers sourced."""
    helpers = "".join(
        f". {ROOT}/egs/utils/{name}.sh; "
        for name in ("log", "options", "jobs", "training", "files", "names", "asr_parts", "scoring_lm", "summary")
    )

    def run(script: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f"set -euo pipefail; {helpers}{script}"]
        # A session of its own, in which a test can send what a Ctrl-C sends: a signal to the whole group.
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Run asr.sh in a recipe whose local/data.sh copies folders that are prepared here."""
    source = tmp_path / "source"
    for name, rate in (("train", 16000), ("dev", 8000), ("test", 16000)):
        utterances = []
        for number in range(3):
            path = source / "audio" / name / f"{number}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.random.default_rng(number).uniform(-0.5, 0.5, rate), rate)
            utterances.append(Utterance(f"s{number}-u", f"s{number}", str(path), f"WORD {'AB'[number % 2]}"))
        write_dir(source / name, utterances)
    (tmp_path / "local").mkdir()
    (tmp_path / "local/data.sh").write_text(
        "#!/usr/bin/env bash\nmkdir -p data && cp -r source/{train,dev,test} data/\n"
    )
    (tmp_path / "local/data.sh").chmod(0o755)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        sets = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--nj", "1", "--ngpu", "0"]
        command = [str(ROOT / "egs/asr.sh"), *sets, "--python", f"{sys.executable} -m espnet_larm", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)

    return run


@pytest.fixture
def calls(recipe: Recipe, tmp_path: Path) -> Callable[..., list[str]]:
    """Run stages of the recipe with a program in place of Python that notes how it was called."""
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n')
    (tmp_path / "python").chmod(0o755)
    for name in ("train", "dev", "test"):
        (tmp_path / "dump/raw" / name).mkdir(parents=True)
        for file in ("text", "wav.scp"):
            (tmp_path / "dump/raw" / name / file).write_text("u1 A\n")
        (tmp_path / "dump/raw" / name / "audio_format").write_text("flac\n")

    def calls(stage: str, *options: str) -> list[str]:
        recipe("--stage", stage, "--stop_stage", stage, "--python", f"{tmp_path}/python", *options)
        return (tmp_path / "calls").read_text().splitlines()

    return calls
