"""tau of affinity pooling for a wanted retention on a development set, and the comparison with other methods."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_larm.cli import decode as asr_inference
from espnet_larm.cli.calibrate import pooling as calibrate_pooling
from studies.pooling_rivals import run as compare_pooling


@pytest.fixture
def command(build_speech_llm, tiny_experiment, tmp_path):
    """A command line for a model whose speech counts, with three utterances of 0.8 to 1.6 s."""
    data = tmp_path / "data"
    shutil.copytree(tiny_experiment.data, data)
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        lines = (data / name).read_text().splitlines()
        (data / name).write_text("".join(f"{line}\n" for line in lines[:3]))

    def make(*options, **changes):
        changes = {"decoder_conf": {"projector_frames": 1}, "model_conf": {"ctc_weight": 0.3}, **changes}
        model = build_speech_llm(**changes)
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        files = ["--asr_train_config", str(tmp_path / "config.yaml"), "--asr_model_file", str(tmp_path / "model.pth")]
        return [*files, "--data_dir", str(data), *options]

    return make


def rows_of(tmp_path, name="pooling_input"):
    return found_in(tmp_path, name)["rows"]


def found_in(tmp_path, name):
    return json.loads((tmp_path / f"{name}.json").read_text())


def decoded(tmp_path, *options, config="config.yaml"):
    """Statistics and texts of asr_inference."""
    files = ["--asr_train_config", str(tmp_path / config), "--asr_model_file", str(tmp_path / "model.pth")]
    data = ["--data_path_and_name_and_type", f"{tmp_path}/data/wav.scp,speech,sound"]
    assert asr_inference.main([*files, *data, *options, "--output_dir", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out/stats.json").read_text()), (tmp_path / "out/1best_recog/text").read_text()


def texts_decoded(monkeypatch):
    """What the programs' searches find, decode by decode."""
    from espnet_larm.calibrate.pooling_sweep import EncodedFolder

    found, decode = [], EncodedFolder.decode

    def noted(self, *given):
        found.append(decode(self, *given))
        return found[-1]

    monkeypatch.setattr(EncodedFolder, "decode", noted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--place", "input"], ["--place", "deep", "--layer", "1", "--window", "2"]], ids=["input", "deep"]
)
def test_tau_leaves_what_is_wanted_and_decoding_reads_it(command, options, tmp_path, monkeypatch):
    found = texts_decoded(monkeypatch)
    assert calibrate_pooling.main(command("--retention", "0.6", "--grid", "0.8", *options)) == 0
    stem = "pooling_deep1" if "deep" in options else "pooling_input"
    unpooled, high, chosen = rows_of(tmp_path, stem)
    assert (unpooled["tau"], unpooled["retention"], unpooled["flops_share"], unpooled["points"]) == (None, 1.0, 1.0, 0)
    assert chosen["is_chosen"] and not high["is_chosen"] and chosen["tau"] < high["tau"] <= 1
    # 3 utterances of 10 to 40 tokens: one of them is 1.5 % at most.
    assert chosen["retention"] == pytest.approx(0.6, abs=0.016) and high["retention"] == pytest.approx(0.8, abs=0.016)
    assert chosen["flops_share"] < high["flops_share"] < 1
    assert chosen["prompt_positions"] < high["prompt_positions"] < unpooled["prompt_positions"]
    assert (tmp_path / f"{stem}.md").read_text().count("\n| ") == 4 and (tmp_path / f"{stem}.png").is_file()
    stats, text = decoded(tmp_path, "--config", str(tmp_path / "decode_pooling.yaml"))
    place = options[1]
    assert stats["retention"][place] == pytest.approx(chosen["retention"], abs=1e-4)
    assert stats["prompt_positions"][place] == chosen["prompt_positions"]
    # Rows are decoded from the highest tau on: the last one is the chosen.
    assert text == "".join(f"{name} {words}".strip() + "\n" for name, words in sorted(found[-1].texts.items()))
    assert found[-1].texts != found[0].texts


