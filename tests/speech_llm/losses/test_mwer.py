"""MWER: its loss by hand, its search without a trace, and a model that makes fewer errors by it."""

import math

import pytest
import torch

from espnet_larm.search.beam import beam
from espnet_larm.search.hypotheses import Bounds, Ending, TokenHypothesis
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.search.prefix_beam import prefix_beam
from espnet_larm.speech_llm.losses import mwer
from espnet_larm.speech_llm.losses.mwer import (
    Mwer,
    Nbest,
    count_errors,
    figures,
    find_nbest,
    log_probs_of,
    mwer_loss,
    score_nbest,
)

ON = {"mwer_weight": 1.0, "mwer_ce_weight": 0.1}
CONF = Mwer(weight=1.0, ce_weight=0.1, nbest=4, beam_size=4, in_validation=False)
EOS, IGNORED = 2, -1
STATS = {"loss_ce", "loss_mwer", "wer_expected", "wer_best", "wer_oracle", "short_nbest"}
TIMES = {"ce_time", "search_time", "rescore_time"}


def batch(rows=slice(None)):
    torch.manual_seed(3)
    given = {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 16000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }
    return {name: value[rows].clone() for name, value in given.items()}


def encoded():
    """Frames of two utterances as an encoder gives them, and their references."""
    torch.manual_seed(5)
    return torch.randn(2, 9, 16), torch.tensor([9, 5]), [[3, 4, 5], [6, 3]]


def gradients(model, given):
    model.zero_grad()
    model(**given)[0].backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def text_of(*tokens):
    text = TokenHypothesis(Bounds(9))
    text.token_ids = list(tokens)
    return text


def found_by_hand(texts, errors, num_words):
    """An `Nbest` of two texts of each utterance, or of one."""
    mask = torch.tensor([[True] * len(row) + [False] * (2 - len(row)) for row in texts])
    padded = torch.tensor([[*row, *[0.0] * (2 - len(row))] for row in errors])
    return Nbest(texts, padded, mask, torch.tensor(num_words))


