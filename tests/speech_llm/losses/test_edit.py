"""The loss of editing: its value by hand, its gradients, its drafts, and what a model with it does."""

import pytest
import torch

from espnet_larm.llm import chunks
from espnet_larm.speech_llm.editing.drafts import CtcDrafts, dropout_on
from espnet_larm.speech_llm.editing.nbest import EditPosteriors
from espnet_larm.speech_llm.losses.edit import edit_loss
from espnet_larm.speech_llm.losses.mwer import Mwer

LORA = {"adaptation": "lora", "lora_conf": {"r": 2}}
ONLY = {"edit_weight": 1.0, "edit_only": True}


def batch():
    torch.manual_seed(3)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 9000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


DRAFT = {"draft": torch.tensor([[3, 3, 5, 6], [3, -1, -1, -1]]), "draft_lengths": torch.tensor([4, 1])}


@pytest.fixture
def build(build_speech_llm, save_lm, tmp_path):
    """Builds a model that learns to edit."""
    llm = save_lm(tmp_path / "tied", tie_word_embeddings=True, max_position_embeddings=256)

    def build(decoder_conf=None, **model_conf):
        return build_speech_llm(
            decoder_conf={"llm": llm, "editing": {}, **LORA, **(decoder_conf or {})},
            model_conf={"edit_weight": 1.0, **model_conf},
        )

    return build


def moved(model):
    for name, each in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("copy_weight", [0.0, 0.5])
def test_the_loss_is_ctc_at_the_positions_of_the_draft_and_a_weight_times_copying(build, copy_weight):
    model = moved(build()).eval()
    speech = torch.randn(2, 12, 16), torch.tensor([12, 7])
    drafts, references = [[3, 3, 5, 6], [3]], [[3, 4, 5], [6, 3]]
    layout = model.decoder.editor.lay_out(drafts)
    log_probs = model.decoder.backbone.logits(model.decoder.read_draft(speech, layout).hidden).log_softmax(-1)
    targets, lens = torch.tensor([[3, 4, 5], [6, 3, 0]]), torch.tensor([3, 2])
    given = log_probs.transpose(0, 1), targets, layout.lens, lens
    ctc = torch.nn.functional.ctc_loss(*given, blank=model.eos, reduction="none").mean()
    copies = -log_probs.gather(-1, layout.tokens.unsqueeze(-1))[..., 0][layout.mask].sum() / 2
    found = edit_loss(model.decoder, speech, drafts, references, copy_weight)
    torch.testing.assert_close(found.loss, ctc + copy_weight * copies)
    torch.testing.assert_close(found.stats["loss_edit"], ctc)
    torch.testing.assert_close(found.stats["loss_copy"], copies)
    # Two substitutions and an insertion of "A A C D", and one deletion of "A", of 5 words.
    assert float(found.stats["wer_draft"]) == pytest.approx(3 / 5)


