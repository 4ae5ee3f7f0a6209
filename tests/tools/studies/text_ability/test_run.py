"""The text ability of an LM, by itself and inside a trained model."""

import gzip
import json
import math
import sys
import types
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from espnet_larm.llm.backbone import Backbone, load_tokenizer
from espnet_larm.speech_llm.text_ability import check_case
from studies.text_ability import run as text_eval

REAL_LMS = Path(__file__).parents[5] / "shared/data/llm"
TEXT = ["A B C", "D", "B B A D C A", "C A"]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "lines.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join(TEXT) + "\n")
    return path


@pytest.fixture
def evaluate(tmp_path, text):
    """Runs the program; gives what it writes."""

    def evaluate(*options, given=text):
        words = ["--ngpu", "0", "--output_dir", str(tmp_path / "out"), *(str(word) for word in options)]
        assert text_eval.main([*words, *(["--text", str(given)] if given else [])]) == 0
        return json.loads((tmp_path / "out/text_eval.json").read_text())

    return evaluate


@pytest.fixture
def experiment(build_speech_llm, tmp_path):
    """Files of a model whose LM has learned; options that name them."""

    def experiment(**conf):
        model = build_speech_llm(decoder_conf=conf)
        with torch.no_grad():
            for parameter in model.decoder.backbone.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return ["--asr_train_config", tmp_path / "config.yaml", "--asr_model_file", tmp_path / "model.pth"]

    return experiment


def test_figures_of_an_lm_are_those_of_hugging_face(save_lm, evaluate, tmp_path, capsys):
    llm = save_lm(tmp_path / "lm")
    found = evaluate("--llm", llm, "--max_lines", 3)
    model = transformers.AutoModelForCausalLM.from_pretrained(llm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llm)
    nats, hits = [], []
    for line in TEXT[:3]:
        ids = tokenizer(f"<s> {line} </s>", return_tensors="pt").input_ids
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        nats.extend(-scores[i, token].item() for i, token in enumerate(ids[0, 1:]))
        hits.extend(scores[i].argmax().item() == token.item() for i, token in enumerate(ids[0, 1:]))
    (figures,) = found["figures"].values()
    assert figures["num_tokens"] == len(nats) == 13
    assert figures["nats_per_token"]["value"] == pytest.approx(sum(nats) / 13, rel=1e-5)
    assert figures["accuracy"]["value"] == sum(hits) / 13
    assert "kl_to_base" not in figures and found["base"] is None
    assert found["commit"] and "--max_lines 3" in found["command"] and len(found["text"]["files"][0]["sha256"]) == 64
    assert f"| model | {sum(nats) / 13:.4f} [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("conf", "without"),
    [
        ({"adaptation": "depth_upscaling", "depth_upscaling_conf": {"num_layers": 2}}, "added layers dropped"),
        ({"adaptation": "lora", "lora_conf": {"r": 2}}, "LoRA off"),
        ({"adaptation": "full"}, None),
    ],
)
def test_a_trained_model_is_measured_beside_its_base(experiment, evaluate, tmp_path, conf, without):
    found = evaluate(*experiment(**conf))
    figures = found["figures"]
    assert set(figures) == {"base", "model", without} - {None} and found["base"] == str(tmp_path / "llm")
    base, model = figures["base"], figures["model"]
    assert model["kl_to_base"]["value"] > 0 and model["nats_per_token"] != base["nats_per_token"]
    above = model["nats_per_token"]["value"] - base["nats_per_token"]["value"]
    assert model["nats_above_base"]["value"] == pytest.approx(above, abs=1e-9)
    if without:
        assert figures[without]["kl_to_base"] == figures[without]["nats_above_base"] == {"value": 0, "interval": [0, 0]}
        assert figures[without]["nats_per_token"] == base["nats_per_token"]
    alone = evaluate("--llm", tmp_path / "llm")["figures"]["model"]
    assert alone["nats_per_token"] == base["nats_per_token"]


def test_a_moved_lm_is_named_and_another_is_refused(experiment, save_lm, evaluate, tmp_path):
    options = experiment(adaptation="full")
    wanted = evaluate(*options)["figures"]
    (tmp_path / "llm").rename(tmp_path / "moved")
    assert evaluate(*options, "--llm", tmp_path / "moved")["figures"] == wanted
    other = save_lm(tmp_path / "other", initializer_range=0.4)
    with pytest.raises(ValueError, match="llm is not the LM that the checkpoint was trained with"):
        evaluate(*options, "--llm", other)
    tokens = save_lm(tmp_path / "tokens", ["<unk>", "<s>", "</s>", "A", "B", "C", "E"])
    with pytest.raises(ValueError, match=r"--base .*tokens has other tokens than the LM"):
        evaluate(*options, "--llm", tmp_path / "moved", "--base", tokens)


