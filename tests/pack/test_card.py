"""The model card: a header that parses, results, use and licence."""

import re
import shutil
import zipfile

import pytest
import soundfile
import yaml

from espnet_larm.pack.card import About, format_card
from espnet_larm.pack.manifest import Manifest, PluginUse
from espnet_larm.pack.named import NamedModel
from espnet_larm.scoring.experiment import ReadOutResult, SetResult

MANIFEST = Manifest(
    "config.yaml", "m.pth", "asr_x", (PluginUse("encoder", "larm", "espnet_larm", "1.0"),), {}, {"torch": "2"}
)
CONFIG = {
    "encoder": "larm",
    "encoder_conf": {"num_loops": 6, "checkpoint_period": 2},
    "token_list": ["a"] * 30,
    "seed": 4,
}


def result():
    scores = {
        "units": 100, "correct": 80, "substitutions": 15, "deletions": 5, "insertions": 2, "sentences": 10,
        "error_percent": 22.0, "sentence_error_percent": 50.0, "interval_percent": [20.0, 24.0],
    }  # fmt: skip
    read_outs = [ReadOutResult(number, {"wer": scores}, 1.0) for number in (2, 6)]
    return SetResult("greedy", "test", "loop", read_outs, {}, {})


def card(results=(), about=None):
    about = about or About()
    return format_card(MANIFEST, CONFIG, ["train"], 1234567, list(results), about)


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_header_is_what_hubs_read():
    found = header(card([result()], About("en", "cc-by-4.0", ("librispeech_asr",))))
    assert found["datasets"] == ["librispeech_asr"] and found["metrics"] == ["wer", "cer"]
    assert found["license"] == "cc-by-4.0" and found["language"] == ["en"]
    assert found["pipeline_tag"] == "automatic-speech-recognition" and "espnet-larm" in found["tags"]
    (entry,) = found["model-index"][0]["results"]
    assert entry["dataset"]["name"] == "test"
    assert entry["metrics"] == [{"type": "wer", "name": "word error rate, loop 6", "value": 22.0}]


def test_a_note_is_a_section_before_the_results_and_nothing_without_one():
    noted = card(about=About(note="5.4 hours of *LibriSpeech*, CC BY 4.0.\n\nUnfit for children's speech.\n"))
    section = "## Note\n\n5.4 hours of *LibriSpeech*, CC BY 4.0.\n\nUnfit for children's speech.\n\n"
    assert f"{section}## Results\n" in noted
    assert noted.replace(section, "") == card() == card(about=About(note=" \n"))


def test_error_rates_by_loops_stand_in_one_table():
    faster = result()._replace(tag="beam", read_outs=result().read_outs[:1])
    text = card([result(), faster])
    table = text.partition("### WER % by loops\n\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [
        "|dataset|2|6|", "|---|---|---|", "|greedy/test|22.00|22.00|", "|beam/test|22.00|-|",
    ]  # fmt: skip


def test_decodings_of_one_set_are_told_apart():
    results = [result(), result()._replace(tag="beam", read_outs=[result().read_outs[0]._replace(number=None)])]
    entries = header(card(results))["model-index"][0]["results"]
    names = [entry["metrics"][0]["name"] for entry in entries]
    assert names == ["word error rate, loop 6, greedy", "word error rate, beam"]


def test_the_hubs_client_finds_the_error_rates():
    from huggingface_hub import ModelCard

    (found,) = ModelCard(card([result()])).data.eval_results
    assert (found.task_type, found.dataset_name, found.metric_type) == ("automatic-speech-recognition", "test", "wer")
    assert found.metric_value == 22.0


FRONTEND = {"frontend": "pretrained", "frontend_conf": {"train": "last_n"}}


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (("llm", "./lm"), ["LM: `lm`, which lay in a folder", 'llm="<folder of the LM>")', "adaptation `frozen`"]),
        (("llm", "org/lm", "r1"), ["LM: `org/lm`, revision `r1`, of the hub", "NOT in this pack"]),
        (
            ("encoder", "./ears"),
            ["speech encoder: `ears`, which", 'encoder="<folder of the speech encoder>")', "train `last_n`"],
        ),
    ],
)
def test_a_named_model_is_named(model, lines):
    model = NamedModel(*model, *[""] * (3 - len(model)), sha256="00ff")
    text = format_card(MANIFEST._replace(models=(model,)), CONFIG | FRONTEND, [], 1, [], About())
    for line in (*lines, "`00ff`", "ctc_weight=1.0"):
        assert line in text
    assert model.is_needed_folder or 'espnet_larm.load("model.zip")' in text


def test_a_model_that_was_trained_as_a_whole_is_told_as_the_start():
    model = NamedModel("llm", "org/lm", "", "00ff", is_needed=False)
    text = format_card(MANIFEST._replace(models=(model,)), CONFIG | {"decoder": "speech_llm"}, [], 1, [], About())
    for line in ("LM: began as `org/lm`", "all its weights are in this pack", "ctc_weight=0.0"):
        assert line in text


def test_licence_is_left_to_the_publisher():
    text = card()
    assert header(text)["license"] == "unknown"
    assert "whoever publishes this pack fills `license` in" in text


def test_results_are_a_table_with_every_loop():
    text = card([result()])
    assert "### WER" in text and "|greedy/test|2|10|100|80.0|15.0|5.0|2.0|22.00|50.00|20.00|24.00|" in text
    assert "Nothing was scored." in card()


def test_model_and_use_are_told():
    text = card()
    for line in (
        "1,234,567 parameters", "loops: 6 as trained, with a read-out every 2", "trained on: train", "seed: 4",
        "plugin: `encoder: larm` of espnet_larm 1.0",
        'espnet_larm.load("model.zip")', "python -m espnet_larm script.py",
    ):  # fmt: skip
        assert line in text


def test_examples_run_as_they_stand(tiny_pack, tiny_experiment, tmp_path, monkeypatch, capsys):
    shutil.copy(tiny_pack, tmp_path / "model.zip")
    soundfile.write(tmp_path / "speech.flac", *soundfile.read(tiny_experiment.data / "u1.wav"))
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("model.zip") as archive:
        ours, espnets = re.findall(r"```python\n(.*?)```", archive.read("README.md").decode(), re.DOTALL)
    # The examples of a file that the test itself has made.
    exec(ours, {})
    assert capsys.readouterr().out.endswith("\n")
    found = {}
    exec(espnets, found)
    assert found["speech2text"](soundfile.read("speech.flac")[0])[0][0] is not None


def test_a_card_says_that_nothing_was_recognised_instead_of_100_percent():
    silent = result()
    for read_out in silent.read_outs:
        read_out.scores["wer"] |= {"correct": 0, "substitutions": 3, "deletions": 97, "insertions": 0}
    text = card([silent])
    assert "greedy/test: nothing was recognised: 3 words were written where 100 were said." in text
    assert "|greedy/test" not in text and "model-index" not in header(text) and "Nothing was scored" not in text
