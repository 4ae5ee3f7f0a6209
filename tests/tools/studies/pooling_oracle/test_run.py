"""The oracle study from end to end, with a tiny model."""

import json
import shutil

import pytest
import torch
import yaml

from studies.pooling_oracle import oracle
from studies.pooling_oracle import run as pooling_oracle


@pytest.fixture
def command(build_speech_llm, tiny_experiment, tmp_path):
    """A command line for a model whose LM has two layers, and seven utterances of noise.

    Of these one cannot be spelled; an eighth has a text and no audio.
    """

    def make(**changes):
        model = build_speech_llm(**changes)
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        data = tmp_path / "data"
        if not data.is_dir():
            shutil.copytree(tiny_experiment.data, data)
            names = [line.split()[0] for line in (data / "text").read_text().splitlines()]
            texts = ["A B C", "B", "A AB", "C D", "D A", "B C", "A"]
            lines = [f"{name} {text}\n" for name, text in zip(names, texts, strict=True)]
            (data / "text").write_text("".join([*lines, "unheard A\n"]))
        words = ["--asr_train_config", tmp_path / "config.yaml", "--asr_model_file", tmp_path / "model.pth"]
        words += ["--data_dir", data, "--output_dir", tmp_path / "out"]
        return [str(word) for word in words]

    return make


@pytest.mark.slow
def test_a_study_ends_with_tables_pictures_and_one_sentence(command, tmp_path, capsys, monkeypatch):
    words = [*command(), "--tokens_per_word", "2", "99"]
    assert pooling_oracle.main(words) == 0
    printed, out = capsys.readouterr().out, tmp_path / "out"
    text = (out / "pooling_oracle.md").read_text()
    found = json.loads((out / "pooling_oracle.json").read_text())
    cells = {(row["layer"], row["tokens_per_word"], row["method"]): row for row in found["results"]}
    assert len(cells) == 2 * 2 * 3
    sentence = printed.splitlines()[-1]
    assert (
        sentence.startswith("By uniform merge, no loss of WER is shown") and "99 tokens a word from layer 0" in sentence
    )
    assert found["conclusion"] == sentence and sentence in text
    # A window has never 99 tokens.
    no_pooling = found["no_pooling"]
    for (_, count, _), row in cells.items():
        if count == 99:
            assert row["kept_percent"] == 100.0
            assert row["loss_interval"] == [0.0, 0.0]
            assert [row[name] for name in no_pooling] == list(no_pooling.values())
        assert row["clamped_wer"] <= min(row["wer"], 100.0)
    assert len({row["kept_percent"] for (_, count, _), row in cells.items() if count == 2}) == 1
    assert cells[0, 2, "uniform merge"]["kept_percent"] < 100
    (name, reason), unheard = found["left_out"].items()
    assert reason == "the CTC head cannot spell its text"
    assert unheard == ("unheard", "it has no audio, or too little for a frame")
    assert f"- utterances: 6; left out 2: {name}, unheard" in text
    assert [row["layer"] for row in found["profile"]] == [0, 1, 2]
    assert all((out / name).stat().st_size > 1000 for name in ("pooling_oracle.png", "similarity_profile.png"))

    monkeypatch.setattr(oracle, "decode", None)
    monkeypatch.setattr(pooling_oracle, "commit", lambda: "another, which has decoded nothing")
    assert pooling_oracle.main(words) == 0, "nothing is decoded twice"
    assert capsys.readouterr().out.split("- date")[0] == printed.split("- date")[0]


@pytest.mark.slow
def test_what_is_done_is_not_mixed_with_other_figures(command, tmp_path):
    words = [*command(), "--tokens_per_word", "1", "--layers", "1", "--max_utterances", "3"]
    assert pooling_oracle.main(words) == 0
    found = json.loads((tmp_path / "out/pooling_oracle.json").read_text())
    assert len(found["utterances"]) == 3 and {row["layer"] for row in found["results"]} == {1}
    with pytest.raises(ValueError, match="was begun with another model, other data, --max_utterances, --seed or"):
        pooling_oracle.main([*words, "--guards"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens_per_word", "2", "0"], "--tokens_per_word 0; allowed: 1 or more"),
        (["--layers", "0", "2"], r"--layers 2; allowed: 0 \(the LM's input\) to 1 \(behind so many of its 2 layers\)"),
        (["--layers", "-1"], "--layers -1; allowed"),
        (["--max_utterances", "-1"], "--max_utterances -1; allowed: 0"),
        (["--seed", "-1"], "--seed -1; allowed: 0 or more"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(command, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pooling_oracle.main([*command(), *options])
    assert not (tmp_path / "out").exists()


def test_models_and_data_that_do_not_do_are_refused(command, tiny_experiment, tmp_path):
    words = command(model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0})
    with pytest.raises(ValueError, match="words are found by a CTC head"):
        pooling_oracle.main(words)
    files = ["--asr_train_config", str(tiny_experiment.config), "--asr_model_file", str(tiny_experiment.model)]
    with pytest.raises(ValueError, match="the model has no LM"):
        pooling_oracle.main([*words, *files])
    names = [line.split()[0] for line in (tmp_path / "data/text").read_text().splitlines()]
    (tmp_path / "data/text").write_text("".join(f"{name} X\n" for name in names))
    with pytest.raises(ValueError, match="data: no utterance can be measured"):
        pooling_oracle.main(command())
    (tmp_path / "data/text").unlink()
    with pytest.raises(FileNotFoundError, match="text is missing; --data_dir is a folder"):
        pooling_oracle.main(words)
