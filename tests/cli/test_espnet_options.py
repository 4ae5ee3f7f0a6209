"""Options of ESPnet's that our searches honour, and those that its own program gets."""

import argparse

import pytest

from espnet_larm.cli.decode import batching_of
from espnet_larm.cli.espnet_options import CTC_VALUES, espnets_model, espnets_option


def options(**values):
    ours = {"beam_size": 1, "nbest": 1, "ngpu": 0, "ctc_weight": None, "batch_seconds": 60.0, "batch_size": 1}
    files = {"asr_train_config": "config.yaml", "asr_model_file": "model.pth"}
    ngram = dict.fromkeys(("ngram_file", "ngram_weight", "lm_file", "lm_train_config"))
    speech = {"data_path_and_name_and_type": [("wav.scp", "speech", "sound")]}
    defaults = {**dict.fromkeys(CTC_VALUES), **ours, **ngram, **speech, **files}
    return argparse.Namespace(**{**defaults, **values})


def test_wishes_that_ours_honours_stay_here():
    for values in ({}, {"beam_size": 10, "ctc_weight": 1.0, "streaming": False}, {"ngram_file": "4gram.arpa"}):
        assert espnets_option(options(**values)) == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ngpu": 2}, "ngpu is 2; allowed: 0 or 1"),
        ({"batch_seconds": 0.0}, "batch_seconds is 0.0; allowed: above 0"),
        ({"batch_seconds": float("nan")}, "batch_seconds is nan; allowed: above 0"),
        ({"batch_size": 0}, "batch_size is 0; allowed: 1 or more"),
        ({"asr_model_file": None}, "--asr_model_file is missing"),
    ],
)
def test_options_of_the_program_itself_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        batching_of(options(**values))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"lm_file": "lm.pth"}, "lm_file is lm.pth"),
        ({"streaming": True}, "streaming is True"),
        ({"penalty": 0.1}, "penalty is 0.1"),
        ({"data_path_and_name_and_type": [("w", "speech", "multi_columns_sound")]}, "speech (w) is of type multi_"),
    ],
)
def test_what_another_search_needs_is_espnets(values, reason):
    assert espnets_option(options(**values)).startswith(reason)
    assert not any(espnets_option(options(**{name: value})) for name, value in CTC_VALUES.items())


@pytest.mark.parametrize(
    ("config", "values", "reason"),
    [
        ({"decoder": "transformer"}, {}, "the model has decoder: transformer"),
        ({"decoder": "transducer", "model_conf": {"ctc_weight": 0.3}}, {"ctc_weight": 0.3}, "the model has decoder"),
        ({"decoder": "transformer"}, {"ctc_weight": 1.0}, ""),
        ({"decoder": "transformer", "model_conf": {"ctc_weight": 1.0}}, {}, ""),
        ({"decoder": "speech_llm"}, {"ngram_file": "4gram.arpa"}, ""),
        ({}, {"ctc_weight": 0.5}, ""),
        ({}, {"ngram_file": "4gram.arpa"}, ""),
        ({"input_size": 83}, {}, "the model reads features of size 83 from archives"),
    ],
)
def test_models_that_ours_cannot_decode_are_espnets(config, values, reason):
    found = espnets_model(config, options(**values))
    assert found.startswith(reason) and bool(found) == bool(reason)
