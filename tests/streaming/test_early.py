"""A reader of a stream has what an early loop says of a chunk before the deeper loops of the chunk run."""

import pytest
import torch

from espnet2.asr.ctc import CTC

from espnet_larm.streaming.context import Context
from espnet_larm.streaming.stream import StreamState
from tests.fast_conformer.test_encoder import features
from tests.fast_conformer.test_encoder import new_encoder as new_fast_conformer
from tests.looped.test_encoder import SIZE, VOCAB, new_encoder, randomise

CONTEXT = Context(2, 3)


@pytest.fixture(scope="module")
def ctc():
    torch.manual_seed(3)
    return CTC(VOCAB, SIZE)


def new_larm():
    encoder = new_encoder(block="conformer", coda_blocks=1).eval().requires_grad_(False)
    randomise(encoder)
    return encoder


@pytest.fixture
def larm():
    return new_larm()


def call(encoder, ctc, state, lens, reader=None):
    xs_pad = torch.stack([features(max(lens), seed) for seed in range(len(lens))])
    last = torch.tensor([False] * len(lens))
    return encoder.stream(state, xs_pad, torch.tensor(lens), ctc, last, reader)


def test_each_checkpoint_loop_is_read_before_the_next_loop_runs(larm, ctc, monkeypatch):
    order, step = [], larm._step
    monkeypatch.setattr(larm, "_step", lambda stack, loop, *rest: (order.append(loop), step(stack, loop, *rest))[1])
    call(larm, ctc, larm.start_streams(CONTEXT), [30], lambda loop, outputs: order.append(f"read {loop}"))
    # Two chunks of 12 features.
    assert order == [1, 2, "read 2", 3, 4, "read 4"] * 2


@pytest.mark.parametrize("make", [new_larm, lambda: new_fast_conformer(subsampling_factor=4).eval()])
def test_what_is_read_chunk_by_chunk_is_what_the_call_gives(make, ctc):
    encoder = make()
    old, young = encoder.start_streams(CONTEXT), encoder.start_streams(CONTEXT)
    _, old = call(encoder, ctc, old, [40])
    state, read = StreamState.join([old, young]), []
    plain, after = call(encoder, ctc, state, [30, 17])
    found, same = call(encoder, ctc, state, [30, 17], lambda loop, outputs: read.append((loop, outputs)))
    assert all(torch.equal(found.hs_pad[loop], hs) for loop, hs in plain.hs_pad.items())
    assert all(torch.equal(one, other) for one, other in zip(after.kept.values(), same.kept.values(), strict=True))
    assert found.hlens.tolist() != [0, 0] and found.starts[0] > found.starts[1] == 0
    for loop, hs_pad in found.hs_pad.items():
        chunks = [outputs for number, outputs in read if number == loop]
        assert len(chunks) > 1 and all(list(outputs.hs_pad) == [loop] for outputs in chunks)
        for row in range(2):
            parts = [outputs.hs_pad[loop][row, : outputs.hlens[row]] for outputs in chunks]
            assert torch.equal(torch.cat(parts), hs_pad[row, : found.hlens[row]])
        starts = found.starts.clone()
        for outputs in chunks:
            assert torch.equal(outputs.starts, starts)
            starts += outputs.hlens


def test_what_a_reader_raises_ends_the_call_and_leaves_the_state(larm, ctc):
    _, state = call(larm, ctc, larm.start_streams(CONTEXT), [30])
    wanted, _ = call(larm, ctc, state, [30])

    def reader(loop, outputs):
        raise KeyError(loop)

    with pytest.raises(KeyError, match="2"):
        call(larm, ctc, state, [30], reader)
    found, _ = call(larm, ctc, state, [30])
    assert torch.equal(found.hs_pad[4], wanted.hs_pad[4])
