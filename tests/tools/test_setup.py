"""tools/setup.sh: what it says when it cannot go on, and that it is quick when all is there."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "tools/setup.sh"


def run_setup(*options, script=SETUP, **environment):
    variables = os.environ | environment
    variables.pop("ESPNET_LARM_VENV", None)
    return subprocess.run([script, *options], env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def make_python(tmp_path):
    """A Python that says what it is told to, has every module, and installs nothing; it notes its calls of pip."""

    def make(path, version="312", owner="", fails_at="nothing"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "#!/usr/bin/env bash\n"
            f'case "$*" in *"{fails_at}"*) exit 1 ;; esac\n'
            f'case "$*" in *ensurepip*) echo {version} ;; *direct_url*) echo "{owner}" ;;\n'
            f'*" pip install "*) echo "$*" >> "{tmp_path}/calls" ;;\n'
            f'*doctor) echo "all is well" ;;\n'
            '"-m venv "*) mkdir -p "$3/bin" && touch "$3/pyvenv.cfg" && cp "$0" "$3/bin/python" ;;\n'
            "esac\n"
        )
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def options(tmp_path, make_python):
    return ["--python", make_python(tmp_path / "python"), "--venv", str(tmp_path / "venv")]


@pytest.fixture
def calls(tmp_path):
    path = tmp_path / "calls"
    return lambda: path.read_text().splitlines() if path.exists() else []


def installed(calls):
    """Names of the lists that pip was called with."""
    return [Path(call.split()[-1]).name for call in calls]


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("nonsense", "--python nonsense: no such program"),
        ("/bin/false", "--python /bin/false is no Python 3.12 or 3.13 with venv"),
    ],
)
def test_python_that_will_not_do_is_refused_with_what_to_do(tmp_path, python, message):
    done = run_setup("--python", python, "--venv", str(tmp_path / "venv"))
    assert done.returncode == 2
    assert message in done.stderr
    assert "`uv python install 3.12`" in done.stderr
    assert "--python /path/to/python3.12" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.fixture
def only_old_pythons(tmp_path):
    """A PATH whose python3.12 is a shim that does not run and whose python3 is 3.11, and no pyenv."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("python3.12", "exit 127"),
        ("python3", "case $* in --version) echo Python 3.11.2 ;; *) exit 1 ;; esac"),
        ("python", "exit 1"),
        ("python3.13", "exit 127"),
        ("uv", "exit 2"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}:/usr/bin:/bin", "PYENV_ROOT": str(tmp_path / "pyenv")}


def test_without_a_python_that_will_do_it_says_what_is_there_and_how_to_get_one(tmp_path, only_old_pythons):
    done = run_setup("--venv", str(tmp_path / "venv"), **only_old_pythons)
    assert done.returncode == 2
    assert "no Python 3.12 or 3.13 with venv was found" in done.stderr
    assert "python3 here: Python 3.11.2" in done.stderr
    assert "`uv python install 3.12`" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_shim_that_does_not_run_is_passed_over_for_a_python_of_pyenv(tmp_path, make_python, only_old_pythons):
    python = make_python(tmp_path / "pyenv/versions/3.13.0/bin/python", version="313")
    done = run_setup("--venv", str(tmp_path / "venv"), **only_old_pythons)
    assert done.returncode == 0, done.stderr
    assert f"({python})" in done.stderr


def test_python_of_uv_is_found(tmp_path, make_python, only_old_pythons):
    python = make_python(tmp_path / "of_uv/python")
    (tmp_path / "bin/uv").write_text(f"#!/bin/sh\necho {python}\n")
    done = run_setup("--venv", str(tmp_path / "venv"), **only_old_pythons)
    assert done.returncode == 0, done.stderr
    assert f"({python})" in done.stderr


@pytest.mark.parametrize(("extras", "wrong"), [("typo", "typo"), ("mini,tset", "tset"), ("n.ram", "n.ram")])
def test_unknown_extra_is_refused_with_the_allowed_ones_before_anything_is_made(tmp_path, options, extras, wrong):
    done = run_setup(*options, "--extras", extras)
    assert done.returncode == 2
    assert f"--extras: {wrong} is not known; allowed: mini, ngram, microphone, docs" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_unknown_option_is_refused_with_the_allowed_ones():
    done = run_setup("--extra", "mini")
    assert done.returncode == 2
    assert "unknown option --extra; allowed: --extras LIST" in done.stderr


def test_folder_that_is_no_environment_is_left_alone(tmp_path, options):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/thesis.tex").write_text("")
    done = run_setup(*options)
    assert done.returncode == 2
    assert "is not a Python environment" in done.stderr
    assert [path.name for path in (tmp_path / "venv").iterdir()] == ["thesis.tex"]


def test_environment_of_another_checkout_is_refused_with_what_to_do(tmp_path, make_python, options, calls):
    (tmp_path / "other clone").mkdir()
    make_python(tmp_path / "venv/bin/python", owner=tmp_path / "other clone")
    done = run_setup(*options)
    assert done.returncode == 2
    assert f"venv is the environment of {tmp_path}/other clone: make another" in done.stderr
    assert "tools/setup.sh --venv FOLDER" in done.stderr
    assert calls() == []


