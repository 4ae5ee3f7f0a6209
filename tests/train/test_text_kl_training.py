"""A training with a penalty on text that is broken off goes on to the same model, and its pack needs no text."""

import itertools
import re

import pytest

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]
ADAPTATIONS = {
    "full": ["adaptation=full"],
    "lora": ["adaptation=lora", "lora_conf={r: 2}"],
    "depth_upscaling": ["adaptation=depth_upscaling", "depth_upscaling_conf={share: 1.0}"],
}


@pytest.fixture
def options(save_lm, tmp_path):
    """Options of trainings.run, for an adaptation."""
    llm, tokens, text = save_lm(tmp_path / "llm", WORDS), tmp_path / "tokens.txt", tmp_path / "lines.txt"
    tokens.write_text("".join(f"{word}\n" for word in WORDS))
    text.write_text("".join(f"{one} {other}\n" for one, other in itertools.pairwise(WORDS[3:])))

    def make(adaptation):
        words = ["--decoder", "speech_llm", "--model", "speech_llm", "--token_list", str(tokens)]
        words += ["--token_type", "hugging_face", "--bpemodel", llm, "--max_epoch", "2"]
        confs = [f"llm={llm}", "projector_frames=2", *ADAPTATIONS[adaptation]]
        words += [word for conf in confs for word in ("--decoder_conf", conf)]
        for conf in ("ctc_weight=0.1", "text_kl_weight=1.0", f"text_kl_text={text}", "text_kl_lines=3"):
            words += ["--model_conf", conf]
        return words

    return make


@pytest.mark.parametrize(
    ("adaptation", "num_processes"), [("full", 1), ("full", 2), ("lora", 2), ("depth_upscaling", 2)]
)
def test_a_training_that_is_broken_off_ends_as_one_that_is_not(trainings, options, tmp_path, adaptation, num_processes):
    whole, broken, words = tmp_path / "whole", tmp_path / "broken", options(adaptation)
    assert trainings.run(whole, *words, num_processes=num_processes) == 0, trainings.log(whole)
    # An epoch has 5 batches of training and 2 of validation.
    fault = {"at": "forward", "nth": 10, "do": "term"}
    assert trainings.run(broken, *words, fault=fault, num_processes=num_processes) == 75, trainings.log(broken)
    assert trainings.run(broken, *words, num_processes=num_processes) == 0, trainings.log(broken)
    assert "The epoch goes on after" in trainings.log(broken)
    assert trainings.outcome(broken) == trainings.outcome(whole)
    told = re.findall(r"epoch results: \[train\] (.*), \[valid\] (.*)", trainings.log(whole))
    assert len(told) == 2
    for training, validation in told:
        assert "loss_text_kl" not in validation
        assert float(re.search(r"loss_text_kl=([-+.\de]+)", training)[1]) > 0


def test_a_training_without_its_text_ends_with_a_sentence_before_it_writes(trainings, options, tmp_path):
    (tmp_path / "lines.txt").unlink()
    assert trainings.run(tmp_path / "exp", *options("full")) != 0
    log = trainings.log(tmp_path / "exp")
    assert "model_conf: text_kl_text:" in log and "lines.txt is missing" in log and "Traceback" not in log
    assert not (tmp_path / "exp/config.yaml").exists()


def test_a_model_is_packed_and_loaded_without_its_text_and_its_copy(trainings, options, tmp_path):
    from espnet_larm.cli.pack import main as pack

    folder = tmp_path / "exp"
    assert trainings.run(folder, *options("full"), "--max_epoch", "1") == 0, trainings.log(folder)
    (tmp_path / "lines.txt").unlink()
    assert pack(["--exp_dir", str(folder), "--outpath", str(tmp_path / "model.zip")]) == 0
    speech = str(trainings.folder / "train/u9.wav")
    from espnet_larm.recognize.packs import load

    texts = [load(each).transcribe_file(speech).text for each in (folder, tmp_path / "model.zip")]
    assert texts[0] == texts[1]
