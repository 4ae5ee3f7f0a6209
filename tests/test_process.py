"""What our programs do to their own process: threads that sleep, a stdout of their own, and no slow start."""

import inspect
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import wrapt
import yaml

from espnet_larm import process
from espnet_larm.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(COMMANDS)
# It prints ESPnet's options, which its task must be imported for.
WITH_ESPNETS_PARSER = ("train",)
# They read audio or count errors: their options name what numpy computes.
WITH_NUMPY = (
    *("format-audio", "perturb-speed", "score", "score-loops", "store-frames", "synthesise-speech", "transcribe"),
    *("decode", "validate-data", "compare-drafts", "score-edits"),
)
SLOW = {
    "torch",
    "espnet2.asr",
    "espnet2.layers",
    "espnet2.tasks",
    "transformers",
    "datasets",
    "scipy",
    "matplotlib",
    "wandb",
}
# Runs sys.argv[1:] as `python -m` does, and says at its end, or where torch would be imported, what the policy is.
STOPPED_AT_TORCH = """
import os, runpy, sys
class Stop:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            sys.exit(f"torch is imported under {os.environ.get('OMP_WAIT_POLICY')}")
sys.meta_path.insert(0, Stop())
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as stop:
    if stop.code:
        raise
print(f"no torch under {os.environ.get('OMP_WAIT_POLICY')}", file=sys.stderr)
print("imported:", *sys.modules, file=sys.stderr)
"""
# Counts what Python's own socket module is asked for, by whomever.
NETWORK_RECORDED = """
import sys
asked = []
def hear(event, values):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        asked.append(event)
        raise OSError("the network is off")
sys.addaudithook(hear)
from espnet_larm.process import set_up
set_up()
from espnet_larm.cli.decode import get_parser
from espnet_larm.train.task import LarmASRTask
get_parser(), LarmASRTask.get_parser()
import espnet_larm.recognize.recognizer, espnet_larm.speech_llm.decoder
print(asked)
"""


def run_python(*words, path=None, policy=None, **options):
    """Python in a process of its own; `path` is searched for modules first, `policy` is the user's."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, [*([path] if path else []), ROOT]))
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, text=True, check=False, **{"capture_output": True, **options})


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A package in ESPnet's place that prints when it is imported; everything is put back."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(process, "UPSTREAM", "noisy_upstream")
    # Finders are taken out and put back one by one: wrapt puts its own in once, and would miss it in a list of ours.
    before = [each for each in sys.meta_path if isinstance(each, process._UpstreamFinder)]
    for each in before:
        sys.meta_path.remove(each)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    (tmp_path / "noisy_upstream").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "noisy_upstream" / f"{name}.py").write_text(f"print('noise of {name}')\nVALUE = 3\n")
    yield "noisy_upstream"
    for each in [each for each in sys.meta_path if isinstance(each, process._UpstreamFinder)]:
        sys.meta_path.remove(each)
    if before:
        process.set_up()
    for name in [name for name in sys.modules if name.startswith("noisy_upstream")]:
        del sys.modules[name]


@pytest.fixture
def noisy_g2p(tmp_path):
    """A folder with an optional package of ESPnet's, which prints as it is imported."""
    (tmp_path / "g2p_en.py").write_text("print('noise: of g2p_en')\n")
    return tmp_path


def test_what_upstream_prints_at_its_import_goes_to_stderr(upstream, capsys):
    process.set_up()
    from noisy_upstream import part

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "noise of __init__\nnoise of part\n")
    assert part.VALUE == 3 and "VALUE = 3" in inspect.getsource(part)


@pytest.mark.parametrize(
    ("is_hidden", "said"), [(False, "noise of __init__\nflash_attn is missing\n"), (True, "noise of __init__\n")]
)
def test_programs_that_do_not_train_hide_what_upstream_says_of_flash_attn(
    upstream, tmp_path, monkeypatch, capsys, is_hidden, said
):
    monkeypatch.setattr(process, "REMARKING", f"{upstream}.attention")
    text = "import sys\nprint('flash_attn is missing', file=sys.stderr)\nVALUE = 4\n"
    (tmp_path / upstream / "attention.py").write_text(text)
    process.set_up()
    if is_hidden:
        process.hide_remarks()
    from noisy_upstream import attention

    assert attention.VALUE == 4 and capsys.readouterr() == ("", said)


