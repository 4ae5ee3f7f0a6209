"""Options said once: ranges, types, help, and what a command line gives."""

import argparse
import importlib
import re
from dataclasses import dataclass
from typing import Annotated

import pytest

from espnet_larm.options import (
    Option,
    add_options,
    check_options,
    check_parameters,
    describe,
    given_options,
    option,
    options_of,
)


@dataclass(frozen=True)
class Config:
    width: int = option(1, "hypotheses in the beam", least=1, note="1 is greedy")
    weight: float | None = option(None, "weight of CTC", least=0.0, most=1.0, unset="as trained")
    seconds: float = option(2.5, "length of a piece", above=0.0)
    rate: float = option(0.1, "dropout", least=0.0, below=1.0)
    kind: str = option("heads", "source of drafts", choices=("heads", "ctc"))
    cuts: bool = option(True, "cut loops")
    apart: str | None = option(None, "an option of the program's own", is_apart=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width is 0; allowed: 1 or more (1 is greedy)."),
        ({"weight": 1.5}, "weight is 1.5; allowed: 0 to 1."),
        ({"weight": float("nan")}, "weight is nan; allowed: 0 to 1."),
        ({"seconds": 0.0}, "seconds is 0.0; allowed: above 0."),
        ({"seconds": float("inf")}, "seconds is inf; allowed: above 0."),
        ({"rate": 1.0}, "rate is 1.0; allowed: 0 to below 1."),
        ({"kind": "all"}, "kind is all; allowed: heads, ctc."),
    ],
)
def test_values_out_of_range_are_refused_with_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_options(Config(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 1.5}, "width is 1.5; allowed: a whole number."),
        ({"width": True}, "width is True; allowed: a whole number."),
        ({"seconds": "2"}, "seconds is '2'; allowed: a number."),
        ({"cuts": 1}, "cuts is 1; allowed: true or false."),
        ({"kind": None}, "kind is None; allowed: a text."),
    ],
)
def test_values_of_other_types_are_refused(values, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_options(Config(**values))


def test_values_in_range_pass():
    check_options(Config(width=4, weight=1.0, seconds=1, rate=0.0, kind="ctc", cuts=False, apart="x"))
    check_options(Config())


def test_help_says_range_note_and_default():
    said = {name: describe(each, default) for name, each, _, default in options_of(Config)}
    assert said["width"] == "hypotheses in the beam (1 or more; 1 is greedy; default: 1)"
    assert said["weight"] == "weight of CTC (0 to 1; default: as trained)"
    assert said["kind"] == "source of drafts (heads, ctc; default: heads)"
    assert said["cuts"] == "cut loops (default: true)" and said["apart"] == "an option of the program's own"


def test_a_command_line_gives_what_it_names_alone():
    parser = argparse.ArgumentParser()
    add_options(parser, Config, "ours")
    args = parser.parse_args(["--width", "3", "--cuts", "false"])
    assert given_options(Config, args) == {"width": 3, "cuts": False} and not hasattr(args, "apart")
    with pytest.raises(SystemExit):
        parser.parse_args(["--cuts", "perhaps"])


def test_parameters_are_checked_by_their_annotations():
    def build(width: Annotated[int, Option("blocks", least=1)] = 1, other: int = 0) -> None:
        """Annotated, and not."""

    check_parameters(build, {"width": 1, "other": -1}, "encoder_conf")
    with pytest.raises(ValueError, match="encoder_conf: width is 0; allowed: 1 or more"):
        check_parameters(build, {"width": 0, "other": 0}, "encoder_conf")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("format_audio", ["--in_dir", "x", "--output_dir", "y", "--fs", "-8000"], "--fs: -8000; allowed: 1 to 1000000"),
        ("perturb_speed", ["--in_dir", "x", "--output_dir", "y", "--nj", "-1"], "--nj: -1; allowed: 1 to 1024"),
        ("validation.validate", ["--data_dirs", "x", "--show", "-2"], "--show: -2; allowed: 0 or more"),
        ("filter_lengths", ["--in_dir", "x", "--min_wav_duration", "nan"], "duration: nan; allowed: 0 or more"),
        ("corpora.synthesise", ["--output_dir", "x", "--minutes", "1e9"], "--minutes: 1e9; allowed: above 0 to 100000"),
        (
            "corpora.synthesise",
            ["--output_dir", "x", "--seed", "99999999999"],
            "--seed: 99999999999; allowed: 0 to 42949672",
        ),
    ],
)
def test_ranges_of_several_commands_are_said_alike(command, words, message, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"espnet_larm.recipe.{command}").main(words)
    assert message in capsys.readouterr().err
