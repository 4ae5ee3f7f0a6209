"""--use_lm true: ESPnet's LM over the recipe's tokens, and decoding with it."""

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Recipe = Callable[..., subprocess.CompletedProcess[str]]
Bash = Callable[[str], subprocess.CompletedProcess[str]]
CONFIG = "conf/mini/train_lm_transformer.yaml"
USE_LM = ["--use_lm", "true", "--lm_config", CONFIG, "--lm_tag", "x"]


def test_sentences_of_all_files_get_ids_of_their_own_and_kaldis_lose_theirs(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/text").write_text("u1 A  B\nu2\nu3 C\n")
    with gzip.open(tmp_path / "more.gz", "wt") as file:
        file.write("D 0\n\n0\n")
    done = bash("write_sentences out/train.txt d/text more.gz; cat out/train.txt")
    assert done.stdout.splitlines() == [
        "lm_0000000001 A B",
        "lm_0000000002 C",
        "lm_0000000003 D 0",
        "lm_0000000004 0",
    ]


def test_texts_that_are_missing_damaged_or_empty_are_said_and_nothing_is_written(bash: Bash, tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"A B\n" * 99)[:-9])
    (tmp_path / "text").write_text("u1\nu2\n")
    for file, message in (
        ("no", "no is missing or empty"),
        ("cut.gz", "cut.gz could not be read"),
        ("text", "no words"),
    ):
        done = bash(f"write_sentences train.txt {file}")
        assert done.returncode != 0 and message in done.stderr, file
        assert not (tmp_path / "train.txt").exists()


def test_stages_call_espnets_programs_with_its_options(calls: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/token_list/char").mkdir(parents=True)
    (tmp_path / "data/train/text").write_text("u1 A B\n")
    (tmp_path / "data/token_list/char/tokens.txt").write_text("A\n")
    (call, *_) = calls("lm_stats", *USE_LM, "--lm_args", "--seed 3")
    assert call.startswith("-m espnet2.bin.lm_train --collect_stats true --use_preprocessor true --token_type char ")
    assert f"{CONFIG} " in call and call.endswith(" --seed 3")
    assert (tmp_path / "exp/lm_stats_x/train.txt").read_text() == "lm_0000000001 A B\n"
    for part in ("train", "valid"):
        (tmp_path / "exp/lm_stats_x" / part).mkdir()
        (tmp_path / "exp/lm_stats_x" / part / "text_shape.char").write_text("u1 3,1\n")
    *_, call = calls("lm_train", *USE_LM, "--lm_fold_length", "77")
    assert call.startswith("-m espnet2.bin.lm_train --use_preprocessor true ") and "--output_dir exp/lm_x" in call
    assert " --fold_length 77 --resume true " in call and "text_shape.char" in call
    (tmp_path / "exp/lm_x").mkdir(exist_ok=True)
    (tmp_path / "exp/lm_x/2epoch.pth").write_text("weights")
    *_, call = calls("lm_perplexity", *USE_LM, "--inference_lm", "2epoch.pth", "--lm_test_text", "data/train/text")
    assert call.startswith("-m espnet2.bin.lm_calc_perplexity ") and "--model_file exp/lm_x/2epoch.pth " in call


def test_decoding_is_told_the_lm_and_has_a_beam_and_a_folder_of_its_own(
    calls: Callable[..., list[str]], tmp_path: Path
) -> None:
    for path in ("exp/asr_y/latest.pth", "exp/lm_x/valid.loss.ave.pth"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("weights")
    (tmp_path / "beam.yaml").write_text("ctc_weight: 0.3\nbeam_size: 20\n")
    options = [*USE_LM, "--asr_tag", "y", "--inference_asr_model", "latest.pth", "--inference_nj", "1"]
    files = "--lm_train_config exp/lm_x/config.yaml --lm_file exp/lm_x/valid.loss.ave.pth"

    def call_of(*more: str) -> str:
        return next(call for call in reversed(calls("decode", *options, *more)) if "asr_inference" in call)

    call = call_of("--inference_args", "--lm_weight 0.4")
    assert f"{files} --beam_size 10 " in call and call.endswith(" --lm_weight 0.4")
    assert "exp/asr_y/inference_lm_weight0.4_lm_x_valid.loss.ave_asr_model_latest/test/" in call
    assert f"{files} --beam_size 10 " in call_of("--inference_config", "conf/decode_ctc_greedy.yaml")
    assert "--beam_size" not in call_of("--inference_config", "beam.yaml")


def test_lms_of_other_tokens_or_training_sets_have_other_folders(
    calls: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/text").write_text("u1 A B\n")
    for tokens in ("char_sp", "bpe_unigram30_sp"):
        (tmp_path / "data/token_list" / tokens).mkdir(parents=True)
        (tmp_path / "data/token_list" / tokens / "tokens.txt").write_text("A\n")
    (tmp_path / "dump/raw/train").rename(tmp_path / "dump/raw/train_sp")
    options = ["--use_lm", "true", "--lm_config", CONFIG, "--speed_perturb_factors", "0.9 1.0"]
    calls("lm_stats", *options, "--lm_args", "--max_epoch 3")
    calls("lm_stats", *options, "--token_type", "bpe")
    found = sorted(path.name for path in (tmp_path / "exp").iterdir())
    begin = "lm_stats_mini_train_lm_transformer"
    assert found == [f"{begin}_bpe30_sp", f"{begin}_char_sp"]


@pytest.mark.slow
@pytest.mark.recipe
def test_an_lm_of_espnets_is_trained_and_rescores_a_beam_and_an_attention_model_is_handed_over(
    recipe: Recipe, tmp_path: Path
) -> None:
    options = [*USE_LM, "--lm_args", "--max_epoch 2", "--asr_config", "conf/tiny/train_larm.yaml"]
    options += ["--inference_config", "conf/decode_ctc_greedy.yaml"]
    done = recipe(*options, "--asr_args", "--max_epoch 1", "--asr_tag", "tiny", "--lm_train_text", "data/train/text")
    assert done.returncode == 0, done.stderr
    assert "  epoch 2/2: loss" in done.stderr and "perplexity of dump/raw/test/text: " in done.stderr
    folder = tmp_path / "exp/asr_tiny/decode_ctc_greedy_lm_x_valid.loss.ave_asr_model_valid.loss.ave/test"
    stats = json.loads((folder / "stats.json").read_text())
    assert (stats["lm_file"], stats["lm_weight"], stats["search"]["beam_size"]) == ("valid.loss.ave.pth", 1.0, 10)
    assert "lm_weight 1 (valid.loss.ave.pth)" in (tmp_path / "exp/asr_tiny/RESULTS.md").read_text()
    again = recipe(*options, "--stage", "lm_train", "--stop_stage", "lm_train", "--lm_args", "--max_epoch 3")
    assert again.returncode == 0 and "epoch 3/3: loss" in again.stderr and "epoch 2/3" not in again.stderr
    hybrid = ["--asr_tag", "hybrid", "--asr_args", "--max_epoch 1 --decoder transformer --model_conf ctc_weight=0.3"]
    hybrid += ["--inference_asr_model", "latest.pth", "--inference_config", "", "--inference_args", "--beam_size 2"]
    done = recipe(*options, *hybrid, "--stage", "stats", "--stop_stage", "score")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "exp/asr_hybrid").glob("inference*/test/logdir/asr_inference.1.log")
    taken = [line for line in log.read_text().splitlines() if line.endswith("ESPnet's own asr_inference takes over.")]
    assert len(taken) == 1 and "the model has decoder: transformer" in taken[0]
