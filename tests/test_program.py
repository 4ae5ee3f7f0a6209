"""How programs end."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.__main__ import main
from espnet_larm.data.kaldi_dir import Utterance, read_table, write_dir
from espnet_larm.files.atomic import write_beside
from espnet_larm.files.disk import FullDiskError
from espnet_larm.program import run_program
from espnet_larm.recipe.perturb_speed import perturb_speed


def test_status_of_a_program_is_handed_on():
    assert run_program(lambda: 75) == 75


def test_an_error_that_the_package_states_is_a_sentence(capsys, tmp_path):
    assert run_program(lambda: len(perturb_speed([], ["1.0", "1"], tmp_path, 8000, 1))) == 1
    assert capsys.readouterr().err.startswith("ERROR: --speed_perturb_factors has a factor twice")


def test_an_error_of_the_system_is_a_sentence(capsys, tmp_path):
    assert run_program(lambda: len(read_table(tmp_path / "text"))) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bug", [lambda: int("x"), lambda: len(3), lambda: Path("a").relative_to("b")])
def test_an_error_that_nobody_stated_keeps_its_traceback(capsys, bug):
    assert run_program(bug) == 1
    written = capsys.readouterr().err
    assert written.startswith("Traceback") and "test_program.py" in written
    assert written.splitlines()[-1].startswith("ERROR: ")


def test_an_error_of_another_kind_is_raised():
    with pytest.raises(KeyError):
        run_program(lambda: {}["x"])


# What limits files to 4 KiB, as a full disk does; tests of a real one would need the rights to mount it.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from espnet_larm.__main__ import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    samples = np.random.default_rng(0).uniform(-0.2, 0.2, 16000)
    for key in ("u1", "u2"):
        soundfile.write(folder / f"{key}.wav", samples, 8000)
    text = "A B " * 1000
    write_dir(folder, [Utterance(key, "s", str(folder / f"{key}.wav"), text) for key in ("u1", "u2")])
    return folder


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("format-audio --in_dir {data} --output_dir {out}", "{out}/data/*.flac.ark"),
        ("format-audio --in_dir {data} --output_dir {out} --nj 2", "{out}/data/*.flac.ark"),
        ("perturb-speed --in_dir {data} --output_dir {out} --factors 0.9", "{out}/data/*.flac.ark"),
        ("make-tokens --text {data}/text --token_type bpe --nbpe 6 --output_dir {out}", "{out}/tokens.txt"),
    ],
)
def test_a_full_disk_is_named_leaves_nothing_and_the_same_command_succeeds(data_dir, tmp_path, words, named):
    out = tmp_path / "out"
    arguments = words.format(data=data_dir, out=out).split()
    done = subprocess.run([sys.executable, "-c", LIMITED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    name, _, reason = last.removeprefix("ERROR: ").partition(" cannot be written: ")
    assert Path(name).match(named.format(out=out)) and reason.endswith("Make room; then repeat the same command.")
    assert not out.exists() or files_in(out) == {}
    assert main(arguments) == 0
    assert files_in(out) and not [path for path in files_in(out) if ".part" in str(path)]


def test_a_full_disk_of_the_output_is_a_sentence(data_dir, tmp_path, monkeypatch):
    # Or nothing waits to be written.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    arguments = f"make-tokens --text {data_dir}/text --token_type char --output_dir {tmp_path}".split()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "espnet_larm", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ERROR: the output cannot be written: the disk is full. Make room; then repeat the same command."
    ]


def test_errors_of_libraries_on_a_full_disk_name_the_file(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="file write failed"), write_beside(tmp_path / "a.pth"):
        raise RuntimeError("file write failed")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    for error in (RuntimeError("file write failed"), OSError("9 requested and 0 written")):
        with (
            pytest.raises(FullDiskError, match=r"a.pth cannot be written: the disk is full"),
            write_beside(tmp_path / "a.pth"),
        ):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_crosses_processes():
    copy = pickle.loads(pickle.dumps(FullDiskError(Path("a"), "the disk is full")))
    assert (copy.target, str(copy)) == (Path("a"), str(FullDiskError("a", "the disk is full")))


def test_a_failure_of_espnets_own_program_is_a_sentence(monkeypatch, capsys):
    from espnet2.bin import asr_inference

    from espnet_larm.program import hand_over

    monkeypatch.setattr(asr_inference, "main", lambda _: next(iter(())))
    assert run_program(lambda: hand_over("asr_inference", [], "lm_file is x", [])) == 1
    said = "ERROR: lm_file is x, and ESPnet's own asr_inference fails: StopIteration"
    written = capsys.readouterr().err
    assert said in written and "Traceback" not in written
