"""Error rates by latency: the clock beside a real stream, and the report."""

import numpy as np
import pytest
import torch

from espnet_larm.live.frontend import LiveFrontend
from espnet_larm.recognize.config import Batching
from espnet_larm.recognize.output.words import FrameTimes
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.streaming.context import Context
from studies.latency.decoding import Clock, align_references, decode
from studies.latency.run import main


@pytest.fixture(scope="module")
def files(tiny_experiment, tmp_path_factory):
    """Configuration and weights of a looped encoder that streams."""
    config = tiny_experiment.with_config(
        tmp_path_factory.mktemp("latency") / "config.yaml",
        normalize=None,
        normalize_conf={},
        encoder_conf={"streaming": {"chunk_frames": ["full", 4, 8], "left_chunks": [2]}},
    )
    weights = torch.load(tiny_experiment.model)
    weights["encoder.contexts.draws"] = torch.tensor([0, 0])
    model_file = config.with_name("model.pth")
    torch.save(weights, model_file)
    # As many tokens as blanks, so that there are words.
    model = Recognizer.from_files(config, model_file).model
    with torch.no_grad():
        xs = torch.randn(1, 400, 80, generator=torch.Generator().manual_seed(0))
        *_, read = model.encoder.read_outs(xs, torch.tensor([400]), model.ctc)
        logits = model.ctc.ctc_lo(read.hs_pad)
        weights["ctc.ctc_lo.bias"][0] -= (logits[..., 0] - logits[..., 1:].amax(dim=-1)).median()
    torch.save(weights, model_file)
    return str(config), str(model_file)


@pytest.fixture(scope="module")
def recognizer(files):
    return Recognizer.from_files(*files)


def test_a_word_can_be_told_when_the_stream_gives_its_frame(recognizer):
    context, step = Context(2, 4), 40
    model, clock = recognizer.model, Clock.of(recognizer, Context(2, 4))
    frontend = LiveFrontend(model)
    unheard, state = frontend.start(), model.encoder.start_streams(context)
    first_heard: dict[int, float] = {}
    num_frames = 0
    for heard in range(step, 16000, step):
        features, unheard = frontend.advance(unheard, torch.randn(step))
        outputs, state = model.encoder.stream(state, features.unsqueeze(0), torch.tensor([len(features)]), model.ctc)
        for frame in range(num_frames, num_frames + int(outputs.hlens[0])):
            first_heard[frame] = heard / 16000
        num_frames = len(first_heard)
    assert num_frames >= 8
    for frame, seconds in first_heard.items():
        told_s = clock.told_s(clock.times.start_s(frame + 1), 100.0)
        assert told_s <= seconds < told_s + 1.5 * step / 16000


def test_nothing_is_told_before_its_chunk_or_after_the_end():
    # Frames of 40 ms, two a chunk, and 20 ms of look-ahead.
    times = FrameTimes(0.01, 4)
    clock = Clock(times, 2, 0.1)
    assert [clock.told_s(times.start_s(end), 9.0) for end in (1, 2, 3, 4, 5)] == pytest.approx(
        [0.1, 0.1, 0.18, 0.18, 0.26]
    )
    assert clock.told_s(times.start_s(5), 0.2) == 0.2
    assert Clock(times, None, 0.0).told_s(times.start_s(1), 3.0) == 3.0


