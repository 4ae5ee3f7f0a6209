"""calibrate-loops: the table, the file that decoding reads, and what is refused."""

import json
from pathlib import Path

import pytest
import soundfile

from espnet_larm.cli.calibrate import loops as calibrate_loops


@pytest.mark.parametrize("skip_blank", [1.0, 0.01])
def test_what_is_found_stands_beside_the_model_and_decodes(command, tiny_experiment, capsys, skip_blank):
    from espnet_larm.recognize.config import DecodeConfig
    from espnet_larm.recognize.recognizer import Recognizer

    folder = Path(command[1]).parent
    assert calibrate_loops.main([*command, "--mean_loops", "2.5", "--skip_blank", str(skip_blank)]) == 0
    shown = capsys.readouterr().out
    entry = json.loads((folder / "loops_calibration.json").read_text())["ctc"]
    assert entry["skip_blank"] == skip_blank
    assert {row["rule"]: row["floor"] for row in entry["rows"]}.items() <= {
        "unchanged": 2, "divergence": 2, "confidence": 1, "state": 3,
    }.items()  # fmt: skip
    assert all(row["mean_loops"] <= 2.5 for row in entry["rows"])
    table = (folder / "loops_calibration_ctc.md").read_text()
    assert table.count("| fixed |") == 4 and table.count("| chosen |") == 1 and "at most 2.5 loops" in table
    assert f"{entry['rule']} from loop" in shown
    # What was counted is what decoding gives.
    recognizer = Recognizer.from_files(folder / "config.yaml", folder / "model.pth")
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]
    for row in entry["rows"]:
        config = DecodeConfig(num_loops="auto", loop_rule=row["rule"], skip_blank=skip_blank)
        loops = [each.loops for each in recognizer.recognize(waveforms, config)]
        assert sum(loops) / len(loops) == pytest.approx(row["mean_loops"])
    assert recognizer.plan(DecodeConfig(num_loops="auto")).leaving.name == entry["rule"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the set has 14 words, too few to show a loss of at most 0.3 points of WER; about 1000 would do"),
        (["--mean_loops", "0.5"], "allowed: 1 or more"),
        (["--max_wer_loss", "0"], "allowed: above 0 to 100"),
        (["--mean_loops", "1.0", "--rules", "unchanged"], "mean_loops is 1; allowed: "),
    ],
)
def test_what_cannot_be_calibrated_is_refused(command, options, message, capsys):
    with pytest.raises((ValueError, SystemExit)) as error:
        calibrate_loops.main([*command, *options])
    assert message in f"{error.value} {capsys.readouterr().err}"
