"""num_loops auto: what an utterance gets, in any batch, and what is refused."""

import dataclasses
import itertools
import json
import shutil

import pytest
import soundfile
import torch
import yaml

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.leaving.calibration import CALIBRATION, Calibrated, write_calibration
from espnet_larm.scoring.experiment import AUTO_NUMBER
from tests.packs import read

NUM_LOOPS = 6


@pytest.fixture(scope="module")
def folder(tiny_experiment, tmp_path_factory):
    """The tiny experiment with 6 loops, each of which can be read out."""
    folder = tmp_path_factory.mktemp("deep")
    changes = {"num_loops": NUM_LOOPS, "checkpoint_period": 1, "clock": False}
    tiny_experiment.with_config(folder / "config.yaml", encoder_conf=changes)
    weights = torch.load(tiny_experiment.model, weights_only=True)
    del weights["encoder.clock.table"]
    torch.save(weights, folder / "model.pth")
    return folder


def load(folder):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(folder / "config.yaml", folder / "model.pth")


@pytest.fixture(scope="module")
def recognizer(folder):
    return load(folder)


@pytest.fixture(scope="module")
def waveforms(tiny_experiment):
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]


def numbers_of(recognizer, waveforms, rule):
    """What a rule measures of each utterance alone: by utterance, a number a loop."""
    from espnet_larm.recognize.leaving.leave import numbers_at
    from espnet_larm.recognize.leaving.rules import RULES
    from espnet_larm.recognize.model.features import extract_features, pad_features
    from espnet_larm.recognize.model.read_outs import read_outs

    found = []
    with torch.no_grad():
        for waveform in waveforms:
            features = extract_features(recognizer.model, torch.from_numpy(waveform))
            outputs = read_outs(recognizer.model, *pad_features([features]))
            measured = numbers_at(outputs, recognizer.heads.ctc.log_probs, 0, [RULES[rule]])
            found.append({read.number: None if number is None else number[0] for read, (number,) in measured})
    return found


def threshold_between(recognizer, waveforms, rule):
    """A threshold far from every number, at which utterances leave at several loops, and the loops used then."""
    from espnet_larm.recognize.leaving.rules import RULES

    measured = numbers_of(recognizer, waveforms, rule)
    values = sorted(
        value for each in measured for loop, value in each.items() if value is not None and loop < NUM_LOOPS
    )
    gaps = [(after - before, (before + after) / 2) for before, after in itertools.pairwise(values)]
    for _, threshold in sorted(gaps, reverse=True):
        loops = [
            next(
                loop
                for loop, value in each.items()
                if loop == NUM_LOOPS or (value is not None and RULES[rule].says_leave(torch.tensor(value), threshold))
            )
            for each in measured
        ]
        if len(set(loops)) > 1:
            return threshold, loops
    raise AssertionError(values)


RULES_WITH_THRESHOLD = ["divergence", "confidence", "state"]


@pytest.mark.parametrize("rule", RULES_WITH_THRESHOLD)
def test_a_batch_uses_the_loops_of_each_alone_and_says_what_that_many_loops_say(recognizer, waveforms, rule):
    threshold, loops = threshold_between(recognizer, waveforms, rule)
    plan = recognizer.plan(DecodeConfig(num_loops="auto", loop_rule=rule, loop_threshold=threshold))
    together = recognizer.recognize(waveforms, plan)
    alone = [recognizer.recognize([waveform], plan)[0] for waveform in waveforms]
    assert [each.loops for each in together] == [each.loops for each in alone] == loops
    for found, single, waveform in zip(together, alone, waveforms, strict=True):
        (fixed,) = recognizer.recognize([waveform], DecodeConfig(num_loops=found.loops))
        assert list(found.hypotheses) == [AUTO_NUMBER]
        assert found.best.token_ids == single.best.token_ids == fixed.best.token_ids
        assert found.best.score == pytest.approx(fixed.best.score, rel=1e-4, abs=1e-4)


def test_an_unchanged_hypothesis_leaves_at_the_second_of_both_loops(recognizer, waveforms):
    found = recognizer.recognize(waveforms, DecodeConfig(num_loops="auto", loop_rule="unchanged"))
    for transcript, waveform in zip(found, waveforms, strict=True):
        (fixed,) = recognizer.recognize([waveform])
        texts = [fixed.hypotheses[loop].token_ids for loop in range(1, NUM_LOOPS + 1)]
        same = [loop for loop in range(2, NUM_LOOPS) if texts[loop - 1] == texts[loop - 2]]
        assert transcript.loops == min(same, default=NUM_LOOPS)