def test_words_that_are_right_have_a_delay(recognizer, tiny_experiment):
    reference = align_references(recognizer, [tiny_experiment.data], Batching())
    # Two words in each of 7 utterances, as far as the frames hold their tokens.
    assert sum(reference.num_words) == 14 and all(len(ends) in (0, 2) for ends in reference.ends_s)
    assert any(reference.ends_s)
    # What the model says is the reference, so that all words are right, and told when all has been heard.
    full = decode(recognizer, reference, Context(), Batching())
    assert set(full.loops) == {"2", "4"} and full.latency_s is None
    texts = dict(zip(reference.keys, full.loops["4"].texts, strict=True))
    counts = [len(text.split()) for text in texts.values()]
    ends = [[0.1] * count for count in counts]
    own = reference._replace(texts=texts, ends_s=ends, num_words=counts)
    assert sum(counts) >= 7
    again = decode(recognizer, own, Context(), Batching()).loops["4"]
    assert sum(again.errors) == 0 and len(again.delays_s) == sum(counts)
    ends_of_speech = sorted(each / 16000 for each in (9000, 25600, 6400, 16000, 21111, 12345))
    assert sorted(set(again.delays_s)) == pytest.approx([seconds - 0.1 for seconds in ends_of_speech])
    chunked = decode(recognizer, own, Context(2, 4), Batching())
    assert chunked.chunk_s == pytest.approx(4 * 0.01 * recognizer.model.encoder.window.factor)
    assert len(chunked.loops["4"].delays_s) > 0 and np.mean(chunked.loops["4"].delays_s) < np.mean(again.delays_s)


def test_the_report_has_a_row_for_each_loop_and_chunk(files, tiny_experiment, tmp_path, capsys):
    options = ["--model", "tiny", *files, "--data_dirs", str(tiny_experiment.data), "--output_dir", str(tmp_path)]
    assert main([*options, "--chunks", "full", "0.32", "--left_chunks", "2"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| tiny")]
    assert [(row[2].strip(), row[4].strip()) for row in rows] == [
        ("full", "2"),
        ("full", "4"),
        ("0.32 s", "2"),
        ("0.32 s", "4"),
    ]
    assert all(np.isfinite(float(row[5])) for row in rows)
    for shallow, deep in (rows[:2], rows[2:]):
        assert float(shallow[8]) == pytest.approx(float(shallow[5]) - float(deep[5]), abs=0.011)
        assert float(shallow[9]) <= float(shallow[8]) <= float(shallow[10]) and not deep[8].strip()
    assert (tmp_path / "latency.md").read_text().startswith("# Error rates by latency")


def test_a_rule_has_a_row_with_its_mean_loops(files, recognizer, tiny_experiment, tmp_path, capsys):
    options = ["--model", "tiny", *files, "--data_dirs", str(tiny_experiment.data), "--output_dir", str(tmp_path)]
    thresholds = [-1000, -0.4, -0.2, -0.1, -0.05, -0.02, 1]
    rules = ["--rules", *[f"confidence:{each}" for each in thresholds]]
    assert main([*options, "--chunks", "full", "0.32", "--left_chunks", "2", *rules]) == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()]
    at = {row[4]: row[5:8] + row[11:] for row in rows if len(row) > 4 and row[2] == "0.32 s"}
    # All leave at once, none do, and some.
    assert at["confidence:-1000, 2.00"] == at["2"] and at["confidence:1, 4.00"] == at["4"]
    means = [float(name.split(", ")[1]) for name in at if name.startswith("confidence")]
    assert len(means) == 7 and means == sorted(means) and any(2 < mean < 4 for mean in means)
    assert sum(row[2] == "full" for row in rows if len(row) > 4) == 2
    with pytest.raises(ValueError, match="--rules has confidence:high; allowed: a rule, or a rule and a threshold"):
        main([*options, "--rules", "confidence:high"])


def test_chunks_that_no_frames_make_up_are_refused(files, tiny_experiment, tmp_path):
    options = ["--model", "tiny", *files, "--data_dirs", str(tiny_experiment.data), "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="name a multiple"):
        main([*options, "--chunks", "0.33"])
    with pytest.raises(ValueError, match="allowed: full and positive numbers"):
        main([*options, "--chunks", "short"])
    plain = [str(tiny_experiment.config), str(tiny_experiment.model)]
    with pytest.raises(ValueError, match="whole utterance"):
        main(["--model", "plain", *plain, *options[4:], "--aligner", *files, "--chunks", "0.32"])
