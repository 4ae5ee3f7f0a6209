"""Options that nothing can be built with: one sentence that names them instead of a traceback.

Classes check their options as they are built, ESPnet's by typeguard and by bare asserts too. What a `raise` of theirs
says is a sentence; what typeguard and asserts say is traced back to the option of the YAML. All else is a bug, and
keeps its traceback.
"""

import argparse
import ast
import contextlib
import logging
import re
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from typeguard import TypeCheckError

from espnet_larm import registry
from espnet_larm.errors import OptionError, is_stated

logger = logging.getLogger(__name__)

# They check what a YAML says, as plugins do.
CHECKING = ("espnet", "espnet2", "torch.optim")


@contextlib.contextmanager
def ends_with_a_sentence() -> Iterator[None]:
    """Let an OptionError end the program with status 1 and its sentence on stderr, in spawned processes too."""
    try:
        yield
    except OptionError as error:
        logger.debug("Where the option was refused:", exc_info=True)
        raise SystemExit(f"ERROR: {error}") from None


@contextlib.contextmanager
def traced_to_options(args: argparse.Namespace) -> Iterator[None]:
    """Make an OptionError of what building raises because of an option.

    Args:
        args: What is built from.
    """
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:
        plugins = {plugin.path.partition(":")[0].partition(".")[0] for plugin in registry.plugins()}
        if not is_stated(error, (*CHECKING, *plugins)):
            raise
        raise OptionError(str(error)) from error
    except (TypeError, TypeCheckError, AssertionError) as error:
        sentence = _broken_rule(args, error) if isinstance(error, AssertionError) else _wrong_kind(args)
        if sentence is None:
            raise
        raise OptionError(sentence) from error


def take_null_for_nothing(args: argparse.Namespace) -> None:
    """Make `x_conf: null`, which is what a YAML says with no line below `x_conf:`, an empty set of options.

    Raises:
        ValueError: Some `x_conf` is neither null nor a set of options.
    """
    for name, value in vars(args).items():
        if not name.endswith("_conf"):
            continue
        if value is None:
            setattr(args, name, {})
        elif not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}; allowed: options, a line `name: value` each, or nothing.")


def check_gpus(ngpu: int) -> None:
    """Refuse to train on GPUs that are not there.

    Raises:
        OptionError: There are fewer.
    """
    if ngpu > (found := torch.cuda.device_count()):
        raise OptionError(
            f"--ngpu is {ngpu}, but torch sees {found} GPUs here (`python -m espnet_larm doctor` tells more). "
            "Set it to their number; --ngpu 0 trains on the CPU."
        )


def _confs(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, conf in vars(args).items():
        if name.endswith("_conf") and isinstance(conf, dict):
            yield name, conf


def _wrong_kind(args: argparse.Namespace) -> str | None:
    """The first option whose value is not of its type."""
    for kind in registry.checked_kinds():
        if sentence := registry.find_wrong_type(
            kind, getattr(args, kind, None), getattr(args, f"{kind}_conf", None) or {}
        ):
            return sentence
    for name, conf in _confs(args):
        for key, value in conf.items():
            if isinstance(value, str) and _is_number(value):
                return (
                    f"{name}: {key} is {value!r}, which YAML reads as text; write the number without quotes, and "
                    "1e-3 as 1.0e-3."
                )
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _broken_rule(args: argparse.Namespace, error: AssertionError) -> str | None:
    """The options in the condition of an assert, and the condition."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    rule = _condition(frame.line or "")
    values = [
        f"{name}: {key} is {value!r}"
        for name, conf in _confs(args)
        for key, value in conf.items()
        if re.search(rf"(?<![\w.]){re.escape(key)}\b", rule)
    ]
    if not values:
        return None
    return f"{', '.join(values)}; allowed is what fulfils {rule} ({frame.filename}:{frame.lineno})."


def _condition(line: str) -> str:
    """That of an assert, without its message."""
    try:
        statement = ast.parse(line).body[0]
    except (SyntaxError, IndexError):
        return line
    return ast.unparse(statement.test) if isinstance(statement, ast.Assert) else line
