"""Two texts of one transcript."""

from types import SimpleNamespace

import numpy as np
import pytest

from espnet_larm.speech_llm.preprocessor import SpeechLlmPreprocessor

LLM_TOKENS = ["<unk>", "AB", "B", "<space>", "</s>"]


@pytest.fixture
def token_list(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("<blank>\n<unk>\nB\nA\n<space>\n<sos/eos>\n")
    return str(path)


def make(**options):
    return SpeechLlmPreprocessor(train=False, token_type="char", token_list=LLM_TOKENS, **options)


def test_the_ctc_heads_text_is_made_from_the_transcript(token_list):
    data = make(ctc_token_list=token_list)("u", {"speech": np.zeros(9, dtype=np.float32), "text": "AB B"})
    assert data["ctc_text"].tolist() == [3, 2, 4, 2]
    assert data["text"].tolist() == [0, 2, 3, 2]


def test_without_tokens_of_its_own_or_without_text_there_is_no_second_text(token_list):
    assert set(make()("u", {"text": "AB"})) == {"text"}
    assert set(make(ctc_token_list=token_list)("u", {"speech": np.zeros(9, dtype=np.float32)})) == {"speech"}


def test_the_second_text_is_cleaned_as_the_first(token_list, monkeypatch):
    # In place of one of ESPnet's, which need packages of their own.
    monkeypatch.setattr("espnet2.text.cleaner.jaconv", SimpleNamespace(normalize=str.upper))
    data = make(ctc_token_list=token_list, text_cleaner="jaconv")("u", {"text": "ab"})
    assert data["ctc_text"].tolist() == [3, 2]


def test_symbols_stay_whole_in_the_ctc_heads_text_as_in_its_token_list(tmp_path):
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\n<noise>\nA\n<space>\n<sos/eos>\n")
    (tmp_path / "symbols.txt").write_text("<noise>\n")
    own = {"ctc_token_list": str(tmp_path / "tokens.txt"), "non_linguistic_symbols": str(tmp_path / "symbols.txt")}
    assert make(**own)("u", {"text": "A <noise> A"})["ctc_text"].tolist() == [3, 4, 2, 4, 3]


def test_wrong_options_are_refused(token_list):
    with pytest.raises(ValueError, match="ctc_token_type is word; allowed: char, bpe"):
        make(ctc_token_type="word")
    with pytest.raises(ValueError, match="ctc_token_type bpe needs ctc_bpemodel"):
        make(ctc_token_type="bpe", ctc_token_list=token_list)
