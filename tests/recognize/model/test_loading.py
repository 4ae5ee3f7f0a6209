"""Weights are loaded strictly, and only tensors."""

import pytest
import torch
import yaml


@pytest.fixture
def load(larm_task, tiny_experiment, tmp_path):
    """Loads the tiny experiment after a change to its weights."""

    def load(change=None, config=None):
        from espnet_larm.recognize.model.loading import load_model

        weights = torch.load(tiny_experiment.model, weights_only=True)
        if change is not None:
            change(weights)
        torch.save(weights, tmp_path / "model.pth")
        return load_model(config or tiny_experiment.config, tmp_path / "model.pth", "cpu", torch.float32)

    return load


def test_weights_are_those_of_the_file(load, tiny_experiment):
    weights = torch.load(tiny_experiment.model, weights_only=True)
    model = load().model
    assert not model.training
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_missing_weights_are_counted_and_named(load):
    def change(weights):
        for name in [name for name in weights if name.startswith("ctc.")]:
            del weights[name]

    with pytest.raises(ValueError, match=r"2 missing \(ctc.ctc_lo.weight, ctc.ctc_lo.bias\)"):
        load(change)


def test_unexpected_weights_are_counted_and_named(load):
    with pytest.raises(ValueError, match=r"1 unexpected \(decoder.embed\)"):
        load(lambda weights: weights.update({"decoder.embed": torch.zeros(1)}))


def test_weights_of_another_size_are_named(load):
    with pytest.raises(ValueError, match=r"1 of another shape \(ctc.ctc_lo.bias \(3,\) instead of \(12,\)\)"):
        load(lambda weights: weights.update({"ctc.ctc_lo.bias": torch.zeros(3)}))


