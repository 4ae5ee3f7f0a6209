"""The one command: its version, and the help of each command, which is fast and has examples."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_larm.__main__ import main
from espnet_larm.cli.commands import COMMANDS, IN_PLACE_OF, STAGE, describe_commands
from espnet_larm.cli.decode import options_of_ours
from espnet_larm.cli.train import PROGRAMS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_that_name_the_command(name):
    # tests/test_process.py shows that it waits for no slow import.
    command = [sys.executable, "-m", "espnet_larm", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=True)
    assert re.search(r"^Examples:\n    \S", done.stdout, re.MULTILINE), done.stdout
    assert f"espnet_larm {name} " in done.stdout or f"espnet-larm {name}" in done.stdout
    for option in re.findall(r"--\w+", COMMANDS[name].example) if name != "train" else []:
        assert option in done.stdout, option


def test_commands_stand_in_groups_with_an_example_each_that_a_user_types(capsys):
    assert main(["--help"]) == 0
    assert describe_commands() in capsys.readouterr().out
    lines = describe_commands().splitlines()
    assert [line for line in lines if line.endswith(":")] == [
        "To use a model:",
        "To train a model of your own:",
        "To look:",
        "The stages of a recipe, in their order:",
    ]
    for name, command in COMMANDS.items():
        (line,) = [index for index, line in enumerate(lines) if line.split()[:1] == [name]]
        if command.group != STAGE and name != "doctor":
            assert lines[line + 1].strip() == f"espnet-larm {name} {command.example}"


def examples_in(text):
    """Words of the calls of espnet-larm below `Examples:`, as a shell splits them."""
    (block,) = re.findall(r"^Examples:\n((?:    .*\n)+)", f"{text}\n", re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "espnet-larm" in words:
            yield words[words.index("espnet-larm") + 1 :]
        else:
            # Continued lines without a backslash, and remarks without their sign, begin with other words.
            assert words[0] == "curl", line


def parser_of(words):
    """The parser that reads a call, and the arguments that it reads."""
    name, *arguments = words
    if name == "-m":
        (name,) = IN_PLACE_OF[arguments.pop(0)]
    if name == "train":
        module_name, _, class_name = PROGRAMS[arguments.pop(0)].partition(":")
        return getattr(importlib.import_module(module_name), class_name).get_parser(), arguments
    return importlib.import_module(COMMANDS[name].module).get_parser(), arguments


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_read_by_the_commands_parser_as_they_are_pasted(name, tmp_path, monkeypatch):
    """Each example, and that of `espnet-larm --help`."""
    monkeypatch.chdir(tmp_path)
    # Parsers of ESPnet's read it at once.
    (tmp_path / "exp/asr").mkdir(parents=True)
    (tmp_path / "exp/asr/config.yaml").write_text("{}\n")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    command = COMMANDS[name]
    calls = list(examples_in(importlib.import_module(command.module).__doc__))
    assert calls
    for call in [*calls, *([[name, *shlex.split(command.example)]] if command.example else [])]:
        parser, arguments = parser_of(call)
        if arguments == ["--help"]:
            continue
        read = parser.parse_args(arguments)
        # A remark without its sign would name further recordings.
        assert len(getattr(read, "recordings", [])) < 2, call


def test_the_version_names_what_results_depend_on(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(
        r"espnet-larm \S+ \(espnet \S+, torch \S+, transformers \S+, Python \S+\)\n", capsys.readouterr().out
    )


def test_names_of_options_are_alike_in_all_commands():
    """One name for the folder that a command writes, one for where it computes, and no other case or dashes.

    The speech encoder's folder has the same two names in all, and a boolean is a bare flag.
    """
    for name in COMMANDS:
        module = importlib.import_module(COMMANDS[name].module)
        if not hasattr(module, "get_parser"):
            continue
        parser = module.get_parser()
        # The other options of decode are ESPnet's.
        actions = options_of_ours(parser) if name == "decode" else parser._actions
        assert not [action.option_strings for action in actions if {"true", "false"} <= set(action.choices or ())], name
        options = {option for action in actions for option in action.option_strings}
        assert len(options & {"--encoder_folder", "--encoder"}) != 1, name
        # The planner's --gpu is the memory of a GPU, which need not be here.
        others = {"--gpu"} if name != "plan" else set()
        assert not options & {"--out_dir", "--out", "--outdir", "--output-dir", *others}, name
        assert not [option for option in options if re.search(r"[A-Z]|\w-\w", option)], name