def test_loss_is_what_a_hand_computes():
    log_probs = torch.tensor([0.5, 0.25, 0.25]).log().repeat(2, 1) - 7.0
    errors = torch.tensor([[0.0, 2.0, 4.0], [3.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # Means 2 and 2; the second utterance's two texts have 2/3 and 1/3.
    expected = torch.tensor([0.5 * -2 + 0.25 * 0 + 0.25 * 2, 2 / 3 * 1 + 1 / 3 * -1])
    torch.testing.assert_close(mwer_loss(log_probs, errors, mask), expected)


def test_loss_is_that_of_a_loop_over_texts_whatever_stands_where_none_is():
    log_probs, errors = -30 * torch.rand(6, 4), torch.randint(0, 5, (6, 4)).float()
    sizes = [4, 3, 2, 1, 4, 2]
    mask = torch.arange(4) < torch.tensor(sizes).unsqueeze(1)
    naive = []
    for row, size in enumerate(sizes):
        weights = [math.exp(float(log_probs[row, place])) for place in range(size)]
        mean = sum(float(errors[row, place]) for place in range(size)) / size
        naive.append(sum(w / sum(weights) * (float(errors[row, i]) - mean) for i, w in enumerate(weights)))
    torch.testing.assert_close(mwer_loss(log_probs, errors, mask), torch.tensor(naive), rtol=1e-4, atol=1e-5)
    for value in (9.0, 1e30):
        others = mwer_loss(log_probs.masked_fill(~mask, value), errors.masked_fill(~mask, value), mask)
        assert torch.equal(others, mwer_loss(log_probs, errors, mask))


def test_gradient_lowers_the_probability_of_texts_with_more_errors_only():
    log_probs = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-4.0, -1.0, -1.0]], requires_grad=True)
    errors = torch.tensor([[1.0, 0.0, 3.0], [2.0, 2.0, 2.0], [5.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 3, [True] * 3, [True, False, False]])
    mwer_loss(log_probs, errors, mask).sum().backward()
    # Texts with fewer errors than expected become more probable; the others less.
    assert log_probs.grad[0, 1] < 0 < log_probs.grad[0, 2]
    torch.testing.assert_close(log_probs.grad.sum(1), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(log_probs.grad[1:], torch.zeros(2, 3), rtol=0, atol=1e-6)


def test_errors_are_of_words():
    texts = [["the cat sat", "a cat sat down", ""], ["one two"], ["x"]]
    errors, num_words = count_errors(texts, ["the cat sat", "one", ""])
    assert errors == [[0, 2, 3], [1], [1]] and num_words == [3, 1, 0]


def test_log_probability_is_that_of_all_tokens_and_the_end(build_speech_llm):
    decoder = build_speech_llm().decoder.eval()
    hs_pad, hlens, _ = encoded()
    texts = [[3, 4, 6], []]
    with torch.no_grad():
        scores = log_probs_of(decoder, hs_pad, hlens, texts, EOS, IGNORED)
        for row, text in enumerate(texts):
            frames, tokens = hs_pad[row : row + 1, : hlens[row]], torch.tensor([[EOS, *text]])
            logits, _ = decoder(frames, hlens[row : row + 1], tokens, torch.tensor([len(text) + 1]))
            log_probs = logits[0].log_softmax(-1)
            expected = sum(log_probs[place, token] for place, token in enumerate([*text, EOS]))
            torch.testing.assert_close(scores[row], expected)
    assert log_probs_of(decoder, hs_pad, hlens, [[], []], EOS, IGNORED).shape == (2,)


def test_texts_that_ended_by_themselves_are_scored_as_the_search_scored_them(build_speech_llm):
    decoder = build_speech_llm().decoder.eval()
    hs_pad, hlens, _ = encoded()
    with torch.no_grad():
        found = beam(decoder.start(hs_pad, hlens), [Bounds(8), Bounds(8)], EOS, 4, 4).hypotheses
        for row, texts in enumerate(found):
            ended = [text for text in texts if text.ending is Ending.BY_ITSELF]
            assert ended
            frames = hs_pad[row : row + 1].expand(len(ended), -1, -1), hlens[row].expand(len(ended))
            scores = log_probs_of(decoder, *frames, [text.token_ids for text in ended], EOS, IGNORED)
            expected = torch.tensor([text.score for text in ended])
            torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_only_texts_are_scored_whose_errors_differ(build_speech_llm):
    decoder = build_speech_llm().decoder.eval()
    hs_pad, hlens, _ = encoded()
    hs_pad.requires_grad_(True)
    same = found_by_hand([[[3], [4]], [[5]]], [[1.0, 1.0], [2.0]], [3, 2])
    assert not score_nbest(decoder, hs_pad, hlens, same, EOS, IGNORED).any()
    other = found_by_hand([[[3], [4]], [[5], [5, 6]]], [[1.0, 1.0], [2.0, 0.0]], [3, 2])
    scores = score_nbest(decoder, hs_pad, hlens, other, EOS, IGNORED)
    expected = log_probs_of(decoder, hs_pad[1:].expand(2, -1, -1), hlens[1:].expand(2), [[5], [5, 6]], EOS, IGNORED)
    assert not scores[0].any()
    torch.testing.assert_close(scores[1], expected)
    scores.sum().backward()
    assert hs_pad.grad[1].any() and not hs_pad.grad[0].any()


def test_figures_are_errors_a_word():
    found = found_by_hand([[[3], [4]], [[5]]], [[1.0, 0.0], [2.0]], [3, 2])
    told = figures(torch.tensor([[0.75, 0.25], [0.1, 0.9]]).log(), found)
    expected = {"wer_expected": (0.75 + 2) / 5, "wer_best": 3 / 5, "wer_oracle": 2 / 5, "short_nbest": 0.5}
    assert {name: float(value) for name, value in told.items()} == pytest.approx(expected)


def test_search_finds_the_n_best_of_decoding_without_dropout_or_a_trace(build_speech_llm):
    conf = {"adaptation": "lora", "lora_conf": {"r": 2, "lora_dropout": 0.5}, "num_heads": 2}
    model = build_speech_llm(decoder_conf=conf)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            # Zero at the start, it would show no dropout.
            torch.nn.init.constant_(each, 0.3)
    model.decoder.projector.requires_grad_(False)
    model.train()
    hs_pad, hlens, references = encoded()
    hs_pad.requires_grad_(True)
    modes = [part.training for part in model.modules()]
    assert len(set(modes)) == 2
    torch.manual_seed(8)
    before = torch.get_rng_state()
    found = find_nbest(model.decoder, hs_pad, hlens, references, EOS, CONF)
    assert torch.equal(torch.get_rng_state(), before) and [part.training for part in model.modules()] == modes
    assert not found.errors.requires_grad and found.mask.all()
    decoder = model.eval().decoder
    with torch.no_grad():
        bounds = [Bounds(8 + 4), Bounds(8 + 3)]
        heads = Lookahead(lambda hidden: decoder.draft_logits(hidden, 2))
        expected = prefix_beam(decoder.start(hs_pad, hlens), bounds, EOS, 4, 4, lookahead=heads).hypotheses
    assert found.texts == [[text.token_ids for text in row] for row in expected]
    words = ["<unk>", "<s>", "</s>", "A", "B", "C", "D"]
    spoken = [[" ".join(words[token] for token in text if token > 2) for text in row] for row in found.texts]
    assert found.errors.tolist() == count_errors(spoken, ["A B C", "D A"])[0]
    assert found.num_words.tolist() == [3, 2]


def test_modes_come_back_also_where_the_search_fails(build_speech_llm, monkeypatch):
    model = build_speech_llm().train()
    modes = [part.training for part in model.modules()]

    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(mwer, "_search", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        find_nbest(model.decoder, *encoded(), EOS, CONF)
    assert [part.training for part in model.modules()] == modes


def test_a_text_is_bounded_by_its_reference_and_by_the_lms_context(build_speech_llm, save_lm, monkeypatch, tmp_path):
    bounds = []

    def search(decoder, begun, given, eos, conf):
        bounds.extend(given)
        return [[text_of(3)], [text_of(4)]]

    monkeypatch.setattr(mwer, "_search", search)
    for positions in (64, 12):
        llm = save_lm(tmp_path / f"llm{positions}", max_position_embeddings=positions)
        decoder = build_speech_llm(decoder_conf={"llm": llm}).decoder
        find_nbest(decoder, torch.randn(2, 9, 16), torch.tensor([9, 5]), [[3] * 20, [3]], EOS, CONF)
    # 5 and 3 positions of speech and the suffix; 8 and half as many again as the reference has.
    assert [bound.most for bound in bounds] == [38, 9, 12 - 6, 12 - 4]


def test_a_text_that_is_found_twice_counts_once(build_speech_llm, monkeypatch):
    rows = [[text_of(3, 4), text_of(3, 4), text_of(5), text_of(3, 4)], [text_of(6)]]
    monkeypatch.setattr(mwer, "_search", lambda *_: rows)
    found = find_nbest(build_speech_llm().decoder, *encoded(), EOS, CONF)
    assert found.texts == [[[3, 4], [5]], [[6]]]
    assert found.mask.tolist() == [[True, True, False, False], [True, False, False, False]]


def test_off_is_bit_for_bit_as_without(build_speech_llm):
    results = []
    for conf in ({}, {"mwer_weight": 0.0, "mwer_ce_weight": 0.5, "mwer_nbest": 2, "mwer_beam_size": 3}):
        model = build_speech_llm(decoder_conf={"num_heads": 3}, model_conf=conf).train()
        torch.manual_seed(1)
        found = gradients(model, batch())
        loss, stats, _ = model(**batch())
        results.append({**found, **stats, "loss": loss, "random": torch.get_rng_state()})
    plain, off = results
    assert plain.keys() == off.keys() and not plain.keys() & (STATS | TIMES)
    assert all(torch.equal(plain[name], off[name]) for name in plain if plain[name] is not None)


def test_loss_is_mwer_and_a_part_of_the_cross_entropy_of_all_heads(build_speech_llm):
    heads = {"decoder_conf": {"num_heads": 3}, "encoder_conf": {"dropout_rate": 0.0}}
    plain = build_speech_llm(**heads).train()(**batch())[1]
    model = build_speech_llm(**heads, model_conf={**ON, "mwer_weight": 0.5}).train()
    loss, stats, _ = model(**batch())
    assert torch.equal(stats["loss_ce"], plain["loss_att"]) and stats["loss_mwer"].abs() > 1e-3
    torch.testing.assert_close(stats["loss_att"], 0.5 * stats["loss_mwer"] + 0.1 * stats["loss_ce"])
    ctc = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_interctc_layer1"]
    torch.testing.assert_close(loss.detach(), 0.3 * ctc + 0.7 * stats["loss_att"])
    assert stats.keys() - plain.keys() == STATS | TIMES
    assert all(stats[name] > 0 for name in TIMES) and stats["wer_oracle"] <= stats["wer_best"]


def test_validation_searches_only_where_it_is_asked_to(build_speech_llm):
    def stats_of(**conf):
        return build_speech_llm(model_conf=conf).eval()(**batch())[1]

    with torch.no_grad():
        plain, quick, searched = stats_of(), stats_of(**ON), stats_of(**ON, mwer_in_validation=True)
        told = stats_of(mwer_in_validation=True)
    assert not STATS & plain.keys() and STATS & quick.keys() == {"loss_ce"}
    torch.testing.assert_close(quick["loss_att"], 0.1 * plain["loss_att"])
    torch.testing.assert_close(searched["loss_att"], 0.1 * plain["loss_att"] + searched["loss_mwer"])
    # To compare with: what cross-entropy alone does to the errors of N-best texts.
    assert torch.equal(told["loss"], plain["loss"]) and torch.equal(told["wer_expected"], searched["wer_expected"])


@pytest.mark.parametrize("finds", ["several texts", "one text", "equal errors"])
def test_all_that_cross_entropy_trains_gets_a_gradient_whatever_is_found(build_speech_llm, monkeypatch, finds):
    conf = {"num_heads": 3, "adaptation": "full"}
    trained = gradients(build_speech_llm(decoder_conf=conf).train(), batch()).keys()
    model = build_speech_llm(decoder_conf=conf, model_conf=ON).train()
    if finds != "several texts":
        texts = [text_of(*[3] * 5), text_of(*[4] * 5)][: 1 if finds == "one text" else 2]
        monkeypatch.setattr(mwer, "_search", lambda *_: [texts, texts])
    found = gradients(model, batch())
    assert found.keys() == trained == {name for name, _ in model.named_parameters()}
    assert all(found[name].any() for name in found if "layers.1.mlp" in name or "ctc" in name or "heads" in name)


@pytest.mark.parametrize("recomputes", [False, True])
def test_under_autocast_all_that_learns_gets_a_gradient(build_speech_llm, recomputes):
    conf = {"adaptation": "full", "num_heads": 2, "activation_checkpointing": recomputes}
    model = build_speech_llm(
        decoder_conf=conf, model_conf=ON, encoder_conf={"activation_checkpointing": recomputes}
    ).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, stats, _ = model(**batch())
    assert loss.dtype == torch.float32 and stats["loss_mwer"].dtype == torch.float32
    loss.backward()
    assert all(each.grad is not None for each in model.parameters())


def test_gradient_of_a_batch_is_the_mean_of_its_utterances(build_speech_llm):
    model = build_speech_llm(
        decoder_conf={"adaptation": "full", "num_heads": 2}, model_conf={**ON, "mwer_in_validation": True}
    ).eval()
    whole, first, second = (gradients(model, batch(rows)) for rows in (slice(0, 2), slice(0, 1), slice(1, 2)))
    assert abs(float(model(**batch())[1]["loss_mwer"])) > 1e-3
    for name in whole:
        torch.testing.assert_close(whole[name], (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-5)


def test_training_by_it_makes_fewer_errors(build_speech_llm):
    conf = {**ON, "mwer_ce_weight": 1e-6, "mwer_in_validation": True, "ctc_weight": 0.0, "interctc_weight": 0.0}
    model = build_speech_llm(decoder_conf={"adaptation": "full"}, model_conf=conf, encoder_conf={"feedback": False})

    def told():
        with torch.no_grad():
            return model.eval()(**batch())[1]

    before = told()
    optimizer = torch.optim.Adam((one for one in model.parameters() if one.requires_grad), lr=0.003)
    for _ in range(15):
        optimizer.zero_grad()
        model.train()(**batch())[0].backward()
        optimizer.step()
    after = told()
    assert after["wer_expected"] < 0.8 * before["wer_expected"]


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"mwer_weight": 1.5}, r"model_conf: mwer_weight is 1.5; allowed: 0 to 1 \(0 is off\)"),
        ({"mwer_weight": -0.1}, "mwer_weight is -0.1; allowed"),
        ({"mwer_ce_weight": 0.0}, r"mwer_ce_weight is 0.0; allowed: above 0 to 1 \(draft heads learn"),
        ({"mwer_ce_weight": 2.0}, "mwer_ce_weight is 2.0; allowed"),
        ({"mwer_nbest": 1}, "mwer_nbest is 1; allowed: 2 or more"),
        ({"mwer_nbest": 6}, "mwer_beam_size is 4, but mwer_nbest 6: .* make it wider, or ask for fewer"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(build_speech_llm, conf, message):
    with pytest.raises(ValueError, match=message):
        build_speech_llm(model_conf=conf)
