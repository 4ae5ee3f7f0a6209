"""Contexts: what is drawn, alike for all and again after a resumption, and what a drawn step is."""

import copy
import logging
import math
from collections import Counter

import pytest
import torch

from espnet2.asr.ctc import CTC

from espnet_larm.streaming.context import Context, Contexts, attended_in_chunks, current_context, in_context
from tests.looped.test_encoder import SIZE, VOCAB, batch, new_encoder

LISTS = {"chunk_frames": ["full", 2, 4], "left_chunks": [0, "all"]}


def new_contexts() -> Contexts:
    torch.manual_seed(7)
    return Contexts(**LISTS)


def drawn(contexts: Contexts, number: int) -> list[Context]:
    return [contexts.draw() for _ in range(number)]


@pytest.fixture
def ctc() -> CTC:
    torch.manual_seed(3)
    return CTC(VOCAB, SIZE)


def test_each_pair_of_both_lists_is_drawn_alike():
    counts = Counter(drawn(new_contexts(), 1800))
    assert set(counts) == {Context(left, chunk) for left in (0, None) for chunk in (None, 2, 4)}
    # Five standard deviations of a binomial.
    assert all(abs(count - 300) < 5 * math.sqrt(1800 * 5 / 36) for count in counts.values())


def test_a_size_that_stands_twice_is_drawn_twice_as_often():
    counts = Counter(context.chunk_frames for context in drawn(Contexts([8, 8, 16], [1]), 900))
    assert abs(counts[8] - 600) < 5 * math.sqrt(900 * 2 / 9)


def test_draws_are_those_of_the_seed_and_go_on_from_a_checkpoint():
    one, same = new_contexts(), new_contexts()
    assert drawn(one, 20) == drawn(same, 20)
    resumed = Contexts(**LISTS)
    resumed.load_state_dict(copy.deepcopy(one.state_dict()))
    torch.rand(100)
    assert drawn(resumed, 20) == drawn(one, 20)
    torch.manual_seed(8)
    assert drawn(Contexts(**LISTS), 40) != [same.at(7, number) for number in range(40)]


def test_contexts_do_not_follow_the_loops_that_the_same_seed_draws():
    encoder = new_encoder(
        checkpoint_period=1, loop_sampling="uniform", streaming={"chunk_frames": [1, 2, 3, 4], "left_chunks": [1]}
    )
    pairs = Counter((encoder.sampling.draw(), encoder.contexts.draw().chunk_frames) for _ in range(400))
    assert len(pairs) == 16 and max(pairs.values()) < 60


def test_training_runs_in_what_is_drawn_and_validation_in_the_widest(ctc):
    encoder = new_encoder(
        streaming={"chunk_frames": [1, 4], "left_chunks": [0, 2]}, dropout_rate=0.0, block="conformer"
    )
    seed, _ = encoder.train().contexts.draws.tolist()
    for number in range(6):
        found = encoder(*batch(60, 33), ctc=ctc)[0][0]
        *_, wanted = encoder.read_outs(*batch(60, 33), ctc, context=encoder.contexts.at(seed, number))
        assert torch.equal(found, wanted.hs_pad)
    assert encoder.contexts.draws.tolist() == [seed, 6]
    *_, wanted = encoder.eval().read_outs(*batch(60, 33), ctc, context=Context(2, 4))
    assert torch.equal(encoder(*batch(60, 33), ctc=ctc)[0][0], wanted.hs_pad) and encoder.contexts.draws[1] == 6


def test_a_drawn_whole_utterance_has_the_gradients_of_an_encoder_without_streaming(ctc, monkeypatch):
    gradients = []
    for options in ({}, {"streaming": LISTS}):
        encoder = new_encoder(**options, dropout_rate=0.0, block="conformer").train()
        if encoder.contexts is not None:
            monkeypatch.setattr(encoder.contexts, "draw", Context)
        (encoder(*batch(60, 33), ctc=ctc)[0][0] ** 3).sum().backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    assert all(torch.equal(plain, drawn) for plain, drawn in zip(*gradients, strict=True))


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_gradients_reach_every_parameter_in_chunks(activation_checkpointing, ctc, monkeypatch):
    encoder = new_encoder(
        streaming=LISTS, block="conformer", activation_checkpointing=activation_checkpointing, prelude_blocks=1
    )
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    monkeypatch.setattr(encoder.contexts, "draw", lambda: Context(0, 2))
    # The shorter one is padded by more than a chunk.
    last, others = encoder(*batch(90, 33), ctc=ctc)[0]
    sum((hs**3).sum() for hs in (last, *(hs for _, hs in others))).backward()
    assert [name for name, p in encoder.named_parameters() if not p.grad.isfinite().all() or not p.grad.any()] == []


def test_the_widest_context_sees_the_most():
    assert new_contexts().widest == Context(None, None)
    assert Contexts([8, 32, 16], [4, 2]).widest == Context(4, 32)
    assert Contexts().chunk_frames == (None, 8, 16, 32) and Contexts().left_chunks == (4, 16)


def test_a_context_that_is_entered_ends_and_is_checked():
    contexts = Contexts([8], [2])
    with in_context(Context(1, 8)):
        assert current_context(contexts) == current_context(None) == Context(1, 8)
    assert current_context(contexts) == Context(2, 8) and current_context(None) == Context()
    with pytest.raises(ValueError, match="chunk_frames is 0; allowed: 1 to 100000"), in_context(Context(1, 0)):
        pass


def test_a_context_that_was_not_trained_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        new_contexts().check(Context(0, 4))
        assert caplog.text == ""
        new_contexts().check(Context(3, 4))
    assert "chunk_frames 4 with left_chunks 3 was not trained; trained: ['full', 2, 4] with [0, 'all']" in caplog.text


def test_attention_sees_its_chunk_and_those_to_the_left():
    rows = ["111000000", "111000000", "111000000", "111111000", "111111000", "111111000", "000111111"]
    wanted = torch.tensor([[each == "1" for each in row] for row in [*rows, rows[-1], rows[-1]]])
    assert torch.equal(attended_in_chunks(9, Context(1, 3), torch.device("cpu")), wanted)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"chunk_frames": [8, 0]}, r"streaming: chunk_frames is \[8, 0\]; allowed: a list of full and 1 to 100000"),
        ({"chunk_frames": []}, r"chunk_frames is \[\]; allowed: a list of full"),
        ({"chunk_frames": ["all"]}, r"chunk_frames is \['all'\]; allowed: a list of full"),
        ({"left_chunks": [-1]}, r"streaming: left_chunks is \[-1\]; allowed: a list of all and 0 to 100000"),
        ({"left_chunks": [True]}, r"left_chunks is \[True\]; allowed"),
        ({"chunk_frames": 8}, "streaming: chunk_frames is 8, of type int; allowed: list"),
        ({"chunk": [8]}, "streaming: unknown option chunk; allowed: chunk_frames, left_chunks"),
    ],
)
def test_lists_that_mean_nothing_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        new_encoder(streaming=section)
