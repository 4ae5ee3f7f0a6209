"""Thresholds of draft heads on a development set."""

import json

import pytest
import torch
import yaml

from espnet_larm.cli import decode as asr_inference
from espnet_larm.cli.calibrate import drafts as calibrate_drafts


@pytest.fixture
def command(build_speech_llm, tiny_experiment, tmp_path):
    """A command line for a model with two draft heads."""

    def make(num_heads=3):
        model = build_speech_llm(decoder_conf={"num_heads": num_heads})
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        options = {"asr_train_config": "config.yaml", "asr_model_file": "model.pth"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(tmp_path / value))]
        return [*words, "--data_dir", str(tiny_experiment.data)]

    return make


def test_table_and_configuration_stand_beside_the_model_and_decode(command, tiny_experiment, tmp_path, capsys):
    assert calibrate_drafts.main([*command(), "--taus", "0.0", "0.9", "1.5"]) == 0
    rows = json.loads((tmp_path / "drafts_calibration.json").read_text())
    assert [row["options"].get("draft_tau") for row in rows] == [None, None, 0.0, 0.9, 1.5]
    one_token, verified, *_, none = rows
    # Verified: the same words, fewer calls; a threshold above one drafts nothing.
    assert verified["wer_percent"] == one_token["wer_percent"] == none["wer_percent"]
    assert verified["row_calls"] < one_token["row_calls"] == none["row_calls"]
    (chosen,) = [row for row in rows if row["is_chosen"]]
    assert chosen["row_calls"] <= verified["row_calls"]
    table = (tmp_path / "drafts_calibration.md").read_text()
    assert table.count("\n| ") == 6 and table.count("| chosen |") == 1
    assert all(line in capsys.readouterr().out for line in table.splitlines()[-1:])
    config = tmp_path / "decode_drafts.yaml"
    assert yaml.safe_load(config.read_text()) == chosen["options"]
    decode = ["--data_path_and_name_and_type", f"{tiny_experiment.data}/wav.scp,speech,sound", "--config", str(config)]
    decode += ["--asr_train_config", str(tmp_path / "config.yaml"), "--asr_model_file", str(tmp_path / "model.pth")]
    assert asr_inference.main([*decode, "--output_dir", str(tmp_path / "out")]) == 0
    stats = json.loads((tmp_path / "out/stats.json").read_text())
    assert stats["row_calls"] == chosen["row_calls"] and "; accepted: token 2 " in capsys.readouterr().out
    assert {**stats["drafting"], **{name.removeprefix("draft_"): each for name, each in chosen["options"].items()}} == (
        stats["drafting"]
    )


def test_the_fewest_calls_within_the_loss_are_chosen():
    from espnet_larm.calibrate.drafts import Row, choose

    def row(wer, row_calls, **options):
        return Row({"drafts": "heads", **options}, wer, row_calls, row_calls, 1.0, 0.01)

    rows = [row(5.0, 100), row(5.0, 40, accept="verified")]
    rows += [row(*pair, accept="threshold", draft_tau=0.5) for pair in ((9.0, 20), (5.3, 30), (5.1, 35))]
    assert choose(rows, 0.0) is rows[1]
    assert choose(rows, 0.1) is rows[4] and choose(rows, 0.5) is rows[3] and choose(rows, 10.0) is rows[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target_wer_loss", "-1"], "--target_wer_loss is -1.0; allowed: 0 or more"),
        (["--target_wer_loss", "nan"], "--target_wer_loss is nan; allowed: 0 or more"),
        (["--batch_seconds", "0"], "batch_seconds is 0.0; allowed: above 0"),
        (["--taus", "0.5", "-0.5"], "tau is -0.5; allowed: 0"),
        (["--tokens_per_call", "4"], r"tokens_per_call is 4; allowed: 1 to 3"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_decoded(command, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        calibrate_drafts.main([*command(), *options])
    assert not (tmp_path / "drafts_calibration.md").exists()


def test_a_model_without_heads_is_refused(command):
    with pytest.raises(ValueError, match="the model has no draft heads"):
        calibrate_drafts.main(command(num_heads=1))
