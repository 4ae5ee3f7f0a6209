"""Stage 5: token lists in ESPnet's order."""

from pathlib import Path

import pytest

from espnet_larm.recipe.make_tokens import main
from espnet_larm.recipe.tokens import character_tokens, token_list, train_bpe


def test_special_tokens_have_the_places_that_espnet_expects() -> None:
    assert token_list(["A", "B"]) == ["<blank>", "<unk>", "A", "B", "<sos/eos>"]


def test_characters_come_by_frequency_then_by_code_point() -> None:
    assert character_tokens(["BA AB", "CA"])[2:-1] == ["A", "B", "<space>", "C"]


def test_non_linguistic_symbols_stay_whole() -> None:
    assert character_tokens(["A <noise>"], ["<noise>"])[2:-1] == ["<noise>", "<space>", "A"]


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
    main(["--text", str(tmp_path / "text"), "--token_type", "bpe", "--nbpe", "20", "--out_dir", str(out)])
    tokens = (out / "tokens.txt").read_text().split()
    # 20 pieces hold <unk>, <s> and </s>; the list adds <blank> and <sos/eos> and leaves <s> and </s> out.
    assert len(tokens) == 20 and tokens[:2] == ["<blank>", "<unk>"] and tokens[-1] == "<sos/eos>"
    assert (out / "bpe.model").is_file()


def test_too_many_pieces_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ONE\nTWO\n")
    with pytest.raises(ValueError, match="--nbpe 500 does not fit"):
        train_bpe(tmp_path / "text", tmp_path / "bpe", 500, "unigram")


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--bpemode word is not known; allowed: unigram, bpe"):
        train_bpe(tmp_path / "text", tmp_path / "bpe", 10, "word")
