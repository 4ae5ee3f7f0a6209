"""`python -m espnet_larm ...` runs like `python ...`, with our plugins registered in ESPnet.

    python -m espnet_larm -m espnet2.bin.asr_train ...             our bin.asr_train, since there is one
    python -m espnet_larm --upstream -m espnet2.bin.asr_inference  ESPnet's own, with the plugins registered
    python -m espnet_larm script.py ...                            a script, with the plugins registered
    python -m espnet_larm list | doctor                            what there is, and what is missing

A stock recipe takes it as `asr.sh --python "python3 -m espnet_larm"`.
"""

import difflib
import importlib
import importlib.util
import os
import runpy
import sys
from pathlib import Path

from espnet_larm import process

REGISTERED = "espnet_larm.registered"
UPSTREAM_BIN = "espnet2.bin."
ASR_TRANSDUCER = (
    "its encoder is made of blocks, without a choice of encoders; decoder: transducer of asr_train has one."
)
# Programs for recognisers that look up no plugin, and why.
WITHOUT_PLUGINS = {f"{UPSTREAM_BIN}asr_transducer_{what}": ASR_TRANSDUCER for what in ("train", "inference")}
COMMANDS = {"list": "espnet_larm.bin.list_plugins", "doctor": "espnet_larm.bin.doctor"}


def main(argv: list[str] | None = None) -> int:
    """Run the module, script or command that the arguments name.

    Args:
        argv: Arguments after `python -m espnet_larm`; those of this process by default.

    Returns:
        The exit status of `list` and `doctor`; programs run as by Python itself and exit for themselves.
    """
    process.set_up()
    arguments = list(sys.argv[1:] if argv is None else argv)
    upstream = arguments[:1] == ["--upstream"]
    if upstream:
        del arguments[0]
    if not arguments or arguments[0] in ("-h", "--help"):
        with process.ends_with_its_reader():
            print(__doc__)
        return 0 if arguments else 2
    if arguments[0] in COMMANDS:
        with process.ends_with_its_reader():
            return importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
    if arguments[0] == "-m":
        return _run_module(arguments[1:], upstream)
    if arguments[0].startswith("-"):
        print(f"{arguments[0]} is not understood; allowed: -m MODULE, a script, {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if not Path(arguments[0]).exists():
        print(_no_such_word(arguments[0]), file=sys.stderr)
        return 2
    _register()
    sys.argv = arguments
    # As Python does for a script, and runpy does not: recipes keep helpers beside their scripts.
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")
    return 0


def _no_such_word(word: str) -> str:
    near = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return (
        f"{word} is no command, and no script of that name is here. {hint}"
        f"Allowed: {', '.join(COMMANDS)}, -m MODULE, a script."
    )


def _run_module(arguments: list[str], upstream: bool) -> int:
    if not arguments:
        print("-m needs a module, espnet2.bin.asr_train for example", file=sys.stderr)
        return 2
    module, ours = arguments[0], ""
    if module.startswith(UPSTREAM_BIN) and not upstream:
        ours = "espnet_larm.bin." + module.removeprefix(UPSTREAM_BIN)
    if ours and importlib.util.find_spec(ours) is not None:
        module = ours
    elif module in WITHOUT_PLUGINS:
        print(f"{module} knows no plugins: {WITHOUT_PLUGINS[module]}", file=sys.stderr)
    _register()
    sys.argv = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _register() -> None:
    """Register in this process, and in the workers that Dask starts for ESPnet3."""
    importlib.import_module(REGISTERED)
    os.environ.setdefault("DASK_DISTRIBUTED__WORKER__PRELOAD", repr([REGISTERED]))


if __name__ == "__main__":
    sys.exit(main())