def test_a_threshold_out_of_reach_gives_the_last_loop_and_an_easy_one_the_first(recognizer, waveforms):
    never = DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=1.0)
    last = [each.best.token_ids for each in recognizer.recognize(waveforms)]
    found = recognizer.recognize(waveforms, never)
    assert [each.best.token_ids for each in found] == last and {each.loops for each in found} == {NUM_LOOPS}
    easy = dataclasses.replace(never, loop_threshold=-100.0)
    assert {each.loops for each in recognizer.recognize(waveforms, easy)} == {1}


def test_beams_and_times_of_words_are_those_of_the_loop(recognizer, waveforms):
    options = {"beam_size": 3, "nbest": 2, "with_words": True}
    threshold, _ = threshold_between(recognizer, waveforms, "confidence")
    auto = DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=threshold, **options)
    for found, waveform in zip(recognizer.recognize(waveforms, auto), waveforms, strict=True):
        (fixed,) = recognizer.recognize([waveform], DecodeConfig(num_loops=found.loops, **options))
        assert [each.text for each in found.others] == [each.text for each in fixed.others]
        assert [word[:3] for word in found.best.words] == [word[:3] for word in fixed.best.words]


def test_pieces_of_long_audio_leave_each_at_its_own_loop(recognizer, waveforms):
    threshold, _ = threshold_between(recognizer, waveforms, "confidence")
    cutting = {"long_seconds": 1.0, "longest_piece": 1.0, "shortest_piece": 0.4, "overlap": 0.2}
    auto = DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=threshold, **cutting)
    (transcript,) = recognizer.decode_blocks(waveforms, recognizer.plan(auto)).transcripts
    assert 1 < transcript.loops < NUM_LOOPS and transcript.text


def test_what_is_too_short_uses_no_loops(recognizer, waveforms):
    auto = DecodeConfig(num_loops="auto", loop_rule="unchanged")
    short, other = recognizer.recognize([waveforms[0][:10], waveforms[1]], auto)
    assert short.skipped and short.loops is None and short.text == "" and other.loops is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_loops": "auto"}, "num_loops is auto, but there is no loops_calibration.json beside the model"),
        ({"num_loops": "auto", "loop_rule": "state"}, "loop_rule is state, and its threshold is not known"),
        ({"num_loops": "auto", "loop_threshold": 0.1}, "loop_threshold is 0.1, but of which rule is not said"),
        ({"num_loops": "auto", "loop_rule": "unchanged", "loop_threshold": 0.1}, "loop_rule unchanged has none"),
        (
            {"num_loops": "auto", "loop_rule": "luck"},
            "loop_rule is luck; allowed: unchanged, divergence, confidence, s",
        ),
        ({"num_loops": 2, "loop_rule": "unchanged"}, "loop_rule is unchanged, which needs num_loops: auto"),
    ],
)
def test_rules_and_thresholds_that_are_not_known_are_refused(recognizer, options, message):
    with pytest.raises(ValueError, match=message):
        recognizer.plan(DecodeConfig(**options))


def test_another_word_than_auto_is_refused():
    with pytest.raises(TypeError, match="num_loops is 'many'; allowed: a whole number or auto"):
        DecodeConfig(num_loops="many")
    with pytest.raises(ValueError, match="num_loops is 0; allowed: 1 to 1000 or auto"):
        DecodeConfig(num_loops=0)


def test_a_rule_that_could_not_leave_before_the_last_loop_is_refused(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)
    with pytest.raises(ValueError, match="compares 2 checkpoint loops, but the model has 2: 2, 4; allowed: confidence"):
        recognizer.plan(DecodeConfig(num_loops="auto", loop_rule="unchanged"))
    recognizer.model.encoder.checkpoint_period = 4
    with pytest.raises(ValueError, match="the encoder has one checkpoint loop, 4"):
        recognizer.plan(DecodeConfig(num_loops="auto", loop_rule="confidence", loop_threshold=-0.1))


