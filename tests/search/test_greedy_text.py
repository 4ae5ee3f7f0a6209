"""Greedy search over a toy model beside a loop without batches."""

import torch

from espnet_larm.search.greedy_text import greedy

EOS = 0


class Toy:
    """Logits that depend on the whole text, by row; every row is a row of `seeds`."""

    def __init__(self, seeds):
        self.texts = [[seed] for seed in seeds]
        self.calls = []

    def logits_of(self, text):
        generator = torch.Generator().manual_seed(sum((index + 1) * token for index, token in enumerate(text)))
        return torch.randn(6, generator=generator)

    @property
    def logits(self):
        return torch.stack([self.logits_of(text) for text in self.texts])

    def step(self, tokens, num_new):
        assert num_new.tolist() == [1] * len(self.texts)
        self.calls.append(len(self.texts))
        for text, new in zip(self.texts, tokens.tolist(), strict=True):
            text.extend(new)
        return self.logits.unsqueeze(1)

    def select(self, rows):
        self.texts = [list(self.texts[row]) for row in rows.tolist()]


def alone(seed, limit):
    text, score = [seed], 0.0
    while True:
        log_probs = Toy([0]).logits_of(text).log_softmax(-1)
        token = int(log_probs.argmax())
        if token == EOS or len(text) - 1 >= limit:
            return text[1:], score + float(log_probs[EOS]), token == EOS
        text.append(token)
        score += float(log_probs[token])


def test_rows_that_end_at_different_times_are_what_they_are_alone():
    seeds, limits = [3, 11, 7, 20, 5], torch.tensor([8, 8, 2, 0, 8])
    toy = Toy(seeds)
    found = greedy(toy, limits, EOS)
    for row, seed in enumerate(seeds):
        tokens, score, is_ended = alone(seed, int(limits[row]))
        assert found.token_ids[row] == tokens and found.is_ended[row] == is_ended
        torch.testing.assert_close(found.scores[row], score, rtol=1e-6, atol=1e-6)
    assert found.num_calls == 1 + len(toy.calls) == 1 + max(map(len, found.token_ids))
    assert toy.calls == sorted(toy.calls, reverse=True) and len(set(toy.calls)) > 1


def test_a_forced_end_is_in_the_score():
    found = greedy(Toy([20]), torch.tensor([0]), EOS)
    assert found.token_ids == [[]] and found.num_calls == 1
    torch.testing.assert_close(found.scores[0], float(Toy([0]).logits_of([20]).log_softmax(-1)[EOS]))
