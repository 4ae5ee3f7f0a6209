"""The LM run by us beside Hugging Face's own forward, with and without the cache."""

import copy
import json

import pytest
import torch

from espnet_larm.llm.backbone import ARCHITECTURES, Backbone

# Attention in two parts and in another order of additions; float32 of this size rounds to about 1e-6.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# One kind of layer, and two of which one has a window that most rows here are longer than.
TWO = ("llama", "gemma3_text")


def ours(model):
    return Backbone(copy.deepcopy(model)).eval()


def random_rows(num_rows=3, length=9, vocab_size=37):
    torch.manual_seed(1)
    return torch.randint(vocab_size, (num_rows, length))


def positions_of(ids, start=0):
    return torch.arange(start, start + ids.size(1)).expand(len(ids), -1)


def all_of(ids):
    return torch.full((len(ids),), ids.size(1))


@torch.no_grad()
def logits_of(backbone, ids):
    hidden = backbone(backbone.embed(ids), positions_of(ids), all_of(ids))
    return backbone.logits(hidden.hidden)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_forward_is_hugging_faces_bit_for_bit(hf_model, kind):
    model, ids = hf_model(kind), random_rows()
    with torch.no_grad():
        torch.testing.assert_close(logits_of(ours(model), ids), model(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_padded_row_is_the_row_alone(hf_model, kind):
    backbone, ids = ours(hf_model(kind)), random_rows()
    alone = logits_of(backbone, ids[1:2, :5])
    with torch.no_grad():
        hidden = backbone(backbone.embed(ids), positions_of(ids), torch.tensor([9, 5, 7]))
    torch.testing.assert_close(backbone.logits(hidden.hidden)[1:2, :5], alone, **CLOSE)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_cached_steps_are_the_uncached_forward(hf_model, kind):
    """Prompts of different lengths, then texts of different lengths, one and several tokens a call."""
    backbone, ids = ours(hf_model(kind)), random_rows(length=16)
    prompt_lens, steps = torch.tensor([4, 6, 3]), ([1, 1, 1], [3, 1, 2], [1, 2, 3], [2, 2, 2])
    cache = backbone.new_cache()
    done = prompt_lens.clone()
    with torch.no_grad():
        backbone(backbone.embed(ids[:, :6]), positions_of(ids[:, :6]), prompt_lens, cache=cache)
        cache.seal()
        for step in steps:
            new = torch.tensor(step)
            columns = done.unsqueeze(1) + torch.arange(max(step))
            hidden = backbone(backbone.embed(ids.gather(1, columns)), columns, new, cache=cache)
            found = backbone.logits(hidden.hidden)
            expected = logits_of(backbone, ids)
            for row in range(3):
                wanted = expected[row, done[row] : done[row] + step[row]]
                torch.testing.assert_close(found[row, : step[row]], wanted, **CLOSE)
            done = done + new
    assert torch.equal(cache.text_lens, (done - prompt_lens).expand(3, -1))
    assert torch.equal(cache.prompt_lens, prompt_lens.expand(3, -1))


@pytest.mark.parametrize("kind", TWO)
def test_rows_that_give_tokens_back_go_on_as_if_they_had_never_had_them(hf_model, kind):
    backbone, ids = ours(hf_model(kind)), random_rows(length=12)
    cache = backbone.new_cache()
    with torch.no_grad():
        backbone(backbone.embed(ids[:, :4]), positions_of(ids[:, :4]), torch.full((3,), 4), cache=cache)
        cache.seal()
        wrong = random_rows(length=5).flip(0)
        backbone(backbone.embed(wrong), positions_of(wrong, 4), all_of(wrong), cache=cache)
        cache.crop(torch.tensor([0, 2, 5]))
        kept = torch.cat([ids[:, :4], wrong], dim=1)
        start = torch.tensor([4, 6, 9])
        columns = start.unsqueeze(1) + torch.arange(3)
        hidden = backbone(backbone.embed(ids[:, 9:12]), columns, torch.full((3,), 3), cache=cache)
        for row in range(3):
            whole = torch.cat([kept[row, : start[row]], ids[row, 9:12]]).unsqueeze(0)
            wanted = logits_of(backbone, whole)[0, -3:]
            torch.testing.assert_close(backbone.logits(hidden.hidden)[row], wanted, **CLOSE)


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("rows", [[0, 0, 1, 2], [2, 2, 2], [1, 0, 2, 0, 1], [2, 0, 1]])
def test_hypotheses_share_their_utterances_prompt(hf_model, rows, kind):
    backbone, ids = ours(hf_model(kind)), random_rows(length=12)
    prompt_lens = torch.tensor([4, 6, 3])
    cache = backbone.new_cache()
    with torch.no_grad():
        backbone(backbone.embed(ids[:, :6]), positions_of(ids[:, :6]), prompt_lens, cache=cache)
        cache.seal()
        first = prompt_lens.unsqueeze(1)
        backbone(backbone.embed(ids.gather(1, first)), first, torch.ones(3, dtype=torch.long), cache=cache)
        chosen = torch.tensor(rows)
        cache.select(chosen)
        new = random_rows(num_rows=len(rows), length=2)
        columns = (prompt_lens[chosen] + 1).unsqueeze(1) + torch.arange(2)
        hidden = backbone(backbone.embed(new), columns, all_of(new), cache=cache)
        for row, source in enumerate(rows):
            whole = torch.cat([ids[source, : prompt_lens[source] + 1], new[row]]).unsqueeze(0)
            torch.testing.assert_close(backbone.logits(hidden.hidden)[row], logits_of(backbone, whole)[0, -2:], **CLOSE)
    assert cache.num_rows == len(rows)
    assert cache.prompt_lens.size(1) == len(set(rows))


def test_prompts_are_stored_once_an_utterance(hf_model):
    backbone, ids = ours(hf_model()), random_rows(num_rows=2, length=40)
    cache = backbone.new_cache()
    with torch.no_grad():
        backbone(backbone.embed(ids), positions_of(ids), all_of(ids), cache=cache)
    cache.seal()
    before = cache.num_bytes
    cache.select(torch.tensor([0] * 10 + [1] * 10))
    assert cache.num_bytes == before
    cache.select(torch.tensor([3]))
    assert cache.num_bytes == before // 2


@pytest.mark.parametrize("kind", TWO)
def test_a_cast_of_the_whole_model_leaves_the_type(hf_model, kind):
    backbone = ours(hf_model(kind).to(torch.bfloat16))
    whole = torch.nn.Sequential(torch.nn.Linear(2, 2), backbone).to(torch.float64).float()
    assert whole[0].weight.dtype == torch.float32
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.bfloat16}
    ids = random_rows()
    found = logits_of(backbone, ids)
    assert found.dtype == torch.float32 and found.isfinite().all()


def test_gradients_reach_every_weight_and_the_embeddings(hf_model):
    backbone, ids = ours(hf_model(tie_word_embeddings=False)).train(), random_rows()
    embeddings = backbone.embed(ids).detach().requires_grad_()
    backbone.logits(backbone(embeddings, positions_of(ids), all_of(ids)).hidden).square().sum().backward()
    assert embeddings.grad.abs().sum() > 0
    without = [name for name, each in backbone.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == ["model.model.embed_tokens.weight"]


@pytest.mark.parametrize("kind", TWO)
def test_activation_checkpointing_gives_the_same_gradients(hf_model, kind):
    model, ids = hf_model(kind), random_rows()
    gradients = []
    for checkpointing in (False, True):
        backbone = Backbone(copy.deepcopy(model), activation_checkpointing=checkpointing).train()
        backbone.logits(backbone(backbone.embed(ids), positions_of(ids), all_of(ids)).hidden).square().sum().backward()
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_saved_and_loaded_weights_give_the_same_logits(hf_model, tmp_path):
    model, ids = hf_model(), random_rows()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(Backbone.from_pretrained(str(tmp_path)).eval(), ids), logits_of(ours(model), ids))


def test_a_configuration_gives_random_weights_of_its_shape(tiny_config):
    backbone = Backbone.from_config(tiny_config("qwen2"), dtype="bfloat16")
    assert (backbone.hidden_size, backbone.vocab_size, backbone.max_positions) == (32, 37, 64)
    assert backbone.dtype == torch.bfloat16 and len(backbone.layers) == 3


def test_architectures_that_would_be_computed_wrongly_are_refused(tiny_config):
    with pytest.raises(ValueError, match="model_type is gpt2; allowed: llama, mistral, qwen2, qwen3, gemma3_text"):
        Backbone.from_config({"model_type": "gpt2"})
    with pytest.raises(ValueError, match="llm has chunked_attention, full_attention; allowed: full_attention, sliding"):
        Backbone.from_config(tiny_config("qwen2", layer_types=["full_attention"] * 2 + ["chunked_attention"]))


def test_quantised_weights_are_refused_with_what_to_name_instead(hf_model, tmp_path):
    hf_model("qwen2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    with pytest.raises(ValueError, match=r"llm is quantised \(gptq\); allowed: weights in float32, .* before its"):
        Backbone.from_pretrained(str(tmp_path))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"decoder_conf: llm .*: this folder cannot be loaded"):
        Backbone.from_pretrained(str(tmp_path))


def test_casts_leave_every_bit_of_the_lm(hf_model):
    model = hf_model(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[0, :2] = torch.tensor([1e-9, 1e5])
    backbone = ours(model)
    before = {name: tensor.clone() for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers())}
    torch.nn.Sequential(backbone).half().to(torch.bfloat16)
    for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers()):
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("kind", TWO)
def test_layers_may_hold_prompts_of_other_lengths(hf_model, kind):
    """After a layer that shortens prompts, cached steps see what it left: the same as if each row were alone."""
    backbone, ids = ours(hf_model(kind)), random_rows(num_rows=2, length=14)

    def halve(stream):
        if stream.hidden.size(1) < 4:
            return stream
        kept = torch.arange(0, stream.hidden.size(1), 2)
        lens = (stream.lens + 1) // 2
        return stream._replace(hidden=stream.hidden[:, kept], positions=stream.positions[:, kept], lens=lens)

    prompt_lens = torch.tensor([10, 5])

    def run(rows, select=None):
        cache = backbone.new_cache()
        prompt = ids[rows][:, : int(prompt_lens[rows].max())]
        found = backbone(
            backbone.embed(prompt), positions_of(prompt), prompt_lens[rows], cache=cache, after_layer={0: halve}
        )
        cache.seal()
        if select is not None:
            cache.select(select)
            rows = [rows[index] for index in select.tolist()]
        new = ids[rows][:, :2]
        columns = prompt_lens[rows].unsqueeze(1) + torch.arange(2)
        hidden = backbone(backbone.embed(new), columns, all_of(new), cache=cache).hidden
        return found, cache, hidden

    with torch.no_grad():
        found, cache, together = run([0, 1])
        assert found.lens.tolist() == [5, 3] and cache.prompt_lens.tolist() == [[10, 5], [5, 3], [5, 3]]
        for row in range(2):
            torch.testing.assert_close(run([row])[2][0], together[row], **CLOSE)
            left = run([0, 1], torch.tensor([row]))[2]
            torch.testing.assert_close(left[0], together[row], **CLOSE)


