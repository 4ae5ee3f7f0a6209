"""egs/utils/names.sh: folders of different training sets are different, and folders of earlier names go on."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Bash = Callable[[str], subprocess.CompletedProcess[str]]
Run = Callable[..., subprocess.CompletedProcess[str]]
BPE = ("--token_type", "bpe", "--nbpe", "9")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a stage of asr.sh for a training set, with a program in place of Python that writes its call to `calls`."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$*" >> calls\n')
    (tmp_path / "python").chmod(0o755)
    for name in ("small", "large", "train", "large_sp", "dev"):
        for folder in (tmp_path / "dump/raw" / name, tmp_path / "dump/raw/org" / name):
            folder.mkdir(parents=True)
            for file in ("text", "wav.scp"):
                (folder / file).write_text("u1 A\n")
            (folder / "audio_format").write_text("flac\n")

    def run(train_set: str, stage: str, *options: str) -> subprocess.CompletedProcess[str]:
        sets = ["--train_set", train_set, "--valid_set", "dev", "--test_sets", "dev", "--nj", "1", "--ngpu", "0"]
        stages = ["--stage", stage, "--stop_stage", stage, "--python", "./python"]
        command = [str(ROOT / "egs/asr.sh"), *sets, *stages, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    return run


def call(folder: Path, program: str) -> str:
    """The last call of a program."""
    return next(line for line in reversed((folder / "calls").read_text().splitlines()) if program in line)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("../../conf/an4/train.yaml", "train"),
        ("../../conf/mini/train.yaml", "mini_train"),
        ("conf/train.yaml", "train"),
        ("conf/tuning/train.yaml", "train"),
        ("/tmp/train.yaml", "train"),
        ("../../conf/train.yaml", "train"),
        ("nowhere/train.yaml", "train"),
    ],
)
def test_experiments_are_named_as_espnet_does_unless_the_configuration_is_another_recipes(
    bash: Bash, tmp_path: Path, config: str, name: str
) -> None:
    for folder in ("conf/an4", "conf/mini", "egs/an4/conf/tuning"):
        (tmp_path / folder).mkdir(parents=True)
    done = bash(f"repository=$PWD; cd egs/an4; name_of_config {config} $repository")
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("--num_workers 2 --seed 3", "--seed 3"),
        ("--optim_conf lr=0.1 --max_epoch=9", "--optim_conf lr=0.1"),
        ("--log_interval 5", ""),
        ("--ngpu 2 --use_amp true --ngpu=1", "--use_amp true"),
        ("", ""),
    ],
)
def test_lengths_and_machines_of_trainings_are_not_in_the_names_of_experiments(
    bash: Bash, options: str, kept: str
) -> None:
    assert bash(f"what_names_a_model '{options}'").stdout == f"{kept}\n"


def make(folder: Path, **texts: str) -> None:
    """Files of a folder, whose names have `__` for a slash."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("train_set", "options", "tag"),
    [
        ("train", (), ""),
        ("small", (), "_small"),
        ("large", (), "_large"),
        ("large", ("--speed_perturb_factors", "0.9 1.0"), "_large_sp"),
    ],
)
def test_tokens_statistics_and_experiments_of_a_set_have_its_name(
    run: Run, tmp_path: Path, train_set: str, options: tuple[str, ...], tag: str
) -> None:
    tokens = f"data/token_list/bpe_unigram9{tag}"
    assert run(train_set, "tokens", *BPE, *options).returncode == 0
    assert f"--output_dir {tokens} " in call(tmp_path, "make-tokens")
    make(tmp_path / tokens, **{"tokens.txt": "A\n"})
    run(train_set, "stats", *BPE, *options)
    assert f"--output_dir exp/asr_stats_raw_bpe9{tag}/logdir/stats.1" in call(tmp_path, "asr_train")
    for part in ("train", "valid"):
        make(tmp_path / f"exp/asr_stats_raw_bpe9{tag}/{part}", speech_shape="u1 1\n")
    (tmp_path / "x.yaml").touch()
    config = ("--asr_config", "x.yaml", "--asr_args", "--seed 3 --ngpu 0")
    assert run(train_set, "train", *BPE, *options, *config).returncode == 0
    assert (tmp_path / f"exp/asr_x_raw_bpe9_seed3{tag}/train.log").is_file()