def test_logits_in_chunks_and_of_some_tokens_give_the_same_loss_and_gradients(build, monkeypatch):
    """The restriction to some tokens is tried with all of them."""
    model, results = moved(build()), []
    speech = torch.randn(2, 12, 16), torch.tensor([12, 7])
    for at_once, ids in ((chunks.LOGITS_AT_ONCE, None), (14, None), (14, torch.arange(7))):
        monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
        if ids is not None:
            model.decoder.editor.restrict(ids)
        model.zero_grad()
        loss = edit_loss(model.decoder, speech, [[3, 3, 5], []], [[3, 4, 5], [6]], 0.1).loss
        loss.backward()
        found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        results.append({**found, "loss": loss})
    assert any("lora_A" in name for name in results[0]) and any("projector" in name for name in results[0])
    for other in results[1:]:
        for name, each in results[0].items():
            torch.testing.assert_close(other[name], each, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_tokens_that_no_edit_holds_are_left_out_and_counted(build):
    model = build().eval()
    model.decoder.editor.restrict(torch.tensor([3, 4, 5]))
    speech = torch.randn(2, 12, 16), torch.tensor([12, 7])
    found = edit_loss(model.decoder, speech, [[3, 6], [6]], [[3, 4, 6], [6]], 0.02)
    assert float(found.stats["edit_unknown"]) == pytest.approx(2 / 4) and found.loss.isfinite()
    less = edit_loss(model.decoder, speech, [[3, 6], [6]], [[3, 4], []], 0.02)
    torch.testing.assert_close(found.loss, less.loss)


@torch.no_grad()
def test_a_reference_without_room_has_a_finite_loss_and_is_counted(build):
    model, speech = build().eval(), (torch.randn(2, 12, 16), torch.tensor([12, 7]))
    found = edit_loss(model.decoder, speech, [[3], [4]], [[3] * 9, [4]], 0.02)
    assert found.loss.isfinite() and float(found.stats["edit_widened"]) == 0.5
    assert float(edit_loss(model.decoder, speech, [[3], [4]], [[3] * 4, []], 0.02).stats["edit_widened"]) == 0.0


def test_the_models_loss_adds_the_lms_own_and_the_edits(build):
    model = moved(build(edit_weight=0.5)).eval()
    with torch.no_grad():
        _, stats, _ = model(**batch(), **DRAFT)
        _, plain, _ = moved(build(edit_weight=0.5)).eval()(**batch())
        hs_pad, hlens = model.encode(batch()["speech"], batch()["speech_lengths"])
        edited = edit_loss(model.decoder, (hs_pad[0], hlens), [[3, 3, 5, 6], [3]], [[3, 4, 5], [6, 3]], 0.02)
        own, _ = model._cross_entropy(hs_pad[0], hlens, batch()["text"], batch()["text_lengths"])
    torch.testing.assert_close(stats["loss_att"], (own + 0.5 * edited.loss).view(1))
    # Of the CTC head, since the data have none.
    assert plain["wer_draft"] != stats["wer_draft"]


def test_editing_alone_leaves_the_lms_own_loss_out(build):
    model = moved(build(**ONLY)).train()
    loss, stats, weight = model(**batch(), **DRAFT)
    loss.backward()
    assert weight == 2 and {"loss_edit", "loss_copy", "wer_draft", "wer_edit", "edit_widened"} <= stats.keys()
    torch.testing.assert_close(stats["loss_att"], stats["loss_edit"] + 0.02 * stats["loss_copy"])
    torch.testing.assert_close(stats["acc"], (1 - stats["wer_edit"]).clamp(min=0).view_as(stats["acc"]))
    learning = {name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()}
    assert {model.decoder.part_of(name.removeprefix("decoder.")) for name in learning if "decoder" in name} == {
        "projector",
        "LoRA",
    }


MWER = Mwer(weight=1.0, ce_weight=0.1, nbest=3, beam_size=4, in_validation=False)


@torch.no_grad()
@pytest.mark.parametrize("ids", [None, [3, 4, 5, 6]])
def test_the_mwer_loss_is_that_of_the_best_edits(build, ids):
    model, speech = moved(build()).eval(), (torch.randn(2, 12, 16), torch.tensor([12, 7]))
    if ids is not None:
        model.decoder.editor.restrict(torch.tensor(ids))
    drafts, references = [[3, 3, 5, 6], [3]], [[3, 4, 5], [6, 3]]
    plain = edit_loss(model.decoder, speech, drafts, references, 0.02)
    found = edit_loss(model.decoder, speech, drafts, references, 0.02, MWER)
    torch.testing.assert_close(found.loss, plain.loss)
    assert plain.mwer is None and "wer_oracle" not in plain.stats
    layout = model.decoder.editor.lay_out(drafts, references)
    posteriors = EditPosteriors(model.decoder, model.decoder.read_draft(speech, layout).hidden, layout)
    texts = [row[:3] for row in posteriors.search(4)]
    assert all(len(row) == 3 and len({*map(tuple, row)}) == 3 for row in texts)
    assert not {0, 1, 2} & {token for row in texts for text in row for token in text}
    losses = []
    for row, scores, reference in zip(texts, posteriors.score(texts), references, strict=True):
        errors = torch.tensor([float(align_errors(text, reference)) for text in row])
        losses.append((torch.tensor(scores).softmax(0) * (errors - errors.mean())).sum())
    torch.testing.assert_close(found.mwer, torch.stack(losses).mean(), rtol=1e-4, atol=1e-4)
    assert float(found.stats["wer_oracle"]) <= float(found.stats["wer_expected"])


def align_errors(text, reference):
    from espnet_larm.scoring.alignment import align

    (aligned,) = align([" ".join(map(str, reference))], [" ".join(map(str, text))], str.split)
    return aligned.counts.errors


def test_mwer_makes_edits_with_fewer_errors_more_probable(build):
    """Ten steps by MWER alone."""
    model, speech = (
        moved(build({"adaptation": "full", "lora_conf": None})),
        (torch.randn(2, 12, 16), torch.tensor([12, 7])),
    )
    model.eval()
    optimiser = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.05)
    expected = []
    for _ in range(10):
        found = edit_loss(model.decoder, speech, [[3, 3, 5, 6], [3]], [[3, 4, 5], [6, 3]], 0.0, MWER)
        expected.append(float(found.stats["wer_expected"].detach()))
        optimiser.zero_grad()
        found.mwer.backward()
        optimiser.step()
    assert expected[-1] < expected[0] - 0.02


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_that_edits_alone_adds_mwer_and_weighs_the_rest_less(build, mode):
    given = {"mwer_weight": 0.5, "mwer_ce_weight": 0.1, "mwer_nbest": 2, "mwer_in_validation": True}
    model = moved(build({"editing": {"text_only": True}}, **ONLY, **given)).train(mode)
    loss, stats, _ = model(**{name: batch()[name] for name in ("text", "text_lengths")}, **DRAFT)
    torch.testing.assert_close(loss, 0.5 * stats["loss_mwer"] + 0.1 * (stats["loss_edit"] + 0.02 * stats["loss_copy"]))
    unasked = moved(build({"editing": {"text_only": True}}, **ONLY, mwer_weight=0.5)).eval()
    assert "loss_mwer" not in unasked(**{name: batch()[name] for name in ("text", "text_lengths")}, **DRAFT)[1]


