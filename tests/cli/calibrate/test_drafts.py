"""Thresholds of draft heads on a development set."""

import json

import pytest
import torch
import yaml

from espnet_larm.cli import decode as asr_inference
from espnet_larm.cli.calibrate import drafts as calibrate_drafts

NO_NUMBER = "a number of points of WER"


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


def test_pairs_of_thresholds_stand_beside_the_model_and_decode(command, tiny_experiment, tmp_path, capsys):
    words = [*command(), "--accept", "relaxed", "--drafts", "none", "--taus", "0.0", "0.1"]
    assert calibrate_drafts.main([*words, "--target_wer_loss", "1000"]) == 0
    found = json.loads((tmp_path / "relaxed_calibration.json").read_text())
    one_token, *pairs = found["rows"]
    assert one_token["row_calls"] > max(row["row_calls"] for row in pairs[:-1]) and one_token["accepted_by"] == {}
    # CTC alone takes all, and calls nobody.
    (chosen,) = [row for row in pairs if row["is_chosen"]]
    assert chosen is pairs[-1] and chosen["row_calls"] == 0 and set(chosen["accepted_by"]) == {"ctc"}
    assert found["relaxed_entropy"] == chosen["options"]["relaxed_entropy"] == 100.0
    entropies = sorted({row["options"]["relaxed_entropy"] for row in pairs})
    assert entropies[0] == 0.0 and len(entropies) > 2
    assert len(pairs) == 2 * (len(entropies) - 1) + 1
    assert (tmp_path / "relaxed_calibration.md").read_text().count("| chosen |") == 1
    # Every row is what decoding with its thresholds gives.
    decode = ["--data_path_and_name_and_type", f"{tiny_experiment.data}/wav.scp,speech,sound"]
    decode += ["--asr_train_config", str(tmp_path / "config.yaml"), "--asr_model_file", str(tmp_path / "model.pth")]
    decode += ["--accept", "relaxed", "--drafts", "none"]
    for number, row in enumerate([chosen, pairs[1]]):
        entropy, tau = (row["options"][name] for name in ("relaxed_entropy", "relaxed_tau"))
        # The chosen ones are read from beside the model.
        given = ["--relaxed_entropy", str(entropy), "--relaxed_tau", str(tau)] if number else []
        assert asr_inference.main([*decode, *given, "--output_dir", str(tmp_path / f"out{number}")]) == 0
        stats = json.loads((tmp_path / f"out{number}/stats.json").read_text())
        assert stats["row_calls"] == row["row_calls"]
        assert {way: count for way, count in stats["accepted_by"].items() if count} == row["accepted_by"]
        assert (stats["drafting"]["relaxed_entropy"], stats["drafting"]["relaxed_tau"]) == (entropy, tau)
    assert "utterances by who took their hypothesis: ctc 100.0%" in capsys.readouterr().out


def test_a_gain_that_no_pair_reaches_is_refused():
    from espnet_larm.calibrate.drafts import Row, choose

    rows = [
        Row({"drafts": "none"}, 5.0, 9, 9, 1.0, 0.01),
        Row({"accept": "relaxed", "relaxed_entropy": 0.7, "relaxed_tau": 0.2}, 4.9, 5, 5, 1.8, 0.01, {"ctc": 3}),
        Row({"accept": "relaxed", "relaxed_entropy": 3.0, "relaxed_tau": 0.2}, 5.5, 2, 2, 4.5, 0.01, {"ctc": 9}),
    ]
    assert choose(rows, -0.05) is rows[1] and choose(rows, 0.6) is rows[2]
    with pytest.raises(ValueError, match=r"no thresholds lose so little; the best are entropy 0.7, tau 0.2, at -0.10"):
        choose(rows, -0.5)
    with pytest.raises(ValueError, match="the best are entropy 3, tau 0.2, at"):
        choose([rows[0], rows[2]], 0.1, may_be_first=False)


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
        (["--accept", "relaxed", "--target_wer_loss", "inf"], f"--target_wer_loss is inf; allowed: {NO_NUMBER}"),
        (["--accept", "relaxed", "--taus", "0.5", "1.5"], "relaxed_tau is 1.5; allowed: 0 to 1"),
        (["--drafts", "ctc"], "--drafts is ctc and --accept threshold: only drafts of heads can go unverified"),
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
