"""The CTC errors of a batch are those of its utterances, whatever the CTC head says of padding."""

import argparse

import pytest
import torch
import yaml

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.speech_llm.within_lengths import WithinLengthsModel

SPEECH_LENS, TEXT_LENS = torch.tensor([16000, 9000, 5000]), torch.tensor([4, 2, 3])
LETTER = 3


@pytest.fixture
def stock(larm_task, tiny_experiment):
    """conf/tiny's looped encoder in the stock model, whose CTC head says a letter of a zero vector."""
    model = larm_task.build_model(argparse.Namespace(**yaml.safe_load(tiny_experiment.config.read_text())))
    model.load_state_dict(torch.load(tiny_experiment.model))
    with torch.no_grad():
        model.ctc.ctc_lo.bias[LETTER] += 5.0
    return model.eval()


def batch():
    speech, text = torch.randn(3, 16000), torch.randint(3, 7, (3, 4))
    for row, (num_samples, num_tokens) in enumerate(zip(SPEECH_LENS, TEXT_LENS, strict=True)):
        speech[row, num_samples:], text[row, num_tokens:] = 0.0, -1
    return {"speech": speech, "speech_lengths": SPEECH_LENS, "text": text, "text_lengths": TEXT_LENS}


@torch.no_grad()
def error_rates(model, key):
    """Error rates of a batch and of single ones with their letters as weights, as ESPnet's ErrorCalculator does."""
    given = batch()
    (last, others), hlens = model.encode(given["speech"], SPEECH_LENS)
    hs_pad = last if key == "cer_ctc" else dict(others)[int(key.removeprefix("cer_interctc_layer"))]
    num_errors = 0.0
    for row, num_tokens in enumerate(TEXT_LENS):
        # From the encoder on: ESPnet's STFT reflects the end of an utterance alone, and not in a batch.
        text = given["text"][row : row + 1, :num_tokens]
        lens = hlens[row : row + 1], TEXT_LENS[row : row + 1]
        rate = model._calc_ctc_loss(hs_pad[row : row + 1, : hlens[row]], lens[0], text, lens[1])[1]
        num_errors += rate * num_tokens.item()
    return model(**given)[1][key].item(), num_errors / TEXT_LENS.sum().item()


@pytest.mark.parametrize("key", ["cer_ctc", "cer_interctc_layer2"])
def test_error_rate_of_a_batch_is_that_of_its_utterances(stock, key):
    together, one_by_one = error_rates(stock, key)
    assert together == pytest.approx(one_by_one)


def test_espnets_own_counts_what_padding_says(stock):
    stock.__class__ = ESPnetASRModel
    together, one_by_one = error_rates(stock, "cer_ctc")
    assert together > one_by_one + 0.1


def test_nothing_but_the_error_rates_differs_from_espnets(stock):
    given = batch()
    ours = stock(**given)
    stock.__class__ = ESPnetASRModel
    espnets = stock(**given)
    assert torch.equal(ours[0], espnets[0]) and list(ours[1]) == list(espnets[1])


def test_a_model_with_an_lm_counts_as_the_stock_model_does(build_speech_llm):
    model = build_speech_llm().eval()
    with torch.no_grad():
        model.ctc.ctc_lo.bias[LETTER] += 5.0
    together, one_by_one = error_rates(model, "cer_ctc")
    assert together == pytest.approx(one_by_one)


def test_training_counts_no_errors(stock):
    assert stock.train()(**batch())[1]["cer_ctc"] is None


def test_the_task_leaves_models_of_other_classes_alone(stock, build_speech_llm):
    assert type(stock) is WithinLengthsModel
    assert type(build_speech_llm()).__name__ == "SpeechLlmModel"
