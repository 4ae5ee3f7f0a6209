"""LarmASRTask: what it refuses, and that ESPnet's stock model trains every checkpoint loop."""

import logging

import pytest
import torch
import yaml
from torch.multiprocessing.spawn import ProcessExitedException

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<space>", "<sos/eos>"]
ENCODER_CONF = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 32,
    "num_blocks": 1,
    "num_loops": 4,
    "checkpoint_period": 2,
    "subsampling_channels": 4,
}


@pytest.fixture
def build(larm_task, tmp_path):
    def build(encoder_conf=None, encoder="larm", **model_conf):
        config = {
            "token_list": TOKENS,
            "decoder": "transformer" if model_conf.get("ctc_weight") == 0.0 else None,
            "encoder": encoder,
            "encoder_conf": {**ENCODER_CONF, **(encoder_conf or {})},
            "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.5, **model_conf},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        args = larm_task.get_parser().parse_args(["--config", str(path), "--output_dir", str(tmp_path)])
        model = larm_task.build_model(args)
        larm_task.build_optimizers(args, model)
        return model

    return build


def speech_and_text():
    torch.manual_seed(0)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 12000]),
        "text": torch.tensor([[2, 3, 4], [3, 2, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


def test_stock_model_weighs_every_checkpoint_alike(build):
    torch.manual_seed(0)
    model = build().train()
    loss, stats, _ = model(**speech_and_text())
    assert loss.item() == pytest.approx((stats["loss_ctc"] + stats["loss_interctc_layer2"]).item() / 2)


def test_stock_model_trains_every_parameter(build):
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    # FiLM's first layer gets a gradient only once its second has left zero.
    for _ in range(2):
        optimizer.zero_grad()
        model(**speech_and_text())[0].backward()
        optimizer.step()
    # A key's bias shifts all of a query's products alike: softmax does not see it, so attention.qkv.bias moves in part.
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


def test_interrupted_training_processes_make_the_waiting_one_ask_for_a_requeue(larm_task, monkeypatch):
    def end(*_, **__):
        raise ProcessExitedException("process 0 ended", error_index=0, error_pid=1, exit_code=75)

    monkeypatch.setattr(larm_task.__base__, "main", end)
    with pytest.raises(SystemExit) as exit_:
        larm_task.main(cmd=[])
    assert exit_.value.code == 75


def test_zero_interctc_weight_is_refused_with_the_right_one(build):
    with pytest.raises(ValueError, match=r"interctc_weight is 0, .* 2 checkpoint loops .* Set it to 0.5000"):
        build(interctc_weight=0.0)


def test_three_checkpoints_need_two_thirds(build):
    with pytest.raises(ValueError, match=r"Set it to 0.6667"):
        build({"num_loops": 6}, interctc_weight=0.0)


def test_uneven_interctc_weight_is_said(build, caplog):
    with caplog.at_level(logging.WARNING):
        build(interctc_weight=0.3)
    assert "weighs the last of 2 checkpoint loops 0.700 and each other 0.300; 0.5000 would weigh" in caplog.text


def test_checkpoint_loops_of_an_attention_decoder_alone_are_refused_with_the_remedy(build):
    message = r"ctc_weight is 0, .* 2 checkpoint loops. Set encoder_conf: checkpoint_period: 4"
    with pytest.raises(ValueError, match=message):
        build({"feedback": False}, ctc_weight=0.0, interctc_weight=0.0)
    alone = build({"feedback": False, "checkpoint_period": 4}, ctc_weight=0.0, interctc_weight=0.0)
    assert alone.encoder.num_checkpoints == 1


def test_checkpoint_loops_of_a_transducer_are_refused_with_the_remedy(build):
    from espnet_larm.train.refusals import check_checkpoint_losses

    model = build()
    # A transducer's loss is in a package that pip does not have.
    model.use_transducer_decoder = True
    with pytest.raises(ValueError, match=r"decoder: transducer cannot be decoded .* Set .* checkpoint_period: 4"):
        check_checkpoint_losses(model)


def test_one_checkpoint_needs_no_interctc_weight(build):
    assert build({"checkpoint_period": 4}, interctc_weight=0.0).encoder.num_checkpoints == 1


def test_feedback_without_ctc_is_refused(build):
    with pytest.raises(ValueError, match="ctc_weight is 0, but the encoder feeds CTC posteriors back"):
        build(ctc_weight=0.0, interctc_weight=0.0)


def test_misspelt_encoder_is_refused_with_the_nearest(build):
    with pytest.raises(ValueError, match="encoder: lram is not known. Did you mean larm"):
        build(encoder="lram")


def test_misspelt_key_is_refused_with_the_nearest(build):
    with pytest.raises(ValueError, match="encoder_conf: num_loop is not an option of encoder: larm. Did you mean num"):
        build({"num_loop": 4})


def test_stock_encoders_are_checked_too(build):
    with pytest.raises(ValueError, match="encoder_conf: checkpoint_period, .* are not options of encoder: trans"):
        build(encoder="transformer")
