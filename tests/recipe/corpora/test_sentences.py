"""The grammar of egs/mini."""

import random
import re

from espnet_larm.recipe.corpora.sentences import GRAMMAR, make_sentence


def test_sentences_are_in_librispeechs_text_style() -> None:
    source = random.Random(0)
    for _ in range(500):
        assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", make_sentence(source))


def test_the_seed_decides() -> None:
    first, second = random.Random(3), random.Random(3)
    assert [make_sentence(first) for _ in range(20)] == [make_sentence(second) for _ in range(20)]


def test_every_symbol_is_defined_and_used() -> None:
    named = {symbol for texts in GRAMMAR.values() for text in texts for symbol in re.findall(r"\{(\w+)\}", text)}
    assert named | {"SENTENCE"} == set(GRAMMAR)
