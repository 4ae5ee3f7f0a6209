"""`heads_target: own`: the targets of draft heads are what greedy search finds, whatever the reference says."""

import pytest
import torch

from espnet_larm.speech_llm.losses.mwer import MORE_TOKENS, TOKENS_PER_TOKEN
from espnet_larm.speech_llm.losses.own import find_own

EOS, IGNORED = 2, -1
NUM_HEADS = 4


@pytest.fixture
def build(build_speech_llm):
    """A model whose heads draft at random, and whose LM says another text of each utterance."""

    def make(**model_conf):
        model = build_speech_llm(decoder_conf={"num_heads": NUM_HEADS}, model_conf=model_conf)
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
            for layer in model.decoder.heads.layers:
                layer.weight.normal_(std=0.3)
        return model

    return make


def encoded():
    torch.manual_seed(5)
    return torch.randn(3, 9, 16), torch.tensor([9, 5, 7])


def slowly(decoder, hs_pad, hlens, most):
    """The LM's best tokens of each utterance alone, a whole pass a token; and whether it ended."""
    found = []
    for row, length in enumerate(hlens.tolist()):
        text, token = [], None
        while len(text) < most[row] + 1 and token != EOS:
            ys = torch.tensor([[EOS, *text]])
            given = hs_pad[row : row + 1, :length], hlens[row : row + 1], ys, torch.tensor([ys.size(1)])
            token = int(decoder(*given)[0][0, -1].argmax())
            text.append(token)
        found.append((text[:-1], token == EOS))
    return found


def batch():
    torch.manual_seed(3)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 16000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


@torch.no_grad()
def test_targets_are_the_tokens_that_the_model_itself_finds(build):
    decoder, (hs_pad, hlens) = build().decoder.eval(), encoded()
    num_tokens = [2, 3, 9]
    most = [MORE_TOKENS + int(TOKENS_PER_TOKEN * number) for number in num_tokens]
    expected = slowly(decoder, hs_pad, hlens, most)
    own = find_own(decoder, hs_pad, hlens, num_tokens, EOS, IGNORED)
    assert len({tuple(text) for text, _ in expected}) > 1
    for row, (text, is_ended) in enumerate(expected):
        assert own.ys_in_lens[row] == len(text) + 1
        assert own.ys_in_pad[row, : len(text) + 1].tolist() == [EOS, *text]
        # An end that a bound has put there is not the model's.
        padding = [IGNORED] * (own.ys_out_pad.size(1) - len(text) - 1)
        assert own.ys_out_pad[row].tolist() == [*text, EOS if is_ended else IGNORED, *padding]


@torch.no_grad()
def test_an_end_that_the_model_says_is_a_target_also_of_nothing(build):
    decoder, (hs_pad, hlens) = build().decoder.eval(), encoded()
    free = slowly(decoder, hs_pad, hlens, [9, 9, 9])
    # A token with which one of them begins is taken for the end.
    row, eos = next((row, text[0]) for row, (text, _) in enumerate(free) if text)
    own = find_own(decoder, hs_pad, hlens, [3, 3, 3], eos, IGNORED)
    assert own.ys_in_lens[row] == 1 and own.ys_out_pad[row].tolist() == [eos] + [IGNORED] * (own.ys_out_pad.size(1) - 1)
    given = hs_pad[row : row + 1, : hlens[row]], hlens[row : row + 1]
    alone = find_own(decoder, *given, [3], eos, IGNORED)
    assert alone.ys_out_pad.tolist() == [[eos]]
    assert decoder.read_text(*given, alone.ys_in_pad, alone.ys_in_lens).hidden.shape[:2] == (1, 1)


def test_heads_learn_their_models_texts_and_head_1_the_references(build):
    given = batch()
    reference, own = build().eval(), build(heads_target="own").eval()
    own.load_state_dict(reference.state_dict())
    stats_of_reference, stats = reference(**given)[1], own(**given)[1]
    assert stats["loss_head1"] == stats_of_reference["loss_head1"] and stats["acc"] == stats_of_reference["acc"]
    assert stats["loss_head2"] != stats_of_reference["loss_head2"]
    # What it says as its references gives the heads' losses without the option.
    with torch.no_grad():
        output, hlens = own.encode(given["speech"], given["speech_lengths"])
        hs_pad = output[0] if isinstance(output, tuple) else output
        texts = find_own(own.decoder, hs_pad, hlens, [3, 2], own.eos, IGNORED)
        hidden = own.decoder.read_text(hs_pad, hlens, texts.ys_in_pad, texts.ys_in_lens).hidden
        for head in range(2, NUM_HEADS + 1):
            loss, share = own._head_loss(head, hidden, texts.ys_out_pad)
            torch.testing.assert_close(stats[f"loss_head{head}"].squeeze(), loss)
            torch.testing.assert_close(stats[f"acc_head{head}"].squeeze(), share)
    assert stats["own_time"] > 0 and "own_time" not in stats_of_reference


def test_references_do_not_reach_the_heads_and_frozen_parts_do_not_move(build):
    model = build(heads_target="own").train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("decoder.heads.")
    model.train()

    def gradients(text):
        model.zero_grad()
        torch.manual_seed(1)
        loss = model(**{**batch(), "text": torch.tensor(text)})[0]
        loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    first, other = gradients([[3, 4, 5], [6, 3, -1]]), gradients([[6, 5, 3], [4, 4, -1]])
    assert set(first) == {f"decoder.heads.layers.{head}.weight" for head in range(NUM_HEADS - 1)}
    assert all(torch.equal(first[name], other[name]) and first[name].any() for name in first)


def test_a_search_leaves_modes_and_random_numbers_as_they_were(build):
    decoder, (hs_pad, hlens) = build().decoder.train(), encoded()
    modes, state = [part.training for part in decoder.modules()], torch.get_rng_state()
    find_own(decoder, hs_pad, hlens, [3, 3, 3], EOS, IGNORED)
    assert [part.training for part in decoder.modules()] == modes and torch.equal(torch.get_rng_state(), state)


def test_own_targets_without_heads_are_refused(build_speech_llm):
    with pytest.raises(ValueError, match="heads_target is own, but the model has no draft heads"):
        build_speech_llm(model_conf={"heads_target": "own"})
    with pytest.raises(ValueError, match="heads_target is theirs; allowed: reference, own"):
        build_speech_llm(model_conf={"heads_target": "theirs"}, decoder_conf={"num_heads": 2})
