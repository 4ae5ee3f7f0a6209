"""The LM's tokens in those of a CTC head."""

import pytest

from espnet_larm.speech_llm.spelling import Spelling, spell_with

PIECES = ["AN", "D", " ", " CAT", "\ufffd", "S"]


class Tokenizer:
    """Joins pieces."""

    def decode(self, token_ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(PIECES[token] for token in token_ids)


def by_characters(text):
    return [ord(character) for character in text]


def by_words(text):
    return [sum(map(ord, word)) for word in text.split(" ")]


@pytest.mark.parametrize(("to_ids", "is_by_words"), [(by_characters, False), (by_words, True)])
def test_what_is_spelled_for_sure_is_never_taken_back(to_ids, is_by_words):
    spell = Spelling(Tokenizer(), to_ids, is_by_words)
    texts = [[0, 1, 3, 5], [2, 0, 2, 2, 3, 2], [0, 4, 3], [3, 3, 1]]
    for token_ids in texts:
        before = []
        for length in range(1, len(token_ids) + 1):
            sure, rest = spell(token_ids[:length], is_complete=False)
            assert sure[: len(before)] == before
            before = sure
            whole = spell(token_ids[:length], is_complete=True)
            assert whole.sure[: len(sure)] == sure and whole.rest == []
            if 4 not in token_ids[:length]:
                assert whole.sure == [*sure, *rest]


def test_spaces_are_said_with_what_follows_and_the_last_word_at_the_end():
    spell = Spelling(Tokenizer(), by_characters, is_by_words=False)
    assert spell([0, 1, 2], is_complete=False) == (by_characters("AND"), [])
    assert spell([0, 1, 2, 3], is_complete=False) == (by_characters("AND CAT"), [])
    words = Spelling(Tokenizer(), by_words, is_by_words=True)
    assert words([0, 1, 3], is_complete=False) == (by_words("AND"), by_words("CAT"))
    assert words([0, 1, 3], is_complete=True) == (by_words("AND CAT"), [])
    assert words([], is_complete=True) == ([], [])


def test_a_piece_says_where_a_word_begins():
    class Named:
        all_special_ids = (4,)

        def convert_ids_to_tokens(self, token):
            return ["\u2581the", "\u0120cat", "s", None, "</s>"][token]

    assert [spell_with(Named())(token) for token in range(5)] == [" the", " cat", "s", "", ""]