def test_what_is_hidden_is_what_upstream_says_of_flash_attn():
    done = run_python("-m", "espnet_larm", "list", "--name", "larm")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_module_of_upstreams_that_runs_as_a_program_keeps_its_stdout(upstream, capsys):
    process.set_up()
    runpy.run_module("noisy_upstream.part", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out == "noise of part\n"


def test_another_package_prints_where_it_did(upstream, tmp_path, capsys):
    (tmp_path / "noisy_upstream_not.py").write_text("print('hello')\n")
    process.set_up()
    import noisy_upstream_not  # noqa: F401

    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize("is_hooked_first", [True, False])
def test_hooks_on_upstreams_modules_still_fire(upstream, capsys, is_hooked_first):
    seen = []
    steps = [lambda: wrapt.register_post_import_hook(seen.append, "noisy_upstream.part"), process.set_up]
    for step in steps if is_hooked_first else reversed(steps):
        step()
    from noisy_upstream import part

    assert seen == [part]
    assert capsys.readouterr().out == ""


def test_set_up_twice_is_set_up_once(upstream):
    before = len(sys.meta_path)
    process.set_up()
    process.set_up()
    assert len(sys.meta_path) == before + 1


def test_a_broken_pipe_that_is_not_stdout_is_raised(capfd):
    with pytest.raises(BrokenPipeError, match="a worker died"), process.ends_with_its_reader():
        raise BrokenPipeError("a worker died")


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "espnet_larm", "validate-data", "--list"],
        ["-m", "espnet_larm", "--help"],
        pytest.param(["-m", "espnet_larm", "list"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_program_whose_stdout_nobody_reads_ends_without_a_word(words):
    unread, stdout = os.pipe()
    os.close(unread)
    try:
        done = run_python(*words, capture_output=False, stdout=stdout, stderr=subprocess.PIPE)
    finally:
        os.close(stdout)
    assert done.returncode == process.PIPE_CLOSED
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name not in WITH_ESPNETS_PARSER])
def test_help_of_a_program_imports_nothing_slow_and_finds_its_threads_set_up(program):
    done = run_python("-c", STOPPED_AT_TORCH, "espnet_larm", program, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    policy, imported = done.stderr.splitlines()
    assert policy == "no torch under passive"
    light = SLOW if program in WITH_NUMPY else SLOW | {"numpy", "soundfile"}
    assert light & set(imported.split()) == set()


@pytest.mark.parametrize("policy", [None, "active"])
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["espnet_larm", "decode", "--help_all"], id="decode"),
        pytest.param(["espnet_larm", "train", "asr_train", "--help"], id="train"),
        pytest.param(["espnet_larm", "list"], id="list"),
        pytest.param(["espnet_larm", "-m", "espnet2.bin.asr_train", "--help"], id="launcher"),
        pytest.param(["espnet_larm", "--upstream", "-m", "espnet2.bin.asr_train", "--help"], id="upstream"),
    ],
)
def test_threads_are_set_up_before_torch_unless_the_user_has_set_them(words, policy):
    done = run_python("-c", STOPPED_AT_TORCH, *words, policy=policy)
    assert done.stderr.splitlines()[-1] == f"torch is imported under {policy or 'passive'}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_importing_a_program_imports_no_torch(program):
    code = f"import sys, {COMMANDS[program].module}\nprint(*sys.modules, sep='\\n')"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert {"torch", "espnet2", "transformers"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["doctor", "--help"]], ids=" ".join)
def test_help_of_the_launcher_imports_nothing_slow(words):
    done = run_python("-c", STOPPED_AT_TORCH, "espnet_larm", *words)
    assert done.returncode == 0, done.stderr
    assert (SLOW | {"numpy", "soundfile"}) & set(done.stderr.splitlines()[-1].split()) == set()