@torch.no_grad()
def test_texts_that_no_edit_can_be_have_no_probability(build):
    model = build().eval()
    model.decoder.editor.restrict(torch.tensor([3, 4, 5]))
    layout = model.decoder.editor.lay_out([[3, 4], []])
    posteriors = EditPosteriors(model.decoder, model.decoder.read_draft(None, layout).hidden, layout)
    (one, unknown, long), (empty,) = posteriors.score([[[3, 4], [3, 6], [3] * 9], [[]]])
    assert unknown == long == float("-inf") and -50 < one < 0 and -50 < empty < 0
    assert posteriors.score([[], [[3]]])[0] == []


def test_texts_without_speech_train_an_editor_of_texts(build):
    given = {name: batch()[name] for name in ("text", "text_lengths")}
    model = moved(build({"editing": {"text_only": True}}, **ONLY)).train()
    loss, stats, weight = model(**given, **DRAFT)
    loss.backward()
    expected = edit_loss(model.decoder, None, [[3, 3, 5, 6], [3]], [[3, 4, 5], [6, 3]], 0.02).loss
    torch.testing.assert_close(loss, expected.view(1))
    assert weight == 2 and float(stats["acc"]) == pytest.approx(max(0.0, 1 - float(stats["wer_edit"])))
    learning = {name for name, each in model.named_parameters() if each.grad is not None and each.grad.any()}
    assert learning and all("lora" in name for name in learning)
    for other, data in ((build(**ONLY), DRAFT), (model, {}), (build({"editing": {"text_only": True}}), DRAFT)):
        with pytest.raises(ValueError, match="the data have no speech.*called text and draft"):
            other(**given, **data)


