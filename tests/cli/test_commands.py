"""What all commands share."""

import importlib

import pytest

from espnet_larm.cli.commands import COMMANDS
from espnet_larm.recipe import join_outputs


def test_the_beginning_of_an_option_is_not_taken_for_it(capsys):
    with pytest.raises(SystemExit):
        join_outputs.main(["--input_dirs", "a", "--output_dir", "b", "--input_dir", "c"])
    assert "unrecognized arguments: --input_dir c" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("doctor", "list", "train")])
def test_no_command_takes_beginnings_of_options(name):
    assert not importlib.import_module(COMMANDS[name].module).get_parser().allow_abbrev


def test_no_training_takes_beginnings_of_options(larm_task):
    assert not larm_task.get_parser().allow_abbrev
