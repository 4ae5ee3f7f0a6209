"""`python -m espnet_larm doctor`: it says what is missing, and it runs where nothing is installed."""

import importlib
import subprocess
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from espnet_larm import registry
from espnet_larm.cli import doctor
from espnet_larm.cli import environment as _environment

ROOT = Path(__file__).parents[2]


ESPNET = 'espnet[asr,train]==202611; extra == "espnet"'
PAIR = ['torch!=2.12.1,<2.15,>=2.11; extra == "espnet"', 'torchaudio<2.12,>=2.11; extra == "espnet"']


@pytest.fixture
def require(monkeypatch):
    """Make these the requirements of espnet_larm, and ESPnet's none; what is installed is given by name."""

    # transformers looks up versions of its own requirements when it is imported, which doctor makes it.
    importlib.import_module("espnet_larm.llm.hugging_face")
    versions = {"here": "1.5", doctor.PACKAGE: "0.1.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    def replace(*texts, **installed):
        versions.update(installed)
        monkeypatch.setattr(metadata, "requires", lambda package: list(texts) if package == doctor.PACKAGE else [])
        monkeypatch.setattr(metadata, "version", version)

    return replace


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Let distributions be modules of these texts; all others need not load."""

    def replace(**texts):
        for name, text in texts.items():
            (tmp_path / f"fake_{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(_environment, "LOADED", {name: f"fake_{name}" for name in texts})
        # The true torch is not asked about GPUs, nor the true plugins.
        monkeypatch.setattr(doctor, "describe_gpu", lambda: "GPU")
        monkeypatch.setattr(doctor, "_describe_plugins", lambda: 0)

    return replace


def test_everything_there_exits_with_0(require, capsys):
    require("here>=1,<2")
    assert doctor.main([]) == 0
    assert "Everything that espnet_larm needs is there." in capsys.readouterr().out


def test_missing_package_exits_with_1_and_the_line_that_installs_it(require, capsys):
    require("here>=1", "gone>=3,<4")
    assert doctor.main([]) == 1
    assert f"Needed:    {sys.executable} -m pip install 'gone>=3,<4'" in capsys.readouterr().out


def test_version_out_of_range_is_said_with_the_range(require, capsys):
    require("here>=2")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "wrong version            here             1.5          needed: >=2" in printed
    assert "pip install 'here>=2'" in printed


def test_missing_optional_package_is_no_failure(require, capsys):
    require("here", 'espeakng-loader>=0.2; extra == "mini"')
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    assert "missing (optional)" in printed
    assert "egs/mini" in printed
    assert "Optional:  " in printed


def test_requirement_of_another_python_is_not_needed(require):
    require('gone; python_version < "3.0"')
    assert [finding.is_optional for finding in _environment.check_requirements(doctor.PACKAGE)] == [True]


def test_espnet_is_needed_though_it_is_an_extra(require, capsys):
    require(ESPNET, *PAIR)
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "ESPnet     none; supported: 202611" in printed
    assert "pip install 'espnet[asr,train]==202611' 'torch>=2.11,<2.15,!=2.12.1' 'torchaudio>=2.11,<2.12'" in printed


def test_older_espnet_is_not_supported_and_gets_a_fresh_environment(require, load, capsys):
    load()
    require(ESPNET, *PAIR, espnet="202511", torch="2.10.0", torchaudio="2.10.0")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "ESPnet     202511; supported: 202611" in printed
    assert "not supported            espnet" in printed
    assert f"Needed:    ESPnet 202611 in a fresh environment: {ROOT}/tools/setup.sh --venv {ROOT}/.venv" in printed
    # What works with that ESPnet is not replaced.
    assert "pip install" not in printed


def test_newer_espnet_is_not_tried_and_no_failure(require, load, capsys):
    load(torch="", torchaudio="")
    require(ESPNET, *PAIR, espnet="202705", torch="2.14.1", torchaudio="2.11.1")
    assert doctor.main([]) == 0
    assert "not tried                espnet           202705" in capsys.readouterr().out


def test_editable_espnet_is_shown_with_its_folder(require, load, monkeypatch, capsys):
    class Checkout:
        def read_text(self, name):
            return '{"url": "file:///home/me/my%20espnet", "dir_info": {"editable": true}}'

    load()
    require(ESPNET, espnet="202611")
    monkeypatch.setattr(metadata, "distribution", lambda name: Checkout())
    assert doctor.main([]) == 0
    assert "ESPnet     202611 (editable, in /home/me/my espnet); supported: 202611" in capsys.readouterr().out


def test_pair_that_does_not_load_together_is_named_with_the_line_that_mends_it(require, load, capsys):
    load(
        torch="",
        torchaudio="import fake_torch\nraise OSError('undefined symbol: torch_x')",
        espnet="import fake_torchaudio",
    )
    require(ESPNET, *PAIR, espnet="202611", torch="2.13.0", torchaudio="2.11.1")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "torch 2.13.0 and torchaudio 2.11.1 do not load together: OSError: undefined symbol: torch_x" in printed
    assert f"Needed:    {sys.executable} -m pip install torch==2.14.1 torchaudio==2.11.1\n" in printed
    assert "broken                   espnet" not in printed


def test_pair_of_the_lock_that_does_not_load_is_taken_out_first(require, load, capsys):
    load(torch="raise OSError('libtorch_cuda.so')", torchaudio="import fake_torch")
    require(ESPNET, *PAIR, espnet="202611", torch="2.14.1+cpu", torchaudio="2.11.1")
    assert doctor.main([]) == 1
    pip = f"{sys.executable} -m pip"
    line = f"{pip} uninstall --yes torch torchaudio && {pip} install torch==2.14.1 torchaudio==2.11.1\n"
    assert line in capsys.readouterr().out


def test_torch_that_espnet_excludes_is_replaced_with_its_pair_though_it_loads(require, load, capsys):
    load(torch="", torchaudio="")
    require(ESPNET, *PAIR, espnet="202611", torch="2.12.1", torchaudio="2.11.1")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "torch 2.12.1 and torchaudio 2.11.1 are not what ESPnet allows." in printed
    assert "pip install torch==2.14.1 torchaudio==2.11.1" in printed


def test_the_pair_is_that_of_the_lock():
    for lock in (ROOT / "requirements").glob("py3*.txt"):
        lines = lock.read_text().splitlines()
        for name, version in doctor.PAIR.items():
            assert f"{name}=={version} \\" in lines


def test_package_that_does_not_load_is_broken(require, load, capsys):
    load(here="raise OSError('libcudart.so.13: cannot open')")
    require("here")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "libcudart.so.13: cannot open" in printed
    assert "--force-reinstall --no-deps here" in printed


def test_package_that_crashes_is_broken_and_ends_nothing_else(require, load, capsys):
    load(here="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    require("here")
    assert doctor.main([]) == 1
    assert "importing fake_here ends with signal 11" in capsys.readouterr().out


def test_what_this_process_has_imported_is_loaded_again(require, load, monkeypatch):
    load(here="raise ImportError('no')")
    require("here")
    monkeypatch.setitem(sys.modules, "fake_here", sys)
    assert doctor.main([]) == 1


def test_another_python_is_refused_with_the_line_that_makes_an_environment(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 9),))
    assert doctor.main([]) == 1
    assert f"Python 3.9 is needed: {ROOT}/tools/setup.sh --venv" in capsys.readouterr().out


def test_outside_of_a_clone_the_fresh_environment_is_pips(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "site-packages/espnet_larm/cli/doctor.py"))
    line = "python3.12 -m venv espnet_larm && espnet_larm/bin/python -m pip install 'espnet-larm[espnet]'"
    assert doctor._fresh_environment() == line


def test_broken_plugin_exits_with_1_and_its_entry_point_package_and_reason(
    require, larm_task, encoder_choices, monkeypatch, tmp_path, capsys
):
    (tmp_path / "raises_at_import.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("encoder.broken", "raises_at_import:Encoder", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    require("here")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "broken plugin            encoder.broken of package raises_at_import:Encoder: " in printed
    assert "RuntimeError: no licence" in printed
    assert "Everything that espnet_larm needs is there." in printed


def test_this_environment_has_what_is_needed(capsys):
    assert doctor.main([]) == 0
    assert "torch" in capsys.readouterr().out


def test_doctor_runs_where_nothing_is_installed():
    # -S leaves site-packages out.
    command = [sys.executable, "-S", "-m", "espnet_larm", "doctor"]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
    assert "missing: packaging." in done.stdout


def test_what_loads_alone_and_not_together_is_broken(monkeypatch):
    from espnet_larm.cli import environment as _environment

    monkeypatch.setattr(_environment, "_loading_error", lambda modules: "crash" if len(modules) > 1 else "")
    found = [_environment.Finding(name, "ok", "1", name) for name in ("torch", "sentencepiece")]
    torch, last = _environment._mark_unloadable(found)
    assert torch.status == "ok"
    assert (last.status, last.note) == ("broken", "each loads alone, and not all together: crash")
