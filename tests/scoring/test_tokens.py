"""Tokens of token error rates are those of ESPnet's tokenizers."""

import pytest
import sentencepiece

from espnet_larm.scoring.tokens import token_splitter


def test_characters_and_words_need_no_model():
    assert token_splitter("char", None)("A B") == ["A", "<space>", "B"]
    assert token_splitter("word", None)("A B") == ["A", "B"]


def test_bpe_splits_as_sentencepiece(tmp_path):
    text = tmp_path / "text"
    text.write_text("THE CAT SAT ON THE MAT\nTHE DOG SAT ON THE LOG\n" * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "bpe"), vocab_size=18, minloglevel=2
    )
    split = token_splitter("bpe", str(tmp_path / "bpe.model"))
    assert "".join(split("THE CAT")) == "▁THE▁CAT" and len(split("THE CAT")) > 1


@pytest.mark.parametrize(
    ("token_type", "bpemodel", "error", "message"),
    [
        ("phn", None, ValueError, "token_type is phn; allowed for token error rates: char, bpe, word"),
        ("bpe", None, ValueError, "needs a sentencepiece model"),
        ("bpe", "none.model", FileNotFoundError, "none.model is missing"),
    ],
)
def test_unknown_tokens_are_refused(token_type, bpemodel, error, message):
    with pytest.raises(error, match=message):
        token_splitter(token_type, bpemodel)
