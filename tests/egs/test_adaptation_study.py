"""egs/adaptation_study.sh and the run_study.sh of the recipes: what they cut, and what they call."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = [f"LINE {number}" for number in range(10)]


@pytest.fixture(params=["an4", "librispeech", "read_speech"])
def call(request, tmp_path):
    """Runs a copy of a recipe's script, whose python3 only notes how it was called; gives that."""
    recipe = tmp_path / "egs" / request.param
    recipe.mkdir(parents=True)
    shutil.copytree(ROOT / "egs/utils", tmp_path / "egs/utils")
    shutil.copy(ROOT / "egs/adaptation_study.sh", tmp_path / "egs")
    shutil.copy(ROOT / "egs" / request.param / "run_study.sh", recipe)
    (recipe / "path.sh").write_text("")
    plan = tmp_path / "conf" / request.param / "adaptation_study.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text("")
    (recipe / "exp/trained").mkdir(parents=True)
    (recipe / "exp/trained/latest.pth").write_text("")
    with gzip.open(tmp_path / "text.gz", "wt") as file:
        file.writelines(f"{line}\n" for line in LINES)
    python = tmp_path / "venv/bin/python3"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\necho "$*" > "{tmp_path}/call"\n')
    python.chmod(0o755)

    def call(*options, exp="exp/trained"):
        words = [recipe / "run_study.sh", "--asr_exp", exp, "--text", tmp_path / "text.gz", *options]
        environment = {**os.environ, "ESPNET_LARM_VENV": str(tmp_path / "venv")}
        done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, check=False)
        return done.returncode, (tmp_path / "call").read_text() if done.returncode == 0 else done.stderr

    call.recipe = recipe
    return call


def test_the_text_is_cut_in_two_and_the_program_called(call):
    status, called = call("--held_out_lines", "3", "--text_kl_lines", "4", "--ngpu", "0", "--num_jobs", "2")
    assert status == 0, called
    folder = call.recipe / "exp/adaptation_study"
    # Gemma's words are in small letters.
    lines = [line.lower() for line in LINES] if call.recipe.name == "read_speech" else LINES
    assert (folder / "text_last_3.txt").read_text().splitlines() == lines[-3:]
    assert (folder / "text_first_4.txt").read_text().splitlines() == lines[:4]
    assert called.startswith(f"-m studies.adaptation.run --plan ../../conf/{call.recipe.name}/adapt")
    assert "--text exp/adaptation_study/text_last_3.txt --max_lines 500" in called
    assert called.rstrip().endswith("--ngpu 0 --num_jobs 2") and "--test_dirs dump/raw/test" in called


def test_a_text_that_is_too_short_for_both_parts_is_refused(call):
    status, said = call("--held_out_lines", "6", "--text_kl_lines", "5")
    assert status == 2 and "has 10 lines, too few for --held_out_lines 6" in said


def test_letters_of_another_case_than_an_lm_has_are_refused(call):
    status, said = call("--case", "upper")
    assert status == 2 and "--case upper is not known; allowed: keep, lower" in said


def test_a_model_that_is_not_trained_is_named(call):
    status, said = call(exp="exp/none")
    assert status == 2 and "--asr_exp exp/none: no latest.pth; train the model first" in said


def test_a_text_that_is_not_there_is_named(call):
    status, said = call("--text", "none.txt")
    assert status == 2 and "--text none.txt: no such file" in said