def test_folders_of_earlier_names_go_on_for_the_set_that_they_are_of(run: Run, tmp_path: Path) -> None:
    tokens, stats = tmp_path / "data/token_list/bpe_unigram9", tmp_path / "exp/asr_stats_raw_bpe9"
    make(tokens, **{"make_tokens.log": "dump/raw/small/text -> x: 9 tokens\n", "tokens.txt": "A\n"})
    make(stats, **{"logdir__stats.1.log": "# asr_train dump/raw/small/wav.scp,speech,sound\n"})
    make(stats, train__speech_shape="u1 1\n", valid__speech_shape="u1 1\n")
    make(tmp_path / "exp/asr_x_raw_bpe9_ngpu1", **{"config.yaml": "- dump/raw/small/wav.scp\n"})
    (tmp_path / "x.yaml").touch()
    options = (*BPE, "--asr_config", "x.yaml", "--asr_args", "--ngpu 1")
    done = run("small", "train", *options)
    assert done.returncode == 0, done.stderr
    assert (
        "exp/asr_x_raw_bpe9_ngpu1 goes on to be used: a new one would be named exp/asr_x_raw_bpe9_small" in done.stderr
    )
    called = call(tmp_path, "asr_train")
    assert "--token_list data/token_list/bpe_unigram9/tokens.txt" in called
    assert "--train_shape_file exp/asr_stats_raw_bpe9/train/speech_shape" in called
    assert "--output_dir exp/asr_x_raw_bpe9_ngpu1 " in called
    other = run("large", "train", *options)
    assert other.returncode == 2 and "exp/asr_stats_raw_bpe9_large/train/speech_shape is missing" in other.stderr


def test_a_set_that_was_forgotten_is_named_by_what_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("small", "train")
    assert (
        "run --stage stats first; this is about the set small, and there is data of: large,large_sp,train"
        in done.stderr
    )
    monkeypatch.setenv("TRAIN_SET_OPTIONS", "small=--subset 1,large=--subset 2,other=--subset 3")
    assert done.returncode == 2 and run("small", "train").stderr.endswith("there is data of: --subset 2\n")


def test_an_experiment_of_another_set_is_not_resumed(run: Run, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        make(tmp_path / f"exp/asr_stats_raw_bpe9_small/{part}", speech_shape="u1 1\n")
    make(tmp_path / "exp/asr_mine", **{"config.yaml": "- dump/raw/large/wav.scp\n", "checkpoint.pth": "x"})
    done = run("small", "train", *BPE, "--asr_tag", "mine")
    assert done.returncode == 2 and not (tmp_path / "calls").exists()
    assert "exp/asr_mine holds a training of another set than --train_set small" in done.stderr
    make(tmp_path / "exp/asr_mine", **{"config.yaml": "- moved/raw/small/wav.scp\n"})
    assert run("small", "train", *BPE, "--asr_tag", "mine").returncode == 0


def test_librispeech_names_the_subset_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "librispeech").mkdir()
    (tmp_path / "librispeech/run.sh").write_bytes((ROOT / "egs/librispeech/run.sh").read_bytes())
    for name in ("asr.sh", "utils"):
        (tmp_path / name).symlink_to(ROOT / "egs" / name)
    make(tmp_path / "librispeech/dump/raw/org/train_960_sp", **{"wav.scp": "u1 A\n"})
    make(tmp_path / "librispeech/dump/raw/org/dev", **{"wav.scp": "u1 A\n"})
    command = ["bash", tmp_path / "librispeech/run.sh", "--stage", "train", "--ngpu", "0", "--python", "true"]
    command += ["--asr_config", ROOT / "conf/librispeech/train_larm_100h.yaml"]
    command += ["--inference_config", ROOT / "conf/decode_ctc_greedy.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "the set train_clean_100_sp, and there is data of: --subset 960" in done.stderr
