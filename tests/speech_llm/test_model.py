"""CTC and an LM on one encoder, built from YAML as ESPnet builds it."""

import copy

import pytest
import torch

from espnet_larm.pooling.in_llm import SpeechPooling
from espnet_larm.speech_llm.spelling import token_of_none


def batch(seed=0):
    torch.manual_seed(seed)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 9000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


def test_special_tokens_are_the_lms(build_speech_llm):
    model = build_speech_llm()
    assert (model.blank_id, model.sos, model.eos) == (0, 2, 2)
    loss, stats, weight = model(**batch())
    assert loss.isfinite() and weight == 2
    parts = 0.3 * (0.5 * stats["loss_ctc"] + 0.5 * stats["loss_interctc_layer1"]) + 0.7 * stats["loss_att"]
    torch.testing.assert_close(loss.detach(), parts)


def test_loss_of_the_lm_is_the_log_probability_of_text_and_end(build_speech_llm):
    model = build_speech_llm().eval()
    given = batch()
    with torch.no_grad():
        _, stats, _ = model(**{name: value.clone() for name, value in given.items()})
        hs_pad, hlens = model.encode(given["speech"], given["speech_lengths"])
        ys_in = torch.tensor([[2, 3, 4, 5], [2, 6, 3, 2]])
        logits, _ = model.decoder(hs_pad[0], hlens, ys_in, torch.tensor([4, 3]))
    log_probs = logits.log_softmax(-1)
    targets = [[3, 4, 5, 2], [6, 3, 2]]
    total = sum(log_probs[row, index, token] for row, text in enumerate(targets) for index, token in enumerate(text))
    torch.testing.assert_close(stats["loss_att"], (-total / 2).view(1))


def test_losses_of_heads_are_of_tokens_further_on_and_add_up_with_their_weights(build_speech_llm):
    model = build_speech_llm(decoder_conf={"num_heads": 3}, model_conf={"head_weight": 0.5}).eval()
    for layer in model.decoder.heads.layers:
        torch.nn.init.normal_(layer.weight)
    given = batch()
    with torch.no_grad():
        _, stats, _ = model(**{name: value.clone() for name, value in given.items()})
        hs_pad, hlens = model.encode(given["speech"], given["speech_lengths"])
        ys_in = torch.tensor([[2, 3, 4, 5], [2, 6, 3, 2]])
        hidden = model.decoder.read_text(hs_pad[0], hlens, ys_in, torch.tensor([4, 3])).hidden
    targets, total = [[3, 4, 5, 2], [6, 3, 2]], 0.0
    for head in (1, 2, 3):
        log_probs = model.decoder.logits_of(head, hidden).log_softmax(-1)
        pairs = [
            (row, place, token) for row, text in enumerate(targets) for place, token in enumerate(text[head - 1 :])
        ]
        expected = -sum(log_probs[row, place, token] for row, place, token in pairs) / 2
        torch.testing.assert_close(stats[f"loss_head{head}"], expected.view(1))
        total += 0.5 ** (head - 1) * expected
        right = [int(log_probs[row, place].argmax()) == token for row, place, token in pairs]
        share = stats["acc"] if head == 1 else stats[f"acc_head{head}"]
        assert float(share) == pytest.approx(sum(right) / len(right))
    torch.testing.assert_close(stats["loss_att"], total.detach().view(1))


