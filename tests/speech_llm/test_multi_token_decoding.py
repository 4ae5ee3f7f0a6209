"""Searches over several tokens a call, on a tiny LM, beside greedy search."""

from collections import Counter

import pytest
import torch

from espnet_larm.search.drafts import HeadDrafts, LongerDrafts, TextDrafts
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

EOS, VOCAB_SIZE, ENCODER_SIZE, NUM_ROWS = 2, 13, 6, 6


@pytest.fixture
def decoder(save_lm, tmp_path, kind):
    llm = save_lm(
        tmp_path,
        ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))],
        kind,
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


BOUNDS = [Bounds(150), Bounds(25), Bounds(150, least=9), Bounds(0), Bounds(60), Bounds(7)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids and one.ending is other.ending
        assert one.was_held_open == other.was_held_open
        assert one.score == pytest.approx(other.score, abs=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("longest", [1, 3, 7])
@pytest.mark.parametrize("guards_loops", [True, False])
def test_verified_is_greedy_whatever_is_drafted(decoder, frames, longest, guards_loops, kind):
    eos = 8
    expected = greedy(decoder.start(*frames), BOUNDS, eos, guards_loops=guards_loops)
    drafts = Mixed([text.token_ids for text in expected.hypotheses], longest)
    found = greedy(decoder.start(*frames), BOUNDS, eos, drafts, guards_loops=guards_loops)
    assert_same(found.hypotheses, expected.hypotheses)
    assert found.num_calls < expected.num_calls
    endings = {Ending.BY_ITSELF, Ending.LIMIT}
    # The other LM's texts have no loops.
    endings |= {Ending.REPETITION} if guards_loops and kind == "llama" else set()
    assert {text.ending for text in expected.hypotheses} == endings
    assert 0 in found.accepted and max(found.accepted) >= min(longest, 3)


@torch.no_grad()
def test_all_sources_give_greedys_texts(decoder, frames):
    expected = greedy(decoder.start(*frames), BOUNDS, EOS)
    known = [text.token_ids for text in expected.hypotheses]
    heads, heard = (
        HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4), EOS),
        [known[0], known[1][1:], [], known[3], [1, *known[4]], known[5]],
    )
    for drafts in (heads, TextDrafts(heard, 3, EOS), LongerDrafts([heads, TextDrafts(heard, 5, EOS)])):
        assert_same(greedy(decoder.start(*frames), BOUNDS, EOS, drafts).hypotheses, expected.hypotheses)
    assert any(text.was_held_open for text in expected.hypotheses)


@torch.no_grad()
def test_right_drafts_need_as_few_calls_as_can_be(decoder, frames):
    bounds = [Bounds(40)] * NUM_ROWS
    expected = greedy(decoder.start(*frames), bounds, EOS, guards_loops=False)
    known = [text.token_ids for text in expected.hypotheses]
    longest = max(map(len, known))
    for size in (1, 3, 7):
        found = greedy(decoder.start(*frames), bounds, EOS, TextDrafts(known, size, EOS), guards_loops=False)
        assert_same(found.hypotheses, expected.hypotheses)
        # The prefill, and a call for each `size + 1` tokens.
        assert found.num_calls <= 2 + -(-longest // (size + 1))


@pytest.mark.parametrize("kind", ["llama"])
@torch.no_grad()
def test_four_hundred_tokens_stay_greedys(decoder, frames):
    bounds = [Bounds(400 - 30 * row) for row in range(NUM_ROWS)]
    expected = greedy(decoder.start(*frames), bounds, VOCAB_SIZE - 1, guards_loops=False)
    drafts = Mixed([text.token_ids for text in expected.hypotheses], 4)
    found = greedy(decoder.start(*frames), bounds, VOCAB_SIZE - 1, drafts, guards_loops=False)
    assert_same(found.hypotheses, expected.hypotheses)
    assert max(len(text.token_ids) for text in found.hypotheses) > 200


@torch.no_grad()
def test_a_threshold_above_one_is_greedy_bit_for_bit(decoder, frames):
    expected = greedy(decoder.start(*frames), BOUNDS, EOS)
    drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4), EOS, tau=1.1)
    found = greedy(decoder.start(*frames), BOUNDS, EOS, drafts, verifies=False)
    assert [(text.token_ids, text.score) for text in found.hypotheses] == [
        (text.token_ids, text.score) for text in expected.hypotheses
    ]
    assert found.num_calls == expected.num_calls and found.accepted == Counter({0: sum(found.accepted.values())})


