"""`espnet-larm COMMAND`, or `python -m espnet_larm COMMAND`: one command for everything here.

    espnet-larm transcribe talk.m4a                              # what a recording says
    espnet-larm COMMAND --help                                   # what a command does, its options, examples
    espnet-larm --version                                        # versions of this package, ESPnet and torch
    espnet-larm -m espnet2.bin.asr_train --help                  # ESPnet's program, or ours in its place
    espnet-larm --upstream -m espnet2.bin.asr_inference --help   # ESPnet's own, with the plugins registered
    espnet-larm script.py                                        # a script, with the plugins registered

A stock recipe takes it as `asr.sh --python "python3 -m espnet_larm"`.
"""

import contextlib
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import runpy
import sys
from pathlib import Path

from espnet_larm import process
from espnet_larm.cli.commands import COMMANDS, IN_PLACE_OF, describe_commands
from espnet_larm.version import __version__

REGISTERED = "espnet_larm.registered"
ASR_TRANSDUCER = (
    "its encoder is made of blocks, without a choice of encoders; decoder: transducer of asr_train has one."
)
# Programs for recognisers that look up no plugin, and why.
WITHOUT_PLUGINS = {f"espnet2.bin.asr_transducer_{what}": ASR_TRANSDUCER for what in ("train", "inference")}


def main(argv: list[str] | None = None) -> int:
    """Run the command, module or script that the arguments name.

    Args:
        argv: Arguments after `python -m espnet_larm`; those of this process by default.

    Returns:
        The exit status of a command; modules and scripts run as by Python itself and exit for themselves.
    """
    process.set_up()
    arguments = list(sys.argv[1:] if argv is None else argv)
    upstream = arguments[:1] == ["--upstream"]
    if upstream:
        del arguments[0]
    if not arguments or arguments[0] in ("-h", "--help", "--version"):
        with process.ends_with_its_reader():
            print(_versions() if arguments[:1] == ["--version"] else f"{__doc__}{describe_commands()}")
        return 0 if arguments else 2
    if arguments[0] in COMMANDS:
        return _run_command(arguments[0], arguments[1:])
    if arguments[0] == "-m":
        return _run_module(arguments[1:], upstream)
    if arguments[0].startswith("-"):
        print(f"{arguments[0]} is not understood; allowed: a command, -m MODULE, a script.", file=sys.stderr)
        return 2
    if not (Path(arguments[0]).is_file() or (Path(arguments[0]) / "__main__.py").is_file()):
        print(_no_such_word(arguments[0]), file=sys.stderr)
        return 2
    _register()
    sys.argv = arguments
    # As Python does for a script, and runpy does not: recipes keep helpers beside their scripts.
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


def _versions() -> str:
    """One line; metadata is read, so that nothing slow is imported."""
    others = []
    for name in ("espnet", "torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            others.append(f"{name} {importlib.metadata.version(name)}")
    return f"espnet-larm {__version__} ({', '.join([*others, f'Python {platform.python_version()}'])})"


def _run_command(name: str, arguments: list[str]) -> int:
    # argparse and the logs name the program by it.
    sys.argv = [f"espnet-larm {name}", *arguments]
    if COMMANDS[name].is_run_as_program:
        return _run_as_program(COMMANDS[name].module, sys.argv)
    process.hide_remarks()
    # What a program needs is imported when it runs: help must not wait for torch.
    from espnet_larm.program import run_program

    return run_program(importlib.import_module(COMMANDS[name].module).main)


def _no_such_word(word: str) -> str:
    near = difflib.get_close_matches(word.lower().replace("_", "-"), COMMANDS, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return (
        f"{word} is no command, and no script of that name is here. {hint}"
        f"Allowed: {', '.join(COMMANDS)}, -m MODULE, a script."
    )


def _run_module(arguments: list[str], upstream: bool) -> int:
    if not arguments:
        print("-m needs a module, espnet2.bin.asr_train for example", file=sys.stderr)
        return 2
    module = arguments[0]
    ours = [] if upstream else IN_PLACE_OF.get(module, [])
    if len(ours) == 1 and ours[0] in COMMANDS:
        return _run_command(ours[0], arguments[1:])
    if ours:
        return _run_as_program(ours[0], [*ours, *arguments[1:]])
    if not _is_there(module):
        print(f"-m {module}: there is no such module here; espnet2.bin.asr_train is one, for example", file=sys.stderr)
        return 2
    if module in WITHOUT_PLUGINS:
        print(f"{module} knows no plugins: {WITHOUT_PLUGINS[module]}", file=sys.stderr)
    return _run_as_program(module, arguments)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A package above it is missing.
        return False


def _run_as_program(module: str, argv: list[str]) -> int:
    """Run a module as `__main__`: processes that it spawns import it by its name."""
    _register()
    sys.argv = argv
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _register() -> None:
    """Register in this process, and in the workers that Dask starts for ESPnet3."""
    importlib.import_module(REGISTERED)
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PRELOAD", repr([REGISTERED]))


if __name__ == "__main__":
    sys.exit(main())
