"""Chunks that leave a stream before the last loop: the offline form has the same, and later chunks see it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_larm.recognize.leaving.leave import Leaving, Watch, run_chunks_until_left
from espnet_larm.recognize.leaving.rules import RULES
from espnet_larm.streaming.context import Context
from espnet_larm.streaming.stream import StreamState
from tests.looped.test_encoder import half_blank, new_encoder, randomise
from tests.streaming.streaming import TOLERANCE, pieces_of
from tests.streaming.test_larm import features

KINDS = {
    "transformer": {"num_loops": 6},
    "prelude and coda": {
        "block": "conformer",
        "prelude_blocks": 1,
        "coda_blocks": 2,
        "cnn_module_kernel": 5,
        "num_loops": 4,
        "checkpoint_period": 1,
    },
    "top k": {"subsampling_factor": 2, "feedback_top_k": 3, "feedback_shift": 3, "num_loops": 5},
    "no feedback": {"feedback": False, "block": "conformer"},
}


@pytest.fixture(scope="module")
def encoders():
    made = {}
    for kind, options in KINDS.items():
        made[kind] = new_encoder(**options).eval().requires_grad_(False)
        randomise(made[kind])
    return made


class Plan:
    """Says by stream and chunk at which loop it leaves, and notes what it was asked."""

    def __init__(self, loops: list[list[int]], chunk: int) -> None:
        self.loops, self.chunk = loops, chunk
        self.asked: list[tuple[int, list[int]]] = []

    def __call__(self, loop, outputs):
        chunks = (outputs.starts // self.chunk).tolist()
        self.asked.append((loop, outputs.hlens.tolist()))
        return torch.tensor([own[number] > loop for own, number in zip(self.loops, chunks, strict=True)])


def planned_offline(encoder, ctc, xs, context, loops, **options):
    """The same of one utterance: (T, D) by loop."""
    found, stays, number = {}, None, 0
    read_outs = encoder.read_outs(
        xs.unsqueeze(0), torch.tensor([len(xs)]), ctc, context=context, by_chunk=True, **options
    )
    while True:
        try:
            read = read_outs.send(stays)
        except StopIteration:
            break
        found[read.number] = read.hs_pad[0]
        number = -(-read.hs_pad.size(1) // context.chunk_frames)
        stays = torch.tensor([[loop > read.number for loop in loops[:number]]])
    return found


def hear(encoder, ctc, streams, context, sizes, plan, **options):
    """What streams say that are heard together: by stream (T, D) of each loop."""
    state = encoder.start_streams(context, len(streams), **options)
    said = [{} for _ in streams]
    for begin, end in pieces_of(max(map(len, streams)), sizes):
        lens = torch.tensor([max(0, min(end, len(xs)) - begin) for xs in streams])
        last = torch.tensor([begin < len(xs) <= end for xs in streams])
        xs_pad = torch.nn.utils.rnn.pad_sequence([xs[begin:end] for xs in streams], batch_first=True)
        outputs, state = encoder.stream(state, xs_pad, lens, ctc, last, plan)
        for row, own in enumerate(said):
            for loop, hs_pad in outputs.hs_pad.items():
                own.setdefault(loop, []).append(hs_pad[row, : outputs.hlens[row]])
    return [{loop: torch.cat(parts) for loop, parts in own.items()} for own in said]


@pytest.mark.parametrize("kind", KINDS)
@given(
    left=st.integers(0, 3),
    chunk=st.integers(1, 7),
    lens=st.lists(st.integers(20, 120), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_chunks_that_leave_a_stream_are_those_of_the_offline_form(encoders, ctc, kind, left, chunk, lens, sizes, seed):
    encoder, context = encoders[kind], Context(left, chunk)
    streams = [features(length, number) for number, length in enumerate(lens)]
    allowed, generator = encoder.allowed_loops(encoder.num_loops), torch.Generator().manual_seed(seed)
    loops = [
        [allowed[number] for number in torch.randint(len(allowed), (121,), generator=generator).tolist()]
        for _ in streams
    ]
    for xs, own, said in zip(
        streams, loops, hear(encoder, ctc, streams, context, sizes, Plan(loops, chunk)), strict=True
    ):
        wanted = planned_offline(encoder, ctc, xs, context, own)
        for loop, hs in wanted.items():
            torch.testing.assert_close(said[loop], hs, **TOLERANCE)
        # Loops that no chunk has run say what those before say.
        assert all(torch.equal(said[loop], said[max(wanted)]) for loop in said if loop not in wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_in_which_nobody_leaves_changes_no_bit(encoders, ctc, kind):
    encoder, context, xs = encoders[kind], Context(2, 3), features(100)
    plan = Plan([[encoder.num_loops] * 100], 3)
    (plain,), (planned,) = (hear(encoder, ctc, [xs], context, [37], each) for each in (None, plan))
    assert list(plain) == list(planned)
    assert all(torch.equal(plain[loop], planned[loop]) for loop in plain)
    kept = planned_offline(encoder, ctc, xs, context, [encoder.num_loops] * 100)
    reads = encoder.read_outs(xs.unsqueeze(0), torch.tensor([100]), ctc, context=context)
    assert all(torch.equal(kept[read.number], read.hs_pad[0]) for read in reads)


def test_what_has_left_changes_what_later_chunks_see(encoders, ctc):
    encoder, context, xs = encoders["transformer"], Context(2, 3), features(100)
    (plain,) = hear(encoder, ctc, [xs], context, [37], None)
    (early,) = hear(encoder, ctc, [xs], context, [37], Plan([[2, *[6] * 100]], 3))
    assert torch.equal(early[6][:3], plain[2][:3])
    assert not torch.allclose(early[6][3:6], plain[6][3:6], atol=1e-3)
    # The second loop of the second chunk saw the first one's second loop, which was run.
    torch.testing.assert_close(early[2], plain[2], **TOLERANCE)


def test_no_loop_runs_for_chunks_that_have_left(encoders, ctc, monkeypatch):
    encoder, context = encoders["transformer"], Context(2, 3)
    ran, step = [], encoder._step
    monkeypatch.setattr(
        encoder,
        "_step",
        lambda stack, loop, previous, start, *rest: (
            ran.append((loop, len(start))),
            step(stack, loop, previous, start, *rest),
        )[1],
    )
    state = encoder.start_streams(context, 2)
    xs_pad = torch.stack([features(15), features(15, 5)])
    plan = Plan([[2], [4]], 3)
    encoder.stream(state, xs_pad, torch.tensor([15, 15]), ctc, None, plan)
    assert ran == [(1, 2), (2, 2), (3, 1), (4, 1)]
    assert plan.asked == [(2, [3, 3]), (4, [0, 3])]


def test_frames_that_blank_skipping_leaves_out_are_those_of_the_offline_form(encoders, ctc):
    encoder, context, xs = encoders["no feedback"], Context(1, 4), features(130)
    skip_blank = half_blank(encoder, ctc)
    loops = [2, 4] * 40
    wanted = planned_offline(encoder, ctc, xs, context, loops, skip_blank=skip_blank)
    (found,) = hear(encoder, ctc, [xs], context, [50], Plan([loops], 4), skip_blank=skip_blank)
    torch.testing.assert_close(found[4], wanted[4], **TOLERANCE)


def test_states_whose_chunks_have_left_join_those_of_others(encoders, ctc):
    encoder, context = encoders["prelude and coda"], Context(2, 3)
    xs = [features(40, seed) for seed in range(2)]
    lens, one, own = torch.tensor([20]), [], []
    for row, loops in enumerate(([1] * 9, [4] * 9)):
        _, state = encoder.stream(encoder.start_streams(context), xs[row][None, :20], lens, ctc, None, Plan([loops], 3))
        own.append(state)
        one.append(encoder.stream(state, xs[row][None, 20:], lens, ctc)[0])
    both, _ = encoder.stream(StreamState.join(own), torch.stack(xs)[:, 20:], torch.tensor([20, 20]), ctc)
    for row, alone in enumerate(one):
        for loop, hs_pad in alone.hs_pad.items():
            torch.testing.assert_close(both.hs_pad[loop][row], hs_pad[0], **TOLERANCE)


@pytest.mark.parametrize("rule", ["divergence", "confidence", "unchanged"])
def test_a_rule_lets_the_same_chunks_leave_in_a_stream_and_offline(encoders, ctc, rule):
    encoder, context = encoders["transformer"], Context(2, 4)
    streams = [features(150, 1), features(97, 2)]
    log_probs = ctc.log_softmax
    thresholds = {"divergence": 2.0, "confidence": -0.2, "unchanged": 0.0}
    leaving = Leaving(rule, RULES[rule], thresholds[rule], 2, 6)
    xs_pad = torch.nn.utils.rnn.pad_sequence(streams, batch_first=True)
    read, left_at = run_chunks_until_left(
        encoder.read_outs(xs_pad, torch.tensor([150, 97]), ctc, context=context, by_chunk=True),
        log_probs,
        0,
        leaving,
        4,
    )
    assert len(set(left_at.flatten().tolist()) - {0}) > 1
    told, watch = [], None

    def reader(loop, outputs):
        nonlocal watch
        if loop == 2:
            watch = Watch(0, leaving)
        leaves = watch.leaves(loop, log_probs(outputs.hs_pad[loop]), outputs.hs_pad[loop], outputs.hlens)
        for row, is_left in enumerate((leaves & (outputs.hlens > 0)).tolist()):
            if is_left:
                told.append((row, int(outputs.starts[row]) // 4, loop))
        return ~leaves

    for row, said in enumerate(hear(encoder, ctc, streams, context, [33], reader)):
        torch.testing.assert_close(said[6], read.hs_pad[row, : read.hlens[row]], **TOLERANCE)
    wanted = [
        (row, chunk, loop) for row, loops in enumerate(left_at.tolist()) for chunk, loop in enumerate(loops) if loop
    ]
    assert sorted(told) == wanted


def test_chunks_cannot_leave_blocks_of_their_own_nor_whole_utterances(encoders, ctc):
    xs = features(40).unsqueeze(0)
    with pytest.raises(ValueError, match="the context is of whole utterances; give one with chunk_frames"):
        list(encoders["transformer"].read_outs(xs, torch.tensor([40]), ctc, context=Context(), by_chunk=True))
    unshared = new_encoder(share_blocks=False, feedback=False).eval()
    with pytest.raises(ValueError, match="trained with encoder_conf: share_blocks: false; set a number of loops"):
        list(unshared.read_outs(xs, torch.tensor([40]), ctc, context=Context(1, 4), by_chunk=True))


def test_chunks_cannot_leave_blocks_of_their_own_in_a_stream_either(ctc):
    encoder = new_encoder(share_blocks=False, feedback=False).eval()
    state, xs_pad, lens = encoder.start_streams(Context(1, 4)), features(40).unsqueeze(0), torch.tensor([40])
    with pytest.raises(ValueError, match="trained with encoder_conf: share_blocks: false; set a number of loops"):
        encoder.stream(state, xs_pad, lens, ctc, None, Plan([[2] * 10], 4))
    # At the last loop there is nothing deeper to stand in.
    encoder.stream(state, xs_pad, lens, ctc, None, Plan([[4] * 10], 4))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([True], TypeError, "a reader answers list; allowed: a tensor of bool"),
        (torch.tensor([1]), TypeError, "a reader answers torch.int64; allowed: a tensor of bool"),
        (torch.tensor([True, False]), ValueError, r"a mask of the shape \(2,\); allowed: \(1,"),
    ],
)
def test_an_answer_that_is_no_mask_of_the_streams_or_chunks_is_refused(encoders, ctc, answer, error, message):
    encoder, context, xs_pad, lens = encoders["transformer"], Context(1, 4), features(40)[None], torch.tensor([40])
    with pytest.raises(error, match=message):
        encoder.stream(encoder.start_streams(context), xs_pad, lens, ctc, None, lambda *_: answer)
    for by_chunk in (False, True):
        reads = encoder.read_outs(xs_pad, lens, ctc, context=context, by_chunk=by_chunk)
        next(reads)
        with pytest.raises(error, match=message):
            reads.send(answer)