def test_truncated_file_is_named(larm_task, tiny_experiment, tmp_path):
    from espnet_larm.recognize.model.loading import load_model

    path = tmp_path / "model.pth"
    path.write_bytes(tiny_experiment.model.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model.pth is truncated or damaged, or no file of torch.save"):
        load_model(tiny_experiment.config, path, "cpu", torch.float32)


def test_pickled_code_does_not_run(larm_task, tiny_experiment, tmp_path):
    from espnet_larm.recognize.model.loading import load_model

    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    torch.save({"weight": Harmful()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load_model(tiny_experiment.config, tmp_path / "model.pth", "cpu", torch.float32)
    assert not (tmp_path / "harmed").exists()


def test_missing_files_are_named(larm_task, tiny_experiment, tmp_path):
    from espnet_larm.recognize.model.loading import load_model

    with pytest.raises(FileNotFoundError, match=r"none.yaml is missing; --asr_train_config"):
        load_model(tmp_path / "none.yaml", tiny_experiment.model, "cpu", torch.float32)
    with pytest.raises(
        FileNotFoundError, match=r"none.pth is missing; no weights are in its folder. .*--inference_asr_"
    ):
        load_model(tiny_experiment.config, tmp_path / "none.pth", "cpu", torch.float32)
    (tmp_path / "valid.loss.ave.pth").touch()
    (tmp_path / "checkpoint.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"none.pth is missing; its folder has valid.loss.ave.pth. Name one"):
        load_model(tiny_experiment.config, tmp_path / "none.pth", "cpu", torch.float32)


@pytest.fixture
def recipe(tiny_experiment, tmp_path):
    """A recipe whose experiment names its files as they are called from the recipe's folder."""
    import numpy as np
    import sentencepiece

    exp = tmp_path / "recipe/exp/asr"
    exp.mkdir(parents=True)
    stats = {"count": 10, "sum": np.zeros(80), "sum_square": np.ones(80)}
    np.savez(exp.parent / "stats.npz", **stats)
    (exp.parent / "tokens.txt").write_text((tiny_experiment.config.parent / "tokens.txt").read_text())
    (exp.parent / "text").write_text("AB CD EF GH\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(exp.parent / "text"), model_prefix=str(exp.parent / "bpe"), vocab_size=12, minloglevel=9
    )
    config = tiny_experiment.with_config(
        exp / "config.yaml",
        normalize="global_mvn",
        normalize_conf={"stats_file": "exp/stats.npz"},
        token_list="exp/tokens.txt",
        token_type="bpe",
        bpemodel="exp/bpe.model",
    )
    weights = torch.load(tiny_experiment.model, weights_only=True)
    weights.update({"normalize.mean": torch.zeros(80).double(), "normalize.std": torch.ones(80).double()})
    torch.save(weights, exp / "model.pth")
    return config


def test_files_are_found_from_the_recipes_folder_wherever_one_works(larm_task, recipe, tmp_path, monkeypatch):
    from espnet_larm.recognize.recognizer import Recognizer

    (tmp_path / "elsewhere").mkdir()
    for folder in (recipe.parents[2], tmp_path / "elsewhere"):
        monkeypatch.chdir(folder)
        loaded = Recognizer.from_files(recipe, recipe.parent / "model.pth")
        assert len(loaded.model.token_list) == 12 and loaded.tokens_to_text(["A"]) == "A"


def test_files_of_the_working_folder_come_first(larm_task, recipe, tmp_path, monkeypatch):
    from espnet_larm.recognize.model.loading import read_config

    (tmp_path / "elsewhere/exp").mkdir(parents=True)
    (tmp_path / "elsewhere/exp/bpe.model").touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    args = read_config(recipe)
    assert args.bpemodel == str(tmp_path / "elsewhere/exp/bpe.model")
    assert args.normalize_conf["stats_file"] == str(recipe.parents[1] / "stats.npz")


@pytest.mark.parametrize("name", ["stats.npz", "bpe.model", "tokens.txt"])
def test_a_file_that_is_nowhere_is_named_with_the_places_tried(larm_task, recipe, tmp_path, monkeypatch, name):
    from espnet_larm.recognize.model.loading import load_model

    (recipe.parents[1] / name).unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        load_model(recipe, recipe.parent / "model.pth", "cpu", torch.float32)
    assert f"exp/{name} is missing" in str(missing.value)
    assert f"sought from {tmp_path} (the working folder) and from {recipe.parent} upwards" in str(missing.value)


def test_another_yaml_is_no_config(load, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("beam_size: 1\n")
    with pytest.raises(ValueError, match=r"other.yaml holds no token_list"):
        load(config=other)


def test_misspelt_key_of_the_config_is_refused(load, tiny_experiment, tmp_path):
    with pytest.raises(ValueError, match="encoder_conf: num_lops is not an option of encoder: larm. Did you"):
        load(config=tiny_experiment.with_config(tmp_path / "config.yaml", encoder_conf={"num_lops": 4}))


def test_a_trained_lm_of_which_a_part_was_frozen_is_decoded(build_speech_llm, tmp_path):
    from espnet_larm.recognize.model.loading import load_model

    frozen = "decoder.backbone.model.model.embed_tokens"
    model = build_speech_llm(decoder_conf={"adaptation": "full"}, freeze_param=[frozen])
    # As ESPnet does in training, and nobody does in decoding.
    model.get_submodule(frozen).requires_grad_(False)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    loaded = load_model(tmp_path / "config.yaml", tmp_path / "model.pth", "cpu", torch.float32).model
    weight = f"{frozen}.weight"
    assert torch.equal(loaded.state_dict()[weight], model.state_dict()[weight])


@pytest.mark.filterwarnings("ignore:.*sparse:UserWarning")
@pytest.mark.parametrize(
    "damage",
    [
        lambda weight: weight.index_fill(0, torch.tensor([0]), float("nan")),
        lambda weight: weight.index_fill(0, torch.tensor([0]), float("-inf")),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to_sparse(),
        lambda weight: weight.to("meta"),
    ],
    ids=["nan", "infinite", "complex", "sparse", "meta"],
)
def test_weights_that_are_no_finite_numbers_are_named(load, damage):
    def change(weights):
        weights["ctc.ctc_lo.bias"] = damage(weights["ctc.ctc_lo.bias"])

    with pytest.raises(ValueError, match="model.pth: ctc.ctc_lo.bias: not plain tensors of finite numbers"):
        load(change)