@pytest.mark.slow
def test_the_other_place_stays_and_is_written(command, tmp_path):
    deep = ["--place", "deep", "--layer", "1", "--retention", "0.7", "--grid", "--pooling", "input.tau=0.5"]
    assert calibrate_pooling.main(command(*deep)) == 0
    written = yaml.safe_load((tmp_path / "decode_pooling.yaml").read_text())["pooling"]
    assert written["input"] == {"tau": 0.5} and set(written["deep"]) == {"layer", "tau"}
    (unpooled, chosen), stats = rows_of(tmp_path, "pooling_deep1"), decoded(tmp_path, "--pooling", "input.tau=0.5")[0]
    assert unpooled["prompt_positions"] == stats["prompt_positions"]["input"] < stats["prompt_positions"]["unpooled"]
    assert chosen["retention"] == pytest.approx(0.7, abs=0.03)
    assert (unpooled["method"], unpooled["retention"]) == ("off at this site", 1.0)
    # Shares are of what no place pools.
    share = stats["prompt_positions"]["input"] / stats["prompt_positions"]["unpooled"]
    assert unpooled["positions_share"] == pytest.approx(share, abs=1e-4)
    assert chosen["flops_share"] < unpooled["flops_share"] < 1
    assert found_in(tmp_path, "pooling_deep1")["other_places"] == {"input": {"tau": 0.5}}
    table = (tmp_path / "pooling_deep1.md").read_text()
    assert table.startswith("# Affinity pooling, deep, layer 1; other places: input (tau 0.5): ")
    assert "off at this site" in table and "prefill FLOPs, % of all sites off" in table
    assert "- intervals: 3 utterances, drawn" in table


@pytest.mark.slow
def test_what_training_pooled_and_a_table_does_not_is_said(command, tmp_path):
    pooling = {"input": {"tau": 0.5}, "deep": {"layer": 1, "tau": 0.5}}
    line = command(
        *("--place", "frontend", "--retention", "0.9", "--grid", "--pooling", "input.tau=0.4"),
        frontend="affinity_pooling",
        frontend_conf={"tau": 0.9},
        decoder_conf={"projector_frames": 1, "pooling": pooling},
    )
    assert calibrate_pooling.main(line) == 0
    found, table = found_in(tmp_path, "pooling_frontend"), (tmp_path / "pooling_frontend.md").read_text()
    assert found["other_places"] == {"input": {"tau": 0.4}} and found["rows"][0]["positions_share"] < 1
    assert "- trained with frontend (tau 0.9, window 1, max_group 4): the first row switches it off" in table
    assert "- trained with deep (layer 1, tau 0.5), which is off in all rows: --pooling replaces" in table
    written = yaml.safe_load((tmp_path / "config_pooling.yaml").read_text())
    assert written["decoder_conf"]["pooling"] == {"input": {"tau": 0.4}}


@pytest.mark.slow
def test_with_a_pooled_front_end_shares_are_of_the_speech_that_it_does_not_pool(command, tmp_path):
    options = ["--retention", "0.8", "--grid"]
    plain = command(*options)
    assert calibrate_pooling.main(plain) == 0
    all_off = rows_of(tmp_path)[0]["prompt_positions"]
    # The same weights.
    pooled = {"frontend": "affinity_pooling", "frontend_conf": {"tau": 0.5}}
    assert calibrate_pooling.main(command(*options, **pooled)) == 0
    first = rows_of(tmp_path)[0]
    assert first["method"] == "off at this site" and first["prompt_positions"] < all_off
    assert first["positions_share"] == pytest.approx(first["prompt_positions"] / all_off, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["input", "frontend"])
def test_utterances_that_are_too_short_are_left_out_of_all_rows_by_name(command, place, tmp_path):
    line = command("--retention", "0.9", "--grid", "--place", place)
    assert calibrate_pooling.main(line) == 0
    without = rows_of(tmp_path, f"pooling_{place}")
    path = tmp_path / "short.wav"
    # A front end needs 257 samples for a frame, and the encoder some frames.
    soundfile.write(path, np.zeros(300), 16000)
    for name, value in (("wav.scp", path), ("text", "A B C D E F G H"), ("utt2spk", "s9")):
        with (tmp_path / "data" / name).open("a") as table:
            table.write(f"s9-short {value}\n")
    assert calibrate_pooling.main(line) == 0
    found = found_in(tmp_path, f"pooling_{place}")
    assert found["left_out"] == ["s9-short"] and all(row["lost"] == [] for row in found["rows"])
    table = (tmp_path / f"pooling_{place}.md").read_text()
    assert "3 utterances\n" in table.split("- commit")[0]
    assert "- left out of all rows, too short for the encoder: 1 utterances: s9-short" in table
    # Its eight words are no deletions.
    assert found["rows"] == without


