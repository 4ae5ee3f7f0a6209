"""An n-gram that an LM's search hears: what it changes, and files and weights that are refused."""

from dataclasses import replace

import pytest
import torch
import yaml

from espnet_larm.recipe.ngram.kneser_ney import START, count_ngrams, smooth, vocabulary_of, write_arpa
from espnet_larm.recognize.config import DecodeConfig

TEXT = [list("BADCAD"), list("BAD"), list("DAB"), list("CADAB")]


def train(path, tokens, sentences):
    vocabulary = vocabulary_of(tokens, "</s>")
    orders = count_ngrams(sentences, vocabulary, 3)
    write_arpa(path, vocabulary, orders, smooth(orders, vocabulary.index(START)))
    return path


@pytest.fixture
def recognizer(build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    model = build_speech_llm().eval()
    # Small embeddings of speech would all give one text.
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    return Recognizer(model, " ".join)


@pytest.fixture
def arpa(recognizer, tmp_path):
    """An ARPA file of a text over the model's tokens."""
    pytest.importorskip("kenlm")
    return train(tmp_path / "3gram.arpa", recognizer.model.token_list, TEXT * 10)


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_an_ngram_is_heard_in_a_batch_as_alone_and_not_at_weight_0(recognizer, arpa, waveforms, ctc_weight, beam_size):
    options = {"ctc_weight": ctc_weight, "beam_size": beam_size}
    without = recognizer.recognize(waveforms, DecodeConfig(**options))
    plan = recognizer.plan(DecodeConfig(ngram_file=str(arpa), **options))
    assert plan.llm.ngram.weight == 0.9
    found = recognizer.recognize(waveforms, plan)
    assert all(one.best.score != other.best.score for one, other in zip(found, without, strict=True))
    for waveform, one in zip(waveforms, found, strict=True):
        (alone,) = recognizer.recognize([waveform], plan)
        assert alone.best.token_ids == one.best.token_ids
        assert alone.best.score == pytest.approx(one.best.score, abs=1e-3)
    weightless = DecodeConfig(ngram_file=str(arpa), ngram_weight=0.0, **options)
    assert recognizer.recognize(waveforms, weightless) == without


def test_a_heavy_ngram_has_its_texts_said(recognizer, arpa, waveforms):
    heavy = DecodeConfig(least_ctc_share=0.0, ngram_file=str(arpa), ngram_weight=50.0, beam_size=8)
    for one in recognizer.recognize(waveforms, heavy):
        assert one.best.tokens in TEXT


def test_drafts_are_verified_by_what_the_ngram_says_too(recognizer, arpa, waveforms):
    config = DecodeConfig(ngram_file=str(arpa))
    expected = recognizer.recognize(waveforms, config)
    found, cost = recognizer.decode(waveforms, replace(config, drafts="ctc", tokens_per_call=5))
    assert [one.best.token_ids for one in found] == [one.best.token_ids for one in expected]
    assert cost.effort.acceptance()


def test_what_is_not_verified_cannot_hear_an_ngram(recognizer, arpa, build_speech_llm):
    recognizer = type(recognizer)(build_speech_llm(decoder_conf={"num_heads": 3}).eval(), " ".join)
    config = DecodeConfig(ngram_file=str(arpa), ngram_weight=0.3, drafts="heads", accept="threshold", draft_tau=0.5)
    message = (
        "ngram_weight is 0.3 and accept is threshold: an n-gram cannot score .* ngram_weight: 0.0 or accept: verified"
    )
    with pytest.raises(ValueError, match=message):
        recognizer.plan(config)


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
def test_what_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match=f"ngram_weight is {weight}; allowed: 0 or more"):
        DecodeConfig(ngram_weight=weight)


