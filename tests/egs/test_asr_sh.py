"""Stages 1 to 5 of asr.sh on a tiny corpus of noise."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_larm.data.kaldi_dir import read_dir, read_table
from espnet_larm.recognize.config import DecodeConfig

ROOT = Path(__file__).parents[2]
LM_OF_THE_HUB = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", "org/lm"]
Recipe = Callable[..., subprocess.CompletedProcess[str]]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_stages_1_to_5_make_sets_and_tokens_and_can_be_repeated(recipe: Recipe, tmp_path: Path) -> None:
    options = ["--stop_stage", "tokens", "--speed_perturb_factors", "0.9 1.0"]
    done = recipe(*options)
    assert done.returncode == 0, done.stderr
    assert "data/train -> data/train_sp" in done.stderr and "stage 5 (tokens) took" in done.stderr
    assert len(read_dir(tmp_path / "dump/raw/train_sp")) == 6
    assert {path.parent.name: path.read_text() for path in tmp_path.glob("dump/raw/*/audio_format")} == {
        "train_sp": "flac.ark\n",
        "dev": "flac.ark\n",
        "test": "flac\n",
    }
    tokens = (tmp_path / "data/token_list/char_sp/tokens.txt").read_text().split()
    assert tokens == ["<blank>", "<unk>", "<space>", "D", "O", "R", "W", "A", "B", "<sos/eos>"]
    before = files(tmp_path / "dump"), files(tmp_path / "data")
    assert recipe(*options).returncode == 0
    assert (files(tmp_path / "dump"), files(tmp_path / "data")) == before


@pytest.mark.slow
def test_an_empty_transcript_is_dropped_from_training_and_kept_for_testing(recipe: Recipe, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / "source" / name / "text").write_text("s0-u WORD A\ns1-u\ns2-u WORD A\n")
    done = recipe("--stop_stage", "filter")
    assert done.returncode == 0, done.stderr
    assert "dropped s1-u: its transcript is empty" in done.stderr
    assert [utterance.id for utterance in read_dir(tmp_path / "dump/raw/train")] == ["s0-u", "s2-u"]
    assert len(read_dir(tmp_path / "dump/raw/test")) == 3


@pytest.mark.slow
def test_parts_of_recordings_go_through_all_stages_and_problems_that_are_allowed_are_left_out(
    recipe: Recipe, tmp_path: Path
) -> None:
    for name, rate in (("train", 16000), ("dev", 8000)):
        folder = tmp_path / "source" / name
        soundfile.write(folder / "tape.wav", np.random.default_rng(7).uniform(-0.5, 0.5, 2 * rate), rate)
        (folder / "wav.scp").write_text(f"tape cat {folder}/tape.wav |\nlost {folder}/lost.wav\n")
        (folder / "segments").write_text("s0-u tape 0.25 0.75\ns1-u lost 0 1\ns2-u tape 1.5 2.125\n")
    options = ["--stop_stage", "tokens", "--speed_perturb_factors", "0.5 1.0"]
    done = recipe(*options)
    assert done.returncode == 1 and "data/train/segments:2: s1-u: " in done.stderr
    done = recipe(*options, "--allow_problems", "missing-audio unsorted")
    assert done.returncode == 0, done.stderr
    assert "1 copies are left out" in done.stderr and "1 of 3 utterances are left out" in done.stderr
    assert "data/dev/segments:3: s2-u: the segment ends 0.125 s behind the end of the recording" in done.stderr
    lengths = {name: read_table(tmp_path / f"dump/raw/{name}/utt2num_samples") for name in ("train_sp", "dev")}
    assert lengths["train_sp"] == {"sp0.5-s0-u": "16000", "sp0.5-s2-u": "16000", "s0-u": "8000", "s2-u": "8000"}
    assert lengths["dev"] == {"s0-u": "8000", "s2-u": "8000"}


@pytest.mark.slow
def test_a_missing_file_stops_stage_3_with_its_name_and_keeps_what_was_there(recipe: Recipe, tmp_path: Path) -> None:
    assert recipe("--stop_stage", "3").returncode == 0
    before = files(tmp_path / "dump/raw/org/train")
    (tmp_path / "source/audio/train/1.flac").unlink()
    done = recipe("--stage", "format", "--stop_stage", "format")
    assert done.returncode == 1
    assert "data/train/wav.scp:2: s1-u: " in done.stderr and "1.flac is missing" in done.stderr
    after = files(tmp_path / "dump/raw/org/train")
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
def test_a_damaged_folder_stops_stage_2_with_file_and_line_before_audio_is_read(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "source/dev/utt2spk").write_text("s0-u s0\ns1-u s0\ns2-u s2\n")
    done = recipe("--stop_stage", "speed", "--speed_perturb_factors", "0.9")
    assert done.returncode == 1
    assert "data/dev/utt2spk:2: s1-u is of s0 here, of s1 in spk2utt:2" in done.stderr
    assert not (tmp_path / "data/train_sp").exists()


@pytest.mark.slow
def test_a_text_that_the_tokens_cannot_spell_stops_stage_10(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "source/dev/text").write_text("s0-u WORD A\ns1-u W\u00c9RD A\ns2-u WORD\n")
    (tmp_path / "source/test/text").write_text("s0-u WORD A\ns1-u W\u00c9RD A\ns2-u WORD\n")
    done = recipe("--stop_stage", "stats")
    assert done.returncode == 1
    assert "dump/raw/dev/text:2: s1-u: " in done.stderr and "has no token" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--traning_set", "x"], "unknown option --traning_set; nearest: --train_set"),
        (["--stage", "trian"], "--stage trian is no stage; nearest: train"),
        (["--token_type", "word"], "--token_type word is not known; allowed: char, bpe, hugging_face"),
        (["--token_type", "hugging_face"], "needs --hugging_face_model_name_or_path, a folder or hub id"),
        (
            ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", "../nowhere/lm"],
            "--hugging_face_model_name_or_path ../nowhere/lm: no such folder; name one, or a hub id",
        ),
        (["--ctc_token_type", "char"], "--ctc_token_type char is for --token_type hugging_face; leave it out"),
        (
            [
                "--hugging_face_revision",
                "r1",
                "--token_type",
                "hugging_face",
                "--hugging_face_model_name_or_path",
                "local",
            ],
            "--hugging_face_revision r1 is for --token_type hugging_face and an LM of the hub;",
        ),
        (["--ctc_token_type", "word"], "--ctc_token_type word is not known; allowed: char, bpe"),
        (["--first_asr_config", "conf/nowhere.yaml"], "--first_asr_config conf/nowhere.yaml: no such file in"),
        (
            ["--use_lm", "true", *LM_OF_THE_HUB],
            "--use_lm true is for --token_type char and bpe; with hugging_face an LM",
        ),
        (["--use_lm", "true", "--stage", "lm_train"], "train/text_shape.char is missing; run --stage lm_stats first"),
        (
            ["--use_lm", "true", "--lm_tag", "x", "--stage", "lm_perplexity"],
            "exp/lm_x/valid.loss.ave.pth is missing; run",
        ),
        (["--ngram_file", "3gram.arpa"], "--ngram_file needs --use_ngram true"),
        (
            ["--use_ngram", "true", "--ngram_file", "3gram.arpa", "--ngram_text", "novels.txt"],
            "--ngram_file is given, and --ngram_text to train one; leave one out",
        ),
        (["--ngram_num", "1"], "--ngram_num 1 is not supported; allowed: 2 to 6"),
        (["--ngram_text", "novels.txt"], "--ngram_text needs --use_ngram true"),
        (
            ["--use_ngram", "true", "--stage", "ngram", "--stop_stage", "ngram"],
            "dump/raw/dev/text is missing; run --stage filter first",
        ),
        (
            ["--lm_config", "conf/tiny/train_lm.yaml"],
            "--lm_config needs --lm_train_text, the text to train an LM from, or --use_lm true",
        ),
        (["--lm_train_text", "x", "--lm_config", "conf/nowhere.yaml"], "--lm_config conf/nowhere.yaml: no such file"),
        (["--lm_train_text", "x", "--stage", "lm_train"], "tokenizer.json is missing; run --stage lm_stats first"),
        (["--lm_train_text", "x", "--stage", "lm_perplexity"], "config.json is missing; run --stage lm_train first"),
        (["--nj", "many"], "--nj many must be a whole number"),
        (["--fs", "16kHz"], "--fs 16kHz must be a whole number"),
        (["--stage", "0"], "--stage 0 is no stage; allowed: 1 to 15, or a name"),
        (["--stage", "none"], "--stage none is no stage; nearest: "),
        (["--stage", "16"], "--stage 16 is no stage; allowed: 1 to 15, or a name"),
        (["--stage", "score", "--stop_stage", "train"], "--stage 13 comes after --stop_stage 11"),
        (["--asr_config", "conf/nowhere.yaml"], "--asr_config conf/nowhere.yaml: no such file in"),
        (
            ["--stage", "train", "--stop_stage", "train"],
            "exp/asr_stats_raw_char/train/speech_shape is missing; run --stage stats",
        ),
        (["--stage", "upload"], "stage 15 needs --hf_repo user/name, the repository to upload to"),
        (["--hf_repo", "name"], "--hf_repo name is no repository on the Hugging Face hub; allowed: user/name"),
        (["--stage", "upload", "--hf_repo", "ann/x"], "is missing; run --stage pack first"),
        (["--num_nodes", "2"], "--num_nodes 2 needs a scheduler: set cmd_backend=slurm in cmd.sh"),
        (["--num_nodes", "0"], "--nj, --inference_nj and --num_nodes must be at least 1"),
    ],
)
def test_misuse_ends_with_status_2_and_a_sentence(recipe: Recipe, options: list[str], message: str) -> None:
    done = recipe(*options)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_without_text_for_an_lm_its_stages_are_skipped_with_the_reason(recipe: Recipe) -> None:
    done = recipe("--stage", "lm_stats", "--stop_stage", "ngram")
    assert done.returncode == 0
    for stage in ("6 (lm_stats)", "7 (lm_train)", "8 (lm_perplexity)"):
        assert (
            f"stage {stage} is skipped: --lm_train_text names no text to train an LM from, and --use_lm is false"
            in done.stderr
        )
    assert "stage 9 (ngram) is skipped: --use_ngram is false" in done.stderr


@pytest.mark.slow
def test_an_ngram_is_trained_from_the_transcripts_before_speeds_are_changed(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    options = ["--use_ngram", "true", "--speed_perturb_factors", "0.9 1.0", "--stop_stage", "ngram"]
    done = recipe(*options)
    assert done.returncode == 0, done.stderr
    assert "text: 3 sentences, 6 tokens" in done.stderr and "perplexity: " in done.stderr
    assert (tmp_path / "exp/ngram_word/3gram.arpa").read_text().startswith("\\data\\\nngram 1=6\n")
    (tmp_path / "other.txt").write_text("word a\n")
    other = recipe(*options[:2], "--stage", "ngram", *options[-2:], "--ngram_text", "other.txt")
    assert other.returncode == 1 and "--text is in small letters" in other.stderr


def test_what_hears_an_ngram_is_decoded_into_a_folder_of_its_own(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "exp/asr_x").mkdir(parents=True)
    (tmp_path / "exp/asr_x/latest.pth").write_text("weights")
    options = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", "llm", "--asr_tag", "x"]
    options += ["--inference_asr_model", "latest.pth", "--use_ngram", "true"]
    done = recipe(*options, "--stage", "decode", "--stop_stage", "decode")
    assert done.returncode == 2
    assert "exp/ngram_hugging_face_llm/3gram.arpa is missing; run --stage ngram first" in done.stderr
    done = recipe(*options, "--stage", "score", "--stop_stage", "score")
    missing = "exp/asr_x/inference_ngram_hugging_face_llm_3gram_asr_model_latest/test/text is missing"
    assert missing in done.stderr
    words = ["--asr_tag", "x", "--inference_asr_model", "latest.pth", "--use_ngram", "true"]
    done = recipe(*words, "--stage", "score", "--stop_stage", "score")
    assert "exp/asr_x/inference_ngram_word_3gram_asr_model_latest/test/text is missing" in done.stderr
    given = [*words, "--ngram_file", "lm/4-gram.arpa.gz"]
    done = recipe(*given, "--stage", "ngram", "--stop_stage", "score", "--skip_stages", "stats train decode")
    assert "stage 9 (ngram) is skipped: --ngram_file names one" in done.stderr
    assert "exp/asr_x/inference_4-gram_asr_model_latest/test/text is missing" in done.stderr


@pytest.mark.slow
@pytest.mark.recipe
def test_an_lm_from_text_gives_the_tokens_and_is_named_as_the_decoder(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("WORD A WORD B\nB WORD A\n" * 60)
    for name in ("train", "dev"):
        (tmp_path / "dump/raw" / name).mkdir(parents=True)
        (tmp_path / "dump/raw" / name / "text").write_text("u1 WORD A\nu2 WORD B\n")
    options = ["--token_type", "hugging_face", "--lm_train_text", "more.txt dump/raw/train/text", "--lm_tag", "toy"]
    options += ["--lm_config", "conf/tiny/train_lm.yaml", "--lm_args", "--max_steps 20 --vocab_size 20"]
    done = recipe(*options, "--stage", "tokens", "--stop_stage", "lm_perplexity")
    assert done.returncode == 0, done.stderr
    assert [line.split()[4] for line in done.stderr.splitlines() if " took " in line] == ["6", "5", "7", "8"]
    assert "step 20/20: loss" in done.stderr and "perplexity: " in done.stderr
    tokens = (tmp_path / "data/token_list/hugging_face_lm_toy/tokens.txt").read_text().split()
    assert tokens[:4] == ["<unk>", "<s>", "</s>", "<pad>"] and "\u2581WORD" in tokens
    assert (tmp_path / "exp/lm_toy/model.safetensors").is_file()
    changed = recipe(
        *options, "--stage", "lm_train", "--stop_stage", "lm_train", "--lm_args", "--max_steps 9 --vocab_size 20"
    )
    assert changed.returncode == 1 and "was begun with other options: max_steps 20 (now 9)" in changed.stderr


def test_several_machines_are_allowed_with_a_scheduler_and_where_nothing_is_trained(
    recipe: Recipe, tmp_path: Path
) -> None:
    options = ["--num_nodes", "2", "--asr_config", "conf/nowhere.yaml"]
    assert "conf/nowhere.yaml: no such file" in recipe(*options, "--skip_train", "true").stderr
    (tmp_path / "cmd.sh").write_text("cmd_backend=slurm\n")
    assert "conf/nowhere.yaml: no such file" in recipe(*options).stderr


def test_an_unknown_scheduler_is_refused_before_anything_runs(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "cmd.sh").write_text("cmd_backend=pbs\n")
    done = recipe()
    assert done.returncode == 2 and "cmd_backend=pbs in cmd.sh is not known; allowed: local, slurm" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["an4", "librispeech", "mini", "read_speech"])
def test_help_of_a_recipe_begins_with_its_own_header_and_options(name: str) -> None:
    command = [str(ROOT / "egs" / name / "run.sh"), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    begins = "Read speech: a corpus" if name == "read_speech" else "The looped encoder on "
    assert done.returncode == 0 and done.stdout.startswith(begins)
    own, shared = done.stdout.split("The recipe passes all other options to asr.sh:")
    options = {
        "an4": ["an4_root"],
        "librispeech": ["librispeech", "subset", "case", "ngram", "mirror"],
        "mini": [],
        "read_speech": ["corpus", "manifests", "train_set", "train", "dev", "tests", "system", "case", "encoder"],
    }[name]
    assert [line.split()[0] for line in own.splitlines() if line.startswith("  --")] == [f"--{o}" for o in options]
    assert "  --asr_config ()" in shared


@pytest.mark.parametrize("name", ["an4", "librispeech", "mini", "read_speech"])
def test_a_signal_to_a_recipe_reaches_its_pipeline(name: str, tmp_path: Path) -> None:
    # As one process: bash would wait for a pipeline of its own before it looks at a signal, or die and leave it alone.
    (tmp_path / name).mkdir()
    (tmp_path / name / "run.sh").write_bytes((ROOT / "egs" / name / "run.sh").read_bytes())
    (tmp_path / "utils").symlink_to(ROOT / "egs/utils")
    (tmp_path / "asr.sh").write_text("#!/usr/bin/env bash\necho $$\n")
    (tmp_path / "asr.sh").chmod(0o755)
    with subprocess.Popen(["bash", tmp_path / name / "run.sh"], stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=60)[0] == f"{process.pid}\n"


@pytest.mark.parametrize("policy", [None, "active"])
def test_programs_of_stages_have_threads_that_sleep_unless_the_user_says_otherwise(
    calls: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str | None
) -> None:
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$OMP_WAIT_POLICY" >> {tmp_path}/calls\n')
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert calls("tokens") == [policy or "passive"]


def test_an_lms_tokens_must_spell_the_development_text_too(calls: Callable[..., list[str]]) -> None:
    (call,) = calls("tokens", *LM_OF_THE_HUB)
    assert "--text dump/raw/train/text " in call and "--check_text dump/raw/dev/text" in call
    assert "--revision" not in call


def test_the_tokens_of_a_ctc_head_beside_an_lm_must_spell_all_sets(
    calls: Callable[..., list[str]], tmp_path: Path
) -> None:
    for name in ("hugging_face_lm", "bpe_unigram9"):
        (tmp_path / "data/token_list" / name).mkdir(parents=True)
        (tmp_path / "data/token_list" / name / "tokens.txt").write_text("A\n")
    options = ["--ctc_token_type", "bpe", "--nbpe", "9"]
    validated = [call for call in calls("stats", *LM_OF_THE_HUB, *options) if "validate-data" in call]
    folders = ["dump/raw/train dump/raw/dev", "dump/raw/test"]
    tokens = "data/token_list/bpe_unigram9/tokens.txt --bpemodel data/token_list/bpe_unigram9/bpe.model"
    assert len(validated) == 2
    for call, names in zip(validated, folders, strict=True):
        assert f"--data_dirs {names} --token_list {tokens} " in call


def test_symbols_that_are_no_speech_reach_tokens_and_scores(calls: Callable[..., list[str]], tmp_path: Path) -> None:
    decoded = tmp_path / "exp/asr_x/d/test"
    decoded.mkdir(parents=True)
    (decoded / "text").write_text("u1 A\n")
    symbols = ["--nlsyms_txt", "data/symbols"]
    for token_type in ("char", "bpe"):
        assert "--nlsyms data/symbols" in calls("tokens", "--token_type", token_type, *symbols)[-1]
    *_, tokens_of_lm = calls("tokens", *LM_OF_THE_HUB, *symbols)
    assert "--nlsyms" not in tokens_of_lm
    *_, scored, _ = calls("score", *symbols, "--asr_tag", "x", "--inference_tag", "d")
    assert scored.startswith("score ") and "--nlsyms data/symbols" in scored


def test_a_revision_of_an_lm_is_given_to_its_tokens_and_to_the_decoder(
    calls: Callable[..., list[str]], tmp_path: Path
) -> None:
    revision = ["--hugging_face_revision", "refs/pr/1"]
    (call,) = calls("tokens", *LM_OF_THE_HUB, *revision)
    folder = "data/token_list/hugging_face_lm_refs_pr_1"
    assert "--llm org/lm " in call and "--revision refs/pr/1" in call and f"--output_dir {folder} " in call
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / "tokens.txt").write_text("A\n")
    (call,) = [call for call in calls("stats", *LM_OF_THE_HUB, *revision) if "asr_train" in call]
    assert "--decoder_conf llm=org/lm --decoder_conf revision='refs/pr/1'" in call


def test_an_lm_that_has_moved_is_named_for_scoring_too(calls: Callable[..., list[str]], tmp_path: Path) -> None:
    decoded = tmp_path / "exp/asr_x/d/test"
    decoded.mkdir(parents=True)
    (decoded / "text").write_text("u1 A\n")
    (tmp_path / "moved").mkdir()
    options = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", "moved", "--asr_tag", "x"]
    call, _ = calls("score", *options, "--inference_tag", "d")
    assert call.endswith(f"--bpemodel {tmp_path}/moved")


def test_a_frozen_encoder_is_stored_then_read_in_training_and_named_in_decoding(
    calls: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere/ears").mkdir(parents=True)
    monkeypatch.setenv("ESPNET_LARM_CALLER", str(tmp_path / "elsewhere"))
    (tmp_path / "x.yaml").touch()
    tokens = tmp_path / "data/token_list/char/tokens.txt"
    tokens.parent.mkdir(parents=True)
    tokens.write_text("A\n")
    options = ["--asr_config", "x.yaml", "--store_frames", "true", "--frontend_model", "ears", "--asr_tag", "x"]
    found = calls("stats", *options)
    folder = f"{tmp_path}/elsewhere/ears"
    for part in ("train", "dev"):
        stored = f"store-frames --data_dir dump/raw/{part} --config x.yaml --ngpu 0 --model {folder}"
        assert any(call.endswith(stored) for call in found)
    (stats,) = [call for call in found if "--collect_stats" in call]
    for part, name in (("train", "train"), ("valid", "dev")):
        assert f"--{part}_data_path_and_name_and_type dump/raw/{name}/frames.scp,speech,frames" in stats
    assert f"--frontend_conf model={folder}" in stats and "asr_stats_raw_char_x/" in stats
    (tmp_path / "exp/asr_x").mkdir(parents=True)
    (tmp_path / "exp/asr_x/valid.loss.ave.pth").write_text("weights")
    decode = next(call for call in calls("decode", *options) if "asr_inference" in call)
    assert f"--encoder {folder}" in decode and "dump/raw/test/wav.scp,speech,sound" in decode


def test_frames_of_an_encoder_that_learns_are_refused_first_and_nothing_is_removed(
    recipe: Recipe, tmp_path: Path
) -> None:
    stats = tmp_path / "exp/asr_stats_raw_char_x/train/speech_shape"
    for train in ("all", "lora  # r: 16"):
        (tmp_path / "x.yaml").write_text(f"frontend_conf:\n    model: ears\n\n    train: {train}\nencoder: larm\n")
        result = recipe("--store_frames", "true", "--asr_config", "x.yaml", "--stop_stage", "10")
        assert "x.yaml trains the encoder, whose frames then change; allowed with it: train: frozen" in result.stderr
        assert result.returncode == 2 and "starts" not in result.stderr
    result = recipe("--store_frames", "true", "--stop_stage", "10")
    assert result.returncode == 2 and "--store_frames true needs --asr_config" in result.stderr
    # What store-frames itself refuses leaves what is there.
    (tmp_path / "x.yaml").write_text("frontend_conf: {train: all}\n")
    for path in (stats, tmp_path / "dump/raw/train/wav.scp", tmp_path / "data/token_list/char/tokens.txt"):
        path.parent.mkdir(parents=True)
        path.write_text("A\n")
    (tmp_path / "python").write_text("#!/bin/sh\ncase $* in *store-frames*) exit 1 ;; esac\n")
    (tmp_path / "python").chmod(0o755)
    options = ["--stage", "stats", "--stop_stage", "stats", "--python", f"{tmp_path}/python"]
    result = recipe("--store_frames", "true", "--asr_config", "x.yaml", *options)
    assert "stats" in result.stderr and result.returncode != 0 and stats.exists()


def test_paths_of_lms_and_their_texts_are_the_callers(
    calls: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = tmp_path / "elsewhere"
    (caller / "lm").mkdir(parents=True)
    (caller / "novels.txt.gz").touch()
    monkeypatch.setenv("ESPNET_LARM_CALLER", str(caller))
    (call,) = calls("tokens", "--token_type", "hugging_face", "--hugging_face_model_name_or_path", "lm")
    assert f"--llm {caller}/lm " in call
    *_, call = calls("lm_stats", "--lm_train_text", "novels.txt.gz dump/raw/train/text")
    assert f"--text {caller}/novels.txt.gz dump/raw/train/text " in call


@pytest.mark.parametrize("name", ["an4", "librispeech", "mini", "read_speech"])
def test_a_recipe_says_where_it_was_called(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(ROOT / "egs" / name / "run.sh", tmp_path / name)
    (tmp_path / "utils").symlink_to(ROOT / "egs/utils")
    (tmp_path / "asr.sh").write_text('#!/usr/bin/env bash\necho "$ESPNET_LARM_CALLER"\n')
    (tmp_path / "asr.sh").chmod(0o755)
    (tmp_path / "caller").mkdir()
    command = ["bash", tmp_path / name / "run.sh"]
    done = subprocess.run(command, cwd=tmp_path / "caller", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{tmp_path}/caller\n"


def test_stages_can_be_skipped_by_name(recipe: Recipe, tmp_path: Path) -> None:
    done = recipe("--stop_stage", "speed", "--skip_stages", "data")
    assert done.returncode == 0 and "stage 1" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_more_gpus_than_there_are_is_said_before_anything_runs(recipe: Recipe, tmp_path: Path) -> None:
    done = recipe("--ngpu", "99")
    assert done.returncode == 2 and "--ngpu wants 99 GPU(s), " in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("checkpoint", "status", "kept"),
    [
        ("exp/asr_x/checkpoint.pth", 1, "--max_epoch 3"),
        ("exp/asr_x/checkpoint.pth", 75, "--max_epoch 4"),
        ("exp/asr_x/checkpoint.pth", 0, "--max_epoch 4"),
        ("exp/nothing_to_resume.pth", 1, "--max_epoch 4"),
    ],
)
def test_run_sh_of_an_experiment_keeps_the_options_of_the_last_training_that_saved(
    recipe: Recipe, tmp_path: Path, checkpoint: str, status: int, kept: str
) -> None:
    for path in ("train/speech_shape", "valid/speech_shape"):
        (tmp_path / "exp/asr_stats_raw_char" / path).parent.mkdir(parents=True)
        (tmp_path / "exp/asr_stats_raw_char" / path).write_text("a 1\n")
    for name in ("train", "dev"):
        (tmp_path / "dump/raw" / name).mkdir(parents=True)
        (tmp_path / "dump/raw" / name / "audio_format").write_text("flac\n")

    def train(epochs: int, status: int) -> int:
        options = ["--asr_tag", "x", "--asr_args", f"--max_epoch {epochs}", "--python", "./python"]
        (tmp_path / "python").write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / "python").chmod(0o755)
        return recipe("--stage", "train", "--stop_stage", "train", *options).returncode

    assert train(3, 75) == 75
    (tmp_path / checkpoint).touch()
    assert train(4, status) == status
    script = tmp_path / "exp/asr_x/run.sh"
    assert f"export ESPNET_LARM_CALLER={tmp_path}\n" in script.read_text()
    assert kept.replace(" ", "\\ ") in script.read_text() and script.stat().st_mode & 0o100


@pytest.mark.slow
@pytest.mark.recipe
def test_all_stages_end_in_results_and_a_pack_and_training_resumes(recipe: Recipe, tmp_path: Path) -> None:
    options = ["--asr_config", "conf/tiny/train_larm.yaml", "--inference_config", "conf/decode_ctc_greedy.yaml"]
    done = recipe(*options, "--asr_args", "--max_epoch 1", "--asr_tag", "tiny", "--skip_packing", "false")
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1: loss" in done.stderr
    folder = tmp_path / "exp/asr_tiny"
    results = folder / "decode_ctc_greedy_asr_model_valid.loss.ave/test"
    assert len((results / "text").read_text().splitlines()) == 3
    assert (results / "score_wer/result.txt").is_file() and (folder / "RESULTS.md").is_file()
    assert (folder / "asr_tiny_valid.loss.ave.zip").is_file()
    resumed = subprocess.run(
        [folder / "run.sh", "--stop_stage", "train", "--asr_args", "--max_epoch 2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 2/2: loss" in resumed.stderr and "epoch 1/2" not in resumed.stderr


@pytest.mark.slow
@pytest.mark.recipe
def test_an_lm_is_trained_in_two_stages_with_the_second_beginning_where_the_first_ended(
    recipe: Recipe, tmp_path: Path, save_lm: Callable[..., str]
) -> None:
    llm = save_lm(tmp_path / "lm", ["<unk>", "<s>", "</s>", "WORD", "A", "B"])
    shutil.copytree(ROOT / "conf/tiny", tmp_path / "conf")
    first = yaml.safe_load((ROOT / "conf/tiny/train_llm.yaml").read_text())
    second = {**first, "decoder_conf": {**first["decoder_conf"], "adaptation": "lora", "lora_conf": {"r": 2}}}
    second["decoder_conf"]["num_heads"] = 3
    (tmp_path / "conf/second.yaml").write_text(yaml.safe_dump(second))
    options = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", llm, "--ctc_token_type", "char"]
    (tmp_path / "conf/third.yaml").write_text(yaml.safe_dump(second))
    options += ["--inference_asr_model", "latest.pth", "--asr_args", "--max_epoch 1"]
    done = recipe(*options, "--asr_config", "conf/train_llm.yaml", "--stop_stage", "train")
    assert done.returncode == 0, done.stderr
    (command,) = (tmp_path / "exp").glob("asr_train_llm_*/run.sh")
    own_command = command.read_text()
    options += ["--first_asr_config", "conf/train_llm.yaml:decoder.projector conf/second.yaml"]
    options += ["--asr_config", "conf/third.yaml"]
    done = recipe(*options, "--stage", "train", "--stop_stage", "score")
    assert done.returncode == 0, done.stderr
    assert command.read_text() == own_command and not list((tmp_path / "exp").glob("*/.run.sh.next"))
    exps = sorted(path.parent for path in (tmp_path / "exp").glob("*/latest.pth"))
    assert [path.name for path in exps] == [
        f"asr_{name}_raw_hugging_face_lm_ctc_char" for name in ("second", "third", "train_llm")
    ]
    second_exp, last_exp, first_exp = (path.relative_to(tmp_path) for path in exps)
    log = (exps[0] / "train.log").read_text()
    assert f"--init_param {first_exp}/latest.pth:::decoder.projector " in log
    assert f"--init_param {second_exp}/latest.pth " in (tmp_path / last_exp / "train.log").read_text()
    exps = exps[1:]
    weights = [torch.load(path / "latest.pth", weights_only=True) for path in exps]
    assert set(weights[1]) < set(weights[0]) and all(
        "lora_" in name or "heads" in name for name in set(weights[0]) - set(weights[1])
    )
    (texts,) = exps[0].glob("inference*/test/text")
    assert len(texts.read_text().splitlines()) == 3 and (exps[0] / "RESULTS.md").is_file()
    again = recipe(*options, "--stage", "train", "--stop_stage", "train")
    assert again.returncode == 0, again.stderr
    assert "epoch 1/1" not in again.stderr


@pytest.mark.slow
@pytest.mark.recipe
def test_stage_14_packs_a_model_with_an_lm_that_has_moved_and_pieces_for_its_ctc_head(
    recipe: Recipe, tmp_path: Path, build_speech_llm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from espnet_larm.recipe.make_tokens import train_bpe

    pieces = tmp_path / "data/token_list/bpe_unigram9"
    pieces.mkdir(parents=True)
    tokens = train_bpe(["A B C D", "AB CD", "ABCD"] * 5, pieces / "bpe.model", 9, "unigram")
    (pieces / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
    names = {"ctc_token_list": "data/token_list/bpe_unigram9/tokens.txt"}
    bpe = {"ctc_token_type": "bpe", "ctc_bpemodel": "data/token_list/bpe_unigram9/bpe.model"}
    monkeypatch.chdir(tmp_path)
    model = build_speech_llm(
        token_type="hugging_face",
        bpemodel=str(tmp_path / "llm"),
        model_conf=names,
        preprocessor="speech_llm",
        preprocessor_conf={**names, **bpe},
    )
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    (tmp_path / "exp/asr_tiny").mkdir(parents=True)
    (tmp_path / "exp/asr_tiny/config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    torch.save(model.state_dict(), tmp_path / "exp/asr_tiny/valid.loss.ave.pth")
    (tmp_path / "llm").rename(tmp_path / "moved")
    llm = ["--token_type", "hugging_face", "--hugging_face_model_name_or_path", "moved", "--ctc_token_type", "bpe"]
    options = ["--asr_tag", "tiny", "--feats_normalize", "utterance_mvn", "--nbpe", "9", *llm]
    done = recipe("--stage", "pack", "--stop_stage", "pack", *options)
    assert done.returncode == 0, done.stderr
    packed = tmp_path / "exp/asr_tiny/asr_tiny_valid.loss.ave.zip"
    from espnet_larm.recognize.packs import load

    recognizer = load(packed, llm=str(tmp_path / "moved"))
    best = recognizer.recognize(
        [np.random.default_rng(0).standard_normal(16000).astype(np.float32)], DecodeConfig(ctc_weight=1.0)
    )[0].best
    assert set(best.tokens) <= set(tokens) and best.text.replace(" ", "") == "".join(best.tokens).replace("\u2581", "")