@pytest.mark.slow
def test_a_front_end_is_calibrated_by_another_training_configuration(command, tmp_path):
    options = ["--place", "frontend", "--retention", "0.7", "--grid", "--min_frames_per_second", "0"]
    assert calibrate_pooling.main(command(*options)) == 0
    _, chosen = rows_of(tmp_path, "pooling_frontend")
    assert chosen["retention"] == pytest.approx(0.7, abs=0.01) and chosen["flops_share"] < 1
    assert not (tmp_path / "decode_pooling.yaml").exists()
    stats, _ = decoded(tmp_path, config="config_pooling.yaml")
    assert stats["frames"]["left"] / stats["frames"]["before"] == pytest.approx(chosen["retention"], abs=1e-4)
    assert stats["prompt_positions"]["unpooled"] == chosen["prompt_positions"]


def test_a_retention_that_no_tau_reaches_names_the_range(command, tmp_path):
    # Groups of two leave half, and one more of an odd number.
    with pytest.raises(
        ValueError, match=r"--retention is 0\.3, but .* leaves 0\.5\d* to 1\.0000 .* raise --max_group, .* 2\."
    ):
        calibrate_pooling.main(command("--retention", "0.3", "--max_group", "2"))
    assert not list(tmp_path.glob("pooling*"))


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ([], r"or lower --min_frames_per_second, which is its default \(50\)\."),
        (["--min_frames_per_second", "60"], r"or lower --min_frames_per_second, which is 60\.0\."),
        (["--min_frames_per_second", "10"], r"or raise --max_group, which is 4\."),
    ],
)
def test_a_front_end_says_what_keeps_its_frames(command, options, end):
    with pytest.raises(ValueError, match=r"--retention is 0\.2, but .* in that range, " + end):
        calibrate_pooling.main(command("--place", "frontend", "--retention", "0.2", *options))


