"""Recipe folders: made from a checkout and from an installed wheel, and run where they were made."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recipe.init_recipe import RECIPES, main, recipes_root
from tests.recordings import write_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mine(tmp_path):
    """A folder of recordings, noise of a second each, with tables."""
    folder = tmp_path / "mine"
    write_tables(folder)
    return folder


def run(folder, *options, **environment):
    """Run a recipe's run.sh from another folder, with nothing of this test's own in its environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ESPNET_LARM_VENV")}
    command = [str(folder / "run.sh"), "--ngpu", "0", "--nj", "1", *options]
    return subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, timeout=300, check=False, env=kept | environment
    )


def test_ones_own_recordings_become_sets_and_tokens(mine, tmp_path, capsys):
    assert main([str(tmp_path / "my asr"), "--manifests", str(mine)]) == 0
    said = capsys.readouterr().out
    assert f"{mine}/train.tsv: 12 recordings" in said and f"next: cd '{tmp_path}/my asr' && ./run.sh" in said
    folder = tmp_path / "my asr"
    assert not list(tmp_path.glob(".part*"))
    # 200 pieces are more than these transcripts have.
    done = run(folder, "--stop_stage", "tokens", "--nbpe", "30")
    assert done.returncode == 0, done.stderr
    assert len(read_table(folder / "dump/raw/train/text")) == 12 and (folder / "dump/raw/test/wav.scp").is_file()
    assert len((folder / "data/token_list/bpe_unigram30/tokens.txt").read_text().splitlines()) > 20


@pytest.mark.slow
def test_an_installed_wheel_makes_a_recipe_that_runs(mine, tmp_path):
    source, target = tmp_path / "source", tmp_path / "site"
    made_by_recipes = shutil.ignore_patterns("data", "dump", "exp", "downloads", "__pycache__")
    shutil.copytree(ROOT / "egs", source / "egs", ignore=made_by_recipes)
    for name in ("espnet_larm", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    shutil.rmtree(source)
    packed = [path.relative_to(target / "espnet_larm/_recipes") for path in target.glob("espnet_larm/_recipes/**/*")]
    assert not [path for path in packed if path.suffix in (".md", ".png")]
    command = [sys.executable, "-m", "espnet_larm", "init-recipe", "asr", "--manifests", str(mine)]
    made = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(target)},
    )
    assert made.returncode == 0, made.stderr
    assert str(ROOT) not in "".join(path.read_text() for path in (tmp_path / "asr").rglob("*") if path.is_file())
    done = run(tmp_path / "asr", "--stop_stage", "tokens", "--token_type", "char")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "asr/data/token_list/char/tokens.txt").is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_everything_that_a_recipe_names_is_in_its_folder(name, tmp_path):
    folder = tmp_path / name
    assert main([str(folder), "--corpus", name]) == 0
    for path in (folder / "run.sh", folder / "asr.sh", folder / "local/data.sh"):
        assert os.access(path, os.X_OK), path
    texts = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    for path in folder.glob("run*.sh"):
        named = re.findall(r"(?<!/)conf/[\w./]+", texts[path])
        assert named or "run_llm" in texts[path]
        missing = [word for word in named if not (folder / word).is_file()]
        assert not missing, f"{path}: {missing}"
        assert "../utils" not in texts[path] and "../asr.sh" not in texts[path]
    # Plans of studies, which have rows, are for programs that are not installed.
    configurations = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / name).glob("*.yaml")}
    kept = {conf for conf, content in configurations.items() if "rows" not in content}
    assert {path.name for path in folder.glob("conf/*.yaml")} == {*kept, "decode_ctc_greedy.yaml"}
    readme = texts[folder / "README.md"]
    assert "`espnet_larm.load`\nand `espnet-larm transcribe --model` read." in readme
    assert "./run.sh" in readme and ".venv" not in texts[folder / "run.sh"]
    done = run(folder, "--help")
    assert done.returncode == 0 and "--asr_config" in done.stdout, done.stderr


def test_help_separates_corpora_by_semicolons_and_by_nothing_else(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "LibriSpeech (downloaded without --librispeech);" in said
    assert not [recipe.sentence for recipe in RECIPES.values() if ";" in recipe.sentence]


def test_the_experiment_has_the_name_that_it_has_in_the_repository(mine, tmp_path):
    main([str(tmp_path / "asr"), "--manifests", str(mine)])
    done = run(tmp_path / "asr", "--stage", "train", "--stop_stage", "train")
    assert done.returncode == 2 and "exp/asr_stats_raw_bpe200/train/speech_shape is missing" in done.stderr
    done = run(tmp_path / "asr", "--stage", "decode", "--stop_stage", "decode")
    assert "exp/asr_train_larm_raw_bpe200/valid.cer_ctc.ave.pth is missing" in done.stderr


def test_a_folder_that_holds_something_is_refused(mine, tmp_path):
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--manifests", str(mine)]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "empty").rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="empty is there and is not empty; name another folder"):
        main([str(tmp_path / "empty"), "--corpus", "an4"])
    with pytest.raises(FileExistsError, match=r"train.tsv is there"):
        main([str(mine / "train.tsv"), "--corpus", "an4"])
    assert before == {path: path.read_bytes() for path in (tmp_path / "empty").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shutil.rmtree, FileNotFoundError, r"mine is no folder; name the one"),
        (
            lambda mine: (mine / "dev.tsv").unlink(),
            FileNotFoundError,
            r"has no table dev \(.tsv or .jsonl\); there are: t",
        ),
        (lambda mine: (mine / "test.jsonl").unlink(), FileNotFoundError, r"has no table test "),
        (
            lambda mine: (mine / "dev.jsonl").touch(),
            ValueError,
            r"two tables of one name; leave one: dev.jsonl, dev.tsv",
        ),
        (lambda mine: (mine / "dev.tsv").write_text("path\ttext\n"), ValueError, r"dev.tsv:1: no column audio"),
    ],
)
def test_wrong_tables_are_told_and_nothing_is_made(mine, tmp_path, change, error, message):
    change(mine)
    with pytest.raises(error, match=message):
        main([str(tmp_path / "asr"), "--manifests", str(mine)])
    assert not (tmp_path / "asr").exists()


def test_tables_below_a_folder_with_a_space_are_refused(mine, tmp_path):
    mine.rename(tmp_path / "my own")
    with pytest.raises(ValueError, match=r"my own holds a space; name a folder without, a link to it for example"):
        main([str(tmp_path / "asr"), "--manifests", str(tmp_path / "my own")])


def test_an_installation_without_recipes_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("espnet_larm.recipe.init_recipe.PACKAGE", tmp_path / "espnet_larm")
    with pytest.raises(FileNotFoundError, match="was installed without recipes"):
        recipes_root()