def test_sampled_text_is_called_so_and_comes_again(experiment, evaluate, tmp_path, capsys):
    options = [*experiment(adaptation="depth_upscaling"), "--sample_lines", 30, "--sample_tokens", 10]
    found = evaluate(*options, "--seed", 3, given=None)
    assert f"SAMPLED from {tmp_path / 'llm'}, no text of people: 30 lines" in capsys.readouterr().out
    assert found["text"]["sampled_from"] == str(tmp_path / "llm") and found["text"]["seed"] == 3
    assert evaluate(*options, "--seed", 3, given=None)["figures"] == found["figures"]
    assert evaluate(*options, "--seed", 4, given=None)["figures"] != found["figures"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no LM: give --asr_train_config and --asr_model_file, or --llm"),
        (["--asr_train_config", "x"], "--asr_train_config and --asr_model_file are given together"),
        (["--llm", "x", "--sample_lines", "1"], "no text, or two: give --text or --sample_lines"),
        (["--llm", "x", "--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--llm", "x", "--max_lines", "-1"], "--max_lines -1 must be at least 0"),
    ],
)
def test_wrong_options_are_refused(evaluate, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*options)


def test_no_text_and_an_empty_one_are_refused(save_lm, evaluate, tmp_path):
    llm = save_lm(tmp_path / "lm")
    with pytest.raises(ValueError, match="no text, or two"):
        evaluate("--llm", llm, given=None)
    with pytest.raises(FileNotFoundError, match="none.txt is missing"):
        evaluate("--llm", llm, given=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="empty.txt has no words"):
        evaluate("--llm", llm, given=tmp_path / "empty.txt")


def test_a_model_without_an_lm_is_refused(tiny_experiment, evaluate):
    options = ["--asr_train_config", tiny_experiment.config, "--asr_model_file", tiny_experiment.model]
    with pytest.raises(ValueError, match="only a speech_llm has an LM"):
        evaluate(*options)


@pytest.mark.skipif(not REAL_LMS.is_dir(), reason="no LMs in shared/data")
def test_text_in_the_wrong_case_is_refused(evaluate, tmp_path):
    line = "once upon a time there was a little girl who went away"
    (tmp_path / "wrong.txt").write_text(line.upper())
    with pytest.raises(ValueError, match=r"wrong case for this LM: 1 lines are \d+ tokens, in small letters \d+; give"):
        evaluate("--llm", REAL_LMS / "stories260K", given=tmp_path / "wrong.txt")
    # Without small letters in its tokens, all is unknown.
    (tmp_path / "wrong.txt").write_text(line)
    with pytest.raises(ValueError, match="the tokenizer cannot spell the text: .* change the case"):
        evaluate("--llm", REAL_LMS / "novels-3M", given=tmp_path / "wrong.txt")
    check_case(load_tokenizer(str(REAL_LMS / "stories260K")), [line])
    check_case(load_tokenizer(str(REAL_LMS / "novels-3M")), [line.upper()])


def test_lm_eval_reads_the_saved_lms(experiment, evaluate, tmp_path, monkeypatch):
    options = [*experiment(adaptation="depth_upscaling"), "--lm_eval_tasks", "paper"]
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r'--lm_eval_tasks needs lm-eval: pip install "espnet-larm\[lm-eval\]"'):
        evaluate(*options)
    called = []

    def simple_evaluate(**given):
        called.append(given)
        return {"results": {task: {"acc,none": 0.5} for task in given["tasks"]}}

    # No network here: what lm-eval is given is looked at, not what it gives.
    module = types.ModuleType("lm_eval")
    module.__spec__, module.simple_evaluate = types.SimpleNamespace(), simple_evaluate
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    found = evaluate(*options)
    assert [len(found["lm_eval"][name]) for name in ("model", "added layers dropped")] == [8, 8]
    folders = [given["model_args"]["pretrained"] for given in called]
    assert [len(Backbone.from_pretrained(folder).layers) for folder in folders] == [3, 2]
    assert all((Path(folder) / "tokenizer.json").is_file() for folder in folders)
    assert math.isfinite(evaluate("--llm", folders[0])["figures"]["model"]["nats_per_token"]["value"])
