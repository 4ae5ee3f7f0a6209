"""Tokens of a CTC head beside an LM to text."""

import pytest

from espnet_larm.recognize.ctc import ctc_text_maker


def test_tokens_of_the_lm_make_text_as_its_tokenizer_does(build_speech_llm):
    model = build_speech_llm()
    to_text = ctc_text_maker(model, model.args)
    assert to_text(["A", "<s>", "B", "</s>"]) == "A B" and to_text([]) == ""


def test_options_of_other_tokens_are_refused_with_an_lm(build_speech_llm):
    model = build_speech_llm()
    for option in ({"token_type": "char"}, {"bpemodel": "x.model"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is .*, but the model has an LM, .*; leave it out"):
            ctc_text_maker(model, model.args, **option)