@pytest.mark.parametrize("owner", [ROOT, "/a/clone/that/was/removed"])
def test_environment_of_this_checkout_or_of_one_that_is_gone_is_finished(tmp_path, make_python, options, owner):
    make_python(tmp_path / "venv/bin/python", owner=owner)
    done = run_setup(*options)
    assert done.returncode == 0, done.stderr


def test_everything_comes_from_the_lock_of_this_python_with_hashes(options, calls):
    assert run_setup(*options, "--extras", "mini").returncode == 0
    build, core, package, mini = calls()
    for call in (build, core, mini):
        assert "--require-hashes --no-deps" in call
    assert "requirements/py312.txt" in core
    assert "requirements/mini.txt" in mini
    assert package.endswith(f"--no-deps --no-build-isolation --editable {ROOT}")


def test_another_python_takes_another_lock(tmp_path, make_python, calls):
    python = make_python(tmp_path / "python", version="313")
    run_setup("--python", python, "--venv", str(tmp_path / "venv"), "--extras", "")
    assert installed(calls())[1] == "py313.txt"


def test_newest_takes_the_bounds_of_setup_py_and_no_lock(options, calls):
    assert run_setup(*options, "--newest", "true", "--extras", "mini").returncode == 0
    core, mini = calls()
    assert core.endswith(f"--editable {ROOT}[espnet,serve,test,dev]")
    assert mini.endswith(f"{ROOT}[mini]")


def test_paths_may_hold_spaces(tmp_path, make_python, calls):
    repository = tmp_path / "a clone"
    (repository / "tools").mkdir(parents=True)
    for name in ("setup.py", "tools/setup.sh"):
        shutil.copy(ROOT / name, repository / name)
    shutil.copytree(ROOT / "requirements", repository / "requirements")
    python = make_python(repository / "python 3")
    for _ in range(2):
        done = run_setup("--python", python, "--extras", "mini", script=repository / "tools/setup.sh")
        assert done.returncode == 0, done.stderr
    assert (repository / ".venv/espnet_larm_setup/works").is_file()
    assert len(calls()) == 4


def test_second_set_up_is_quick_and_installs_nothing(options, calls):
    assert run_setup(*options).returncode == 0
    count = len(calls())
    start = time.monotonic()
    done = run_setup(*options)
    assert time.monotonic() - start < 1
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(calls()) == count


def test_further_extra_joins_what_is_there(options, calls):
    run_setup(*options, "--extras", "")
    count = len(calls())
    run_setup(*options, "--extras", "mini")
    run_setup(*options, "--extras", "mini")
    assert installed(calls()[count:]) == ["mini.txt"]


def test_changed_lock_is_installed_again(tmp_path, options, calls):
    run_setup(*options, "--extras", "")
    (tmp_path / "venv/espnet_larm_setup/core").write_text("another lock\n")
    count = len(calls())
    assert run_setup(*options, "--extras", "").returncode == 0
    assert "py312.txt" in installed(calls()[count:])


def test_it_ends_with_the_doctor_and_fails_with_it_each_time(tmp_path, make_python, options):
    make_python(tmp_path / "python", fails_at="espnet_larm doctor")
    for _ in range(2):
        done = run_setup(*options, "--extras", "")
        assert done.returncode == 2
        assert "venv is made, but does not work: see above what to do" in done.stderr
    make_python(tmp_path / "venv/bin/python")
    done = run_setup(*options, "--extras", "")
    assert done.returncode == 0
    assert "all is well" in done.stderr


def test_without_a_compiler_ngrams_are_off_and_all_else_is_there(tmp_path, make_python, options, calls):
    make_python(tmp_path / "python", fails_at="ngram.txt")
    done = run_setup(*options)
    assert done.returncode == 0
    assert "n-grams are off, all else is there: pip could not build kenlm" in done.stderr
    assert "With one: tools/setup.sh --extras ngram" in done.stderr
    assert "is ready after" in done.stderr
    # It is not built anew at every call.
    assert run_setup(*options).stderr == ""
    # Who asks for it by name is heard.
    assert "n-grams are off" in run_setup(*options, "--extras", "ngram").stderr
    make_python(tmp_path / "venv/bin/python")
    assert run_setup(*options, "--extras", "ngram").returncode == 0
    assert installed(calls())[-1] == "ngram.txt"


def test_on_python_3_13_ngrams_are_off_and_all_else_is_there(tmp_path, make_python, calls):
    options = ["--python", make_python(tmp_path / "python", version="313"), "--venv", str(tmp_path / "venv")]
    done = run_setup(*options)
    assert done.returncode == 0
    assert "n-grams are off, all else is there: kenlm 0.3.0" in done.stderr
    assert "ngram.txt" not in installed(calls())
    assert run_setup(*options).stderr == ""


def test_interrupted_set_up_is_finished(tmp_path, options, calls):
    run_setup(*options, "--extras", "mini")
    count = len(calls())
    (tmp_path / "venv/espnet_larm_setup/core").unlink()
    half = tmp_path / "venv/lib/python3.12/site-packages/torch-2.12.dist-info"
    half.mkdir(parents=True)
    (half / "METADATA").write_text("")
    done = run_setup(*options, "--extras", "mini")
    assert done.returncode == 0
    assert "torch-2.12.dist-info was left half installed" in done.stderr
    assert not half.exists()
    assert len(calls()) > count
