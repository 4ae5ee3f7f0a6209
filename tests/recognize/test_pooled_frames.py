"""A model whose front end merges frames: the same decoder, and times that stay right."""

import numpy as np
import pytest
import soundfile
import torch

from espnet_larm.recognize.config import DecodeConfig

WORDS = DecodeConfig(with_words=True)
PLAIN = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160}


@pytest.fixture
def build(tiny_experiment, tmp_path):
    """A recogniser with the weights of the tiny experiment, which was trained without pooling."""
    from espnet_larm.recognize.recognizer import Recognizer

    def build(frontend_conf=PLAIN, frontend="affinity_pooling"):
        config = tiny_experiment.with_config(tmp_path / "config.yaml", frontend=frontend, frontend_conf=frontend_conf)
        return Recognizer.from_files(config, tiny_experiment.model)

    return build


@pytest.fixture
def plain(build):
    return build(frontend="default")


@pytest.fixture(scope="module")
def waveforms(tiny_experiment):
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]


class Twice(torch.nn.Module):
    """A front end that says each frame twice, at half the hop."""

    def __init__(self, frontend):
        super().__init__()
        self.frontend = frontend
        self.hop_length = frontend.hop_length // 2

    def forward(self, xs, lens):
        xs_pad, lens = self.frontend(xs, lens)
        return xs_pad.repeat_interleave(2, dim=1), 2 * lens

    def output_size(self):
        return self.frontend.output_size()


def words_of(transcripts):
    return [hypothesis.words for one in transcripts for hypothesis in one.hypotheses.values()]


def test_pooling_that_is_off_changes_nothing(build, plain, waveforms):
    off = build({"frontend_conf": PLAIN, "tau": 1.1})
    assert off.recognize(waveforms, WORDS) == plain.recognize(waveforms, WORDS)


def test_words_of_frames_that_were_merged_keep_their_times(build, plain, waveforms):
    pooled = build({"frontend_conf": PLAIN, "tau": 1.0, "max_group": 2, "min_frames_per_second": 0.0})
    pooled.model.frontend.frontend = Twice(pooled.model.frontend.frontend)
    found = pooled.recognize(waveforms, WORDS)
    wanted = plain.recognize(waveforms, WORDS)
    assert [one.text for one in found] == [one.text for one in wanted]
    pairs = list(zip(sum(words_of(found), ()), sum(words_of(wanted), ()), strict=True))
    assert len(pairs) == 14
    for one, other in pairs:
        # The middle of a frame and its copy is half a hop of 80 samples behind the frame itself.
        assert one.end_s == pytest.approx(other.end_s + 0.0025)
        assert one.start_s == pytest.approx(other.start_s + 0.0025, abs=1e-6)


def test_batch_of_pooled_utterances_gives_what_each_gives_alone(build, waveforms):
    recognizer = build({"frontend_conf": PLAIN, "tau": 0.5, "max_group": 3})
    together, cost = recognizer.decode(waveforms, WORDS)
    assert cost.num_frames_left / cost.num_frames < 0.95
    for waveform, one in zip(waveforms, together, strict=True):
        alone = recognizer.recognize([waveform], WORDS)[0]
        assert alone.text == one.text
        assert [word[:3] for word in alone.best.words] == [word[:3] for word in one.best.words]
        assert all(0 <= word.start_s < word.end_s <= len(waveform) / 16000 for word in one.best.words)


def test_utterance_that_pooling_leaves_too_short_is_skipped(build):
    recognizer = build({"frontend_conf": PLAIN, "tau": -1.0, "max_group": None, "min_frames_per_second": 10.0})
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert "an utterance has 6 frames, fewer than the 7" in recognizer.recognize([noise])[0].skipped


def test_rate_of_the_wrapped_front_end_is_the_models(build):
    assert build({"frontend_conf": {**PLAIN, "fs": "8k"}, "tau": 0.9}).sample_rate_hz == 8000
    assert build({"frontend_conf": {**PLAIN, "fs": "8k"}, "fs": "8k", "tau": 0.9}).sample_rate_hz == 8000


def test_frames_before_and_after_are_counted(build, plain, waveforms):
    recognizer = build({"frontend_conf": PLAIN, "tau": 0.5, "max_group": 3})
    pooled, whole = recognizer.decode(waveforms).cost, plain.decode(waveforms).cost
    assert pooled.num_frames == whole.num_frames == whole.num_frames_left
    assert whole.num_frames / 3 <= pooled.num_frames_left < 0.95 * whole.num_frames
