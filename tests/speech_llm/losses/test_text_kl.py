"""KL to the base on text: its value by hand, its base, its gradients, its lines, and what it leaves as it is."""

import copy
import gzip

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import dropped
from espnet_larm.speech_llm.text_ability import lora_off

TEXT = ["A B C", "D", "B B A D C A", "C C"]
IDS = [[1, 3, 4, 5, 2], [1, 6, 2], [1, 4, 4, 3, 6, 5, 3, 2], [1, 5, 5, 2]]
CONFS = {
    "full": {"adaptation": "full"},
    "lora": {"adaptation": "lora", "lora_conf": {"r": 2}},
    "depth_upscaling": {"adaptation": "depth_upscaling", "depth_upscaling_conf": {"share": 1.0, "gate_kernel": 3}},
}


def batch():
    torch.manual_seed(3)
    return {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 9000]),
        "text": torch.tensor([[3, 4, 5], [6, 3, -1]]),
        "text_lengths": torch.tensor([3, 2]),
    }


@pytest.fixture
def build(build_speech_llm, tmp_path):
    """Builds a model with the penalty on TEXT."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXT) + "\n")

    def build(adaptation="full", decoder_conf=None, **conf):
        return build_speech_llm(
            decoder_conf={**CONFS[adaptation], **(decoder_conf or {})},
            model_conf={"text_kl_weight": 0.5, "text_kl_text": str(path), **conf},
        )

    return build


@torch.no_grad()
def disturb(model, scale=0.3):
    """Change the weights, as training does."""
    torch.manual_seed(9)
    for parameter in model.decoder.backbone.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


def log_probs(backbone, ids):
    """Log-probabilities of one line by itself, in float64."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        hidden = backbone(backbone.embed(ids), torch.arange(ids.size(1))[None], torch.tensor([ids.size(1)])).hidden
        return backbone.logits(hidden[0, :-1]).double().log_softmax(-1)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("adaptation", CONFS)
def test_the_penalty_is_what_a_hand_computes_of_the_lines_that_were_drawn(build, adaptation):
    model = build(adaptation, text_kl_lines=6).train()
    backbone = model.decoder.backbone
    base = [log_probs(copy.deepcopy(backbone).eval(), ids) for ids in IDS]
    disturb(model)
    torch.manual_seed(4)
    drawn = torch.randint(len(IDS), (1, 6))[0].tolist()
    assert len({*drawn}) > 1
    torch.manual_seed(4)
    found = model.text_kl(model.decoder)
    wanted = [base[line] for line in drawn]
    scores = [log_probs(backbone, IDS[line]) for line in drawn]
    total = sum((p.exp() * (p - q)).sum() for p, q in zip(wanted, scores, strict=True))
    torch.testing.assert_close(found, (total / sum(len(each) for each in wanted)).float(), rtol=1e-4, atol=1e-6)
    assert found > 1e-3 and found.dtype == torch.float32


@pytest.mark.parametrize("adaptation", CONFS)
def test_an_lm_that_has_not_learned_has_no_penalty(build, adaptation):
    model = build(adaptation).train()
    assert model.text_kl(model.decoder).item() == 0.0


@pytest.mark.parametrize("adaptation", CONFS)
def test_only_what_learns_of_the_lm_gets_a_gradient_and_steps_bring_it_back(build, adaptation):
    model = disturb(build(adaptation).train(), 0.1)
    backbone = model.decoder.backbone
    learning = {name for name, each in backbone.named_parameters() if each.requires_grad}
    before = {name: each.detach().clone() for name, each in backbone.named_parameters()}
    optimizer = torch.optim.AdamW([each for each in backbone.parameters() if each.requires_grad], 0.01, weight_decay=0)
    losses = []
    for step in range(12):
        torch.manual_seed(step)
        loss = model.text_kl(model.decoder)
        found = gradients(model, loss)
        names = {name.removeprefix("decoder.backbone.") for name in found}
        # Texts do not go through the branch of speech.
        assert names == {name for name in learning if ".local." not in name}
        assert all(each.any() for name, each in found.items() if "norm" not in name and "embed" not in name)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, each in backbone.named_parameters() if not torch.equal(each, before[name])}
    assert changed <= learning and changed
    assert {name for name, each in backbone.named_parameters() if each.requires_grad} == learning
    assert all(each.grad is None for copied in model.text_kl._copy for each in copied.parameters())


def test_the_loss_of_training_has_the_weighted_penalty_and_validations_has_not(build):
    model = disturb(build("full")).train()
    given = torch.randn(2, 9, 16), torch.tensor([9, 5]), batch()["text"], batch()["text_lengths"]
    torch.manual_seed(4)
    penalty = model.text_kl(model.decoder)
    torch.manual_seed(4)
    loss, stats = model.decoder_loss(*given)
    text_kl, model.text_kl = model.text_kl, None
    without, others = model.decoder_loss(*given)
    torch.testing.assert_close(loss, without + 0.5 * penalty)
    assert torch.equal(stats["loss_text_kl"], penalty) and not stats["loss_text_kl"].requires_grad
    assert stats.keys() - others.keys() == {"loss_text_kl"} and torch.equal(stats["acc"], others["acc"])
    model.text_kl = text_kl
    model.eval()
    state = torch.get_rng_state()
    validation = model.decoder_loss(*given)
    assert torch.equal(validation.loss, without) and "loss_text_kl" not in validation.stats
    assert torch.equal(torch.get_rng_state(), state)


