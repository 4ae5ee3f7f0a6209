"""The looped encoder in the models of ESPnet's other tasks: a loss that reaches all its weights."""

import argparse
import importlib
from typing import Any

import pytest
import torch

from espnet_larm import registry
from espnet_larm.cli.train import main

TOKENS = ["<blank>", "<unk>", *"abcdef", "<na>", "<sop>", "<sos>", "<eos>", "<sos/eos>"]
LARM = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 16,
    "num_blocks": 1,
    "num_loops": 2,
    "checkpoint_period": 1,
    "subsampling_channels": 4,
}
DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "slu": ("SLUTask", {"encoder_conf": LARM, "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5}}),
    "s2t": ("S2TTask", {"encoder_conf": LARM, "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5}}),
    "st": ("STTask", {"encoder_conf": {**LARM, "checkpoint_period": 2, "feedback": False}, "model_conf": {}}),
}


def build(name: str) -> tuple[torch.nn.Module, argparse.Namespace]:
    class_name, options = TASKS[name]
    task = getattr(importlib.import_module(f"espnet2.tasks.{name}"), class_name)
    registry.register()
    args = task.get_parser().parse_args(["--output_dir", "unused", "--token_type", "char", "--encoder", "larm"])
    vars(args).update(
        {"token_list": TOKENS, "src_token_list": TOKENS, "decoder": "transformer", "decoder_conf": DECODER},
        **options,
    )
    return task.build_model(args), args


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_the_looped_encoder(name: str) -> None:
    model, _ = build(name)
    text, lengths = torch.tensor([[2, 3, 4], [5, 6, -1]]), torch.tensor([3, 2])
    batch = {"speech": torch.randn(2, 8000), "speech_lengths": torch.tensor([8000, 6000]), "text": text}
    batch["text_lengths"] = lengths
    if name == "s2t":
        # OWSM's models are also given the text before, and text with and without times.
        batch |= {"text_prev": text, "text_prev_lengths": lengths, "text_ctc": text, "text_ctc_lengths": lengths}
    if name == "st":
        batch |= {"src_text": text, "src_text_lengths": lengths}
    loss, _, _ = model(**batch)
    loss.backward()
    without = [key for key, weight in model.encoder.named_parameters() if weight.grad is None]
    assert torch.isfinite(loss) and without == []


@pytest.mark.slow
def test_translation_refuses_checkpoint_loops_and_feedback_before_training() -> None:
    conf = [option for name, value in LARM.items() for option in ("--encoder_conf", f"{name}={value}")]
    with pytest.raises(ValueError, match=r"Set encoder_conf: checkpoint_period: 2, feedback: false\."):
        main(["st_train", "--encoder", "larm", *conf, "--output_dir", "unused"])


@pytest.mark.slow
def test_translation_names_the_nearest_option_of_an_encoder() -> None:
    with pytest.raises(ValueError, match="num_loop is not an option of encoder: larm. Did you mean num_loops"):
        main(["st_train", "--encoder", "larm", "--encoder_conf", "num_loop=2", "--output_dir", "unused"])


@pytest.mark.parametrize("program", ["slu_train", "s2t_train", "st_train"])
def test_options_of_all_trainings_have_one_table(program: str) -> None:
    with pytest.raises(ValueError, match=r"^log_interval is -1; allowed: a whole number, 1 or more"):
        main([program, "--log_interval", "-1", "--output_dir", "unused"])
