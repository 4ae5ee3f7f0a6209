"""How programs end."""

from pathlib import Path

import pytest

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.program import run_program
from espnet_larm.recipe.perturb_speed import perturb_speed


def test_status_of_a_program_is_handed_on():
    assert run_program(lambda: 75) == 75


def test_an_error_that_the_package_states_is_a_sentence(capsys, tmp_path):
    assert run_program(lambda: len(perturb_speed([], ["1.0", "1"], tmp_path, 8000, 1))) == 1
    assert capsys.readouterr().err.startswith("ERROR: --speed_perturb_factors has a factor twice")


def test_an_error_of_the_system_is_a_sentence(capsys, tmp_path):
    assert run_program(lambda: len(read_table(tmp_path / "text"))) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bug", [lambda: int("x"), lambda: len(3), lambda: Path("a").relative_to("b")])
def test_an_error_that_nobody_stated_keeps_its_traceback(capsys, bug):
    assert run_program(bug) == 1
    written = capsys.readouterr().err
    assert written.startswith("Traceback") and "test_program.py" in written
    assert written.splitlines()[-1].startswith("ERROR: ")


def test_an_error_of_another_kind_is_raised():
    with pytest.raises(KeyError):
        run_program(lambda: {}["x"])
