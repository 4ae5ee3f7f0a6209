"""Editing by a tiny LM: batches, windows, pooling, what was added to the LM, and learning to repair drafts."""

import random
import re

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import dropped
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.speech_llm.editing.editor import edit
from espnet_larm.speech_llm.losses.edit import edit_loss
from espnet_larm.speech_llm.prompt import ContextError
from espnet_larm.speech_llm.text_ability import lora_off

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
ADDED = {
    "nothing": {},
    "lora": {"adaptation": "lora", "lora_conf": {"r": 4}},
    "added layers": {"adaptation": "depth_upscaling", "depth_upscaling_conf": {"num_layers": 1}},
}
POOLING = {"input": {"tau": 0.3, "max_group": 2}, "deep": {"layer": 1, "tau": 0.3, "max_group": 2}}


def disturb(decoder):
    """What was added, as after training."""
    for name, each in decoder.backbone.named_parameters():
        if "lora_" in name or name.startswith("added."):
            each.data += torch.randn_like(each) * 0.2


def tokens_of(edited):
    return {token for row in edited.token_ids for token in row}


@torch.no_grad()
@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_batch_gives_what_each_draft_gives_alone(build, speech, drafts, kind, added):
    """28 speech tokens are four windows of the tiny Gemma 3, so that the draft stands behind more than one sees."""
    decoder = build(kind, pooling=POOLING, **ADDED[added])
    disturb(decoder)
    for passes in (1, 2):
        together = edit(decoder, speech, drafts, passes)
        assert len({*map(tuple, together.token_ids)}) > 1 and not {0, 1, 2} & tokens_of(together)
        for row, draft in enumerate(drafts):
            length = speech[1][row : row + 1]
            alone = edit(decoder, (speech[0][row : row + 1, : int(length)], length), [draft], passes)
            assert alone.token_ids == together.token_ids[row : row + 1]
            assert alone.scores == pytest.approx(together.scores[row : row + 1], abs=1e-3)
            assert alone.prompt_lens.tolist() == together.prompt_lens[row : row + 1].tolist()
    assert {*together.kept} == {"input", "deep"} and float(together.kept["deep"].retention) < 1.0