def test_the_models_loss_is_that_of_the_decoder_and_tells_the_penalty(build):
    model = disturb(build("depth_upscaling", mwer_weight=1.0)).train()
    loss, stats, _ = model(**batch())
    ctc = 0.5 * stats["loss_ctc"] + 0.5 * stats["loss_interctc_layer1"]
    torch.testing.assert_close(loss.detach(), 0.3 * ctc + 0.7 * stats["loss_att"])
    parts = 0.05 * stats["loss_ce"] + stats["loss_mwer"] + 0.5 * stats["loss_text_kl"]
    torch.testing.assert_close(stats["loss_att"], parts)
    loss.backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("adaptation", CONFS)
def test_weight_0_is_bit_for_bit_as_without(build, build_speech_llm, adaptation):
    results = []
    for conf in ({"text_kl_text": None, "text_kl_lines": 8}, {"text_kl_text": "nowhere.txt", "text_kl_lines": 3}):
        model = build(adaptation, text_kl_weight=0.0, **conf).train()
        torch.manual_seed(1)
        loss, stats, _ = model(**batch())
        names = {f"module {name}": torch.zeros(0) for name, _ in model.named_modules()}
        results.append({**gradients(model, loss), **stats, **names, "random": torch.get_rng_state()})
    plain, off = results
    assert plain.keys() == off.keys() and not any("text_kl" in name for name in plain)
    assert all(torch.equal(plain[name], off[name]) for name in plain if plain[name] is not None)


def test_the_copy_is_no_weight_of_the_model_and_moves_with_it(build, build_speech_llm):
    model, plain = build("full"), build_speech_llm(decoder_conf=CONFS["full"])
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    (copied,) = model.train().text_kl._copy
    assert not any(part.training for part in copied.modules())
    assert not any(each.requires_grad for each in copied.parameters())
    other = copy.deepcopy(model)
    other.to("meta")
    assert {each.device.type for each in other.text_kl._copy[0].parameters()} == {"meta"}
    assert {each.device.type for each in copied.parameters()} == {"cpu"}


def test_loading_a_checkpoint_does_not_change_the_base(build):
    model = build("full").train()
    before = {name: each.clone() for name, each in model.text_kl._copy[0].state_dict().items()}
    trained = disturb(build("full")).state_dict()
    model.load_state_dict(trained, strict=True)
    assert all(torch.equal(each, before[name]) for name, each in model.text_kl._copy[0].state_dict().items())
    assert not torch.equal(model.decoder.backbone.model.lm_head.weight, before["model.lm_head.weight"])
    assert model.text_kl(model.decoder) > 1e-3


def test_a_checkpoint_of_another_lm_is_refused_where_the_base_is_a_copy(build, save_lm, tmp_path):
    trained = build("full").state_dict()
    other = save_lm(tmp_path / "other", initializer_range=0.4)
    with pytest.raises(RuntimeError) as error:
        build("full", {"llm": other}).load_state_dict(trained, strict=True)
    assert str(error.value).count("llm is not the LM that the checkpoint was trained with") == 1
    build("full", {"llm": other}, text_kl_weight=0.0).load_state_dict(trained, strict=True)


@pytest.mark.parametrize("adaptation", CONFS)
def test_modes_layers_and_adapters_are_as_before(build, adaptation):
    conf = {"lora_conf": {"r": 2, "lora_dropout": 0.5}} if adaptation == "lora" else {}
    model = disturb(build(adaptation, conf).train())
    backbone = model.decoder.backbone
    modes, added = [part.training for part in model.modules()], list(backbone.added)
    model.text_kl(model.decoder)
    assert [part.training for part in model.modules()] == modes
    assert list(backbone.added) == added
    ids = torch.tensor([IDS[0]])
    read = lambda: backbone(backbone.embed(ids), torch.arange(5)[None], torch.tensor([5])).hidden  # noqa: E731
    backbone.eval()
    with lora_off(backbone), dropped(backbone):
        without = read()
    assert torch.equal(read(), without) == (adaptation == "full")