def test_importing_the_package_is_quick_and_changes_nothing():
    code = (
        "import os, sys; before = dict(os.environ), list(sys.meta_path)\nimport espnet_larm\n"
        "print((dict(os.environ), sys.meta_path) == before, *sys.modules)"
    )
    unchanged, *modules = run_python("-c", code).stdout.split()
    assert unchanged == "True"
    assert (SLOW | {"numpy", "yaml", "espnet_larm.process"}) & set(modules) == set()


@pytest.mark.slow
def test_threads_of_torch_obey_here_and_in_spawned_workers(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing\nfrom espnet_larm.process import set_up\n"
        "def work():\n    import torch\n"
        "if __name__ == '__main__':\n    set_up()\n    work()\n"
        "    worker = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    worker.start()\n    worker.join()\n"
    )
    os.environ["OMP_DISPLAY_ENV"] = "true"
    try:
        done = run_python(str(program))
    finally:
        del os.environ["OMP_DISPLAY_ENV"]
    shown = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    # Whatever else is loaded and uses OpenMP says so, too.
    assert len(shown) >= 2
    assert all("PASSIVE" in line.upper() for line in shown), shown


@pytest.mark.slow
def test_yaml_of_list_is_yaml_whatever_upstream_prints(noisy_g2p):
    done = run_python("-m", "espnet_larm", "list", "--name", "larm", "--yaml", path=noisy_g2p)
    assert done.returncode == 0, done.stderr
    assert "noise: of g2p_en" in done.stderr
    template = yaml.safe_load(done.stdout)
    assert list(template) == ["encoder", "encoder_conf", "model_conf"]
    assert template["encoder"] == "larm"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["-m", "espnet_larm", "-m", "espnet2.bin.asr_train", "--help"], "usage: train.py"),
        (["-m", "espnet_larm", "-m", "espnet2.bin.asr_inference", "--help"], "usage: espnet-larm decode"),
        (["-m", "espnet_larm", "doctor"], "Python "),
    ],
    ids=["asr_train", "asr_inference", "doctor"],
)
def test_stdout_of_a_program_holds_its_own_output_alone(words, first, noisy_g2p):
    done = run_python(*words, path=noisy_g2p)
    assert done.stdout.startswith(first), done.stderr
    assert "noise: of" not in done.stdout
    # The doctor ends before it imports plugins where something is missing, and decode shows its help without them.
    assert "noise: of g2p_en" in done.stderr or "espnet2.bin.asr_train" not in words


@pytest.mark.slow
def test_help_of_decoding_prints_options_with_a_bare_percent_sign():
    # ESPnet's own ends with a ValueError there.
    done = run_python("-m", "espnet_larm", "decode", "--help_all")
    assert done.returncode == 0, done.stderr
    assert "3.19% CER" in " ".join(done.stdout.split()) and "--batch_seconds" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("phones_home", "asked"), [(False, "[]"), (True, "['socket.getaddrinfo']")])
def test_importing_what_programs_import_asks_nothing_of_the_network(tmp_path, phones_home, asked):
    if phones_home:
        # An optional package of ESPnet's, which downloads what NLTK lacks as it is imported.
        (tmp_path / "g2p_en.py").write_text(
            "import socket\ntry:\n    socket.create_connection(('example.org', 80))\nexcept OSError:\n    pass\n"
        )
    done = run_python("-c", NETWORK_RECORDED, path=tmp_path)
    assert done.stdout.splitlines()[-1:] == [asked], done.stderr


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        ({}, ("passive", process.SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "5"}, ("passive", "5")),
        ({"OMP_WAIT_POLICY": "active"}, ("active", None)),
    ],
)
def test_threads_spin_for_a_moment_unless_the_user_says_otherwise(monkeypatch, own, wanted):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    process.set_up()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")) == wanted


def test_recipes_spin_as_long_as_programs():
    assert f"${{GOMP_SPINCOUNT-{process.SPIN_COUNT}}}" in (ROOT / "egs/asr.sh").read_text()