@pytest.mark.parametrize("head_type", ["latent", "projection"])
def test_logits_in_chunks_give_the_same_losses_and_gradients(build_speech_llm, monkeypatch, tmp_path, head_type):
    """Cross-entropy of all heads, MWER and KL on text, of two positions a chunk, beside what is not chunked."""
    from espnet_larm.llm import chunks

    (tmp_path / "text.txt").write_text("A B C\nD\nB A\n")
    model = (
        build_speech_llm(
            decoder_conf={"num_heads": 3, "head_type": head_type, "adaptation": "lora", "lora_conf": {"r": 2}},
            model_conf={
                "lsm_weight": 0.1,
                "mwer_weight": 1.0,
                "text_kl_weight": 0.5,
                "text_kl_text": f"{tmp_path}/text.txt",
            },
        )
        .double()
        .train()
    )
    for name, each in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.3)
    hs_pad, results = torch.randn(2, 12, 16, dtype=torch.float64), []
    for at_once in (chunks.LOGITS_AT_ONCE, 2 * len(model.token_list)):
        monkeypatch.setattr(chunks, "LOGITS_AT_ONCE", at_once)
        model.zero_grad()
        torch.manual_seed(1)
        loss, stats = model.decoder_loss(hs_pad, torch.tensor([12, 7]), batch()["text"], torch.tensor([3, 2]))
        loss.backward()
        found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        results.append(found | {name: each for name, each in stats.items() if "time" not in name} | {"loss": loss})
    whole, chunked = results
    assert {"acc_head3", "loss_mwer", "loss_text_kl", "decoder.heads.layers.1.weight"} <= whole.keys()
    for name, each in whole.items():
        torch.testing.assert_close(
            chunked[name], each, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_one_head_has_no_parts_of_its_own(build_speech_llm):
    model = build_speech_llm()
    assert not any("heads" in name for name in model.state_dict())
    assert not any("head" in name for name in model(**batch())[1])


@pytest.mark.parametrize("head_type", ["latent", "projection"])
def test_training_heads_alone_leaves_head_1_as_it_was_bit_for_bit(build_speech_llm, larm_task, head_type):
    frozen = ["encoder", "ctc", "decoder.backbone", "decoder.projector"]
    model = build_speech_llm(decoder_conf={"num_heads": 3, "head_type": head_type, "adaptation": "lora"})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    model.train()
    ys = batch()
    with torch.no_grad():
        before = model.eval()(**{name: value.clone() for name, value in ys.items()})[1]["loss_head1"]
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=0.1, weight_decay=0.1)
    losses = []
    for _ in range(8):
        loss, stats, _ = model.train()(**{name: value.clone() for name, value in ys.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(stats["loss_head2"]))
    with torch.no_grad():
        after = model.eval()(**{name: value.clone() for name, value in ys.items()})[1]["loss_head1"]
    assert torch.equal(before, after) and losses[-1] < losses[0]
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert names == {"decoder.heads.layers.0.weight", "decoder.heads.layers.1.weight"}


def test_half_a_batch_each_gives_the_gradient_of_one(build_speech_llm):
    model = build_speech_llm(encoder_conf={"dropout_rate": 0.0}).eval()
    given = batch()
    given["speech_lengths"][:] = 16000

    def gradient(rows):
        model.zero_grad()
        model(**{name: value[rows].clone() for name, value in given.items()})[0].backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    halves = zip(gradient(slice(0, 1)), gradient(slice(1, 2)), strict=True)
    for whole, (first, second) in zip(gradient(slice(0, 2)), halves, strict=True):
        torch.testing.assert_close(whole, (first + second) / 2, rtol=1e-3, atol=1e-5)


def test_ctc_head_and_feedback_have_tokens_of_their_own(build_speech_llm, tmp_path):
    (tmp_path / "ctc.txt").write_text("<blank>\n<unk>\na\nb\n<space>\n<sos/eos>\n")
    model = build_speech_llm(model_conf={"ctc_token_list": str(tmp_path / "ctc.txt")})
    assert model.ctc.ctc_lo.out_features == 6 and model.encoder.conditioning_layer.in_features == 6
    with pytest.raises(ValueError, match="the data no ctc_text: preprocessor: speech_llm"):
        model(**batch())
    own = {"ctc_text": torch.tensor([[2, 4, 3, 2, 3], [3, -1, -1, -1, -1]]), "ctc_text_lengths": torch.tensor([5, 1])}
    loss, stats, _ = model(**batch(), **own)
    loss.backward()
    assert model.ctc.ctc_lo.weight.grad.any() and model.encoder.conditioning_layer.weight.grad.any()
    model.eval()
    with torch.no_grad():
        hs_pad, hlens = model.encode(batch()["speech"], batch()["speech_lengths"])
        _, stats, _ = model(**batch(), **own)
        expected = model.ctc(hs_pad[0], hlens, own["ctc_text"], own["ctc_text_lengths"])
    torch.testing.assert_close(stats["loss_ctc"], expected.view(1))


def test_a_ctc_head_with_tokens_of_its_own_keeps_its_other_options(build_speech_llm, tmp_path):
    (tmp_path / "ctc.txt").write_text("<blank>\n<unk>\na\nb\n<space>\n<sos/eos>\n")
    conf = {"dropout_rate": 0.25, "zero_infinity": False, "reduce": False}
    ctc = build_speech_llm(model_conf={"ctc_token_list": str(tmp_path / "ctc.txt")}, ctc_conf=conf).ctc
    assert (ctc.dropout_rate, ctc.ctc_loss.zero_infinity, ctc.reduce) == (0.25, False, False)


def test_espnets_search_is_refused_where_the_ctc_head_has_other_tokens(build_speech_llm, tmp_path):
    from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
    from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

    def search(model):
        scorers = {"decoder": model.decoder, "ctc": CTCPrefixScorer(ctc=model.ctc, eos=model.eos)}
        beam = BatchBeamSearch(
            scorers=scorers,
            weights={"decoder": 0.5, "ctc": 0.5},
            beam_size=2,
            vocab_size=model.vocab_size,
            sos=model.sos,
            eos=model.eos,
            token_list=model.token_list,
        )
        with torch.no_grad():
            return beam(torch.randn(12, model.encoder.output_size()), maxlenratio=-3.0)

    assert search(build_speech_llm().eval())
    (tmp_path / "ctc.txt").write_text("<blank>\n<unk>\na\nb\n<space>\n<sos/eos>\n")
    with pytest.raises(ValueError, match="tokens of its own .* which ESPnet's beam search would take for the LM's"):
        search(build_speech_llm(model_conf={"ctc_token_list": str(tmp_path / "ctc.txt")}).eval())


def test_validation_counts_errors_of_the_ctc_head_in_its_tokens(build_speech_llm, tmp_path):
    _, stats, _ = build_speech_llm().eval()(**batch())
    assert float(stats["cer_ctc"]) > 0.0
    (tmp_path / "ctc.txt").write_text("<blank>\n<unk>\na\nb\n<space>\n<sos/eos>\n")
    model = build_speech_llm(model_conf={"ctc_token_list": str(tmp_path / "ctc.txt")}).eval()
    own = {"ctc_text": torch.tensor([[2, 3, 2], [3, 3, -1]]), "ctc_text_lengths": torch.tensor([3, 2])}
    _, stats, _ = model(**batch(), **own)
    assert float(stats["cer_ctc"]) > 0.0


def test_only_what_learns_gets_a_gradient_and_is_in_the_optimiser(build_speech_llm, larm_task):
    model = build_speech_llm()
    (optimizer,) = larm_task.build_optimizers(model.args, model)
    model(**batch())[0].backward()
    learning = {name for name, each in model.named_parameters() if each.grad is not None}
    assert learning == {name for name, each in model.named_parameters() if "backbone" not in name}
    assert {id(each) for group in optimizer.param_groups for each in group["params"]} == {
        id(each) for name, each in model.named_parameters() if name in learning
    }


def test_frozen_parts_have_no_dropout(build_speech_llm):
    model = build_speech_llm()
    model.encoder.requires_grad_(False)
    model.train()
    assert not model.encoder.training and model.decoder.training and model.training
    with torch.no_grad():
        given = batch()
        first, second = (model.encode(given["speech"], given["speech_lengths"])[0][0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_frozen_piece_of_a_part_has_no_dropout_and_the_rest_has(build_speech_llm):
    model = build_speech_llm()
    model.encoder.stacks.requires_grad_(False)
    model.train()
    assert model.encoder.training and model.encoder.subsampling.training
    assert not any(each.training for each in model.encoder.stacks.modules() if list(each.parameters()))
    model.eval()
    assert not any(each.training for each in model.modules())


def test_activation_checkpointing_changes_no_bit_of_loss_or_gradients(build_speech_llm):
    results = []
    for checkpointing in (False, True):
        conf = {"adaptation": "lora", "lora_conf": {"r": 2, "lora_dropout": 0.3}}
        model = build_speech_llm(decoder_conf={**conf, "activation_checkpointing": checkpointing})
        for name, each in model.named_parameters():
            if "lora_B" in name:
                # Zero at the start, it would let no gradient through.
                torch.nn.init.constant_(each, 0.1)
        torch.manual_seed(1)
        loss, *_ = model.train()(**batch())
        loss.backward()
        results.append({name: each.grad for name, each in model.named_parameters() if each.requires_grad})
        results[-1]["loss"] = loss
    plain, checkpointed = results
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert all(each.any() for name, each in plain.items() if "lora" in name or "projector" in name)


def test_checkpoints_hold_no_weight_of_the_lm_and_load_strictly(build_speech_llm, tmp_path):
    model = build_speech_llm()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert not any("embed_tokens" in name or "layers" in name for name in state if "backbone" in name)
    fresh = build_speech_llm()
    fresh.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(**batch())[0], model.eval()(**batch())[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "transformer", "decoder_conf": None}, "needs decoder: speech_llm; got TransformerDecoder"),
        ({"model_conf": {"ctc_weight": 1.0}}, "model_conf: ctc_weight is 1.0; allowed: 0 to below 1"),
        ({"init": "xavier_uniform"}, "init is xavier_uniform, which would overwrite the LM"),
        ({"model_conf": {"ctc_token_list": "nowhere.txt"}}, "ctc_token_list nowhere.txt is missing"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(build_speech_llm, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_speech_llm(**changes)


def test_a_blank_that_a_transcript_may_hold_is_refused(build_speech_llm, save_lm, tmp_path):
    words = ["A", "<unk>", "</s>", "<s>", "B", "C", "D"]
    llm = save_lm(tmp_path / "other", words)
    with pytest.raises(ValueError, match="token 0 of the LM, 'A', can stand in a transcript"):
        build_speech_llm(words=words, decoder_conf={"llm": llm})
    assert (
        build_speech_llm(
            words=words,
            decoder_conf={"llm": llm},
            model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0},
            encoder_conf={"feedback": False, "num_loops": 1},
        ).ctc
        is None
    )


def test_posterior_lets_the_lm_hear_the_ctc_head_which_stays_one_module(build_speech_llm, save_lm, tmp_path, kind):
    llm = save_lm(tmp_path / "lm", kind=kind)
    model = build_speech_llm(decoder_conf={"llm": llm, "projector": "posterior"})
    assert [name for name in model.state_dict() if "ctc_lo" in name] == ["ctc.ctc_lo.weight", "ctc.ctc_lo.bias"]
    loss, *_ = model._calc_att_loss(torch.randn(2, 9, 16), torch.tensor([9, 4]), batch()["text"], torch.tensor([3, 2]))
    loss.backward()
    # Through what the LM hears alone: the correction is zero at the start.
    assert model.ctc.ctc_lo.weight.grad.abs().sum() > 0 and model.decoder.projector.out.weight.grad.any()
    # What is heard: the LM's embeddings weighted by the posteriors, without the blank's.
    frames = torch.randn(1, 3, 16), torch.tensor([3])
    with torch.no_grad():
        table = model.decoder.backbone.embed(torch.arange(len(model.token_list)))
        posteriors = model.ctc.softmax(frames[0])[0]
        expected = [(share[1:, None] * table[1:]).sum(0) for share in posteriors]
        first = (expected[0] + expected[1]) / max(1.0, posteriors[:2, 1:].sum())
        speech = model.eval().decoder.read_prompt(*frames).embeddings[0, :2]
    torch.testing.assert_close(speech, torch.stack([first, expected[2]]), rtol=1e-5, atol=1e-6)
    model.train()
    # A copy hears its own head.
    other = copy.deepcopy(model).eval()
    frames = torch.randn(1, 9, 16), torch.tensor([9])
    before = other.decoder.read_prompt(*frames).embeddings
    model.ctc.ctc_lo.weight.data.zero_()
    assert torch.equal(other.decoder.read_prompt(*frames).embeddings, before)
    other.ctc.ctc_lo.weight.data.zero_()
    assert not torch.equal(other.decoder.read_prompt(*frames).embeddings, before)


def test_posterior_of_pieces_is_the_lms_embeddings_of_what_they_spell(build_speech_llm, save_lm, tmp_path, kind):
    (tmp_path / "own.txt").write_text("<blank>\n<unk>\nA\n\u2581B\n<sos/eos>\n")
    llm = save_lm(tmp_path / "lm", kind=kind)
    options = {"llm": llm, "projector": "posterior", "projector_frames": 1}
    given = {"decoder_conf": options, "model_conf": {"ctc_token_list": str(tmp_path / "own.txt")}}
    model = build_speech_llm(**given).eval()
    assert not [name for name in model.state_dict() if "piece" in name]
    decoder = model.decoder
    spelled = [decoder.tokenizer.encode(text, add_special_tokens=False) for text in ("A", " B")]
    frames = torch.randn(1, 3, 16), torch.tensor([3])
    with torch.no_grad():
        shares = model.ctc.ctc_lo(frames[0])[0].softmax(-1)[:, 2:4]
        rows = torch.stack([decoder.backbone.embed(torch.tensor(ids)).mean(0) for ids in spelled])
        none = decoder.backbone.embed(torch.tensor(token_of_none(decoder.tokenizer)))
        speech = decoder.read_prompt(*frames).embeddings[0, :3]
        expected = shares @ rows + (1 - shares.sum(-1, keepdim=True)) * none
        torch.testing.assert_close(speech, expected, rtol=1e-5, atol=1e-6)


def test_posterior_without_a_ctc_head_is_refused(build_speech_llm):
    off = {"ctc_weight": 0.0, "interctc_weight": 0.0}
    with pytest.raises(ValueError, match="projector is posterior, which reads a CTC head; set model_conf: ctc_weight"):
        build_speech_llm(decoder_conf={"projector": "posterior"}, model_conf=off)


POOLED = {"input": {"method": "stride", "retention": 0.5}, "deep": {"layer": 1, "tau": 0.2}}


def test_pooling_trains_and_says_what_it_kept(build_speech_llm):
    given = {"decoder_conf": {"projector_frames": 1, "pooling": POOLED}}
    model = build_speech_llm(**given)
    loss, stats, _ = model(**batch())
    assert 0.5 <= float(stats["retention_input"]) < 0.6 and 0 < float(stats["retention_deep"]) <= 1
    loss.backward()
    assert all(each.grad.any() for each in model.decoder.projector.parameters())
    frames = torch.randn(2, 9, 16, requires_grad=True), torch.tensor([9, 4])
    model.decoder_loss(*frames, batch()["text"], torch.tensor([3, 2])).loss.backward()
    assert frames[0].grad[0].any(1).all() and not frames[0].grad[1, 4:].any()


def test_neutral_pooling_trains_bit_for_bit_as_none_and_ctc_hears_none_of_it(build_speech_llm):
    off = {"input": {"tau": 1.5}, "deep": {"layer": 1, "tau": 1.5}}
    plain, neutral, pooled = (
        build_speech_llm(decoder_conf={"projector_frames": 1, **conf})
        for conf in ({}, {"pooling": off}, {"pooling": POOLED})
    )
    (loss, stats, _), (other, more, _), (_, shorter, _) = (seeded_step(model) for model in (plain, neutral, pooled))
    assert torch.equal(loss, other) and {name for name in more if name not in stats} == {
        "retention_input",
        "retention_deep",
    }
    assert float(more["retention_input"]) == float(more["retention_deep"]) == 1.0
    pairs = zip(plain.parameters(), neutral.parameters(), strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs if one.grad is not None)
    assert torch.equal(shorter["loss_ctc"], stats["loss_ctc"]) and shorter["loss_att"] != stats["loss_att"]


def seeded_step(model):
    torch.manual_seed(7)
    found = model(**batch())
    found[0].backward()
    return found


@pytest.mark.parametrize("projector", ["posterior", "conv", "linear"])
def test_every_projectors_embeddings_are_pooled(build_speech_llm, projector):
    conf = {"projector": projector, "projector_frames": 1, "pooling": POOLED}
    model = build_speech_llm(decoder_conf=conf).eval()
    with torch.no_grad():
        pooled = model.decoder.read_prompt(torch.randn(1, 12, 16), torch.tensor([12])).lens
        whole = model.decoder.read_prompt(torch.randn(1, 12, 16), torch.tensor([12]), pooling=SpeechPooling()).lens
    assert int(pooled - 1) == -(-int(whole - 1) // 2)


def test_an_alignment_is_added_to_the_lms_loss(build_speech_llm):
    model = build_speech_llm(model_conf={"alignment_weight": 0.5}).eval()
    given = batch()
    with torch.no_grad():
        _, stats, _ = model(**{name: value.clone() for name, value in given.items()})
        hs_pad, hlens = model.encode(given["speech"], given["speech_lengths"])
        speech, lens = model.decoder.project(hs_pad[0], hlens)
        aligned = model.alignment(speech, lens, given["text"], given["text_lengths"], model.decoder.backbone.embed)
        lm, _ = model._lm_loss(hs_pad[0], hlens, given["text"], given["text_lengths"])
    torch.testing.assert_close(stats["loss_align"], aligned.loss.view(1))
    torch.testing.assert_close(stats["loss_att"], (lm + 0.5 * aligned.loss).view(1))
    assert stats["align_without_room"] == aligned.without_room and 0 <= stats["acc_align"] <= 1


def test_an_alignment_alone_asks_nothing_of_the_lm_and_teaches_the_projector(build_speech_llm, monkeypatch):
    from espnet_larm.llm.backbone import Backbone

    model = build_speech_llm(model_conf={"alignment_weight": 1.0, "alignment_only": True}).train()
    monkeypatch.setattr(Backbone, "forward", lambda *given, **options: pytest.fail("the LM was asked"))
    loss, stats, _ = model(**batch())
    loss.backward()
    torch.testing.assert_close(stats["loss_att"], stats["loss_align"])
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert all(each.grad is not None for each in learning.values())
    assert any(name.startswith("decoder.projector.") for name in learning)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_conf": {"alignment_only": True}}, "alignment_only is true, and alignment_weight 0"),
        (
            {"model_conf": {"alignment_only": True, "alignment_weight": 1.0}, "decoder_conf": {"num_heads": 2}},
            "alignment_only teaches the projector alone; set decoder_conf: adaptation: frozen and num_heads: 1",
        ),
    ],
)
def test_an_alignment_alone_is_refused_where_more_learns(build_speech_llm, changes, message):
    with pytest.raises(ValueError, match=message):
        build_speech_llm(**changes)