def test_an_ngram_of_other_words_is_refused_with_how_many_tokens_it_knows(recognizer, arpa, tmp_path):
    tokens = recognizer.model.token_list
    other = train(tmp_path / "words.arpa", ["BAD", "DAB", "A"], [["BAD", "A"], ["DAB"]])
    message = rf"words.arpa knows 1 of the model's {len(tokens) - 3} tokens: it is of other tokens, .*stage 9"
    with pytest.raises(ValueError, match=message):
        recognizer.plan(DecodeConfig(ngram_file=str(other)))


def test_an_ngram_of_the_other_case_is_refused_and_said_to_be(recognizer, arpa, tmp_path):
    tokens = [token.lower() for token in recognizer.model.token_list]
    other = train(tmp_path / "small.arpa", tokens, [[token.lower() for token in words] for words in TEXT])
    with pytest.raises(ValueError, match=r"knows 0 of .* if capitals and small letters are exchanged: .* other case"):
        recognizer.plan(DecodeConfig(ngram_file=str(other)))


def test_files_that_are_no_ngrams_are_refused(recognizer, arpa, tmp_path):
    (tmp_path / "text").write_text("B A D\n")
    with pytest.raises(ValueError, match="text is no ARPA file and none of kenlm's binary ones"):
        recognizer.plan(DecodeConfig(ngram_file=str(tmp_path / "text")))
    with pytest.raises(FileNotFoundError, match="the n-gram .*nowhere.arpa is missing"):
        recognizer.plan(DecodeConfig(ngram_file=str(tmp_path / "nowhere.arpa")))


def test_ctc_alone_takes_an_ngram_over_words_if_its_tokens_tell_them(recognizer, arpa):
    with pytest.raises(ValueError, match="score the words of a prefix beam, and beam_size is 1, which is greedy"):
        recognizer.plan(DecodeConfig(ngram_file=str(arpa), ctc_weight=1.0))
    with pytest.raises(ValueError, match="need tokens that tell where words begin"):
        recognizer.plan(DecodeConfig(ngram_file=str(arpa), ctc_weight=1.0, beam_size=4))


@pytest.mark.parametrize(
    "option", [{"word_bonus": 1.0}, {"oov_penalty": 1.0}, {"hotwords": "BAD"}, {"lexicon": "ngram"}]
)
def test_options_of_ctcs_words_are_refused_where_the_lm_decodes(recognizer, arpa, option):
    with pytest.raises(ValueError, match="an option of CTC's prefix beam, but the LM decodes; .* ctc_weight: 1.0"):
        recognizer.plan(DecodeConfig(ngram_file=str(arpa), **option))


def test_without_kenlm_the_line_that_installs_it_is_said(recognizer, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(ImportError, match=r'pip install "espnet-larm\[ngram\]"'):
        recognizer.plan(DecodeConfig(ngram_file=str(tmp_path / "3gram.arpa")))


def test_the_program_takes_the_file_and_says_its_name_and_weight(build_speech_llm, arpa, tiny_experiment, tmp_path):
    import json

    from espnet_larm.cli import decode as asr_inference
    from espnet_larm.recipe.results import describe_decoding

    model = build_speech_llm()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    options = {
        "data_path_and_name_and_type": f"{tiny_experiment.data}/wav.scp,speech,sound",
        "asr_train_config": tmp_path / "config.yaml",
        "asr_model_file": tmp_path / "model.pth",
        "output_dir": tmp_path / "out",
        "ngram_file": arpa,
    }
    command = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for more, weight in (([], 0.9), (["--ngram_weight", "0.2", "--beam_size", "2"], 0.2)):
        assert asr_inference.main([*command, *more]) == 0
        stats = json.loads((tmp_path / "out/stats.json").read_text())
        assert (stats["ngram_file"], stats["ngram_weight"]) == ("3gram.arpa", weight)
        assert f"ngram_weight {weight} (3gram.arpa)" in describe_decoding(stats)
    with pytest.raises(ValueError, match="ngram_weight is -1.0; allowed"):
        asr_inference.main([*command, "--ngram_weight", "-1"])