@pytest.mark.parametrize("adaptation", CONFS)
def test_activation_checkpointing_changes_no_bit(build, adaptation):
    results = []
    for checkpointing in (False, True):
        model = disturb(build(adaptation, {"activation_checkpointing": checkpointing}).train())
        torch.manual_seed(1)
        frames = torch.randn(2, 9, 16), torch.tensor([9, 5])
        loss, _ = model.decoder_loss(*frames, batch()["text"], batch()["text_lengths"])
        results.append({**gradients(model, loss), "loss": loss})
    plain, checkpointed = results
    assert plain.keys() == checkpointed.keys() and all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_under_autocast_the_penalty_is_float32_and_what_learns_gets_a_gradient(build):
    for adaptation in CONFS:
        model = disturb(build(adaptation).train())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, stats, _ = model(**batch())
        assert stats["loss_text_kl"].dtype == torch.float32 and stats["loss_text_kl"] > 0
        loss.backward()
        assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


def test_lines_are_cut_at_the_lms_context(build, save_lm, tmp_path, monkeypatch):
    (tmp_path / "long.txt").write_text("A B C D " * 40 + "\n")
    model = build(text_kl_text=str(tmp_path / "long.txt")).train()
    shapes = []
    embed = type(model.decoder.backbone).embed
    monkeypatch.setattr(
        type(model.decoder.backbone), "embed", lambda self, ids: shapes.append(ids.shape) or embed(self, ids)
    )
    assert model.text_kl(model.decoder).item() == 0.0
    assert shapes == [(8, 64), (8, 64)]


def test_the_first_lines_of_a_file_are_read_packed_or_not(build, tmp_path):
    with gzip.open(tmp_path / "lines.gz", "wt") as file:
        file.write("\n".join(["", *TEXT]) + "\n")
    model = build(text_kl_text=str(tmp_path / "lines.gz"), text_kl_max_lines=3)
    model.text_kl.read_text(model.decoder.tokenizer)
    assert model.text_kl._tokens.tolist() == [token for ids in IDS[:3] for token in ids]
    assert model.text_kl._ends == [5, 8, 16]
    (tmp_path / "lines.gz").unlink()
    # Once.
    model.text_kl.read_text(model.decoder.tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_kl_weight": -0.1}, r"model_conf: text_kl_weight is -0.1; allowed: 0 or more \(0 is off\)"),
        ({"text_kl_weight": float("nan")}, "text_kl_weight is nan; allowed"),
        ({"text_kl_text": None}, "text_kl_weight is 0.5, but text_kl_text is not set; name a file"),
        ({"text_kl_lines": 0}, "model_conf: text_kl_lines is 0; allowed: 1 or more"),
        ({"text_kl_max_lines": 0}, "model_conf: text_kl_max_lines is 0; allowed: 1 or more"),
        ({"decoder_conf": {"adaptation": "frozen"}}, "adaptation is frozen, which leaves the LM as it is; allowed"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_a_random_lm_that_learns_as_a_whole_has_no_base(build, tmp_path):
    config = {"model_type": "llama", "vocab_size": 7, "hidden_size": 16, "intermediate_size": 24}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    conf = {"llm": None, "llm_config": config, "tokenizer": str(tmp_path / "llm")}
    with pytest.raises(ValueError, match=r"adaptation is full of an LM with random weights .*; name an LM"):
        build("full", conf)
    assert build("lora", conf).text_kl is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "model_conf: text_kl_text: .*lines.txt is missing; name a file"),
        ("\n \n", "model_conf: text_kl_text: .*lines.txt has no words"),
        ("A <s> B\n", "model_conf: text_kl_text: the text holds <s>, which is a special token"),
        ("a b\nc d\n", "model_conf: text_kl_text: the tokenizer cannot spell the text"),
    ],
)
def test_training_refuses_a_text_that_it_cannot_read_before_it_begins(build, larm_task, tmp_path, content, message):
    if content is not None:
        (tmp_path / "lines.txt").write_text(content)
    # Decoding needs no text, and no copy.
    model = build(text_kl_text=str(tmp_path / "lines.txt"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        model.text_kl.read_text(model.decoder.tokenizer)
    with pytest.raises(Exception, match=message):
        larm_task.build_optimizers(model.args, model)


def test_a_text_in_the_wrong_case_is_refused(build, tmp_path):
    class Tokenizer:
        """Words in capitals are tokens, others are spelled."""

        unk_token_id = None

        def __call__(self, texts, **options):
            return {"input_ids": [[3] * (text.count(" ") + 1 if text.isupper() else len(text)) for text in texts]}

    (tmp_path / "small.txt").write_text("one sentence of small letters\n")
    model = build(text_kl_text=str(tmp_path / "small.txt"))
    with pytest.raises(
        ValueError, match="model_conf: text_kl_text: .*small.txt is in the wrong case .* in capitals 5;"
    ):
        model.text_kl.read_text(Tokenizer())


def test_processes_draw_different_lines_of_the_same_random_numbers(build, monkeypatch):
    model = build(text_kl_lines=4)
    model.text_kl.read_text(model.decoder.tokenizer)
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        torch.manual_seed(2)
        drawn += [row.tolist() for row in model.text_kl._draw()]
    torch.manual_seed(2)
    assert drawn == [IDS[place] for place in torch.randint(4, (8,)).tolist()] and drawn[:4] != drawn[4:]
