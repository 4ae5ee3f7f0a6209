"""conf/librispeech's YAMLs of 100 and 960 hours: each trains a step at a tiny size, and they differ as they say."""

from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm.train.refusals import without_nulls
from tests.pretrained.models import save_encoder

CONF = Path(__file__).parents[2] / "conf/librispeech"
MODELS = ("larm", "larm_prelude", "unshared_depth", "unshared_parameters", "conformer")
HOURS = ("100h", "960h")
FRAMES = ("360m", "1.7b")
TINY = {"output_size": 16, "attention_heads": 2, "linear_units": 16}
# LibriSpeech's mean utterance: samples and words. A word has 2.01 pieces of a BPE model of 500, 1.27 of one of 5,000
# (measured on 2,000 lines of novels, with models of 30,000 others).
SAMPLES = {"100h": 12.69 * 16000, "960h": 12.30 * 16000}
WORDS = {"100h": 34.7, "960h": 33.4}
PIECES = {500: 2.01, 5000: 1.27}
# ESPnet's recipes: batch_bins x accum_grad with 5,000 pieces, epochs, rate, warm-up.
RECIPES = {"100h": (2_000_000 * 16, 60, 0.002, 15000), "960h": (35_000_000 * 4, 50, 0.0025, 40000)}


def read(name):
    return yaml.safe_load((CONF / f"train_{name}.yaml").read_text())


@pytest.fixture
def build(larm_task, tmp_path):
    """Build a YAML's model and optimiser at a tiny size, as training does."""

    def make(config):
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config))
        (tmp_path / "tokens.txt").write_text("".join(f"{token}\n" for token in ("<blank>", "<unk>", "A", "<sos/eos>")))
        options = ["--config", str(path), "--token_list", str(tmp_path / "tokens.txt"), "--output_dir", str(tmp_path)]
        args = without_nulls(larm_task.get_parser().parse_args([*options, "--token_type", "char", "--resume", "false"]))
        torch.manual_seed(0)
        model = larm_task.build_model(args)
        (optimizer,) = larm_task.build_optimizers(args, model)
        return model, optimizer

    return make


def train_a_step(model, optimizer):
    """One step in bfloat16; returns the parameters that did not move though they learn."""
    before = {name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad}
    model.train()
    speech = torch.randn(2, 24000)
    batch = {"speech": speech, "speech_lengths": torch.tensor([24000, 20000])}
    batch |= {"text": torch.full((2, 3), 2), "text_lengths": torch.tensor([3, 2])}
    with torch.autocast("cpu", torch.bfloat16):
        loss, *_ = model(**batch)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    return [name for name, each in model.named_parameters() if each.requires_grad and torch.equal(each, before[name])]


@pytest.mark.parametrize("hours", HOURS)
@pytest.mark.parametrize("model", MODELS)
def test_each_trains_a_step(build, model, hours):
    config = read(f"{model}_{hours}")
    config["encoder_conf"] |= TINY
    if model == "conformer":
        config["encoder_conf"]["num_blocks"] = 2
    else:
        config["encoder_conf"] |= {"num_blocks": 1, "subsampling_channels": 4}
    config["optim_conf"]["lr"] = 0.01
    built, optimizer = build(config)
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]
    # FiLM and gates begin at zero, and the last feedback layer's input may be: most of what learns must move.
    still, all_of_it = train_a_step(built, optimizer), [*built.parameters()]
    assert len(still) <= len(all_of_it) // 4, still


# torch's, of how transformers masks WavLM.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("size", FRAMES)
def test_an_lm_on_frames_trains_a_step(build, save_lm, tmp_path, size):
    config = read(f"llm_frames_smollm2_{size}")
    config["frontend_conf"] |= {"model": str(save_encoder("wavlm", tmp_path / "ears")), "dtype": "float32"}
    config["encoder_conf"] |= {**TINY, "num_blocks": 1}
    config["decoder_conf"] |= {"llm": save_lm(tmp_path / "lm", ["<unk>", "<s>", "</s>", "A"]), "dtype": "float32"}
    config["decoder_conf"]["depth_upscaling_conf"]["num_layers"] = 1
    config["optim_conf"]["lr"] = 0.01
    model, optimizer = build(config)
    frozen = {name: each.detach().clone() for name, each in model.named_parameters() if not each.requires_grad}
    assert any(name.startswith("frontend.") for name in frozen) and any("backbone.model" in name for name in frozen)
    still = train_a_step(model, optimizer)
    assert not any(name.startswith(("encoder.blocks", "decoder.projector", "ctc")) for name in still), still
    assert all(torch.equal(each, frozen[name]) for name, each in model.named_parameters() if name in frozen)


@pytest.mark.parametrize("hours", HOURS)
def test_schedule_and_effective_batch_are_those_of_the_recipe_that_is_named(hours):
    config, (bins, epochs, rate, warmup) = read(f"larm_{hours}"), RECIPES[hours]

    def utterance(pieces):
        return SAMPLES[hours] + WORDS[hours] * PIECES[pieces] * pieces

    theirs, ours = bins / utterance(5000), config["batch_bins"] * config["accum_grad"] / utterance(500)
    assert ours == pytest.approx(theirs, rel=0.03)
    text = (CONF / f"train_larm_{hours}.yaml").read_text()
    assert f"about {round(theirs / 5) * 5} utterances" in " ".join(text.replace("#", " ").split())
    assert config["max_epoch"] == epochs and config["optim_conf"]["lr"] == rate
    assert config["scheduler"] == "warmuplr" and config["scheduler_conf"] == {"warmup_steps": warmup}


@pytest.mark.parametrize("hours", HOURS)
@pytest.mark.parametrize("model", MODELS[1:])
def test_a_rival_differs_from_the_looped_encoder_in_its_model_alone(model, hours):
    first, second = read(f"larm_{hours}"), read(f"{model}_{hours}")
    for config in (first, second):
        assert config["use_amp"] and config["use_tf32"] and config["optim"] == "adamw"
        for part in ("encoder", "encoder_conf", "model_conf"):
            config.pop(part)
    assert first == second


@pytest.mark.parametrize("model", MODELS)
def test_longer_data_changes_schedule_and_batch_alone(model):
    first, second = (read(f"{model}_{hours}") for hours in HOURS)
    changed = {name for name in first if first[name] != second[name]}
    allowed = {"batch_bins", "accum_grad", "max_epoch", "optim_conf", "scheduler_conf", "specaug_conf"}
    assert changed == allowed | ({"encoder_conf"} if model == "conformer" else set())


@pytest.fixture
def without_tf32():
    """No TF32 before the test, and what there was after it."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.usefixtures("without_tf32")
def test_tf32_goes_with_mixed_precision(larm_task):
    from espnet_larm.train.task import allow_tf32

    args = larm_task.get_parser().parse_args(["--output_dir", "x", "--use_amp", "true", "--use_tf32", "true"])
    # ESPnet asserts that there is one of them.
    handed_on = allow_tf32(args)
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert (handed_on.use_tf32, handed_on.use_amp, args.use_tf32) == (False, True, True)
    alone = larm_task.get_parser().parse_args(["--output_dir", "x", "--use_tf32", "true"])
    assert allow_tf32(alone) is alone
