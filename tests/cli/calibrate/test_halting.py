"""train-halting-head: the file, its place among the rules, decoding, packs, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_larm.cli.calibrate import halting, loops
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.leaving.calibration import HEAD_FILE
from tests.packs import read

NUM_LOOPS = 4


def load(folder):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(folder / "config.yaml", folder / "model.pth")


@pytest.fixture(scope="module")
def trained(command):
    """The folder with a head in it."""
    assert halting.main(command) == 0
    return Path(command[1]).parent


@pytest.fixture(scope="module")
def waveforms(tiny_experiment):
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]


def test_the_table_and_the_cost_are_printed_and_stand_in_the_file(command, tmp_path, capsys):
    assert halting.main([*command, "--output_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    content = json.loads((tmp_path / HEAD_FILE).read_text())
    assert list(content["biases"]) == ["1", "2", "3"] and content["utterances"] == 7 and content["frames"] > 100
    assert [line.split(" | ")[0] for line in shown.splitlines()[2:5]] == ["| 1", "| 2", "| 3"]
    frames, weights = content["frames"], content["weights"]
    assert f"cost: 7 utterances, {frames} encoder frames at 4 loops in " in shown and f"{weights} weights" in shown


def test_losses_are_those_of_the_model_and_its_texts(trained, tiny_experiment):
    from espnet_larm.calibrate.halting import collect
    from espnet_larm.recognize.audio import AudioTable

    recognizer = load(trained)
    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000)
    keys = table.keys(None)
    found = collect(recognizer, table, dict.fromkeys(keys, "AB C"), 40.0)
    model, tokens = recognizer.model, recognizer.model.token_list
    target = torch.tensor([tokens.index(token) for token in ("A", "B", "<space>", "C")])
    for row, key in enumerate(found.keys):
        samples = torch.from_numpy(table.load([key]).waveforms[key]).unsqueeze(0)
        with torch.no_grad():
            (last, others), hlens = model.encode(samples, torch.tensor([samples.size(1)]))
            for column, hs_pad in enumerate([*(hs_pad for _, hs_pad in others), last]):
                log_probs = model.ctc.log_softmax(hs_pad).transpose(0, 1)
                loss = torch.nn.functional.ctc_loss(log_probs, target[None], hlens, torch.tensor([4]), reduction="sum")
                assert found.losses[row, column] == pytest.approx(float(loss) / 4, rel=1e-4)
    assert found.num_frames == sum(
        int(model.encode(torch.from_numpy(each)[None], torch.tensor([len(each)]))[1])
        for each in table.load(keys).waveforms.values()
    )


def test_utterances_that_are_too_short_for_their_text_are_left_out(trained, tiny_experiment):
    from espnet_larm.calibrate.halting import collect
    from espnet_larm.recognize.audio import AudioTable

    table = AudioTable(tiny_experiment.data / "wav.scp", "sound", 16000)
    keys = table.keys(None)
    texts = {**dict.fromkeys(keys, "A"), keys[0]: "ABCDEFGH" * 20}
    found = collect(load(trained), table, texts, 40.0)
    assert found.keys == keys[1:] and found.num_left_out == 1 and np.isfinite(found.losses).all()


def test_a_batch_leaves_as_each_utterance_alone(trained, waveforms):
    recognizer = load(trained)
    never = {each.loops for each in recognizer.recognize(waveforms, _config(-1.0))}
    assert never == {NUM_LOOPS}
    for threshold in np.linspace(0.05, 0.95, 19):
        together = [each.loops for each in recognizer.recognize(waveforms, _config(float(threshold)))]
        if len(set(together)) > 1:
            break
    assert len(set(together)) > 1
    assert together == [recognizer.recognize([each], _config(float(threshold)))[0].loops for each in waveforms]


def _config(threshold):
    return DecodeConfig(num_loops="auto", loop_rule="head", loop_threshold=threshold)


def test_calibrate_loops_puts_the_head_among_the_rules_and_packs_carry_it(command, trained, tmp_path, capsys):
    import espnet_larm
    from espnet_larm.cli.pack import main as pack

    assert loops.main([*command, "--mean_loops", "3.5"]) == 0
    assert "| head | 1 |" in capsys.readouterr().out
    assert loops.main([*command, "--mean_loops", "3.5", "--rules", "head"]) == 0
    wanted = load(trained).plan(DecodeConfig(num_loops="auto")).leaving
    assert wanted.name == "head" and 0.0 < wanted.threshold < 1.01
    files = command[:4]
    assert pack(["asr", *files, "--outpath", str(tmp_path / "model.zip")]) == 0
    assert HEAD_FILE in read(tmp_path / "model.zip")
    packed = espnet_larm.load(tmp_path / "model.zip").recognizer.plan(DecodeConfig(num_loops="auto")).leaving
    assert packed.name == "head" and packed.threshold == wanted.threshold


def test_a_head_of_earlier_weights_is_refused_but_the_model_still_decodes(trained, tmp_path, waveforms):
    for name in ("config.yaml", HEAD_FILE):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    weights = torch.load(trained / "model.pth", weights_only=True)
    weights["ctc.ctc_lo.bias"] += 1e-3
    torch.save(weights, tmp_path / "model.pth")
    recognizer = load(tmp_path)
    assert recognizer.recognize(waveforms[:1], DecodeConfig(num_loops=2))[0].text
    with pytest.raises(ValueError, match="halting_head.json was trained on another model: SHA-256 of the encoder"):
        recognizer.plan(_config(0.5))


def test_a_missing_head_is_refused(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)
    with pytest.raises(ValueError, match="loop_rule is head, but there is no halting_head.json beside the model"):
        recognizer.plan(_config(0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--delta", "1000"], "at which no utterance gains"), (["--delta", "-1"], "allowed: 0 or more")],
)
def test_what_teaches_nothing_is_refused(command, options, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as error:
        halting.main([*command, *options])
    assert message in f"{error.value} {capsys.readouterr().err}"
