"""A word n-gram, a lexicon and hotwords where CTC decodes alone: what they change, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recipe.ngram.kneser_ney import START, count_ngrams, smooth, vocabulary_of, write_arpa
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ngrams import spell_tokens
from espnet_larm.search.ctc.lexicon import Spelled

TEXT = [["BAD", "CAB"], ["CAB", "A", "BAD"], ["FADE", "A", "CAGE"], ["A", "BAD", "CAGE"]]
WORDS = sorted({word for words in TEXT for word in words})


def write_ngram(path, sentences):
    vocabulary = vocabulary_of([*sorted({word for words in sentences for word in words}), "</s>"], "</s>")
    orders = count_ngrams(sentences, vocabulary, 2)
    write_arpa(path, vocabulary, orders, smooth(orders, vocabulary.index(START)))
    return path


@pytest.fixture
def arpa(tmp_path):
    pytest.importorskip("kenlm")
    return write_ngram(tmp_path / "2gram.arpa", TEXT * 5)


@pytest.fixture
def recognizer(larm_task, tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    found = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model)
    # Posteriors that leave words a say.
    with torch.no_grad():
        found.model.ctc.ctc_lo.weight.mul_(0.1)
    return found


@pytest.fixture
def waveforms(tiny_experiment):
    return [read_audio(path).samples for path in read_table(tiny_experiment.data / "wav.scp").values()]


def texts(recognizer, waveforms, **options):
    plan = recognizer.plan(DecodeConfig(beam_size=8, nbest=4, **options))
    return [[each.text for each in (found.best, *found.others)] for found in recognizer.recognize(waveforms, plan)]


def test_weights_of_nothing_change_no_text(recognizer, waveforms, arpa):
    plain = texts(recognizer, waveforms)
    assert any(map(any, plain))
    assert texts(recognizer, waveforms, ngram_file=str(arpa), ngram_weight=0.0, oov_penalty=0.0) == plain
    assert texts(recognizer, waveforms, hotwords="BAD", hotword_weight=0.0) == plain


def test_a_batch_gives_what_each_utterance_gives_alone(recognizer, waveforms, arpa):
    options = {"ngram_file": str(arpa), "ngram_weight": 2.0}
    together = texts(recognizer, waveforms, **options)
    assert together != texts(recognizer, waveforms)
    assert together == [texts(recognizer, [each], **options)[0] for each in waveforms]


def test_a_lexicon_of_the_ngrams_words_or_of_a_file_holds(recognizer, waveforms, arpa, tmp_path):
    (tmp_path / "words.txt").write_text("BAD  B AE D\nCAB  K AE B\n\nGHEE\n")
    for options, allowed in (
        ({"lexicon": "ngram", "ngram_file": str(arpa)}, WORDS),
        ({"lexicon": str(tmp_path / "words.txt")}, ["BAD", "CAB", "GHEE"]),
        ({"lexicon": str(tmp_path / "words.txt"), "hotwords": "H, HAG"}, ["BAD", "CAB", "GHEE", "H", "HAG"]),
    ):
        found = {word for some in texts(recognizer, waveforms, **options) for each in some[:1] for word in each.split()}
        # The last word of an utterance that none can end may be a part of one.
        whole = [word for word in found if word in allowed]
        assert whole and all(any(word.startswith(each) for word in allowed) for each in found)


def test_hotwords_are_found_more_often(recognizer, waveforms):
    def count(**options):
        return sum(each[0].split().count("A") for each in texts(recognizer, waveforms, **options))

    assert count(hotwords="A", hotword_weight=20.0) > count()


def test_what_scores_words_stands_in_the_statistics(arpa, tiny_experiment, tmp_path):
    from espnet_larm.cli import decode
    from espnet_larm.recipe.results import describe_decoding

    options = {
        "data_path_and_name_and_type": f"{tiny_experiment.data}/wav.scp,speech,sound",
        "asr_train_config": tiny_experiment.config,
        "asr_model_file": tiny_experiment.model,
        "output_dir": tmp_path / "out",
        "ngram_file": arpa,
        "beam_size": 4,
        "word_bonus": 0.5,
        "hotwords": "HAG",
    }
    assert decode.main([word for name, value in options.items() for word in (f"--{name}", str(value))]) == 0
    stats = json.loads((tmp_path / "out/stats.json").read_text())
    assert stats["ngram_file"] == "2gram.arpa" and stats["num_words"] == len(WORDS) + 1
    assert (stats["ngram_weight"], stats["word_bonus"], stats["oov_penalty"]) == (0.9, 0.5, 10.0)
    assert (stats["num_hotwords"], stats["hotword_weight"], stats["is_open"]) == (1, 5.0, True)
    assert "ngram_weight 0.9 (2gram.arpa)" in describe_decoding(stats)


def test_files_and_options_that_say_nothing_are_refused(recognizer, arpa, tmp_path):
    lower = write_ngram(tmp_path / "lower.arpa", [[word.lower() for word in words] for words in TEXT])
    other = write_ngram(tmp_path / "other.arpa", [["xyz", "uvw"], ["zyx"]])
    (tmp_path / "binary").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "words.txt").write_text("BAD\nCAB\n")

    def plan(**options):
        return recognizer.plan(DecodeConfig(beam_size=2, **options))

    for error, match, options in (
        (ValueError, r"can spell 0 of the 5 words of .*lower.arpa, and 5 if capitals", {"ngram_file": str(lower)}),
        (ValueError, r"can spell 0 of the 3 words of .*other.arpa: it is of", {"ngram_file": str(other)}),
        (ValueError, "does not list its words, as binary files", {"ngram_file": str(tmp_path / "binary")}),
        (FileNotFoundError, "the n-gram .*none.arpa is missing", {"ngram_file": str(tmp_path / "none.arpa")}),
        (FileNotFoundError, "lexicon none is missing; name a file", {"lexicon": "none"}),
        (
            ValueError,
            r"other.arpa knows 0 of the 2 words of lexicon .*words.txt: it is of the other case",
            {"ngram_file": str(other), "lexicon": str(tmp_path / "words.txt")},
        ),
        (ValueError, "hotwords: the CTC head's tokens cannot spell bad, cab; write them", {"hotwords": "bad,BAD cab"}),
        (ValueError, "lexicon .*empty has no words", {"lexicon": str(tmp_path / "empty")}),
        (ValueError, "lexicon is ngram, which needs ngram_file", {"lexicon": "ngram"}),
        (ValueError, "word_bonus is 1.0, which needs ngram_file", {"word_bonus": 1.0}),
        (ValueError, "hotword_weight is 1.0, which needs hotwords", {"hotword_weight": 1.0}),
    ):
        with pytest.raises(error, match=match):
            plan(**options)
    config = DecodeConfig(ngram_file=str(arpa), beam_size=2)
    assert recognizer.plan(config).words is not None
    with pytest.raises(ValueError, match="beam_size is 1, which is greedy"):
        recognizer.plan(replace(config, beam_size=1))


def test_tokens_are_spelled_by_their_marks():
    pieces = ["<blank>", "<unk>", "\u2581", "\u2581a", "b", "<space>", "\u0120c", "<sos/eos>"]
    space = Spelled("", True)
    expected = [None, None, space, Spelled("a", True), Spelled("b", False), space, Spelled("c", True), None]
    assert spell_tokens(pieces) == expected
    with pytest.raises(ValueError, match="need tokens that tell where words begin"):
        spell_tokens(["<blank>", "a", "b"])


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives(larm_task, tiny_experiment, recognizer, waveforms, arpa):
    from espnet_larm.recognize.recognizer import Recognizer

    there = Recognizer.from_files(tiny_experiment.config, tiny_experiment.model, "cuda")
    there.model.ctc.load_state_dict(recognizer.model.ctc.state_dict())
    options = {"ngram_file": str(arpa), "hotwords": "HAG"}
    assert torch.cuda.is_available() and texts(there, waveforms, **options) == texts(recognizer, waveforms, **options)
