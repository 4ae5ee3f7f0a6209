"""Sentences as lines of tokens: what is left out, and what is refused."""

import pytest

from espnet_larm.recipe.ngram.tokenizing import check_case, read_tokens, write_tokens


def spell(sentence):
    """In capitals alone."""
    tokens = ["<space>" if each == " " else each for each in sentence]
    return tokens if set(sentence) <= set("ABC ") else None


def test_sentences_that_the_tokens_cannot_spell_are_left_out_and_counted(tmp_path):
    written = write_tokens(
        ["A B", "A D", "C", "BA"], lambda text: spell(text.replace("BA", "")), tmp_path / "tokens", "--text"
    )
    assert written == (2, 4, 2)
    assert str(written) == "2 sentences, 4 tokens, 2 left out that the tokens cannot spell"
    assert list(read_tokens(tmp_path / "tokens")) == [["A", "<space>", "B"], ["C"]]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (
            ["a b", "c", "A"],
            r"the tokens cannot spell 2 of 3 sentences, 'a b' .* in capitals: convert .*tr a-z",
        ),
        (["X", "Y", "A"], r"--text: the tokens cannot spell 2 of 3 sentences, 'X' for example; name text in the"),
    ],
)
def test_text_that_the_tokens_mostly_cannot_spell_is_refused_with_the_reason(tmp_path, sentences, message):
    with pytest.raises(ValueError, match=message):
        write_tokens(sentences, spell, tmp_path / "tokens", "--text")


def test_text_of_the_other_case_than_the_transcripts_is_refused():
    with pytest.raises(ValueError, match=r"--text is in small letters .* --dev_text are in capitals: .*tr a-z A-Z"):
        check_case(["call Anna", "play a song"], ["CALL ANNA"], "--text")
    with pytest.raises(ValueError, match=r"--text is in capitals .* --dev_text are in small letters: .*tr A-Z a-z"):
        check_case(["CALL ANNA"], ["call anna"], "--text")


@pytest.mark.parametrize(
    ("sentences", "transcripts"),
    [
        (["CALL ANNA"], ["CALL"]),
        (["CALL ANNA", "o'clock"], ["CALL"]),
        (["call anna"], ["Call Anna"]),
        (["call anna"], []),
        (["\u4f60\u597d"], ["12"]),
    ],
)
def test_text_of_the_transcripts_case_or_of_none_passes(sentences, transcripts):
    check_case(sentences, transcripts, "--text")
