"""From text to an LM's folder that stands wherever an LM is named."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm.recipe import make_tokens
from espnet_larm.recipe.corpora.sentences import make_sentence
from espnet_larm.recipe.text_lm import perplexity as llm_perplexity
from espnet_larm.recipe.text_lm import train as llm_train

ROOT = Path(__file__).parents[3]
TINY = ["--config", str(ROOT / "conf/tiny/train_lm.yaml"), "--ngpu", "0"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "toy.txt"
    source = random.Random(0)
    path.write_text("".join(f"{make_sentence(source)}\n" for _ in range(300)))
    return path


@pytest.fixture(scope="module")
def trained(text):
    """The folder of an LM that was trained for a few steps."""
    folder = text.parent / "lm"
    assert llm_train.main([*TINY, "--text", str(text), "--output_dir", str(folder), "--max_steps", "30"]) == 0
    return folder


def run(text, folder, *options):
    return llm_train.main([*TINY, "--text", str(text), "--output_dir", str(folder), *options])


@pytest.mark.slow
def test_the_folder_is_a_backbone_with_tokens_of_its_own(trained, text, tmp_path):
    from espnet_larm.llm.backbone import Backbone, load_tokenizer
    from espnet_larm.llm.tokens import check_spelling, special_tokens

    backbone, tokenizer = Backbone.from_pretrained(str(trained)), load_tokenizer(str(trained))
    assert (backbone.hidden_size, backbone.vocab_size, backbone.max_positions) == (32, 100, 256)
    assert backbone.model.lm_head.weight is backbone.model.get_input_embeddings().weight
    assert special_tokens(tokenizer) == (2, True) and tokenizer.bos_token_id == 1
    sentences = text.read_text().splitlines()
    check_spelling(tokenizer, sentences)
    (tmp_path / "text").write_text("".join(f"u{index} {sentence}\n" for index, sentence in enumerate(sentences)))
    options = ["--text", str(tmp_path / "text"), "--output_dir", str(tmp_path), "--token_type", "hugging_face"]
    lists = []
    for folder in (trained, trained / "tokenizer"):
        assert make_tokens.main([*options, "--llm", str(folder)]) == 0
        lists.append((tmp_path / "tokens.txt").read_text().splitlines())
    assert lists[0] == lists[1] == tokenizer.convert_ids_to_tokens(range(100))


@pytest.mark.slow
def test_the_record_says_how_the_lm_was_made(trained, text):
    record = json.loads((trained / "training.json").read_text())
    assert record["options"]["text"][0]["bytes"] == text.stat().st_size and record["options"]["max_steps"] == 30
    assert record["perplexity"]["per_token"] < 40 and record["num_parameters"] == 21792
    assert (trained / "valid.txt").read_text().splitlines() == text.read_text().splitlines()[-20:]
    assert not (trained / "checkpoints").exists() and not list(trained.glob(".part*"))


@pytest.mark.slow
def test_perplexity_of_the_folder_is_the_recorded_one(trained, capsys):
    recorded = json.loads((trained / "training.json").read_text())["perplexity"]
    assert llm_perplexity.main(["--llm", str(trained), "--ngpu", "0"]) == 0
    wanted = f"perplexity: {recorded['per_token']:.2f} per token, {recorded['per_word']:.1f} per word"
    assert wanted in capsys.readouterr().out
    with pytest.raises(ValueError, match="--block_size 257 is more than the 256 positions of the LM"):
        llm_perplexity.main(["--llm", str(trained), "--ngpu", "0", "--block_size", "257"])


@pytest.mark.slow
def test_a_folder_is_gone_on_with_by_the_same_options_only(trained, text, capsys):
    before = (trained / "model.safetensors").read_bytes()
    assert run(text, trained, "--max_steps", "30") == 0
    assert "is trained already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"was begun with other options: max_steps 30 \(now 31\); take the same ones"):
        run(text, trained, "--max_steps", "31")
    (text.parent / "other.txt").write_text("ONE TWO\n" * 30)
    with pytest.raises(ValueError, match=r"text toy.txt of \d+ bytes \(now other.txt of 240 bytes\)"):
        run(text.parent / "other.txt", trained, "--max_steps", "30")
    assert (trained / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_tokenizer_comes_first_and_training_may_be_changed_until_it_has_saved(text, tmp_path, capsys):
    assert run(text, tmp_path, "--tokenizer_only", "true") == 0
    assert "held-out text: 20 sentences" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer"]
    with pytest.raises(ValueError, match=r"vocab_size 100 \(now 90\)"):
        run(text, tmp_path, "--vocab_size", "90")
    assert run(text, tmp_path, "--max_steps", "2", "--hidden_size", "16") == 0
    assert json.loads((tmp_path / "config.json").read_text())["hidden_size"] == 16


@pytest.mark.slow
def test_a_sigterm_saves_and_ends_with_status_75_and_the_same_command_goes_on(text, tmp_path):
    options = [*TINY, "--text", str(text), "--output_dir", str(tmp_path), "--max_steps", "100", "--save_steps", "5"]
    command = [sys.executable, "-m", "espnet_larm", "train-lm", *options]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stderr=log) as process:
        while not list(tmp_path.glob("checkpoints/checkpoint-*/whole.json")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75
    assert "a SIGTERM came: the same command resumes from" in (tmp_path / "log").read_text()
    with pytest.raises(ValueError, match=r"lr 0.01 \(now 0.1\)"):
        llm_train.main([*options, "--lr", "0.1"])
    assert llm_train.main(options) == 0
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_training_in_bfloat16_leaves_weights_in_float32(text, tmp_path):
    from espnet_larm.llm.backbone import Backbone

    assert run(text, tmp_path, "--bf16", "true", "--max_steps", "3") == 0
    assert Backbone.from_pretrained(str(tmp_path)).dtype == torch.float32


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ("ONE\n", [], "--num_valid_lines 20 of 1 sentences are to be held out; allowed: 1 to 0, or give --valid_text"),
        ("", [], "toy.txt has no words"),
        ("ONE TWO\n" * 30, ["--hidden_size", "30"], r"--hidden_size 30 is no multiple of 2 \* --num_heads 4"),
        ("ONE TWO\n" * 30, ["--valid_text", "nowhere.txt"], "nowhere.txt is missing"),
        ("ONE TWO\n" * 30, ["--save_steps", "0"], "--save_steps 0 must be at least 1"),
        ("ONE TWO\n" * 30, ["--config", "nowhere.yaml"], "nowhere.yaml is missing; name a YAML"),
    ],
)
def test_wrong_inputs_are_said_before_anything_is_made(tmp_path, lines, options, message):
    (tmp_path / "toy.txt").write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tmp_path / "toy.txt", tmp_path / "lm", *options)
    assert not (tmp_path / "lm").exists()


def test_a_held_out_text_that_the_tokenizer_cannot_spell_is_refused(text, tmp_path):
    (tmp_path / "valid.txt").write_text("call anna\n")
    with pytest.raises(ValueError, match="the tokenizer cannot spell the text: .* first in 'call anna'"):
        run(text, tmp_path / "lm", "--valid_text", str(tmp_path / "valid.txt"))
    # Nothing was begun that other options would be held against.
    assert run(text, tmp_path / "lm", "--tokenizer_only", "true") == 0
    (tmp_path / "valid.txt").write_text("CALL ANNA\n")
    with pytest.raises(ValueError, match=r"num_valid_lines 20 \(now 0\)"):
        run(text, tmp_path / "lm", "--tokenizer_only", "true", "--valid_text", str(tmp_path / "valid.txt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("hiden_size: 3", "hiden_size: no option of one value"), ("- 1", "holds a list where options should be")],
)
def test_a_configuration_that_is_none_is_refused(text, tmp_path, content, message):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        run(text, tmp_path / "lm", "--config", str(tmp_path / "x.yaml"))


def test_the_command_line_overrides_the_configuration():
    args = llm_train._parse([*TINY, "--text", "x", "--output_dir", "y", "--lr", "0.5", "--bf16", "True"])
    assert (args.lr, args.hidden_size, args.bf16, args.weight_decay) == (0.5, 32, True, 0.1)


@pytest.mark.parametrize("path", ["conf/tiny/train_lm.yaml", "conf/librispeech/train_lm_3m.yaml"])
def test_configurations_hold_options_only(path):
    args = llm_train._parse(["--config", str(ROOT / path), "--text", "x", "--output_dir", "y", "--ngpu", "0"])
    for name, value in yaml.safe_load((ROOT / path).read_text()).items():
        assert vars(args)[name] == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--block_size", "1"], "--block_size 1; allowed: 2 or more, or 0"),
        (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--text", "nowhere.txt"], "nowhere.txt is missing"),
        ([], "valid.txt is missing"),
    ],
)
def test_misuse_of_the_perplexity_program_is_said(tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        llm_perplexity.main(["--llm", str(tmp_path), "--ngpu", "0", *options])
