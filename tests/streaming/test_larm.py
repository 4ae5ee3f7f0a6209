"""LarmEncoder in chunks: a stream is the masked offline forward, a frame sees nothing later, a state does not grow."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.streaming.context import Context, in_context
from espnet_larm.streaming.stream import StreamState
from tests.looped.test_encoder import (
    NUM_FEATURES,
    SIZE,
    batch,
    half_blank,
    new_encoder,
    outputs,
    randomise,
)
from tests.streaming.streaming import TOLERANCE, Listener, hear_together, heard

KINDS = {
    "transformer": {"num_blocks": 1},
    "conformer": {"block": "conformer", "cnn_module_kernel": 5},
    "prelude and coda": {"block": "conformer", "prelude_blocks": 1, "coda_blocks": 1, "num_blocks": 1, "num_loops": 2},
    "side by side": {"subsampling": "linear", "subsampling_factor": 2, "feedback_shift": 3},
    "top k": {"subsampling_factor": 8, "feedback_top_k": 3, "feedback_shift": 0, "num_loops": 3},
    "unshared": {"share_blocks": False, "feedback": False, "block": "conformer", "subsampling_factor": 2},
    "one loop": {"num_loops": 1, "checkpoint_period": 1},
}
SIZES = st.lists(st.integers(0, 70), min_size=1, max_size=4).filter(any)


@pytest.fixture(scope="module")
def encoders():
    made = {}
    for kind, options in KINDS.items():
        made[kind] = new_encoder(**options).eval().requires_grad_(False)
        randomise(made[kind])
    return made


def features(length: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(length, NUM_FEATURES, generator=torch.Generator().manual_seed(seed))


def offline(encoder, ctc, xs: torch.Tensor, context: Context, **options) -> dict[int, torch.Tensor]:
    reads = encoder.read_outs(xs.unsqueeze(0), torch.tensor([len(xs)]), ctc, context=context, **options)
    return {read.number: read.hs_pad[0] for read in reads}


@pytest.mark.parametrize("kind", KINDS)
@given(left=st.integers(0, 3), chunk=st.integers(1, 9), length=st.integers(15, 150), sizes=SIZES)
def test_a_stream_gives_what_the_masked_offline_forward_gives(encoders, ctc, kind, left, chunk, length, sizes):
    encoder, context, xs = encoders[kind], Context(left, chunk), features(length)
    wanted = offline(encoder, ctc, xs, context)
    found, _ = heard(encoder, ctc, xs, context, sizes)
    assert list(found) == list(wanted) == encoder.allowed_loops(encoder.num_loops)
    for loop, hs in wanted.items():
        torch.testing.assert_close(found[loop], hs, **TOLERANCE)


@pytest.mark.parametrize("kind", ["transformer", "prelude and coda"])
@given(left=st.integers(0, 3), chunk=st.integers(1, 6), data=st.data())
def test_streams_of_other_ages_in_one_batch_give_what_each_gives_alone(encoders, ctc, kind, left, chunk, data):
    encoder, context = encoders[kind], Context(left, chunk)
    lens = data.draw(st.lists(st.integers(0, 120), min_size=2, max_size=4), label="lens")
    listeners = [Listener(features(n, seed), encoder.start_streams(context)) for seed, n in enumerate(lens)]
    while not all(listener.is_over for listener in listeners):
        waiting = [listener for listener in listeners if not listener.is_over]
        # Some are not in the batch at all, so that ages differ.
        group = [each for each in waiting if data.draw(st.booleans(), label="here")] or waiting
        hear_together(encoder, ctc, group, [data.draw(st.integers(0, 60), label="size") for _ in group])
    for listener in listeners:
        alone, state = heard(encoder, ctc, listener.xs, context, [1000])
        assert state.num_frames == listener.state.num_frames
        for loop, parts in listener.said.items():
            torch.testing.assert_close(torch.cat(parts), alone[loop], **TOLERANCE)


@pytest.mark.parametrize("kind", ["conformer", "prelude and coda"])
def test_a_padded_batch_in_chunks_gives_what_each_utterance_gives_alone(encoders, ctc, kind):
    encoder, (xs_pad, ilens), context = encoders[kind], batch(90, 33, 7), Context(1, 3)
    for read in encoder.read_outs(xs_pad, ilens, ctc, context=context):
        for row, (xs, ilen) in enumerate(zip(xs_pad, ilens.tolist(), strict=True)):
            alone = offline(encoder, ctc, xs[:ilen], context)[read.number]
            torch.testing.assert_close(read.hs_pad[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_as_long_as_the_utterance_is_the_whole_context(encoders, ctc, kind):
    encoder, xs = encoders[kind], features(70)
    wanted, found = (offline(encoder, ctc, xs, context) for context in (Context(), Context(0, 100)))
    for loop, hs in wanted.items():
        torch.testing.assert_close(found[loop], hs, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_frame_sees_nothing_behind_its_chunk_and_the_look_ahead_however_many_loops(encoders, ctc, kind, chunk):
    encoder, xs = encoders[kind], features(120).requires_grad_()
    context = Context(2, chunk)
    last = offline(encoder, ctc, xs, context)[encoder.num_loops]
    for frame in range(len(last)):
        (gradient,) = torch.autograd.grad(last[frame].sum(), xs, retain_graph=True)
        touched = gradient.any(dim=1).nonzero().squeeze(1)
        end = frame // chunk * chunk * encoder.subsampling.factor + encoder.latency(context)
        # The last frame of a chunk needs the look-ahead to its end; a part of a chunk ends with the utterance.
        assert int(touched.max()) < end
        if (frame // chunk + 1) * chunk <= len(last):
            assert int(touched.max()) == end - 1


def test_attention_goes_back_by_the_left_chunks_alone(ctc):
    encoder = new_encoder(num_loops=1, checkpoint_period=1, num_blocks=1, subsampling="linear").eval()
    randomise(encoder)
    xs = features(96).requires_grad_()
    last = offline(encoder, ctc, xs, Context(2, 3))[1]
    for frame in range(len(last)):
        (gradient,) = torch.autograd.grad(last[frame].sum(), xs, retain_graph=True)
        first = max(0, frame // 3 - 2) * 3 * encoder.subsampling.factor
        assert int(gradient.any(dim=1).nonzero().min()) == first


def test_frames_that_blank_skipping_leaves_out_are_those_of_the_offline_forward(encoders, ctc):
    encoder, context, xs = encoders["conformer"], Context(1, 4), features(130)
    skip_blank = half_blank(encoder, ctc)
    wanted = offline(encoder, ctc, xs, context, skip_blank=skip_blank)
    plain = offline(encoder, ctc, xs, context)
    assert not torch.allclose(wanted[4], plain[4])
    found, _ = heard(encoder, ctc, xs, context, [50], skip_blank=skip_blank)
    torch.testing.assert_close(found[4], wanted[4], **TOLERANCE)


@pytest.mark.parametrize("num_loops", [2, 6])
def test_fewer_and_more_loops_than_trained_stream_too(encoders, ctc, num_loops):
    encoder, context, xs = encoders["conformer"], Context(1, 4), features(90)
    wanted = offline(encoder, ctc, xs, context, num_loops=num_loops)
    found, _ = heard(encoder, ctc, xs, context, [31], num_loops=num_loops)
    assert list(found) == encoder.allowed_loops(num_loops)
    torch.testing.assert_close(found, wanted, **TOLERANCE)


def test_a_state_does_not_grow_and_holds_no_more_memory_than_it_says(encoders, ctc):
    encoder = encoders["prelude and coda"]
    state, sizes = encoder.start_streams(Context(2, 4)), []
    for number in range(30):
        _, state = encoder.stream(state, features(16, number).unsqueeze(0), torch.tensor([16]), ctc)
        held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in state.kept.values()}
        sizes.append((state.num_bytes, sum(held.values())))
    assert len(set(sizes[1:])) == 1
    # A cache may be the end of what a chunk attended to.
    assert sizes[-1][1] <= 2 * sizes[-1][0]
    alone = state.split()[0]
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in alone.kept.values())
    assert not any(each.requires_grad for each in state.kept.values())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from Linux's /proc")
def test_an_hour_of_a_stream_takes_no_more_memory_than_its_first_minutes(ctc):
    encoder = new_encoder(num_blocks=1, num_loops=2, checkpoint_period=1, block="conformer").eval()
    context, pages = Context(4, 32), []
    state = encoder.start_streams(context)
    for minute in range(60):
        for part in features(6016, minute).unsqueeze(0).split(128, dim=1):
            _, state = encoder.stream(state, part, torch.tensor([128]), ctc)
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert state.num_frames[0] > 25 * 3600 - 32 and len(state.features[0]) < encoder.latency(context)
    # Pages of 4 kB; keeping what was said would take 12 MB, and all keys and values 23 MB.
    assert max(pages[5:]) - pages[5] < 1000


def test_many_features_at_once_are_encoded_in_chunks_of_the_same_memory(encoders, ctc):
    encoder, xs = encoders["transformer"], features(3000)
    at_once, first = heard(encoder, ctc, xs, Context(1, 8), [3000])
    bit_by_bit, second = heard(encoder, ctc, xs, Context(1, 8), [97])
    torch.testing.assert_close(at_once, bit_by_bit, **TOLERANCE)
    assert first.num_bytes == second.num_bytes


def test_a_stream_says_after_hours_what_it_says_at_once(encoders, ctc):
    """Positions are relative; in float32 their angles would be off by 0.004 after an hour."""
    encoder, xs = encoders["conformer"], features(64).unsqueeze(0)
    young = encoder.start_streams(Context(2, 4))
    old = young._replace(num_frames=(25 * 3600 * 10,))
    for part in xs.split(16, dim=1):
        (one, young), (other, old) = (encoder.stream(each, part, torch.tensor([16]), ctc) for each in (young, old))
        torch.testing.assert_close(other.hs_pad, one.hs_pad, **TOLERANCE)
    assert int(other.starts) - int(one.starts) == 900_000


def test_a_call_leaves_its_state_as_it_was(encoders, ctc):
    encoder, xs = encoders["conformer"], features(48).unsqueeze(0)
    _, state = encoder.stream(encoder.start_streams(Context(2, 4)), xs, torch.tensor([48]), ctc)
    before = [each.clone() for each in (*state.kept.values(), *state.features)]
    once, twice = (encoder.stream(state, xs, torch.tensor([48]), ctc)[0] for _ in range(2))
    assert torch.equal(once.hs_pad[4], twice.hs_pad[4])
    assert all(torch.equal(old, new) for old, new in zip(before, (*state.kept.values(), *state.features), strict=True))


def test_features_that_are_too_few_give_no_frame_and_no_error(encoders, ctc):
    encoder = encoders["conformer"]
    for length in (0, 1, encoder.min_input_length - 1):
        found, _ = heard(encoder, ctc, features(length), Context(1, 4), [100])
        assert {loop: tuple(hs.shape) for loop, hs in found.items()} == {2: (0, SIZE), 4: (0, SIZE)}


def test_latency_is_the_chunk_and_the_look_ahead_of_the_subsampling(encoders):
    assert encoders["conformer"].latency(Context(2, 8)) == 4 * 8 + 3
    assert encoders["side by side"].latency(Context(2, 8)) == 2 * 8


def test_the_whole_context_of_a_streaming_encoder_is_bit_for_bit_what_one_without_streaming_gives(ctc):
    options = {"block": "conformer", "prelude_blocks": 1}
    plain, streaming = new_encoder(**options).eval(), new_encoder(**options, streaming={}).eval()
    assert streaming.state_dict().keys() - plain.state_dict().keys() == {"contexts.draws"}
    randomise(plain)
    streaming.load_state_dict({**streaming.state_dict(), **plain.state_dict()})
    wanted, found = outputs(plain, ctc), outputs(streaming, ctc)
    assert all(torch.equal(found[loop], hs) for loop, hs in wanted.items())
    # And back: what streaming has drawn is forgotten.
    plain.load_state_dict(streaming.state_dict())


@pytest.mark.parametrize("streaming", [{}, None])
def test_espnets_programs_decode_in_a_context_that_is_entered(streaming, ctc):
    encoder = new_encoder(streaming=streaming).eval()
    xs_pad, ilens = batch(60, 33)
    whole = encoder(xs_pad, ilens, ctc=ctc)[0][0]
    with in_context(Context(1, 2)):
        chunks = encoder(xs_pad, ilens, ctc=ctc)[0][0]
    *_, last = encoder.read_outs(xs_pad, ilens, ctc, context=Context(1, 2))
    assert torch.equal(chunks, last.hs_pad) and not torch.allclose(chunks, whole)
    assert torch.equal(encoder(xs_pad, ilens, ctc=ctc)[0][0], whole)


def test_who_stays_gets_in_chunks_what_a_whole_batch_gives(encoders, ctc):
    encoder = encoders["conformer"]
    *_, whole = encoder.read_outs(*batch(60, 33, 47), ctc, context=Context(1, 2))
    reads = encoder.read_outs(*batch(60, 33, 47), ctc, context=Context(1, 2))
    next(reads)
    left = reads.send(torch.tensor([False, True, True]))
    assert left.rows.tolist() == [1, 2]
    torch.testing.assert_close(left.hs_pad, whole.hs_pad[1:, : left.hs_pad.size(1)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("context", "options", "message"),
    [
        (Context(4, None), {}, "a left context that end: chunk_frames is full, left_chunks 4"),
        (Context(None, 8), {}, "chunk_frames is 8, left_chunks all; give both as numbers"),
        (Context(4, 0), {}, "chunk_frames is 0; allowed: 1 to 100000, or none for full"),
        (Context(-1, 4), {}, "left_chunks is -1; allowed: 0 to 100000, or none for all"),
        (Context(True, 4), {}, "left_chunks is True; allowed: 0 to"),
        (
            Context(1, 4),
            {"num_loops": "auto"},
            "num_loops is auto; give a number, and a reader",
        ),
        (Context(1, 4), {"num_loops": 3}, "num_loops is 3; allowed: 2, 4"),
    ],
)
def test_what_no_stream_can_be_is_refused(encoders, context, options, message):
    with pytest.raises(ValueError, match=message):
        encoders["conformer"].start_streams(context, **options)


def test_wrong_calls_are_refused(encoders, ctc):
    encoder = encoders["conformer"]
    state, xs, one = encoder.start_streams(Context(1, 4)), features(20).unsqueeze(0), torch.tensor([20])
    with pytest.raises(ValueError, match=r"have the shape \(1, 20, 19\); allowed: \(1, any, 20\) for a state of 1"):
        encoder.stream(state, xs[..., 1:], one, ctc)
    with pytest.raises(ValueError, match=r"ilens is \[21\], is_last \[False\]; allowed: 1 each, and 0 to 20"):
        encoder.stream(state, xs, one + 1, ctc)
    _, ended = encoder.stream(state, xs, one, ctc, torch.tensor([True]))
    with pytest.raises(ValueError, match="stream 0 has ended; start a new one"):
        encoder.stream(ended, xs, one, ctc)
    with pytest.raises(ValueError, match="share their settings"):
        StreamState.join([state, encoder.start_streams(Context(2, 4))])
    with pytest.raises(ValueError, match="no state to join"):
        StreamState.join([])
    with pytest.raises(ValueError, match="feedback needs the model's CTC head"):
        encoder.stream(state, xs, one, None)
    trained = new_encoder().train()
    with pytest.raises(ValueError, match="eval mode"):
        trained.stream(trained.start_streams(Context(1, 4)), xs, one, ctc)
