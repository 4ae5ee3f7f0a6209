"""retention_sampling in real trainings: an interrupted one draws what an undisturbed one does, in all processes."""

import itertools
import math

import pytest
import torch

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]
POOLING = "pooling={input: {method: uniform_mean, retention: 0.5, retention_sampling: [0.25, 0.5, 1.0], weight: ctc}}"


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_interrupted_training_draws_what_an_undisturbed_one_does(trainings, save_lm, tmp_path, num_processes):
    llm = save_lm(tmp_path / "llm", WORDS)
    (tmp_path / "tokens.txt").write_text("".join(f"{word}\n" for word in WORDS))
    named = {"decoder": "speech_llm", "model": "speech_llm", "token_list": tmp_path / "tokens.txt"}
    named |= {"token_type": "hugging_face", "bpemodel": llm, "model_conf": "ctc_weight=0.5", "max_epoch": 2}
    options = [str(word) for name, value in named.items() for word in (f"--{name}", value)]
    options += [word for conf in (f"llm={llm}", POOLING, "projector_frames=1") for word in ("--decoder_conf", conf)]
    folders = [tmp_path / "plain", tmp_path / "interrupted"]
    processes = {"num_processes": num_processes}
    assert trainings.run(folders[0], *options, **processes) == 0, trainings.log(folders[0])
    fault = {"at": "forward", "nth": 7, "do": "term"}
    assert trainings.run(folders[1], *options, fault=fault, **processes) == 75, trainings.log(folders[1])
    assert trainings.run(folders[1], *options, **processes) == 0, trainings.log(folders[1])
    assert trainings.outcome(folders[1]) == trainings.outcome(folders[0])
    seed, number = torch.load(folders[0] / "2epoch.pth", weights_only=True)["decoder.sampling.draws"].tolist()
    # 2 epochs of 5 batches in each process, and none in validation.
    assert (seed, number) == (0, 10)
    states = torch.load(folders[0] / "checkpoint.pth", weights_only=False)
    for phases in states["reporter"]["stats"].values():
        assert math.isfinite(phases["train"]["loss"])
        assert phases["valid"]["retention_input"] == pytest.approx(0.5, abs=0.05)
