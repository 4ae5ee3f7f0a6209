"""tools/bench/ways.py: each way that a model offers has its row, and those that change no word change none."""

import logging
import sys

import pytest
import torch
import ways as tool
import yaml


@pytest.fixture(autouse=True)
def warnings_come_back():
    """The tool switches them off for the whole process."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def options(build_speech_llm, tiny_experiment, tmp_path):
    """A command line for a model with an LM."""

    def make(num_heads):
        model = build_speech_llm(decoder_conf={"num_heads": num_heads})
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        given = {"asr_train_config": tmp_path / "config.yaml", "asr_model_file": tmp_path / "model.pth"}
        given |= {"data_dir": tiny_experiment.data, "repeats": 2, "threads": 1}
        return ["ways.py", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]

    return make


def table(capsys):
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    head, *rows = (line.strip("| ").split(" | ") for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_way_has_a_row_for_each_size_of_batches(options, monkeypatch, capsys):
    thresholds = ["--relaxed_entropy", "0", "--relaxed_tau", "1"]
    monkeypatch.setattr(sys, "argv", [*options(3), "--sizes", "1", "2", *thresholds])
    tool.main()
    rows = table(capsys)
    offered = [way for way in tool.WAYS if way != "edit"]
    assert [(row["batch"], row["way"]) for row in rows] == [(size, way) for size in "12" for way in offered]
    by_way = {row["way"]: row for row in rows if row["batch"] == "2"}
    total = by_way["greedy"]["texts as greedy"].split(" of ")[1]
    # Thresholds that take nothing are lossless, too.
    for way in ("greedy", "verified heads", "verified CTC", "relaxed"):
        assert by_way[way]["texts as greedy"] == f"{total} of {total}"
        assert by_way[way]["words wrong"] == by_way["greedy"]["words wrong"]
    assert float(by_way["verified heads"]["tokens a call"]) > float(by_way["greedy"]["tokens a call"]) == 1.0
    assert by_way["relaxed"]["by CTC / the LM / decoding %"] == "0 / 0 / 100"
    assert by_way["CTC alone"]["calls a word"] == by_way["CTC alone"]["tokens a call"] == "-"
    alone = {row["way"]: row for row in rows if row["batch"] == "1"}
    for way, row in by_way.items():
        assert alone[way]["words wrong"] == row["words wrong"]
        assert int(alone[way]["calls in batches"]) >= int(row["calls in batches"])


def test_ways_that_a_model_lacks_are_named(options, monkeypatch, capsys):
    ways = ["--ways", "verified heads", "relaxed", "edit", "CTC alone"]
    monkeypatch.setattr(sys, "argv", [*options(1), "--sizes", "2", "--utterances", "1", *ways])
    tool.main()
    said = capsys.readouterr().out
    assert "not measured: edit: search is edit, but" in said
    assert "not measured: verified heads: drafts is heads, but the model has no draft heads" in said
    assert "not measured: relaxed: accept is relaxed, but relaxed_entropy is not set" in said
    assert "1 utterances, " in said and "| 2 | CTC alone | " in said