def test_the_penalty_on_text_is_added_without_speech_too(build, tmp_path):
    (tmp_path / "text.txt").write_text("A B C\nD\n")
    given = {name: batch()[name] for name in ("text", "text_lengths")}
    conf = {"text_kl_weight": 0.5, "text_kl_text": str(tmp_path / "text.txt")}
    model = moved(build({"editing": {"text_only": True}}, **ONLY, **conf)).train()
    loss, stats, _ = model(**given, **DRAFT)
    assert float(stats["loss_text_kl"]) > 0
    torch.testing.assert_close(loss, stats["loss_edit"] + 0.02 * stats["loss_copy"] + 0.5 * stats["loss_text_kl"])


def test_drafts_of_the_ctc_head_are_made_with_dropout_also_of_a_frozen_encoder(build, monkeypatch):
    """In training no two are of the same posteriors, in validation all are."""
    model, given = build(**ONLY), []
    model.encoder.requires_grad_(False)
    make = model.draft

    def draft(logits, lens):
        given.append(logits)
        return make(logits, lens)

    monkeypatch.setattr(model, "draft", draft)
    for mode, each in [(mode, batch()) for mode in (False, False, True, True)]:
        model.train(mode)(**each)
    assert not model.encoder.training
    assert torch.equal(given[0], given[1]) and not torch.allclose(given[2], given[3], rtol=1e-3, atol=1e-3)
    layers = [each for each in model.encoder.modules() if isinstance(each, torch.nn.Dropout)]
    assert layers and not any(layer.training for layer in layers)
    with dropout_on(model.encoder):
        assert all(layer.training for layer in layers) and not model.encoder.training


def test_a_ctc_heads_own_tokens_are_spelled_in_the_lms(save_lm, tmp_path):
    from espnet_larm.llm.backbone import load_tokenizer

    tokenizer = load_tokenizer(save_lm(tmp_path, ["<unk>", "<s>", "</s>", "A", "AB", "CD"]))
    own = ["<blank>", "<unk>", "<space>", "A", "B", "\u2581CD", "<sos/eos>"]
    paths = torch.tensor([[2, 3, 0, 4, 4, 5, 0, 2], [3, 3, 6, 0, 1, 2, 2, 3], [0, 0, 2, 0, 0, 0, 3, 3]])
    logits = torch.nn.functional.one_hot(paths, 7).float()
    found = CtcDrafts(tokenizer, own)(logits, torch.tensor([8, 8, 6]))
    assert found == [[4, 5], [3, 3], []]
    plain = CtcDrafts(tokenizer)(logits, torch.tensor([8, 8, 6]))
    # There 1 and 2 are special.
    assert plain == [[3, 4, 5], [3, 6, 3], []]


@pytest.mark.parametrize(
    ("decoder_conf", "model_conf", "message"),
    [
        ({"editing": None}, {}, "edit_weight is 1.0, but decoder_conf: editing is not given"),
        ({"adaptation": "frozen", "lora_conf": None}, {}, "adaptation is frozen, under which no LM learns to edit"),
        ({}, {"edit_weight": 0.0, "edit_only": True}, "edit_only is true, and edit_weight 0"),
        ({"num_heads": 2}, ONLY, "but decoder_conf: num_heads is 2, which needs it"),
    ],
)
def test_options_under_which_nothing_is_learned_are_refused(build, decoder_conf, model_conf, message):
    with pytest.raises(ValueError, match=message):
        build(decoder_conf, **model_conf)


def test_without_a_ctc_head_the_data_must_have_drafts(build_speech_llm, save_lm, tmp_path):
    llm = save_lm(tmp_path / "tied", tie_word_embeddings=True)
    model = build_speech_llm(
        decoder_conf={"llm": llm, "editing": {}, **LORA},
        model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0, **ONLY},
        encoder_conf={"feedback": False, "num_loops": 1},
    )
    assert model(**batch(), **DRAFT)[0].isfinite()
    with pytest.raises(ValueError, match="has no CTC head that makes drafts, and the data no draft"):
        model(**batch())