def test_large_scores_do_not_overflow_in_half_precision():
    from espnet_larm.llm.cache import KeyValueCache

    cache, one = KeyValueCache(1), torch.ones(1, dtype=torch.long)
    keys = torch.full((1, 1, 1, 128), 30.0, dtype=torch.float16)
    cache.append(0, keys, keys, one)
    cache.seal()
    cache.append(0, keys, keys, one)
    assert torch.equal(cache.attend(0, keys, one, 128**-0.5), keys)


@pytest.mark.parametrize("frozen", [True, False])
def test_activation_checkpointing_reaches_frozen_lms(hf_model, monkeypatch, frozen):
    from espnet_larm.adaptation.llm_weights import adapt
    from espnet_larm.llm import backbone as module

    calls = []
    monkeypatch.setattr(module, "checkpoint", lambda call, hidden, **_: calls.append(1) or call(hidden))
    backbone = Backbone(copy.deepcopy(hf_model()), activation_checkpointing=True)
    adapt(backbone, "frozen" if frozen else "full", None, is_named=True)
    ids = random_rows()
    backbone.train()(backbone.embed(ids).detach().requires_grad_(), positions_of(ids), all_of(ids))
    assert len(calls) == len(backbone.layers)
    logits_of(backbone, ids)
    assert len(calls) == len(backbone.layers)


