"""A training step of each kind of model on a GPU, or on one that is not there, beside the same step on the CPU."""

import copy

import pytest
import torch
import yaml

from tests.pretrained.conftest import encoders
from tests.train.conftest import CONFIG

__all__ = ["encoders"]

# Kernels of a GPU sum in another order, loop after loop.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture
def build(larm_task, tmp_path):
    """Builds a CTC model from the options of a tiny training, without dropout."""

    def build(**changes):
        # What SpecAugment draws on a GPU is not what it draws on the CPU.
        config = {**copy.deepcopy(CONFIG), "specaug": None, "specaug_conf": {}}
        if "frontend" in changes:
            del config["frontend_conf"]
        for name, value in changes.items():
            config[name] = {**(config.get(name) or {}), **value} if isinstance(value, dict) else value
        config["encoder_conf"]["dropout_rate"] = 0.0
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        options = ["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path)]
        torch.manual_seed(0)
        return larm_task.build_model(larm_task.get_parser().parse_args(options))

    return build


def batch():
    return {
        "speech": torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)),
        "speech_lengths": torch.tensor([16000, 9000]),
        "text": torch.tensor([[3, 4, 5], [5, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


def step(model, given):
    """Loss, gradients and weights of one step."""
    torch.manual_seed(1)
    weights = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=0.01)
    loss, stats, _ = model(**given)
    loss.backward()
    gradients = {name: each.grad.clone() for name, each in weights.items() if each.grad is not None}
    torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
    optimizer.step()
    return loss.detach(), stats, gradients, weights


def compare(gpu, model):
    """A step of a copy on the GPU beside one on the CPU; how often it waited."""
    there = gpu.put(copy.deepcopy(model))
    expected = step(model, batch())
    given = gpu.put(batch())
    gpu.waits.clear()
    found = step(there, given)
    num_waits = gpu.num_waits
    assert found[0].is_cuda
    for some, others in zip(found[1:], expected[1:], strict=True):
        assert some.keys() == others.keys()
    assert all(each.is_cuda for each in (*found[2].values(), *found[3].values()))
    torch.testing.assert_close(found[0].cpu(), expected[0], **CLOSE)
    for name, gradient in expected[2].items():
        torch.testing.assert_close(
            found[2][name].cpu(), gradient, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
        )
    return num_waits


LOOPED = {
    "with sampled loops": {"encoder_conf": {"num_loops": 4, "loop_sampling": "uniform"}},
    "of conformer blocks around a loop": {
        "encoder_conf": {"block": "conformer", "prelude_blocks": 1, "coda_blocks": 1}
    },
    "whose activations are computed again": {"encoder_conf": {"activation_checkpointing": True}},
    "behind affinity pooling": {"frontend": "affinity_pooling", "frontend_conf": {"tau": 0.5}},
}


@pytest.mark.parametrize("kind", LOOPED)
def test_a_looped_encoder(gpu, build, kind):
    assert compare(gpu, build(**LOOPED[kind])) <= 40


def test_spec_augment_is_drawn_on_the_gpu(gpu, build):
    model = gpu.put(build(specaug="specaug", specaug_conf=CONFIG["specaug_conf"]))
    loss, *_ = step(model, gpu.put(batch()))
    assert loss.is_cuda and loss.isfinite()


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_a_pretrained_front_end(gpu, build, encoders, kind):
    conf = {"model": encoders(kind), "layers": "mix"}
    model = build(frontend="pretrained", frontend_conf=conf)
    assert compare(gpu, model) <= 40


SPEECH_LLMS = {
    "LoRA": {"decoder_conf": {"adaptation": "lora", "lora_conf": {"r": 2}}},
    "added layers": {"decoder_conf": {"adaptation": "depth_upscaling"}},
    "all weights and draft heads": {"decoder_conf": {"adaptation": "full", "num_heads": 3}},
    "pooled speech": {"decoder_conf": {"pooling": {"input": {"tau": 0.5}}}},
    "word errors": {"model_conf": {"mwer_weight": 1.0, "mwer_nbest": 2, "mwer_beam_size": 2}},
}


@pytest.mark.parametrize("kind", SPEECH_LLMS)
def test_a_speech_llm(gpu, build_speech_llm, kind):
    model = build_speech_llm(encoder_conf={"dropout_rate": 0.0}, **SPEECH_LLMS[kind])
    assert compare(gpu, model) <= 100


AUTOCAST = {
    "a looped encoder": lambda build, _: build(encoder_conf={"num_loops": 4, "loop_sampling": "uniform"}),
    "a conformer with affinity pooling": lambda build, _: build(
        encoder_conf={"block": "conformer"}, frontend="affinity_pooling", frontend_conf={"tau": 0.5}
    ),
    "a looped encoder whose activations are computed again": lambda build, _: build(
        encoder_conf={"activation_checkpointing": True}
    ),
    "LoRA": lambda _, build: build(encoder_conf={"dropout_rate": 0.0}, **SPEECH_LLMS["LoRA"]),
    "added layers": lambda _, build: build(encoder_conf={"dropout_rate": 0.0}, **SPEECH_LLMS["added layers"]),
    "word errors": lambda _, build: build(
        encoder_conf={"dropout_rate": 0.0},
        decoder_conf={"activation_checkpointing": True},
        **SPEECH_LLMS["word errors"],
    ),
}


@pytest.mark.parametrize("kind", AUTOCAST)
def test_mixed_precision_has_losses_and_gradients_in_float32_near_those_without(gpu, build, build_speech_llm, kind):
    model = AUTOCAST[kind](build, build_speech_llm)
    expected = step(copy.deepcopy(model), batch())
    there, given = gpu.put(model), gpu.put(batch())
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss, *_ = there(**given)
    loss.backward()
    gradients = {name: each.grad for name, each in there.named_parameters() if each.grad is not None}
    assert loss.dtype == torch.float32 and loss.is_cuda and gradients.keys() == expected[2].keys()
    assert all(each.dtype == torch.float32 and bool(each.isfinite().all()) for each in gradients.values())
    # bfloat16 has 8 bits.
    torch.testing.assert_close(loss.detach().cpu(), expected[0], rtol=0.05, atol=0.05)
