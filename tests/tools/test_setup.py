"""tools/setup.sh: what it says when it cannot go on, and that it is quick when all is there."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "tools/setup.sh"


def run_setup(*options, path=None, script=SETUP):
    environment = os.environ | ({"PATH": path} if path else {})
    environment.pop("ESPNET_LARM_VENV", None)
    return subprocess.run([script, *options], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def fake_python(tmp_path):
    """A Python that says it has every module and version, and installs nothing; it counts its calls of pip."""
    python = tmp_path / "python3.11"
    calls = tmp_path / "calls"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'case "$*" in *" pip install "*) echo "$*" >> {calls} ;;\n'
        '"-m venv "*) mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("nonsense", "--python nonsense: no such program"),
        ("/bin/false", "--python /bin/false is no Python 3.10 or 3.11 with venv"),
    ],
)
def test_python_that_will_not_do_is_refused_with_what_to_do(tmp_path, python, message):
    done = run_setup("--python", python, "--venv", str(tmp_path / "venv"))
    assert done.returncode == 2
    assert message in done.stderr
    assert "--python /path/to/python3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(("extras", "wrong"), [("typo", "typo"), ("mini,tset", "tset"), ("te.t", "te.t")])
def test_unknown_extra_is_refused_with_the_allowed_ones_before_anything_is_made(tmp_path, fake_python, extras, wrong):
    done = run_setup("--python", str(fake_python), "--venv", str(tmp_path / "venv"), "--extras", extras)
    assert done.returncode == 2
    assert f"--extras: {wrong} is not known; allowed: mini, lm-eval, ngram, test, dev" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_no_extras_are_allowed(tmp_path, fake_python):
    done = run_setup("--python", str(fake_python), "--venv", str(tmp_path / "venv"), "--extras", "")
    assert done.returncode == 0, done.stderr


def test_paths_may_hold_spaces(tmp_path, fake_python):
    repository = tmp_path / "a clone"
    (repository / "tools").mkdir(parents=True)
    for name in ("setup.py", "tools/setup.sh"):
        shutil.copy(SETUP.parents[1] / name, repository / name)
    python = shutil.copy(fake_python, repository / "python3.11")
    for _ in range(2):
        done = run_setup("--python", python, "--extras", "mini", script=repository / "tools/setup.sh")
        assert done.returncode == 0, done.stderr
    assert (repository / ".venv/espnet_larm_setup.txt").is_file()
    assert (tmp_path / "calls").read_text().endswith(f"--editable {repository}[mini]\n")


def test_unknown_option_is_refused_with_the_allowed_ones():
    done = run_setup("--extra", "mini")
    assert done.returncode == 2
    assert "unknown option --extra; allowed: --extras LIST" in done.stderr


def test_folder_that_is_no_environment_is_left_alone(tmp_path, fake_python):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/thesis.tex").write_text("")
    done = run_setup("--python", str(fake_python), "--venv", str(tmp_path / "venv"))
    assert done.returncode == 2
    assert "is not a Python environment" in done.stderr
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["thesis.tex"]


def test_second_set_up_is_quick_and_installs_nothing(tmp_path, fake_python):
    options = ["--python", str(fake_python), "--venv", str(tmp_path / "venv"), "--extras", "mini"]
    assert run_setup(*options).returncode == 0
    start = time.monotonic()
    done = run_setup(*options)
    assert time.monotonic() - start < 1
    assert done.returncode == 0
    assert done.stderr == ""
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_further_extras_join_those_that_are_there(tmp_path, fake_python):
    options = ["--python", str(fake_python), "--venv", str(tmp_path / "venv"), "--extras"]
    run_setup(*options, "mini")
    run_setup(*options, "test,dev")
    run_setup(*options, "mini,test")
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.endswith("[mini]")
    assert second.endswith("[dev,mini,test]")


def test_ngrams_are_installed_last(tmp_path, fake_python):
    options = ["--python", str(fake_python), "--venv", str(tmp_path / "venv")]
    done = run_setup(*options)
    assert done.returncode == 0 and "n-grams are off" not in done.stderr
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first.endswith("[dev,mini,test]") and second.endswith("[ngram]")
    for extras in ("ngram", "mini,ngram"):
        assert run_setup(*options, "--extras", extras).stderr == ""


def test_without_a_compiler_ngrams_are_off_and_all_else_is_there(tmp_path, fake_python):
    fake_python.write_text(fake_python.read_text() + 'case "$*" in *"[ngram]") exit 1 ;; esac\n')
    options = ["--python", str(fake_python), "--venv", str(tmp_path / "venv")]
    done = run_setup(*options)
    assert done.returncode == 0
    assert "n-grams are off, all else is there: pip could not build kenlm" in done.stderr
    assert f"With those: {tmp_path}/venv/bin/python -m pip install 'kenlm>=0.2'" in done.stderr
    assert "is ready after" in done.stderr
    # It is not built anew at every call.
    assert run_setup(*options).stderr == ""
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    (tmp_path / "venv/espnet_larm_setup.txt").write_text("another setup.py\nmini,no-ngram\n")
    run_setup(*options, "--extras", "mini")
    assert (tmp_path / "calls").read_text().splitlines()[-1].endswith("[ngram]")
    # Who asks for it by name is heard.
    assert "n-grams are off" in run_setup(*options, "--extras", "ngram").stderr


def test_interrupted_set_up_is_finished(tmp_path, fake_python):
    options = ["--python", str(fake_python), "--venv", str(tmp_path / "venv"), "--extras", "mini"]
    run_setup(*options)
    (tmp_path / "venv/espnet_larm_setup.txt").unlink()
    half = tmp_path / "venv/lib/python3.11/site-packages/torch-2.12.dist-info"
    half.mkdir(parents=True)
    (half / "METADATA").write_text("")
    done = run_setup(*options)
    assert done.returncode == 0
    assert "torch-2.12.dist-info was left half installed" in done.stderr
    assert not half.exists()
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
