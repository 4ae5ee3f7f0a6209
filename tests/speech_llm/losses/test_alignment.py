"""The projector's start: CTC whose classes are the LM's embeddings."""

import itertools

import pytest
import torch

from espnet_larm.speech_llm.losses.alignment import SHARPNESS, Alignment

SIZE, VOCAB, NONE = 12, 40, 39


@pytest.fixture
def embed():
    torch.manual_seed(0)
    return torch.nn.Embedding(VOCAB, SIZE).requires_grad_(False)


def spoken(embed, *texts):
    """Speech that is the tokens' own embeddings, each twice, with silence around."""
    rows = [torch.cat([embed(torch.tensor([NONE]))] + [embed(torch.tensor([t, t])) for t in text]) for text in texts]
    lens = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True, padding_value=-1)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens, tokens, torch.tensor(list(map(len, texts)))


def test_speech_that_is_the_text_has_almost_no_loss(embed):
    speech, lens, tokens, token_lens = spoken(embed, [3, 4, 5], [7, 8])
    found = Alignment(SIZE, NONE)(speech, lens, tokens, token_lens, embed)
    wrong = Alignment(SIZE, NONE)(speech.flip(1), lens, tokens, token_lens, embed)
    assert found.accuracy == 1.0 and found.without_room == 0.0
    assert found.loss < 1.0 < wrong.loss and wrong.accuracy < 1.0


def test_it_is_ctc_over_distances_behind_a_map_and_the_distances_to_what_its_paths_take_speech_for(embed):
    speech, lens, tokens, token_lens = spoken(embed, [3, 4])
    speech = speech + 0.3 * torch.randn_like(speech)
    module = Alignment(SIZE, NONE)
    for each in (module.blank, module.map.weight, module.map.bias):
        each.data += 0.1 * torch.randn_like(each)
    unit = embed.weight[3:5].square().sum(-1).mean()
    classes = torch.stack([module.blank, embed.weight[3], embed.weight[4]])
    log_probs = (-SHARPNESS * torch.cdist(module.map(speech[0]), classes).square() / (2 * unit)).log_softmax(-1)
    # The probability of each path: of the frames' classes, those that collapse to the text.
    paths = torch.tensor([path for path in itertools.product(range(3), repeat=5) if collapsed(path) == [1, 2]])
    scores = log_probs.gather(1, paths.T).sum(0)
    taken = torch.nn.functional.one_hot(paths, 3).float()  # (paths, T, C)
    wanted = (scores.softmax(0)[:, None, None] * taken).sum(0) @ embed.weight[[NONE, 3, 4]]
    distances = (speech[0] - wanted.detach()).square().sum(-1) / unit
    found = module(speech, lens, tokens, token_lens, embed)
    torch.testing.assert_close(found.loss, distances.sum() - scores.logsumexp(0))
    torch.testing.assert_close(found.distance, distances.mean())


def collapsed(path):
    return [each for each, _ in itertools.groupby(path) if each]


def test_what_is_behind_an_utterance_has_no_effect(embed):
    speech, lens, tokens, token_lens = spoken(embed, [3, 4, 5], [7])
    module = Alignment(SIZE, NONE)
    found = module(speech, lens, tokens, token_lens, embed)
    speech[1, int(lens[1]) :] = 9.0
    tokens[1, 1:] = 5
    torch.testing.assert_close(module(speech, lens, tokens, token_lens, embed).loss, found.loss)


def test_it_draws_speech_to_the_embeddings_and_leaves_those_alone(embed):
    _, lens, tokens, token_lens = spoken(embed, [3, 4, 5], [7, 8])
    module, speech = Alignment(SIZE, NONE), torch.nn.Parameter(0.1 * torch.randn(2, 7, SIZE))
    optimiser = torch.optim.Adam([speech, *module.parameters()], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        found = module(speech, lens, tokens, token_lens, embed)
        found.loss.backward()
        optimiser.step()
    assert found.accuracy == 1.0 and embed.weight.grad is None
    # Each embedding is that of a token of its utterance or none's, length and all.
    least, nearest = torch.cdist(speech[0].detach(), embed.weight).min(-1)
    assert found.distance < 0.02 and least.max() < 1.0
    assert collapsed([0 if each == NONE else each for each in nearest.tolist()]) == [3, 4, 5]


def test_utterances_without_room_are_counted_and_teach_nothing(embed):
    speech, _, tokens, token_lens = spoken(embed, [3, 3, 3])
    found = Alignment(SIZE, NONE)(speech[:, :4], torch.tensor([4]), tokens, token_lens, embed)
    assert found.without_room == 1.0 and found.loss == 0.0
