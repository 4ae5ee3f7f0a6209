"""egs/read_speech: sets of a corpus in LibriSpeech's layout or of tables, and the options of each system."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.data.kaldi_dir import read_table

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the recipe, with the pipeline and a folder of recordings beside it, from the recordings' folder."""
    shutil.copytree(
        ROOT / "egs/read_speech",
        tmp_path / "egs/read_speech",
        ignore=shutil.ignore_patterns("data", "dump", "exp", "downloads"),
    )
    for name in ("asr.sh", "utils"):
        (tmp_path / "egs" / name).symlink_to(ROOT / "egs" / name)
    (tmp_path / "mine").mkdir()
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"mine/{name}.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        python = ["--python", f"{sys.executable} -m espnet_larm", "--ngpu", "0"]
        command = [str(tmp_path / "egs/read_speech/run.sh"), *python, *options]
        return subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True, timeout=60, check=False)

    return run


def test_tables_of_ones_own_recordings_make_sets(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine/train.tsv").write_text("audio\ttext\tspeaker\none.wav\tYES\tann\n")
    (tmp_path / "mine/test.jsonl").write_text('{"audio": "two.wav", "text": "NO"}\n')
    sets = ["--train", "train.tsv", "--dev", "train.tsv", "--tests", "test=test.jsonl"]
    done = run("--manifests", ".", *sets, "--stop_stage", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    data = tmp_path / "egs/read_speech/data"
    assert sorted(path.name for path in data.iterdir()) == ["dev", "test", "train"]
    assert read_table(data / "train/text") == {"ann-one": "yes"} and read_table(data / "test/text") == {"two": "no"}


def test_splits_may_lie_in_several_folders(run: Run, tmp_path: Path) -> None:
    for number, split in enumerate(("a", "b", "c")):
        chapter = tmp_path / f"corpus{number % 2}/{split}/8{number}/1"
        chapter.mkdir(parents=True)
        shutil.copy(tmp_path / "mine/one.wav", chapter / f"8{number}-1-0000.flac")
        (chapter / f"8{number}-1.trans.txt").write_text(f"8{number}-1-0000 {split.upper()}\n")
    sets = ["--train_set", "some", "--train", "a,b", "--dev", "b", "--tests", "x=c y=a", "--case", "keep"]
    done = run("--corpus", f"../corpus0 {tmp_path}/corpus1", *sets, "--stop_stage", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    texts = {name: read_table(tmp_path / f"egs/read_speech/data/{name}/text") for name in ("some", "dev", "x", "y")}
    assert {name: sorted(text.values()) for name, text in texts.items()} == {
        "some": ["A", "B"], "dev": ["B"], "x": ["C"], "y": ["A"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "ears"], "--system ears is not known; allowed: filterbank, whisper"),
        (["--corpus", ".", "--manifests", "."], "--corpus and --manifests: give one of them"),
        (["--stop_stage", "data"], "name the folder of your corpus: --corpus DIR"),
    ],
)
def test_misuse_ends_in_a_sentence(run: Run, options: list[str], message: str) -> None:
    done = run(*options)
    assert done.returncode != 0 and message in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("system", "wanted"),
    [
        (
            "filterbank",
            [
                "--asr_config conf/read_speech/train_larm.yaml",
                "--first_asr_config conf/read_speech/train_larm_start.yaml",
            ],
        ),
        ("whisper", ["--store_frames true", "--asr_config conf/read_speech/train_larm_whisper_23.yaml"]),
    ],
)
def test_each_system_has_its_configuration(run: Run, tmp_path: Path, system: str, wanted: list[str]) -> None:
    (tmp_path / "egs/asr.sh").unlink()
    (tmp_path / "egs/asr.sh").write_text('#!/usr/bin/env bash\necho "$*"\n')
    (tmp_path / "egs/asr.sh").chmod(0o755)
    given = run("--system", system, "--encoder", "org/ears", "--nbpe", "30").stdout
    assert all(words in given for words in wanted) and given.endswith("--nbpe 30\n")
    assert ("--frontend_model org/ears" in given) == (system == "whisper")
    assert "--test_sets test_clean test_other test_cv --" in given
    another = run("--system", system, "--asr_config", "my.yaml").stdout
    assert another.endswith("--asr_config my.yaml\n") and "--first_asr_config" not in another
