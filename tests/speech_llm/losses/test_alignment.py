"""The projector's start: CTC whose classes are the LM's embeddings."""

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
    found = Alignment(NONE)(speech, lens, tokens, token_lens, embed)
    wrong = Alignment(NONE)(speech.flip(1), lens, tokens, token_lens, embed)
    assert found.accuracy == 1.0 and found.without_room == 0.0
    assert found.loss < 1.0 < wrong.loss and wrong.accuracy < 1.0


def test_it_is_ctc_over_distances_to_the_embeddings(embed):
    speech, lens, tokens, token_lens = spoken(embed, [3, 4])
    speech = speech + 0.3 * torch.randn_like(speech)
    module = Alignment(NONE)
    table = torch.stack([embed.weight[NONE], embed.weight[3], embed.weight[4]])
    unit = embed.weight[3:5].square().sum(-1).mean()
    logits = -SHARPNESS * torch.cdist(speech[0], table).square() / (2 * unit)
    wanted = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1), torch.tensor([[1, 2]]), lens, token_lens, reduction="sum"
    )
    torch.testing.assert_close(module(speech, lens, tokens, token_lens, embed).loss, wanted)


def test_what_is_behind_an_utterance_has_no_effect(embed):
    speech, lens, tokens, token_lens = spoken(embed, [3, 4, 5], [7])
    module = Alignment(NONE)
    found = module(speech, lens, tokens, token_lens, embed)
    speech[1, int(lens[1]) :] = 9.0
    tokens[1, 1:] = 5
    torch.testing.assert_close(module(speech, lens, tokens, token_lens, embed).loss, found.loss)


def test_of_one_length_speech_becomes_the_embeddings_and_those_are_left_alone(embed):
    embed.weight.data = torch.nn.functional.normalize(embed.weight.data, dim=-1)
    _, lens, tokens, token_lens = spoken(embed, [3, 4, 5], [7, 8])
    module, any_length = Alignment(NONE), torch.nn.Parameter(0.1 * torch.randn(2, 7, SIZE))
    optimiser = torch.optim.Adam([any_length, *module.parameters()], lr=0.05)
    for _ in range(300):
        speech = torch.nn.functional.normalize(any_length, dim=-1)
        optimiser.zero_grad()
        found = module(speech, lens, tokens, token_lens, embed)
        found.loss.backward()
        optimiser.step()
    assert found.accuracy == 1.0 and embed.weight.grad is None
    # Somewhere in the first utterance each token's own embedding is the nearest of all.
    assert {3, 4, 5} <= set((speech[0].detach() @ embed.weight.T).argmax(-1).tolist())


def test_utterances_without_room_are_counted_and_teach_nothing(embed):
    speech, _, tokens, token_lens = spoken(embed, [3, 3, 3])
    found = Alignment(NONE)(speech[:, :4], torch.tensor([4]), tokens, token_lens, embed)
    assert found.without_room == 1.0 and found.loss == 0.0
