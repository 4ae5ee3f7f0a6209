"""Searches over several tokens a call, on a tiny LM, beside greedy search."""

from collections import Counter

import pytest
import torch

from espnet_larm.decoder.speech_llm import SpeechLlmDecoder
from espnet_larm.search.drafts import HeadDrafts, LongerDrafts, TextDrafts
from espnet_larm.search.multi_token import greedy
from espnet_larm.search.texts import Bounds, Ending

EOS, VOCAB_SIZE, ENCODER_SIZE, NUM_ROWS = 2, 13, 6, 6


@pytest.fixture
def decoder(save_lm, tmp_path):
    llm = save_lm(
        tmp_path,
        ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))],
        max_position_embeddings=512,
    )
    made = SpeechLlmDecoder(VOCAB_SIZE, ENCODER_SIZE, llm=llm, projector_frames=2, num_heads=4).eval()
    for layer in made.heads.layers:
        torch.nn.init.normal_(layer.weight, std=0.5)
    return made


@pytest.fixture
def frames():
    torch.manual_seed(3)
    return torch.randn(NUM_ROWS, 20, ENCODER_SIZE) * 5, torch.tensor([20, 11, 16, 20, 5, 8])


class Mixed:
    """Drafts that begin right as often as not: of the text that is known to come, with random tokens among it."""

    def __init__(self, known, longest):
        self.known = known
        self.longest = longest
        self.generator = torch.Generator().manual_seed(0)

    def propose(self, hidden, texts):
        found = []
        for known, text in zip(self.known, texts, strict=True):
            start = len(text.token_ids)
            draft = [*known, EOS][start : start + int(torch.randint(self.longest + 1, (), generator=self.generator))]
            if draft and torch.rand((), generator=self.generator) < 0.6:
                place = int(torch.randint(len(draft), (), generator=self.generator))
                draft[place] = int(torch.randint(VOCAB_SIZE, (), generator=self.generator))
            found.append(draft)
        return found

    def select(self, rows):
        self.known = [self.known[row] for row in rows.tolist()]


BOUNDS = [Bounds(60), Bounds(25), Bounds(60, least=9), Bounds(0), Bounds(60), Bounds(7)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids and one.ending is other.ending
        assert one.was_held_open == other.was_held_open
        assert one.score == pytest.approx(other.score, abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("longest", [1, 3, 7])
@pytest.mark.parametrize("guards_loops", [True, False])
def test_verified_is_greedy_whatever_is_drafted(decoder, frames, longest, guards_loops):
    eos = EOS if guards_loops else 5
    expected = greedy(decoder.start(*frames), BOUNDS, eos, guards_loops=guards_loops)
    drafts = Mixed([text.token_ids for text in expected.texts], longest)
    found = greedy(decoder.start(*frames), BOUNDS, eos, drafts, guards_loops=guards_loops)
    assert_same(found.texts, expected.texts)
    assert found.num_calls < expected.num_calls
    assert {text.ending for text in expected.texts} >= {Ending.LIMIT}
    assert 0 in found.accepted and max(found.accepted) >= min(longest, 3)


@torch.no_grad()
def test_all_sources_give_greedys_texts(decoder, frames):
    expected = greedy(decoder.start(*frames), BOUNDS, EOS)
    known = [text.token_ids for text in expected.texts]
    heads, heard = (
        HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4)),
        [known[0], known[1][1:], [], known[3], [1, *known[4]], known[5]],
    )
    for drafts in (heads, TextDrafts(heard, 3, EOS), LongerDrafts([heads, TextDrafts(heard, 5, EOS)])):
        assert_same(greedy(decoder.start(*frames), BOUNDS, EOS, drafts).texts, expected.texts)


@torch.no_grad()
def test_right_drafts_need_as_few_calls_as_can_be(decoder, frames):
    bounds = [Bounds(40)] * NUM_ROWS
    expected = greedy(decoder.start(*frames), bounds, EOS, guards_loops=False)
    known = [text.token_ids for text in expected.texts]
    longest = max(map(len, known))
    for size in (1, 3, 7):
        found = greedy(decoder.start(*frames), bounds, EOS, TextDrafts(known, size, EOS), guards_loops=False)
        assert_same(found.texts, expected.texts)
        # The prefill, and a call for each `size + 1` tokens.
        assert found.num_calls <= 2 + -(-longest // (size + 1))


@torch.no_grad()
def test_four_hundred_tokens_stay_greedys(decoder, frames):
    bounds = [Bounds(400 - 30 * row) for row in range(NUM_ROWS)]
    expected = greedy(decoder.start(*frames), bounds, VOCAB_SIZE - 1, guards_loops=False)
    drafts = Mixed([text.token_ids for text in expected.texts], 4)
    found = greedy(decoder.start(*frames), bounds, VOCAB_SIZE - 1, drafts, guards_loops=False)
    assert_same(found.texts, expected.texts)
    assert max(len(text.token_ids) for text in found.texts) > 200


@torch.no_grad()
def test_a_threshold_above_one_is_greedy_bit_for_bit(decoder, frames):
    expected = greedy(decoder.start(*frames), BOUNDS, EOS)
    drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4), tau=1.1)
    found = greedy(decoder.start(*frames), BOUNDS, EOS, drafts, verifies=False)
    assert [(text.token_ids, text.score) for text in found.texts] == [
        (text.token_ids, text.score) for text in expected.texts
    ]
    assert found.num_calls == expected.num_calls and found.accepted == Counter({0: sum(found.accepted.values())})


@torch.no_grad()
def test_unverified_drafts_are_taken_as_they_are_and_scored_by_head_1(decoder, frames):
    drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4))
    found = greedy(decoder.start(*frames), [Bounds(9)] * NUM_ROWS, EOS, drafts, verifies=False)
    hs_pad, hlens = frames
    for row, text in enumerate(found.texts):
        ys_in = torch.tensor([[EOS, *text.token_ids]])
        logits, _ = decoder(hs_pad[row : row + 1], hlens[row : row + 1], ys_in, torch.tensor([ys_in.size(1)]))
        log_probs = logits[0].log_softmax(-1)
        expected = sum(float(log_probs[place, token]) for place, token in enumerate([*text.token_ids, EOS]))
        assert text.score == pytest.approx(expected, abs=1e-3)
    # The first call reads the first token and what heads 2 to 4 said of the prompt.
    begun = decoder.start(*frames)
    for row, text in enumerate(found.texts):
        said = [int(decoder.logits_of(head, begun.hidden[row]).argmax()) for head in range(1, 5)]
        said = said[: said.index(EOS)] if EOS in said else said
        assert text.token_ids[: len(said)] == said


def test_a_text_is_gone_on_with_where_its_alignment_has_the_fewest_errors():
    def after(*said, step=1):
        drafts = TextDrafts([[5, 6, 7, 5, 6, 8]], 2, EOS)
        for length in range(0, len(said) + 1, step):
            text = type("Said", (), {"token_ids": list(said[:length])})()
            found = drafts.propose(torch.zeros(1, 1), [text])[0]
        return found

    for step in (1, 2):
        assert after() == [5, 6] and after(9, 9, step=step) == [7, 5]
        assert after(5, 6, 7, 5, 6, 8, step=step) == [EOS] == after(5, 6, 7, 5, 6, 8, 9, 9, step=step)
        # Wrong, too much, too little.
        assert after(5, 9, step=1) == [7, 5] and after(9, 5, 6, step=1) == [7, 5] and after(5, 7, step=step) == [5, 6]
        # Not at the first copy, which agrees as well.
        assert after(5, 6, 7, 5, step=1) == [6, 8]
