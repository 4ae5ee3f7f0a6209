"""Cutting: at silences, overlapped without any, and the same for blocks of any length."""

import numpy as np
import pytest

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.long.cutting import Cutting, cut, find_silences

RATE = 1000
SHORT = Cutting(whole_s=5.0, longest_s=8.0, shortest_s=1.0, overlap_s=2.0)


def speech(*lengths_s, background=0.001, level=0.3):
    """Noise of speech and of background in turn, beginning with speech."""
    generator = np.random.default_rng(0)
    parts = [
        (background if index % 2 else level) * generator.standard_normal(int(length_s * RATE))
        for index, length_s in enumerate(lengths_s)
    ]
    return np.concatenate(parts).astype(np.float32)


def pieces(samples, cutting=SHORT, block=700):
    return list(cut((samples[i : i + block] for i in range(0, len(samples), block)), RATE, cutting))


def assert_whole(found, samples):
    position = 0
    for piece in found:
        assert piece.start == position - piece.overlap
        assert np.array_equal(piece.samples, samples[piece.start : piece.start + len(piece.samples)])
        position = piece.start + len(piece.samples)
    assert position == len(samples)


def test_short_audio_is_one_piece():
    samples = speech(2, 1, 2)
    (piece,) = pieces(samples)
    assert piece.start == piece.overlap == 0 and np.array_equal(piece.samples, samples)


def test_cuts_are_in_the_middle_of_silences():
    samples = speech(3, 0.8, 4, 0.6, 2.5, 1, 3)
    found = pieces(samples)
    assert_whole(found, samples)
    assert [piece.start / RATE for piece in found] == pytest.approx([0, 3.4, 8.1, 11.4], abs=0.03)
    assert all(piece.overlap == 0 for piece in found)


def test_short_pauses_are_no_silences():
    assert find_silences(speech(3, 0.3, 3), RATE, ended=True) == []


def test_pieces_are_not_shorter_than_wanted():
    samples = speech(3, 0.6, 0.5, 0.6, 3, 0.6, 3)
    assert [piece.start / RATE for piece in pieces(samples, SHORT._replace(shortest_s=2.0))] == pytest.approx(
        [0, 3.3, 8.0], abs=0.03
    )


def test_silence_is_found_in_noise_that_changes():
    quiet, loud = speech(3, 0.8, 3, background=0.0005, level=0.02), speech(3, 0.8, 3, background=0.05, level=0.8)
    starts = [piece.start / RATE for piece in pieces(np.concatenate([quiet, loud]))]
    assert any(abs(start - 3.4) < 0.1 for start in starts) and any(abs(start - 10.2) < 0.1 for start in starts)


def test_audio_without_silence_overlaps():
    samples = speech(21)
    found = pieces(samples)
    assert_whole(found, samples)
    assert [piece.overlap / RATE for piece in found] == [0, 2, 2, 2]
    assert max(len(piece.samples) for piece in found) == 8 * RATE


@pytest.mark.parametrize("samples", [speech(*[1.7, 0.5] * 20), speech(30), speech(9, 0.7, 9, 0.7, 9)])
def test_no_piece_is_too_long_and_nothing_is_lost(samples):
    found = pieces(samples)
    assert_whole(found, samples)
    assert max(len(piece.samples) for piece in found) <= 8 * RATE


@pytest.mark.parametrize("block", [1, 999, 100_000])
def test_lengths_of_blocks_change_nothing(block):
    samples = speech(3, 0.8, 4, 0.6, 9, 1, 3)
    found, expected = pieces(samples, block=block), pieces(samples)
    assert [(piece.start, piece.overlap) for piece in found] == [(piece.start, piece.overlap) for piece in expected]


def test_digital_silence_alone_is_handed_on():
    samples = np.zeros(12 * RATE, dtype=np.float32)
    assert_whole(pieces(samples), samples)


def test_no_audio_is_one_empty_piece():
    (piece,) = pieces(np.zeros(0, dtype=np.float32))
    assert len(piece.samples) == 0


def test_reading_ahead_is_bounded():
    taken = 0

    def blocks():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield speech(1)

    next(cut(blocks(), RATE, SHORT))
    assert taken <= 12


@pytest.mark.parametrize(
    "options",
    [{"long_seconds": -1.0}, {"overlap": 0.0}, {"longest_piece": 8.0, "overlap": 4.0}, {"shortest_piece": 0.0}],
)
def test_impossible_lengths_are_refused(options):
    with pytest.raises(ValueError, match="allowed: "):
        DecodeConfig(**options)
