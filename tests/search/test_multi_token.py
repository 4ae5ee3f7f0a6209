"""Greedy search over a toy model beside a loop without batches."""

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.multi_token import greedy

EOS = 0


class Toy:
    """A model whose hidden state is the text, by row; every row begins as a row of `seeds`. It gives back by itself."""

    def __init__(self, seeds):
        self.texts = [[seed] for seed in seeds]
        self.calls = []

    def logits_of_text(self, text):
        generator = torch.Generator().manual_seed(sum((index + 1) * token for index, token in enumerate(text)))
        return torch.randn(6, generator=generator)

    @property
    def hidden(self):
        return pad_sequence([torch.tensor(text).float() for text in self.texts], batch_first=True, padding_value=-1)

    def logits_of(self, hidden):
        rows = [[int(token) for token in row if token >= 0] for row in hidden.flatten(0, -2).tolist()]
        return torch.stack([self.logits_of_text(row) for row in rows]).view(*hidden.shape[:-1], 6)

    def read(self, tokens, num_new):
        assert num_new.tolist() == [1] * len(self.texts)
        self.calls.append(len(self.texts))
        for text, new in zip(self.texts, tokens.tolist(), strict=True):
            text.extend(new)
        return self.hidden.unsqueeze(1)

    def select(self, rows):
        self.texts = [list(self.texts[row]) for row in rows.tolist()]


def alone(seed, limit):
    text, score = [seed], 0.0
    while True:
        log_probs = Toy([0]).logits_of_text(text).log_softmax(-1)
        token = int(log_probs.argmax())
        if token == EOS or len(text) - 1 >= limit:
            return text[1:], score + float(log_probs[EOS]), token == EOS
        text.append(token)
        score += float(log_probs[token])


def test_rows_that_end_at_different_times_are_what_they_are_alone():
    seeds, limits = [3, 11, 7, 20, 5], [8, 8, 2, 0, 8]
    toy = Toy(seeds)
    found = greedy(toy, [Bounds(limit) for limit in limits], EOS)
    for text, seed, limit in zip(found.hypotheses, seeds, limits, strict=True):
        tokens, score, is_ended = alone(seed, limit)
        assert text.token_ids == tokens and text.ending == (Ending.BY_ITSELF if is_ended else Ending.LIMIT)
        torch.testing.assert_close(text.score, score, rtol=1e-6, atol=1e-6)
    assert found.num_calls == 1 + len(toy.calls) == 1 + max(len(text.token_ids) for text in found.hypotheses)
    assert toy.calls == sorted(toy.calls, reverse=True) and len(set(toy.calls)) > 1


def test_a_forced_end_is_in_the_score():
    found = greedy(Toy([20]), [Bounds(0)], EOS)
    assert found.hypotheses[0].token_ids == [] and found.num_calls == 1
    torch.testing.assert_close(found.hypotheses[0].score, float(Toy([0]).logits_of_text([20]).log_softmax(-1)[EOS]))


def test_an_end_that_comes_too_early_is_refused_until_the_least_length():
    free = greedy(Toy(range(1, 30)), [Bounds(20)] * 29, EOS).hypotheses
    held = greedy(Toy(range(1, 30)), [Bounds(20, least=6)] * 29, EOS).hypotheses
    short = [row for row, text in enumerate(free) if len(text.token_ids) < 6]
    assert 0 < len(short) < 29
    assert [row for row, text in enumerate(held) if text.was_held_open] == short
    assert all(len(text.token_ids) >= 6 for text in held)
    for row, text in enumerate(free):
        assert held[row].token_ids[: len(text.token_ids)] == text.token_ids


class Constant(Toy):
    """Always the same token, whatever the text."""

    def logits_of_text(self, text):
        return torch.tensor([1.0, 0.0, 3.0, 0.0, 0.0, 0.0]) / (1 + 0.01 * len(text))


def test_a_text_that_repeats_itself_is_cut_back_to_its_first_copy_with_the_score_of_that():
    text = greedy(Constant([5]), [Bounds(400)], EOS).hypotheses[0]
    assert text.ending is Ending.REPETITION and text.token_ids == [2]
    log_probs = [Constant([]).logits_of_text([0] * length).log_softmax(-1) for length in (1, 2)]
    torch.testing.assert_close(text.score, float(log_probs[0][2] + log_probs[1][EOS]))
    unguarded = greedy(Constant([5]), [Bounds(400)], EOS, guards_loops=False).hypotheses[0]
    assert unguarded.ending is Ending.LIMIT and len(unguarded.token_ids) == 400
