"""The LM's tokens as ESPnet's list, and the special ones."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from espnet_larm.llm.tokens import check_spelling, special_tokens, token_list_of


def tokenizer(words, **options):
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=words[0], **options)


def test_every_row_of_the_logits_has_a_name_of_its_own():
    words = ["<unk>", "A", " ", "B\n", "C", ""]
    assert token_list_of(tokenizer(words), 8) == ["<unk>", "A", "<id2>", "<id3>", "C", "<id5>", "<id6>", "<id7>"]


def test_tokens_that_the_lm_has_no_row_for_are_refused():
    added = tokenizer(["<unk>", "A"])
    added.add_tokens(["<end>"])
    assert token_list_of(added, 3)[2] == "<end>"
    with pytest.raises(ValueError, match="the tokenizer has 3 tokens, but the LM's head only 2 rows"):
        token_list_of(added, 2)


def test_special_tokens_come_from_the_tokenizer():
    assert special_tokens(tokenizer(["<unk>", "</s>", "A"], eos_token="</s>")) == (1, True)
    assert special_tokens(tokenizer(["A", "<unk>", "</s>"], eos_token="</s>", bos_token="</s>")) == (2, True)
    with pytest.raises(ValueError, match="no token that ends a text"):
        special_tokens(tokenizer(["<unk>", "A"]))


def test_transcripts_that_cannot_be_spelt_are_refused():
    words = tokenizer(["<unk>", "one", "two"])
    check_spelling(words, ["one two", "two"])
    with pytest.raises(ValueError, match="cannot spell transcript 2: 'ONE two' becomes 'two'"):
        check_spelling(words, ["one", "ONE two"])
