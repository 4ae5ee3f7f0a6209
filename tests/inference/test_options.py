"""Options of ESPnet's that a CTC search cannot honour."""

import argparse

import pytest

from espnet_larm.inference.options import CTC_VALUES, check_decoder, check_search


def options(**values):
    ours = {"beam_size": 1, "nbest": 1, "ngpu": 0, "ctc_weight": None, "batch_seconds": 60.0, "batch_size": 1}
    ngram = {"ngram_file": None, "ngram_weight": None}
    defaults = {**dict.fromkeys(CTC_VALUES), **ours, **ngram}
    return argparse.Namespace(**{**defaults, **values})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"beam_size": 10, "ctc_weight": 1.0, "nbest": 10, "streaming": False},
        {"ngram_file": "4gram.arpa", "ngram_weight": 0.3},
        {"ngram_weight": 0.0},
    ],
)
def test_wishes_of_ctc_pass(values):
    check_search(options(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; allowed: 1 .greedy. or more"),
        ({"nbest": 3, "beam_size": 2}, "nbest is 3; allowed: 1 to beam_size, which is 2"),
        (
            {"ctc_weight": 1.3},
            "ctc_weight is 1.3; allowed: 1.0 .CTC alone., and with an LM 0.0",
        ),
        ({"lm_file": "lm.pth"}, "lm_file is lm.pth, .* leave it out"),
        ({"ngram_weight": 0.3}, "ngram_weight is 0.3, but no ngram_file is named; name it or leave it out"),
        ({"streaming": True}, "streaming is True"),
        ({"ngpu": 2}, "ngpu is 2; allowed: 0 or 1"),
        ({"batch_seconds": 0.0}, "batch_seconds is 0.0; allowed: above 0"),
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 or more"),
    ],
)
def test_other_wishes_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        check_search(options(**values))


def test_attention_decoder_is_left_aside_only_on_demand():
    check_decoder(has_attention_decoder=True, ctc_weight=1.0)
    check_decoder(has_attention_decoder=False, ctc_weight=None)
    with pytest.raises(ValueError, match=r"attention decoder, .* set ctc_weight: 1.0 .*--upstream"):
        check_decoder(has_attention_decoder=True, ctc_weight=None)
