"""Stage 5: token lists in ESPnet's order, and the tokens of an LM."""

import json
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from espnet_larm.recipe import make_tokens
from espnet_larm.recipe.make_tokens import character_tokens, token_list, train_bpe

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
    paths = ["--text", str(tmp_path / "text"), "--output_dir", str(tmp_path / "out")]
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


def test_special_tokens_have_the_places_that_espnet_expects() -> None:
    assert token_list(["A", "B"]) == ["<blank>", "<unk>", "A", "B", "<sos/eos>"]


def test_characters_come_by_frequency_then_by_code_point() -> None:
    assert character_tokens(["BA AB", "CA"])[2:-1] == ["A", "B", "<space>", "C"]


def test_non_linguistic_symbols_stay_whole() -> None:
    assert character_tokens(["A <noise>"], ["<noise>"])[2:-1] == ["<noise>", "<space>", "A"]


@pytest.mark.parametrize("mode", ["unigram", "bpe"])
def test_non_linguistic_symbols_are_a_piece_each(tmp_path: Path, mode: str) -> None:
    import sentencepiece

    lines = ["THE [laugh] RAIN", "IN SPAIN [laugh]", "[cough] STAYS MAINLY"]
    (tmp_path / "text").write_text("".join(f"u{i} {lines[i % 3]}\n" for i in range(30)))
    (tmp_path / "symbols").write_text("[laugh]\n[cough]\n")
    options = ["--bpemode", mode, "--nbpe", "22", "--nlsyms", str(tmp_path / "symbols"), "--bpe_nlsyms", "[cough],[x]"]
    paths = ["--text", str(tmp_path / "text"), "--output_dir", str(tmp_path / "out")]
    make_tokens.main([*paths, "--token_type", "bpe", *options])
    assert {"[laugh]", "[cough]", "[x]"} <= set((tmp_path / "out/tokens.txt").read_text().split("\n"))
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/bpe.model"))
    assert {"[laugh]", "[cough]"} <= set(model.encode("[cough] RAIN [laugh]", out_type=str))


def test_non_linguistic_symbols_that_have_no_effect_or_file_are_refused(tmp_path, llm):
    (tmp_path / "symbols").write_text("<noise>\n")
    with pytest.raises(ValueError, match="--nlsyms does not go with --token_type hugging_face"):
        run(tmp_path, "u1 ONE\n", "--llm", llm, "--nlsyms", str(tmp_path / "symbols"))
    with pytest.raises(FileNotFoundError, match="--nlsyms nowhere is missing"):
        run(tmp_path, "u1 ONE\n", "--nlsyms", "nowhere", "--token_type", "char")


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no characters"):
        character_tokens([""])


def test_a_special_token_in_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="<blank> stands in the text"):
        token_list(["<blank>"])


def test_bpe_gives_a_list_as_long_as_its_vocabulary_without_sentence_marks(tmp_path: Path) -> None:
    words = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN"]
    (tmp_path / "text").write_text("".join(f"u{i} {' '.join(words[i % 5 :: 2])}\n" for i in range(50)))
    out = tmp_path / "bpe"
    make_tokens.main(
        ["--text", str(tmp_path / "text"), "--token_type", "bpe", "--nbpe", "20", "--output_dir", str(out)]
    )
    tokens = (out / "tokens.txt").read_text().split()
    # 20 pieces hold <unk>, <s> and </s>; the list adds <blank> and <sos/eos> and leaves <s> and </s> out.
    assert len(tokens) == 20 and tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    # Packs hold it: it must not name folders of whoever trained it.
    assert str(tmp_path).encode() not in (out / "bpe.model").read_bytes()


def test_too_many_pieces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--nbpe 500 does not fit"):
        train_bpe(["ONE", "TWO"], tmp_path / "bpe.model", 500, "unigram")


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--bpemode word is not known; allowed: unigram, bpe"):
        train_bpe(["ONE", "TWO"], tmp_path / "bpe.model", 10, "word")
