"""tools/bench/memory.py: what it counts is what is there."""

import memory as tool
import pytest
import torch
import yaml

from espnet_larm.adaptation.llm_weights import METHODS

TINY_LLM = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def saved_bytes(model, xs):
    """What autograd keeps, by its own hooks: each storage once, weights left out."""
    storages = {}
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(xs)
    return sum(size for place, size in storages.items() if place not in weights), result


def test_what_is_alive_after_a_forward_pass_is_what_autograd_saved():
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8), torch.nn.Sigmoid())
    xs = torch.randn(5, 8)
    expected, result = saved_bytes(model, xs)
    live = tool.LiveTensors([xs, *model.parameters()])
    with live:
        again = model(xs)
    # Inputs are there anyway; the sigmoid keeps its output.
    assert live.live.total() == expected - xs.nbytes == 4 * 5 * (16 + 16 + 8)
    assert torch.equal(result, again)
    del again
    assert live.live.total() == 0 and live.peak >= 4 * 5 * (16 + 16 + 8)


def test_views_are_not_counted_twice_and_parts_are_told_apart():
    first, second = torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Flatten())
    live = tool.LiveTensors([*first.parameters(), *second.parameters()])
    live.watch("first", first)
    live.watch("second", second)
    with live, torch.no_grad():
        xs = torch.zeros(3, 2, 4)
        kept = xs, xs.view(6, 4), first(xs), second(xs)
    assert dict(live.live) == {tool.REST: 96, "first": 96, "second": 96}
    del kept


@pytest.fixture
def args(larm_task, tmp_path):
    config = {
        "optim": "adamw",
        "encoder": "larm",
        "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1, "num_loops": 2},
        "decoder": "speech_llm",
        "decoder_conf": {"projector_frames": 2, "adaptation": "lora", "lora_conf": {"r": 2}},
        "model": "speech_llm",
        "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5},
    }
    config["encoder_conf"] |= {"checkpoint_period": 1, "subsampling_channels": 4}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(tmp_path / "train.yaml"), "--batch", "2", "--seconds", "1.5"]
    args = tool.get_parser().parse_args(options)
    args.llm_config = TINY_LLM
    return args


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_has_the_bytes_of_what_learns_and_checkpointing_spares_those_of_lm_and_encoder(args, method):
    plain, checkpointed = (tool.measure(args, tool.Setting(method, on)) for on in (False, True))
    for memory in (plain, checkpointed):
        # AdamW: two moments a number, and a count of steps a weight.
        for part, size in memory.gradients.items():
            assert 2 * size < memory.state[part] < 2 * size + 1000
            assert size <= memory.weights[part]
        adapted = {"frozen": set(), "full": {"LM"}, "lora": {"LoRA"}, "depth_upscaling": {"added layers"}}
        assert set(memory.gradients) == {"encoder", "ctc", "projector"} | adapted[method]
        sums = [sum(each.values()) for each in memory[:4]]
        assert sums[0] + sums[2] + sums[3] <= memory.peak
    for part in ("encoder", "LM"):
        assert checkpointed.activations[part] < 0.7 * plain.activations[part]
    for part in ("ctc", "projector", tool.REST):
        assert checkpointed.activations[part] == plain.activations[part]
    assert checkpointed[:3] == plain[:3]


@pytest.mark.slow
def test_what_is_left_out_changes_no_count(args):
    setting = tool.Setting("lora", checkpointing=True)
    counted = tool.measure(args, setting)
    args.compute = True
    computed = tool.measure(args, setting)
    # What the system sees of tensors this small may be nothing.
    assert counted.seen is None and computed.seen is not None
    assert counted == computed._replace(seen=None)


def test_tables_have_a_row_a_setting_and_a_row_a_part():
    sizes = [{"LM": 2**20 * size, "encoder": 2**20} for size in (300, 200, 100, 2000)]
    memory = tool.Memory(*sizes, peak=2**30, seen=2**31)
    less = memory._replace(activations={"LM": 2**19})
    lines = list(tool.format_tables({tool.Setting("full", False): memory, tool.Setting("full", True): less}, "cpu"))
    assert lines[2] == "| full | off | 301 | 201 | 101 | 2,001 | 2,604 | 1,024 | 2,048 |"
    assert lines[3].startswith("| full | on | 301 | 201 | 101 | 0.5 | 604 |")
    assert lines[-2:] == [
        "| full | encoder | 1.0 | 1.0 | 1.0 | 1.0 | 0 |",
        "| full | LM | 300 | 200 | 100 | 2,000 | 0.5 |",
    ]