def test_a_calibration_beside_the_model_chooses_and_travels_with_its_pack(folder, waveforms, tmp_path):
    import espnet_larm
    from espnet_larm.cli.pack import main as pack

    for name in ("config.yaml", "model.pth"):
        shutil.copy(folder / name, tmp_path / name)
    write_calibration(tmp_path, "ctc", Calibrated("confidence", {"confidence": -0.5, "divergence": 0.2}), {})
    plan = load(tmp_path).plan(DecodeConfig(num_loops="auto"))
    assert (plan.leaving.name, plan.leaving.threshold, plan.leaving.floor) == ("confidence", -0.5, 1)
    other = load(tmp_path).plan(DecodeConfig(num_loops="auto", loop_rule="divergence"))
    assert (other.leaving.threshold, other.leaving.floor) == (0.2, 2)
    files = ["--asr_train_config", str(tmp_path / "config.yaml"), "--asr_model_file", str(tmp_path / "model.pth")]
    assert pack(["asr", *files, "--outpath", str(tmp_path / "model.zip")]) == 0
    assert CALIBRATION in read(tmp_path / "model.zip")
    packed = espnet_larm.load(tmp_path / "model.zip").recognizer
    assert packed.plan(DecodeConfig(num_loops="auto")).leaving.threshold == -0.5


@pytest.mark.parametrize(
    "content", ["[1]", "no JSON", '{"ctc": {"rule": "luck", "thresholds": {}}}', '{"ctc": {"rule": "state"}}',
                '{"ctc": {"rule": "state", "thresholds": {"state": NaN}}}']
)  # fmt: skip
def test_a_damaged_calibration_is_refused(folder, tmp_path, content):
    from espnet_larm.recognize.leaving.calibration import read_calibration

    (tmp_path / CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match="loops_calibration.json .*run espnet-larm calibrate-loops again"):
        read_calibration(tmp_path)


def test_decode_writes_the_loops_of_each_utterance_and_their_mean(folder, tiny_experiment, tmp_path, capsys):
    from espnet_larm.cli.decode import main as decode

    options = {
        "asr_train_config": folder / "config.yaml", "asr_model_file": folder / "model.pth", "num_loops": "auto",
        "loop_rule": "unchanged", "output_dir": tmp_path, "write_ctm": "true",
        "data_path_and_name_and_type": f"{tiny_experiment.data}/wav.scp,speech,sound",
    }  # fmt: skip
    assert decode([str(word) for name, value in options.items() for word in (f"--{name}", value)]) == 0
    lines = [line.split() for line in (tmp_path / "1best_recog/loops").read_text().splitlines()]
    assert (tmp_path / "auto/loops").read_text() == (tmp_path / "1best_recog/loops").read_text()
    assert (tmp_path / "auto/text").read_text() == (tmp_path / "1best_recog/text").read_text()
    assert not list(tmp_path.glob("loop[0-9]*")) and len(lines) == 7
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["mean_loops"] == pytest.approx(sum(int(loops) for _, loops in lines) / 7)
    assert sum(stats["loops_used"].values()) == 7 and list(stats["loops"]) == ["auto"]
    assert stats["leaving"] == {"rule": "unchanged", "threshold": 0.0, "floor": 2}
    assert f"mean loops {stats['mean_loops']:.2f} (rule unchanged, from loop 2 on" in capsys.readouterr().out


def test_a_config_of_decoding_names_auto(folder, tmp_path):
    from espnet_larm.cli.decode import config_of, get_parser

    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"num_loops": "auto", "loop_rule": "unchanged"}))
    args = get_parser().parse_args(
        [
            "--config",
            str(tmp_path / "decode.yaml"),
            "--output_dir",
            "x",
            "--data_path_and_name_and_type",
            "a,speech,sound",
        ]
    )
    assert config_of(args).num_loops == "auto" and config_of(args).loop_rule == "unchanged"


def test_a_transcriber_gives_text_and_mean_loops(folder, waveforms):
    import espnet_larm

    transcriber = espnet_larm.load(folder, asr_model_file="model.pth")
    config = DecodeConfig(num_loops="auto", loop_rule="unchanged")
    found = transcriber.transcribe((waveforms[1], 16000), vad=False, config=config)
    with pytest.raises(ValueError, match="^loops is auto, but there is no loops_calibration.json"):
        transcriber.transcribe((waveforms[1], 16000), loops="auto")
    with pytest.raises(TypeError, match="num_loops is 'all'; allowed: a whole number or auto"):
        list(transcriber.segments((waveforms[1], 16000), loops="all"))
    (direct,) = transcriber.recognizer.recognize([waveforms[1]], config)
    assert found.mean_loops == pytest.approx(direct.loops) and found.loops == {} and found.text == direct.text
    assert transcriber.transcribe((waveforms[1], 16000), vad=False, loops=3).mean_loops is None
