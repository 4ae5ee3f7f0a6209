"""The recipes' configurations for streams: an offline model begins them, and they learn in drawn contexts."""

import argparse
from pathlib import Path

import pytest
import torch

from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet_larm.train.checks.init_param import check_init_params

CONF = Path(__file__).parents[2] / "conf"
NUM_STEPS = 6


@pytest.fixture
def build(larm_task, tmp_path):
    """Builds the model of a configuration."""
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("\n".join(["<blank>", "<unk>", "<space>", *"ABC", "<sos/eos>"]) + "\n")

    def build(path):
        options = ["--config", str(CONF / path), "--token_list", str(tokens), "--token_type", "char"]
        return larm_task.build_model(larm_task.get_parser().parse_args([*options, "--output_dir", str(tmp_path)]))

    return build


@pytest.mark.parametrize("recipe", ["an4", "read_speech"])
def test_an_offline_model_begins_a_training_for_streams(recipe, build, tmp_path):
    offline, live = build(f"{recipe}/train_larm.yaml"), build(f"{recipe}/train_larm_live.yaml")
    assert offline.encoder.contexts is None and live.encoder.contexts is not None
    weights = offline.state_dict()
    torch.save(weights, tmp_path / "model.pth")
    given = argparse.Namespace(init_param=[str(tmp_path / "model.pth")], ignore_init_mismatch=False)
    check_init_params(given, live)
    load_pretrained_model(str(tmp_path / "model.pth"), live, ignore_init_mismatch=False)
    assert all(torch.equal(weight, live.state_dict()[name]) for name, weight in weights.items())
    speech, speech_lens = 0.1 * torch.randn(2, 24_000), torch.tensor([24_000, 17_000])
    text, text_lens = torch.tensor([[3, 4, 2, 5], [4, 3, -1, -1]]), torch.tensor([4, 2])
    optimizer = torch.optim.AdamW(live.train().parameters(), lr=0.0015)
    losses = []
    for _ in range(NUM_STEPS):
        loss, _, _ = live(speech, speech_lens, text, text_lens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert live.encoder.contexts.draws[1] == NUM_STEPS