def test_hugging_faces_own_forward_still_honours_masks(hf_model):
    model, ids = hf_model(), random_rows()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask).logits
        found = ours(model).model(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[0, 4:], wanted[0, 4:], **CLOSE)
    torch.testing.assert_close(found[1:], wanted[1:], **CLOSE)


def test_a_folder_that_lacks_weights_is_refused(hf_model, tmp_path):
    from safetensors.torch import load_file, save_file

    hf_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights \(model.layers.1.mlp.up_proj.weight"):
        Backbone.from_pretrained(str(tmp_path))


def test_types_and_angles_that_would_go_wrong_are_refused(tiny_config):
    with pytest.raises(ValueError, match="dtype is bf16; allowed: float32, bfloat16, float16"):
        Backbone.from_config(tiny_config("llama"), dtype="bf16")
    factors = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    with pytest.raises(ValueError, match="longrope, whose angles depend on the longest row"):
        Backbone.from_config(tiny_config("llama", rope_parameters={**factors, "original_max_position_embeddings": 32}))


def test_a_configuration_cannot_name_code_that_runs(tiny_config):
    # HF would fetch a kernel of this name and run it.
    made = Backbone.from_config(tiny_config("llama", attn_implementation="some/kernel"))
    assert made.config._attn_implementation == "espnet_larm"