@torch.no_grad()
def test_unverified_drafts_are_taken_as_they_are_and_scored_by_head_1(decoder, frames):
    drafts = HeadDrafts(lambda hidden: decoder.draft_logits(hidden, 4), EOS)
    found = greedy(decoder.start(*frames), [Bounds(9)] * NUM_ROWS, EOS, drafts, verifies=False)
    hs_pad, hlens = frames
    for row, text in enumerate(found.hypotheses):
        ys_in = torch.tensor([[EOS, *text.token_ids]])
        logits, _ = decoder(hs_pad[row : row + 1], hlens[row : row + 1], ys_in, torch.tensor([ys_in.size(1)]))
        log_probs = logits[0].log_softmax(-1)
        expected = sum(float(log_probs[place, token]) for place, token in enumerate([*text.token_ids, EOS]))
        assert text.score == pytest.approx(expected, abs=1e-3)
    # The first call reads the first token and what heads 2 to 4 said of the prompt.
    begun = decoder.start(*frames)
    for row, text in enumerate(found.hypotheses):
        said = [int(decoder.logits_of(head, begun.hidden[row]).argmax()) for head in range(1, 5)]
        said = said[: said.index(EOS)] if EOS in said else said
        assert text.token_ids[: len(said)] == said


class Fixed:
    """The same draft for each text, once."""

    def __init__(self, draft):
        self.draft = draft

    def propose(self, hidden, texts):
        draft, self.draft = self.draft, []
        return [list(draft) for _ in texts]

    def select(self, rows):
        pass


@torch.no_grad()
def test_an_unverified_end_that_comes_too_early_is_marked_and_another_token_taken(decoder, frames):
    row = [part[:1] for part in frames]
    first, second = greedy(decoder.start(*row), [Bounds(2)], VOCAB_SIZE - 1).hypotheses[0].token_ids
    assert first != second
    other = next(token for token in range(3, VOCAB_SIZE) if token not in (first, second))

    def search(draft):
        # The second token would be the end.
        bounds = [Bounds(2, least=5)]
        return greedy(decoder.start(*row), bounds, second, Fixed(draft), verifies=False).hypotheses[0]

    assert search([other]).token_ids == [first, other] and not search([other]).was_held_open
    held = search([second])
    assert held.was_held_open and len(held.token_ids) == 2 and held.token_ids[1] != second


@torch.no_grad()
def test_the_state_after_a_rejection_is_that_of_the_last_token(decoder, frames):
    rows = [part[:3] for part in frames]
    texts, fewer = decoder.start(*rows), decoder.start(*rows)
    tokens = torch.tensor([[4, 5, 6], [7, 8, 9], [10, 11, 3]])
    hidden = texts.read(tokens, torch.tensor([3, 2, 3]))
    texts.give_back(torch.tensor([2, 0, 1]), hidden[torch.arange(3), torch.tensor([0, 1, 1])])
    fewer.read(tokens[:, :2], torch.tensor([1, 2, 2]))
    torch.testing.assert_close(texts.hidden, fewer.hidden)
    after = texts.read(tokens[:, :1], torch.ones(3, dtype=torch.long))
    torch.testing.assert_close(after, fewer.read(tokens[:, :1], torch.ones(3, dtype=torch.long)))