@torch.no_grad()
def test_the_pass_is_the_lms_own_layers_without_their_mask(build, speech, drafts):
    """Position by position it is HF's model, whose mask says that all see all."""
    decoder = build()
    layout = decoder.editor.lay_out(drafts)
    found = decoder.read_draft(speech, layout)
    for row, length in enumerate(layout.lens.tolist()):
        number = int(speech[1][row])
        prompt = decoder.read_prompt(speech[0][row : row + 1, :number], speech[1][row : row + 1]).embeddings
        tokens = decoder.backbone.embed(layout.tokens[row : row + 1, :length])
        whole = torch.cat([prompt, tokens], dim=1)
        mask = torch.ones(1, 1, whole.size(1), whole.size(1), dtype=torch.bool)
        expected = decoder.backbone.model.model(inputs_embeds=whole, attention_mask=mask).last_hidden_state
        assert int(found.prompt_lens[row]) == prompt.size(1)
        torch.testing.assert_close(found.hidden[row, :length], expected[0, prompt.size(1) :], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_speech_draft_and_prompt_have_a_say_on_all_of_the_draft(build, speech, kind):
    decoder, short = build(kind), (speech[0][1:2, :9], speech[1][1:2])

    def first(frames, draft, **others):
        return decoder.read_draft((frames, short[1]), decoder.editor.lay_out([draft]), **others).hidden[0, 0]

    plain = first(short[0], [3, 4, 5])
    assert not torch.allclose(first(short[0], [3, 4, 6]), plain, **CLOSE)
    assert not torch.allclose(first(short[0] + 1, [3, 4, 5]), plain, **CLOSE)
    other = decoder.prompt._replace(suffix=(9, 9))
    assert not torch.allclose(first(short[0], [3, 4, 5], prompt=other), plain, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("added", ADDED)
def test_without_speech_frames_change_nothing_and_the_prompt_is_shorter(build, speech, drafts, added):
    decoder = build(editing={"text_only": True}, pooling=POOLING, **ADDED[added])
    disturb(decoder)
    found, other = edit(decoder, speech, drafts), edit(decoder, (speech[0] + 5, speech[1]), drafts)
    assert found.token_ids == other.token_ids and found.scores == other.scores
    assert found.prompt_lens.tolist() == [3, 3, 3] and any(found.token_ids)


@pytest.mark.parametrize("added", ["lora", "added layers"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_editing_leaves_the_ability_to_write_as_it_was(build, speech, drafts, kind, added):
    """Without what was added, what the LM writes behind a prompt is the base's bit for bit, after learning to edit."""
    ys_in, ys_lens = torch.tensor([[2, 5, 6, 7], [2, 9, 3, 2], [2, 4, 8, 11]]), torch.tensor([4, 3, 4])
    base, decoder = build(kind, adaptation="frozen"), build(kind, **ADDED[added])
    decoder.projector.load_state_dict(base.projector.state_dict())
    learning = [each for each in decoder.backbone.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        edit_loss(decoder.train(), speech, drafts, [[3, 4, 5], [6], [7, 8, 9]], 0.02).loss.backward()
        optimizer.step()
    decoder.eval()
    with torch.no_grad():
        expected = base(*speech, ys_in, ys_lens)[0]
        assert not torch.allclose(decoder(*speech, ys_in, ys_lens)[0], expected, **CLOSE)
        edit(decoder, speech, drafts)
        with dropped(decoder.backbone), lora_off(decoder.backbone):
            assert torch.equal(decoder(*speech, ys_in, ys_lens)[0], expected)


@torch.no_grad()
def test_an_edit_holds_no_other_tokens_than_those_of_its_file(build, speech, drafts, tmp_path):
    (tmp_path / "ids.txt").write_text("4 'w1'\n7 'w4'\n2 '</s>'\n")
    free, decoder = build(), build(editing={"tokens": str(tmp_path / "ids.txt")})
    decoder.load_state_dict(free.state_dict())
    assert decoder.editor.token_ids.tolist() == [2, 4, 7]
    found = edit(decoder, speech, drafts)
    assert tokens_of(found) <= {4, 7} and any(found.token_ids)
    assert tokens_of(edit(free, speech, drafts)) - {4, 7}
    layout = decoder.editor.lay_out(drafts)
    log_probs = decoder.backbone.logits(decoder.read_draft(speech, layout).hidden)[..., [2, 4, 7]].log_softmax(-1)
    sums = [float(row[:length].sum()) for row, length in zip(log_probs.amax(-1), layout.lens.tolist(), strict=True)]
    assert found.scores == pytest.approx(sums, abs=1e-3)
    pack_linear_layers(decoder.backbone, least_weights=1)
    assert edit(decoder, speech, drafts).token_ids == found.token_ids


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lm": {"tie_word_embeddings": False}}, ValueError, "the LM has a head of its own"),
        ({"editing": {"blanks_every": 0}}, ValueError, "decoder_conf: editing: blanks_every is 0; allowed: 1 or more"),
        ({"editing": {"blanks": 1}}, ValueError, "decoder_conf: editing: .*blanks.*; allowed: blanks_every"),
        ({"editing": {"tokens": "nowhere.txt"}}, FileNotFoundError, "tokens nowhere.txt is missing"),
    ],
)
def test_what_cannot_edit_is_refused(build, options, error, message):
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize("text", ["4\n99 w\n", "x\n", ""])
def test_a_file_that_holds_no_ids_is_refused(build, tmp_path, text):
    (tmp_path / "ids.txt").write_text(text)
    expected = "holds no id" if not text else re.escape("allowed: ids of tokens, 0 to 14")
    with pytest.raises(ValueError, match=expected):
        build(editing={"tokens": str(tmp_path / "ids.txt")})


def test_a_draft_beyond_the_context_is_told(build, speech):
    with pytest.raises(ContextError, match="more than the 256 of the LM's context"):
        edit(build(), speech, [[3] * 120] * 3)


def make_pairs(number):
    """Texts of words in pairs, and drafts in which a word is taken for another that only the next one tells apart.

    w0 stands before w2 alone, and w1 before w3; drafts say w0 for w1 and back, and leave out what follows w4.
    """
    texts, drafts = [], []
    for _ in range(number):
        text, draft = [], []
        for _ in range(random.randint(2, 5)):
            pair = random.choice([(3, 5), (4, 6), (7, 8), (9, 10)])
            text += pair
            if pair[0] in (3, 4) and random.random() < 0.5:
                draft += [7 - pair[0], pair[1]]
            elif pair[0] == 7 and random.random() < 0.5:
                draft += [7]
            else:
                draft += pair
        texts.append(text)
        drafts.append(draft)
    return texts, drafts


def test_a_tiny_editor_learns_to_repair_drafts_that_it_has_not_seen(build, speech):
    decoder = build(editing={"text_only": True}, adaptation="full", lm={"initializer_range": 0.1})
    optimizer = torch.optim.AdamW(decoder.backbone.parameters(), lr=0.004)
    texts, held_out = make_pairs(100)
    with torch.no_grad():
        before = edit_loss(decoder, None, held_out, texts, 0.02).stats
    assert before["wer_draft"] > 0.15
    for _ in range(150):
        references, drafts = make_pairs(24)
        optimizer.zero_grad()
        edit_loss(decoder.train(), None, drafts, references, 0.02).loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 5.0)
        optimizer.step()
    with torch.no_grad():
        after = edit_loss(decoder.eval(), None, held_out, texts, 0.02).stats
    assert after["wer_draft"] == before["wer_draft"]
    assert after["wer_edit"] < 0.02
    frames = torch.zeros(len(texts), 2, speech[0].size(2)), torch.full((len(texts),), 2)
    found = edit(decoder, frames, held_out).token_ids
    assert sum(one == other for one, other in zip(found, texts, strict=True)) >= 95
