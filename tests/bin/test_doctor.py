"""`python -m espnet_larm doctor`: it says what is missing, and it runs where nothing is installed."""

import importlib
import subprocess
import sys
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from espnet_larm import registry
from espnet_larm.bin import doctor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def require(monkeypatch):
    """Make these the requirements of espnet_larm, and ESPnet's none."""

    # transformers looks up versions of its own requirements when it is imported, which doctor makes it.
    importlib.import_module("espnet_larm.llm.hugging_face")
    versions = {"here": "1.5", doctor.PACKAGE: "0.1.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    def replace(*texts):
        monkeypatch.setattr(metadata, "requires", lambda package: list(texts) if package == doctor.PACKAGE else [])
        monkeypatch.setattr(metadata, "version", version)

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
    assert [finding.is_optional for finding in doctor.check_requirements(doctor.PACKAGE)] == [True]


def test_package_that_does_not_load_is_broken(require, monkeypatch, tmp_path, capsys):
    (tmp_path / "loads_a_missing_library.py").write_text("raise OSError('libcudart.so.13: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "COMPILED", {"here": "loads_a_missing_library"})
    require("here")
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "libcudart.so.13: cannot open" in printed
    assert "--force-reinstall --no-deps here" in printed


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
