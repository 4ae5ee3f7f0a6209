"""Prefix, speech, suffix and text in one row, and where they come from."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from espnet_larm.speech_llm.prompt import make_prompt, pack

WORDS = ["<unk>", "<s>", "</s>", "<user>", "<bot>", "transcribe", "speech", ":"]
TEMPLATE = "{% for m in messages %}<user> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"


def tokenizer(**options):
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **options)


def test_parts_follow_each_other_without_gaps():
    torch.manual_seed(0)
    prefix, speech, text = torch.randn(1, 2, 4).expand(3, -1, -1), torch.randn(3, 5, 4), torch.randn(3, 3, 4)
    speech_lens, text_lens = torch.tensor([5, 1, 3]), torch.tensor([0, 3, 2])
    packed = pack([(prefix, torch.full((3,), 2), False), (speech, speech_lens, True), (text, text_lens, False)])
    assert packed.lens.tolist() == [7, 6, 7]
    for row in range(3):
        parts = [prefix[row], speech[row, : speech_lens[row]], text[row, : text_lens[row]]]
        assert torch.equal(packed.embeddings[row, : packed.lens[row]], torch.cat(parts))
        assert not packed.embeddings[row, packed.lens[row] :].any()
        speech_positions = packed.speech[row].nonzero().flatten().tolist()
        assert speech_positions == list(range(2, 2 + int(speech_lens[row])))


def test_suffix_is_the_token_that_begins_a_text_unless_it_is_given():
    assert make_prompt(tokenizer(bos_token="<s>"), "", None, None) == ((), (1,))
    # Another token that pads, even as token 0, changes nothing.
    assert make_prompt(tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<user>"), "", None, None) == ((), (1,))
    assert make_prompt(tokenizer(bos_token="<s>"), "speech :", "transcribe :", None) == ((6, 7), (5, 7))


def test_a_chat_template_puts_the_speech_behind_the_instruction():
    chat = tokenizer(chat_template=TEMPLATE)
    assert make_prompt(chat, "", None, "transcribe : ") == ((3, 5, 7), (4,))


def test_prompts_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="suffix is empty and the tokenizer has no token that begins a text"):
        make_prompt(tokenizer(), "speech", None, None)
    with pytest.raises(ValueError, match="the LM's tokenizer has no chat template"):
        make_prompt(tokenizer(bos_token="<s>"), "", None, "transcribe")
    with pytest.raises(ValueError, match="instruction is given beside prefix or suffix"):
        make_prompt(tokenizer(chat_template=TEMPLATE), "speech", None, "transcribe")
    with pytest.raises(ValueError, match="the LM's chat template changes what it is given"):
        make_prompt(tokenizer(chat_template="{{ messages[0].content | upper }}"), "", None, "transcribe")


def test_a_template_that_reads_the_clock_is_refused_with_what_to_write_instead():
    dated = "{{ strftime_now('%Y') | int }} " + TEMPLATE
    with pytest.raises(ValueError, match=r"puts the date into the prompt, .* prefix: \"20\d\d .*, suffix: \""):
        make_prompt(tokenizer(chat_template=dated), "", None, "transcribe : ")
    # It is there, and not used.
    unused = "{% if strftime_now is defined %}{% endif %}" + TEMPLATE
    assert make_prompt(tokenizer(chat_template=unused), "", None, "transcribe : ") == ((3, 5, 7), (4,))
