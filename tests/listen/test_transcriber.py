"""Our models on recordings: the same text by each way in, loops, segments, and nothing for what is no speech."""

import shutil

import numpy as np
import pytest
import soundfile

import espnet_larm
from espnet_larm.listen.engine import Request
from espnet_larm.listen.speech import find_speech
from espnet_larm.recognize.config import DecodeConfig

RATE = 16000


@pytest.fixture(scope="module")
def transcriber(tiny_experiment):
    return espnet_larm.load(tiny_experiment.config.parent, asr_model_file="model.pth")


@pytest.fixture(scope="module")
def path(tiny_experiment):
    return tiny_experiment.data / "u1.wav"


@pytest.fixture(scope="module")
def long_path(tiny_experiment, tmp_path_factory):
    """70 s of bursts of noise with pauses, and 40 s without one."""
    generator = np.random.default_rng(0)
    bursts = [
        np.repeat(generator.uniform(0, 0.3, 60), 800) * generator.standard_normal(48000).clip(-3, 3) for _ in range(30)
    ]
    pauses = [*([0.0] * 1 for _ in range(13)), *([0.6] for _ in range(17))]
    parts = [
        part for burst, (pause,) in zip(bursts, pauses, strict=True) for part in (burst, np.zeros(int(pause * RATE)))
    ]
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate(parts), RATE)
    return path


def test_each_way_in_gives_the_text_of_the_recogniser_below(transcriber, path):
    samples, _ = soundfile.read(path, dtype="float32")
    (wanted,) = transcriber.recognizer.recognize([samples])
    whole = soundfile.read(path, dtype="int16")[0]
    for audio, rate in ((path, None), (str(path), None), ((samples, RATE), None), (samples, RATE), (whole, RATE)):
        found = transcriber.transcribe(audio, rate, vad=False)
        assert found.text == wanted.text.strip() != ""
        assert found.duration_s == pytest.approx(len(samples) / RATE)
    assert " ".join(each.text for each in found.segments) == found.text


def test_loops_have_the_texts_of_a_run_each_and_their_seconds(transcriber, path):
    assert transcriber.loops == (2, 4)
    found = transcriber.transcribe(path, loops=[4, 2], vad=False)
    for loop in (2, 4):
        alone = transcriber.transcribe(path, loops=loop, vad=False)
        assert list(alone.loops) == [loop] and alone.text == found.loops[loop].text
    assert list(found.loops) == [2, 4] and found.text == found.loops[4].text != found.loops[2].text
    assert 0 < found.seconds[2] < found.seconds[4]


def test_segments_come_while_a_long_recording_is_read_and_make_the_same_text(transcriber, long_path):
    found = transcriber.transcribe(long_path, vad=False)
    assert list(transcriber.segments(long_path, vad=False)) == list(found.segments)
    wanted = transcriber.recognizer.transcribe_file(long_path)
    assert found.text == wanted.text.strip()
    times = [time for each in found.segments for time in (each.start_s, each.end_s)]
    assert times == sorted(times) and 100 < times[-1] < found.duration_s + 1


def test_damage_comes_after_the_segments_before_it(transcriber, long_path, tmp_path):
    soundfile.write(tmp_path / "whole.flac", soundfile.read(long_path)[0], RATE)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(data[: len(data) * 3 // 4])
    segments = transcriber.segments(tmp_path / "half.flac", vad=False)
    assert next(segments).text
    with pytest.raises(ValueError, match="half.flac is truncated"):
        list(segments)


def test_silence_noise_and_music_give_no_words(transcriber, noises):
    for samples in noises.values():
        found = transcriber.transcribe(samples, RATE)
        assert (found.text, found.segments, found.duration_s) == ("", (), 60.0)


@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.5, 1.0])
def test_silence_around_an_utterance_costs_no_speech_at_the_gate(utterances, seconds):
    """Its words are compared in test_hugging_face.py, since a model with random weights hears none."""
    for samples in utterances[:3]:
        silence = np.zeros(round(seconds * RATE), np.float32)
        alone = find_speech(samples, RATE)
        found = find_speech(np.concatenate([silence, samples, silence]), RATE)
        # Chunks of the detector lie elsewhere, and it keeps a state from chunk to chunk.
        assert abs(found[0].start - len(silence) - alone[0].start) < 0.3 * RATE
        assert abs(found[-1].end - len(silence) - alone[-1].end) < 0.3 * RATE


def test_a_model_that_needs_no_times_guesses_them(transcriber, path, monkeypatch):
    wanted = transcriber.transcribe(path, vad=False)
    monkeypatch.delattr(transcriber.recognizer.model.frontend, "hop_length")
    assert transcriber.transcribe(path, vad=False).text == wanted.text
    with pytest.raises(ValueError, match="words is true, but this model cannot tell when a word is said"):
        transcriber.prepare(Request(needs_words=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loops": 3}, "^loops is 3; allowed: 2, 4"),
        ({"loops": (2, 3)}, "^loops is 3; allowed: 2, 4"),
        ({"language": "en"}, "language is en, but this model has no choice of languages"),
        ({"config": DecodeConfig(instruction="Write.")}, "instruction is Write.: an option of an LM's search"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_audio_is_read(transcriber, options, message):
    with pytest.raises(ValueError, match=message):
        transcriber.transcribe("nowhere.wav", **options)


def test_a_pack_is_loaded_by_its_path(transcriber, tiny_experiment, path, tmp_path):
    from espnet_larm.cli.pack import main as pack

    folder = tmp_path / "asr"
    shutil.copytree(tiny_experiment.config.parent, folder, ignore=shutil.ignore_patterns("data"))
    (folder / "model.pth").rename(folder / "valid.loss.ave.pth")
    assert pack(["--exp_dir", str(folder), "--outpath", str(tmp_path / "a.zip")]) == 0
    found = espnet_larm.load(tmp_path / "a.zip").transcribe(path, vad=False)
    assert found.segments == transcriber.transcribe(path, vad=False).segments
