"""Long audio: short files are left whole, joins lose and double nothing, memory and times."""

import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.cutting import cut
from espnet_larm.recognize.long.transcribe import cutting_of
from espnet_larm.recognize.output.results import Cost, Decoded, Hypothesis, Transcript
from espnet_larm.recognize.output.words import Word

RATE = 16000
PIECES = DecodeConfig(long_seconds=1.0, longest_piece=3.0, shortest_piece=0.5, overlap=1.0)
SHORT = cutting_of(PIECES)
WORDS = DecodeConfig(with_words=True)


@pytest.fixture(scope="module")
def recognizer(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)


@pytest.fixture(scope="module")
def waveforms(tiny_experiment):
    return [soundfile.read(path, dtype="float32")[0] for path in sorted(tiny_experiment.data.glob("*.wav"))]


@pytest.fixture
def transcribe(recognizer):
    def transcribe(samples, block=5000, **options):
        blocks = (samples[i : i + block] for i in range(0, len(samples), block))
        (found,), cost = recognizer.decode_blocks(blocks, recognizer.plan(replace(PIECES, **options)))
        return found, cost

    return transcribe


@pytest.fixture
def perfect(monkeypatch):
    """Replaces the model by one that finds a word, numbered by its time, every 0.4 s of the whole audio."""

    def decode(heads, waveforms, plan):
        transcripts = []
        for waveform in waveforms:
            # The audio counts its samples, so that a piece tells where it comes from; a word needs 0.2 s.
            first = round(float(waveform[0]) * 1e6)
            numbers = range(math.ceil(first / 6400), math.floor((first + len(waveform) - 3200) / 6400) + 1)
            words = tuple(
                Word("", (n * 6400 - first) / RATE, (n * 6400 - first + 3200) / RATE, 1.0, (3 + n % 8, 3 + n // 8 % 8))
                for n in numbers
            )
            transcripts.append(Transcript({4: Hypothesis("", [], [], -1.0, words if plan.config.with_words else ())}))
        return Decoded(transcripts, Cost(0.1, {4: 0.5}, 0.2))

    monkeypatch.setattr("espnet_larm.recognize.long.transcribe.decode_batch", decode)
    return lambda seconds: (np.arange(int(seconds * RATE)) / 1e6).astype(np.float64)


def test_short_file_gives_what_its_samples_give(recognizer, waveforms, tmp_path):
    soundfile.write(tmp_path / "a.wav", waveforms[1], RATE, subtype="FLOAT")
    assert recognizer.transcribe_file(tmp_path / "a.wav") == recognizer.recognize([waveforms[1]])[0]


def test_pieces_cut_at_silences_give_their_texts_one_after_the_other(recognizer, transcribe, waveforms):
    silence = np.random.default_rng(0).standard_normal(9600).astype(np.float32) * 1e-4
    samples = np.concatenate([part for waveform in waveforms[:5] for part in (waveform, silence)])
    found, cost = transcribe(samples)
    pieces = list(cut([samples], RATE, SHORT))
    assert len(pieces) > 3 and all(piece.overlap == 0 for piece in pieces)
    each = recognizer.recognize([piece.samples for piece in pieces])
    for number in (2, 4):
        # Words are put together by one space: what a model says at a piece's edges beyond that is left out.
        words = " ".join(transcript.hypotheses[number].text for transcript in each).split()
        assert found.hypotheses[number].text.split() == words
        assert found.hypotheses[number].score == pytest.approx(
            sum(transcript.hypotheses[number].score for transcript in each), rel=1e-4
        )
    assert 0 < cost.features < min(cost.read_outs.values()) and cost.words > 0


def test_lengths_of_blocks_change_nothing(transcribe, waveforms):
    samples = np.concatenate(waveforms)
    assert transcribe(samples, block=1234)[0] == transcribe(samples)[0]


@pytest.mark.parametrize("seconds", [3.1, 10, 61])
def test_overlapping_pieces_lose_and_double_nothing(transcribe, perfect, seconds):
    samples = perfect(seconds)
    found, _ = transcribe(samples, with_words=True)
    assert [round(word.start_s / 0.4) for word in found.best.words] == list(
        range(int((seconds - 0.2) / 0.4 + 1e-9) + 1)
    )
    assert len(list(cut([samples], RATE, SHORT))) == math.ceil((seconds - 1) / 2)


def test_pieces_that_fill_a_batch_each_lose_nothing(transcribe, perfect, monkeypatch):
    monkeypatch.setattr("espnet_larm.recognize.long.transcribe.BATCH_SECONDS", 4.0)
    found, _ = transcribe(perfect(11))
    assert found.best.token_ids == transcribe(perfect(11), with_words=True)[0].best.token_ids
    assert len(found.best.token_ids) >= 2 * 26


def test_words_are_left_out_unless_they_are_asked_for(transcribe, waveforms):
    samples = np.concatenate(waveforms)
    without, with_words = transcribe(samples)[0], transcribe(samples, with_words=True)[0]
    assert without.best.words == () and without.text == with_words.text
    assert " ".join(word.text for word in with_words.best.words) == without.text


def test_words_are_in_order_and_within_the_audio(transcribe, waveforms):
    samples = np.concatenate(waveforms)
    words = transcribe(samples, with_words=True)[0].best.words
    times = [time for word in words for time in (word.start_s, word.end_s)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(samples) / RATE


def test_words_of_a_batch_are_those_of_each_utterance(recognizer, waveforms):
    alone = [recognizer.recognize([waveform], WORDS)[0] for waveform in waveforms]
    together = recognizer.recognize(waveforms, WORDS)
    for one, other in zip(together, alone, strict=True):
        for number, hypothesis in one.hypotheses.items():
            expected = other.hypotheses[number].words
            assert [word[:3] for word in hypothesis.words] == [word[:3] for word in expected]
            assert [word.confidence for word in hypothesis.words] == pytest.approx(
                [word.confidence for word in expected], rel=1e-4
            )


def test_times_of_frames_are_measured_on_the_model(recognizer):
    assert recognizer.heads.frame_times == (160 / RATE, 4, None, 3.0, 0.0)


def test_preprocessor_is_applied_to_files(recognizer, waveforms, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", waveforms[1], RATE, subtype="FLOAT")
    monkeypatch.setattr(recognizer, "preprocess", lambda key, data: {"speech": data["speech"][::-1].copy()})
    expected = recognizer.recognize([waveforms[1][::-1].copy()])[0]
    assert recognizer.transcribe_file(tmp_path / "a.wav") == expected


def test_nothing_to_hear_gives_an_empty_text(transcribe):
    found, _ = transcribe(np.zeros(10, dtype=np.float32))
    assert found.text == "" and "too few for a frame" in found.skipped


def test_wrong_options_are_told_before_anything_is_read(recognizer, tmp_path):
    with pytest.raises(ValueError, match="num_loops is 3; allowed"):
        recognizer.transcribe_file(tmp_path / "none.wav", DecodeConfig(num_loops=3))
    with pytest.raises(ValueError, match="longest_piece is 2; allowed: at least shortest_piece and twice overlap"):
        DecodeConfig(longest_piece=2.0)
    with pytest.raises(FileNotFoundError, match=r"none.wav is missing"):
        recognizer.transcribe_file(tmp_path / "none.wav")


def test_front_end_without_a_hop_has_no_times(recognizer, monkeypatch):
    from espnet_larm.recognize.model.read_outs import measure_frame_times

    monkeypatch.delattr(recognizer.model.frontend, "hop_length")
    with pytest.raises(ValueError, match="times of words need a front end with a hop_length"):
        measure_frame_times(recognizer.model, RATE, torch.device("cpu"), torch.float32)
