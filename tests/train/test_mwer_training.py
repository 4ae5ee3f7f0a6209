"""A training by word errors that is broken off goes on to the same model, with one process and with two."""

import itertools
import re

import pytest

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]


@pytest.fixture
def options(save_lm, tmp_path):
    """Options of trainings.run: an LM with a draft head that learns as a whole."""
    llm, tokens = save_lm(tmp_path / "llm", WORDS), tmp_path / "tokens.txt"
    tokens.write_text("".join(f"{word}\n" for word in WORDS))
    words = ["--decoder", "speech_llm", "--model", "speech_llm", "--token_list", str(tokens)]
    words += ["--token_type", "hugging_face", "--bpemodel", llm, "--max_epoch", "2"]
    confs = [f"llm={llm}", "adaptation=full", "projector_frames=2", "num_heads=2"]
    words += [word for conf in confs for word in ("--decoder_conf", conf)]
    for conf in ("ctc_weight=0.1", "mwer_weight=1.0", "mwer_ce_weight=0.1", "mwer_in_validation=true"):
        words += ["--model_conf", conf]
    return words


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_training_that_is_broken_off_ends_as_one_that_is_not(trainings, options, tmp_path, num_processes):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert trainings.run(whole, *options, num_processes=num_processes) == 0, trainings.log(whole)
    # An epoch has 5 batches of training and 2 of validation; with two processes each has half a batch.
    fault = {"at": "forward", "nth": 10, "do": "term"}
    assert trainings.run(broken, *options, fault=fault, num_processes=num_processes) == 75, trainings.log(broken)
    assert trainings.run(broken, *options, num_processes=num_processes) == 0, trainings.log(broken)
    assert "The epoch goes on after" in trainings.log(broken)
    assert trainings.outcome(broken) == trainings.outcome(whole)
    told = re.findall(r"epoch results: \[train\] (.*), \[valid\] (.*)", trainings.log(whole))
    assert len(told) == 2
    for part in (part for line in told for part in line):
        values = dict(re.findall(r"(\w+)=([-+.\de]+)", part))
        assert float(values["loss_mwer"]) != 0 and float(values["wer_expected"]) > 0
        assert all(float(values[name]) > 0 for name in ("ce_time", "search_time", "rescore_time"))
