"""A tiny LM whose texts can all be written down, for the tests of the beam searches."""

import pytest
import torch

from espnet_larm.search.lookahead import Lookahead
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder


class Few:
    """An scorer that rules all tokens out but some."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.num_rows = 0

    def combine(self, log_probs, rows):
        self.num_rows = self.num_rows or len(rows)
        ruled = torch.full_like(log_probs, float("-inf"))
        ruled[:, self.tokens] = log_probs[:, self.tokens]
        return ruled

    def take(self, tokens, rows):
        pass

    def select(self, rows):
        self.num_rows = len(rows)

    def slack(self):
        return torch.zeros(self.num_rows)


class ToyLm:
    """A model of 13 random tokens, with utterances of 6 features."""

    eos, vocab_size, encoder_size = 2, 13, 6
    # Besides the end; all texts are made of them.
    tokens = (3, 4, 5)

    def __init__(self, llm):
        self.decoder = SpeechLlmDecoder(self.vocab_size, self.encoder_size, llm=llm, projector_frames=2).eval()

    def few(self):
        return Few([self.eos, *self.tokens])

    def start(self, frames):
        with torch.no_grad():
            return self.decoder.start(*frames)

    @torch.no_grad()
    def score(self, frames, texts):
        """Log-probabilities of texts of an utterance and their ends, in one teacher-forced batch."""
        ys_in = torch.full((len(texts), max(map(len, texts)) + 1), self.eos)
        for row, text in zip(ys_in, texts, strict=True):
            row[1 : len(text) + 1] = torch.tensor(text, dtype=torch.long)
        num_in = torch.tensor([len(text) + 1 for text in texts])
        repeated = frames[0].expand(len(texts), -1, -1), frames[1].expand(len(texts))
        log_probs = self.decoder(*repeated, ys_in, num_in)[0].log_softmax(-1)
        return [
            sum(float(row[place, token]) for place, token in enumerate([*text, self.eos]))
            for row, text in zip(log_probs, texts, strict=True)
        ]

    def all_texts(self, frames, longest):
        """Every text of an utterance up to `longest` tokens with its score, the best first."""
        texts = [[]]
        for text in texts:
            if len(text) < longest:
                texts += [[*text, token] for token in self.tokens]
        return sorted(zip(texts, self.score(frames, texts), strict=True), key=lambda pair: -pair[1])

    @torch.no_grad()
    def foresight(self, frames, texts, num_ahead):
        """Heads that know how the texts of an utterance go on, found again by the LM's states."""
        states, following = [], []
        for text in texts:
            ys_in = torch.tensor([[self.eos, *text]])
            states.append(self.decoder.read_text(*frames, ys_in, torch.tensor([ys_in.size(1)])).hidden[0])
            ahead = [*text, *[self.eos] * (num_ahead + 1)]
            following += [ahead[place + 1 : place + 1 + num_ahead] for place in range(len(text) + 1)]

        def logits_of(hidden):
            tokens = torch.tensor(following)[torch.cdist(hidden, torch.cat(states)).argmin(1)]
            return 10 * torch.nn.functional.one_hot(tokens, self.vocab_size).float()

        return Lookahead(logits_of)

    def random_heads(self, num_ahead):
        """Heads that know nothing."""
        table = torch.randn(self.decoder.backbone.hidden_size, num_ahead * self.vocab_size)
        return Lookahead(lambda hidden: (hidden @ table).view(len(hidden), num_ahead, self.vocab_size))


@pytest.fixture(params=["llama", "gemma3_text"])
def kind(request):
    """Architectures that differ: layers of one kind, and layers that see a window among others."""
    return request.param


@pytest.fixture
def toy(save_lm, tmp_path, kind):
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(10))]
    return ToyLm(save_lm(tmp_path, words, kind, max_position_embeddings=512))


@pytest.fixture
def frames():
    """Frames of four utterances."""
    return torch.randn(4, 20, ToyLm.encoder_size) * 5, torch.tensor([20, 11, 16, 5])


@pytest.fixture
def one_by_one(frames):
    """The same, each alone."""
    return [(hs.unsqueeze(0), length.unsqueeze(0)) for hs, length in zip(*frames, strict=True)]


@pytest.fixture
def assert_same():
    """Assert that two N-best lists are the same."""

    def check(found, expected):
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
        assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-3)

    return check
