"""A stream has no length limit: an hour of it is heard to its end, and nothing of its session grows."""

import sys

import numpy as np
import pytest
import torch

from espnet_larm.live.config import LiveConfig
from espnet_larm.live.pcm import PcmReader
from espnet_larm.live.session import LiveRecognizer
from espnet_larm.recognize.config import DecodeConfig
from tests.live.conftest import RATE, speech

PIECE_S = 10


def held(thing, seen=None):
    """Bytes of all that can be reached, views with the whole storage that they keep alive; the model left out."""
    seen = set() if seen is None else seen
    if isinstance(thing, LiveRecognizer) or callable(thing) or id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        storage = thing.untyped_storage()
        new = storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        return new * storage.nbytes()
    if isinstance(thing, np.ndarray):
        return thing.nbytes if thing.base is None else held(thing.base, seen)
    parts = list(thing) if isinstance(thing, list | tuple | set | frozenset) else []
    parts += [*thing.keys(), *thing.values()] if isinstance(thing, dict) else []
    parts += list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    return sys.getsizeof(thing) + sum(held(part, seen) for part in parts)


def test_what_is_held_is_counted():
    whole = torch.zeros(1000)
    assert held([whole[:1], whole[1:2]]) - held([]) == pytest.approx(4000, abs=100)
    assert held({"a": [1] * 1000}) > 8000 and held((np.zeros(500)[:2],)) >= 4000


@pytest.mark.parametrize(
    ("minutes", "beam_size"),
    [(3, 1), pytest.param(3, 4, marks=pytest.mark.slow), pytest.param(60, 1, marks=pytest.mark.slow)],
)
def test_a_session_takes_no_more_memory_than_its_first_minute(recognizer, minutes, beam_size):
    config = LiveConfig(chunk_frames=50, left_chunks=2, partial_loop=2, endpoint_s=0.5, max_utterance_s=4.0)
    live = LiveRecognizer(recognizer, config, DecodeConfig(beam_size=beam_size))
    session, reader, sizes, finals = live.start(), PcmReader(RATE, RATE), [], []
    # Other noise for each 10 s of a minute.
    data = [speech(PIECE_S * RATE, seed).astype("<i2").tobytes() for seed in range(6)]
    for number in range(minutes * 6):
        piece = data[number % 6]
        # Within a sample.
        for part in (piece[:100_001], piece[100_001:]):
            finals += [event.end_s for event in session.feed(reader.read(part), lambda event: None) if event.is_final]
        sizes.append(held(session) + held(reader))
    finals += [event.end_s for event in session.feed(reader.finish()) + session.finish() if event.is_final]
    # The same audio each minute, in chunks that begin elsewhere; an utterance has 4 s at most.
    assert max(sizes[6:]) < 1.3 * max(sizes[:6])
    assert len(finals) > 10 * minutes and finals == sorted(finals) and 0 <= 60 * minutes - finals[-1] < 5
    assert session.heard.audio_s == 60 * minutes
    assert len(session.state.features[0]) < live._encoder.latency(live.context)