@pytest.mark.slow
def test_of_the_grid_what_is_out_of_reach_is_left_out(command, tmp_path):
    assert calibrate_pooling.main(command("--retention", "0.8", "--grid", "0.3", "0.9", "--max_group", "2")) == 0
    assert [row["wanted_retention"] for row in rows_of(tmp_path)] == [1.0, 0.9, 0.8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retention", "0"], r"--retention: retention is 0\.0; allowed: above 0 to 1"),
        (["--grid", "nan"], "--grid: retention is nan; allowed: above 0 to 1"),
        (["--window", "0"], "--window and --max_group: window is 0; allowed: 1 or more"),
        (["--window", "3", "--max_group", "2"], "window is 3, but a group has max_group = 2"),
        (["--layer", "1"], "--layer is 1, but --place is input"),
        (["--place", "deep"], "deep: layer is not given; allowed: 1 to 1"),
        (["--place", "deep", "--layer", "2"], "deep: layer is 2; allowed: 1 to 1"),
        (["--min_frames_per_second", "50"], r"--min_frames_per_second is 50\.0, but --place is input"),
        (["--batch_seconds", "nan"], "batch_seconds is nan; allowed: above 0"),
        (["--batch_seconds", "0"], r"batch_seconds is 0\.0; allowed: above 0"),
        (["--pooling", "deep.taus=1"], "unknown option taus"),
        (["--pooling", "input.tau=0.9"], "--pooling names input, but --place input is what is calibrated"),
        (["--pooling", "inputs.tau=0.9"], "--pooling: unknown site inputs"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_encoded(command, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_larm.calibrate.pooling_sweep.encode", None)
    with pytest.raises(ValueError, match=message):
        calibrate_pooling.main(command(*options))
    assert not list(tmp_path.glob("pooling*"))


def test_a_folder_whose_texts_are_empty_is_refused_before_anything_is_encoded(command, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet_larm.calibrate.pooling_sweep.encode", None)
    line = command()
    text = tmp_path / "data/text"
    text.write_text("".join(f"{each.split()[0]}\n" for each in text.read_text().splitlines()))
    with pytest.raises(ValueError, match="the texts of all 3 utterances are empty; WER needs words"):
        calibrate_pooling.main(line)


def test_a_model_without_an_lm_is_refused(tiny_experiment, tmp_path):
    files = ["--asr_train_config", str(tiny_experiment.config), "--asr_model_file", str(tiny_experiment.model)]
    with pytest.raises(ValueError, match="decoded by CTC alone; only the speech that an LM reads"):
        calibrate_pooling.main([*files, "--data_dir", str(tiny_experiment.data), "--output_dir", str(tmp_path)])


@pytest.mark.slow
def test_methods_are_compared_at_equal_retention(command, tmp_path):
    options = ["--methods", "affinity", "uniform_mean", "random_drop", "runs_ctc", "--retentions", "1.0", "0.5"]
    assert compare_pooling.main(command(*options)) == 0
    unpooled, affinity, mean, random_drop, runs = rows_of(tmp_path, "compare_pooling_input")
    assert unpooled["method"] == "no pooling" and unpooled["retention"] == 1.0
    # All round up in each utterance, and affinity follows them.
    assert mean["retention"] == random_drop["retention"] == runs["retention"] >= 0.5
    assert affinity["retention"] == pytest.approx(mean["retention"], abs=0.02) and affinity["tau"] < 1
    assert mean["beside_uniform_mean"] is None
    beside = affinity["beside_uniform_mean"]
    assert beside["points"] == pytest.approx(affinity["points"] - mean["points"], abs=1e-3)
    assert mean["prompt_positions"] == random_drop["prompt_positions"] < unpooled["prompt_positions"]
    for row in (mean, runs):
        assert row["hz"] / unpooled["hz"] == pytest.approx(row["retention"], abs=1e-3)
        assert row["tokens_per_word"] / unpooled["tokens_per_word"] == pytest.approx(row["retention"], abs=1e-3)
    table = (tmp_path / "compare_pooling_input.md").read_text()
    assert table.count("\n| ") == 6 and "- command: `python -m studies.pooling_rivals.run" in table
    assert (tmp_path / "compare_pooling_input.png").is_file()


@pytest.mark.slow
def test_ways_are_compared_at_the_encoders_output_where_ctc_decodes_alone(tiny_experiment, tmp_path):
    files = ["--asr_train_config", str(tiny_experiment.config), "--asr_model_file", str(tiny_experiment.model)]
    files += ["--data_dir", str(tiny_experiment.data), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert compare_pooling.main([*files, "--place", "encoder", "--retentions", "0.5"]) == 0
    rows = rows_of(tmp_path, "compare_pooling_encoder")
    assert rows[0]["method"] == "no pooling" and {"runs_ctc", "uniform_mean_ctc"} < {row["method"] for row in rows}
    # 7 utterances of 6 to 40 frames, all rounded up.
    left = {row["retention"] for row in rows[1:] if "affinity" not in row["method"]}
    assert len(left) == 1 and 0.5 <= left.pop() < 0.55
    # A fourth of 100 frames a second, less what the subsampling loses at the ends.
    assert 20 < rows[0]["hz"] < 25
    with pytest.raises(ValueError, match="--place frontend: the model normalises features"):
        compare_pooling.main([*files, "--place", "frontend", "--retentions", "0.5"])


@pytest.fixture
def test_dir(command, tiny_experiment, tmp_path):
    """The four utterances that are not in `--data_dir`."""
    folder = tmp_path / "test"
    shutil.copytree(tiny_experiment.data, folder)
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        (folder / name).write_text("".join(f"{line}\n" for line in (folder / name).read_text().splitlines()[3:]))
    return folder


@pytest.mark.slow
def test_tau_is_that_of_the_development_set_or_of_each_set(command, test_dir, tmp_path):
    sets = ["--test_dirs", str(tmp_path / "data"), str(test_dir)]
    options = ["--methods", "affinity", "uniform_mean", "--retentions", "0.6", *sets, "--tau_from"]

    def compared(tau_from):
        assert compare_pooling.main(command(*options, tau_from)) == 0
        _, dev, _, _, test, mean = rows_of(tmp_path, "compare_pooling_input")
        assert dev["data"] == sets[1] and test["data"] == mean["data"] == sets[2]
        return dev, test, mean

    dev, test, _ = compared("dev")
    assert dev["tau"] == test["tau"]
    own, each, mean = compared("each")
    assert own["tau"] == dev["tau"] != each["tau"]
    # A token of about a hundred: as much as the others leave of this set.
    assert each["retention"] == pytest.approx(mean["retention"], abs=0.015)
    found = found_in(tmp_path, "compare_pooling_input")
    assert [(one["data"], one["num_utterances"]) for one in found["sets"]] == [(sets[1], 3), (sets[2], 4)]


@pytest.mark.slow
def test_affinity_is_left_out_where_no_tau_leaves_so_little(command, tmp_path, caplog):
    options = ["--methods", "affinity", "uniform_mean", "--retentions", "0.9", "0.3", "--max_group", "2"]
    assert compare_pooling.main(command(*options)) == 0
    rows = [(row["method"], row["wanted_retention"]) for row in rows_of(tmp_path, "compare_pooling_input")]
    assert rows == [("no pooling", 1.0), ("affinity", 0.9), ("uniform_mean", 0.9), ("uniform_mean", 0.3)]
    assert "affinity is left out: --retentions is 0.3, but" in caplog.text
    assert "or raise --max_group, which is 2." in caplog.text
