"""Stage 5 for an LM's own tokens; characters and BPE are tested in tests/data/test_tokens.py."""

import json

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from espnet_larm.recipe import make_tokens

WORDS = ["<unk>", "<s>", "</s>", "ONE", "TWO"]


@pytest.fixture
def llm(tmp_path):
    """A folder as a causal LM has it, without weights, and a row more than there are tokens."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = {"model_type": "llama", "vocab_size": len(WORDS) + 1, "hidden_size": 8, "num_attention_heads": 2}
    (tmp_path / "llm" / "config.json").write_text(json.dumps(config))
    return str(tmp_path / "llm")


def run(tmp_path, text, *options):
    (tmp_path / "text").write_text(text)
    paths = ["--text", str(tmp_path / "text"), "--out_dir", str(tmp_path / "out")]
    return make_tokens.main([*paths, "--token_type", "hugging_face", *options])


def test_tokens_of_an_lm_have_a_line_a_row_of_its_logits(tmp_path, llm):
    assert run(tmp_path, "u1 ONE TWO\nu2 TWO\n", "--llm", llm) == 0
    assert (tmp_path / "out" / "tokens.txt").read_text().splitlines() == [*WORDS, "<id5>"]


def test_an_lm_that_cannot_spell_the_text_is_refused(tmp_path, llm):
    with pytest.raises(ValueError, match="cannot spell transcript 2: 'TWO three' becomes 'TWO'"):
        run(tmp_path, "u1 ONE TWO\nu2 TWO three\n", "--llm", llm)
    assert not (tmp_path / "out" / "tokens.txt").exists()


def test_an_lm_must_be_named_and_there(tmp_path):
    with pytest.raises(ValueError, match="--token_type hugging_face needs --llm"):
        run(tmp_path, "u1 ONE\n")
    with pytest.raises(FileNotFoundError, match=r"llm .*nowhere: this hub model cannot be loaded"):
        run(tmp_path, "u1 ONE\n", "--llm", str(tmp_path / "nowhere"))


def test_a_further_text_that_cannot_be_spelled_is_named(tmp_path, llm):
    (tmp_path / "dev").write_text("v1 ONE\nv2 one\n")
    with pytest.raises(ValueError, match=r"/dev: the LM's tokenizer cannot spell transcript 2: 'one' becomes"):
        run(tmp_path, "u1 ONE TWO\n", "--llm", llm, "--check_text", str(tmp_path / "dev"))
    (tmp_path / "dev").write_text("v1 ONE\nv2\n")
    assert run(tmp_path, "u1 ONE TWO\n", "--llm", llm, "--check_text", str(tmp_path / "dev")) == 0
