"""Audio to text by an LM: in batches, within bounds, with its calls counted."""

import json

import pytest
import torch

from espnet_larm.inference.llm_searching import EARLY_END, FAR_FROM_CTC, GUARDS, LIMIT, LOOP, Guards
from espnet_larm.inference.transcripts import Hypothesis
from espnet_larm.search.greedy_text import greedy
from espnet_larm.search.texts import Bounds


@pytest.fixture
def recognizer(build_speech_llm):
    from espnet_larm.inference.recognizer import Recognizer

    model = build_speech_llm().eval()
    # Small embeddings of speech would all give one text.
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
    return Recognizer(model, " ".join)


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


def test_batch_gives_what_each_utterance_gives_alone(recognizer, waveforms):
    together = recognizer.transcribe(waveforms)
    alone = [recognizer.transcribe([waveform])[0] for waveform in waveforms]
    assert [one.best.token_ids for one in together] == [one.best.token_ids for one in alone]
    assert len({one.text for one in together}) > 1
    for found, expected in zip(together, alone, strict=True):
        assert found.best.score == pytest.approx(expected.best.score, abs=1e-3)


@torch.no_grad()
def test_text_is_that_of_greedy_search_on_the_last_loop(recognizer, waveforms):
    model = recognizer.model
    for num_loops in (1, 2):
        (found,) = recognizer.transcribe(waveforms[:1], num_loops)
        assert list(found.hypotheses) == [num_loops]
        model.encoder.set_inference_loops(num_loops)
        output, lens = model.encode(torch.from_numpy(waveforms[0]).unsqueeze(0), torch.tensor([16000]))
        hs_pad = output[0] if isinstance(output, tuple) else output
        (expected,) = greedy(model.decoder.start(hs_pad, lens), [Bounds(31)], model.eos).texts
        assert found.best.token_ids == expected.token_ids
        words = [model.token_list[token] for token in expected.token_ids if token > 2]
        assert found.text == " ".join(words)


@pytest.fixture
def babbler(recognizer):
    """A recogniser whose LM says one token for ever."""
    model = recognizer.model
    model.eos = model.vocab_size - 1
    with torch.no_grad():
        model.decoder.backbone.model.get_output_embeddings().weight[model.eos] = 0
        model.decoder.backbone.model.get_output_embeddings().weight[3] *= 100
    return recognizer


def test_texts_have_bounds_and_say_when_they_met_them(babbler, waveforms):
    babbler.llm_searcher.guards = Guards(stops_loops=False)
    found = babbler.transcribe(waveforms[:2])
    assert all(LIMIT in one.best.guards for one in found)
    # 24 tokens a second and 8, for 30 and 17 frames of 32 ms.
    assert [len(one.best.token_ids) for one in found] == [31, 21]
    babbler.llm_searcher.guards = Guards(max_tokens_per_second=5.0, stops_loops=False)
    assert [len(one.best.token_ids) for one in babbler.transcribe(waveforms[:2])] == [12, 10]


def test_a_loop_is_cut_back_and_said(babbler, waveforms):
    (found,) = babbler.transcribe(waveforms[:1])
    assert found.best.guards == (LOOP,)
    assert found.best.token_ids.count(3) == 1 and found.best.token_ids[-1] == 3


def test_an_end_before_half_of_what_ctc_hears_is_not_believed(recognizer, waveforms, monkeypatch):
    searcher = recognizer.llm_searcher
    searcher.guards = Guards(stops_loops=False)
    # A token that the random LM says anyway.
    recognizer.model.eos = recognizer.transcribe(waveforms[:1])[0].best.token_ids[3]
    free = recognizer.transcribe(waveforms)
    longest = max(len(one.best.token_ids) for one in free)
    heard = Hypothesis("A B " * (longest + 1), [], [], 0.0)
    monkeypatch.setattr(searcher.ctc, "find", lambda hs_pad, *_: [[heard] for _ in hs_pad])
    held = recognizer.transcribe(waveforms)
    assert all(len(one.best.token_ids) > longest or LIMIT in one.best.guards for one in held)
    assert any(EARLY_END in one.best.guards for one in held)
    searcher.guards = Guards(least_ctc_share=0.0, stops_loops=False)
    assert [one.best.token_ids for one in recognizer.transcribe(waveforms)] == [one.best.token_ids for one in free]


def test_a_text_far_longer_than_what_ctc_hears_is_said_and_kept(babbler, waveforms, monkeypatch):
    babbler.llm_searcher.guards = Guards(stops_loops=False)
    (heard,) = babbler.transcribe(waveforms[:1])
    nothing = Hypothesis("", [], [], 0.0)
    monkeypatch.setattr(babbler.llm_searcher.ctc, "find", lambda *_: [[nothing]])
    (found,) = babbler.transcribe(waveforms[:1])
    assert FAR_FROM_CTC in found.best.guards and found.best.token_ids == heard.best.token_ids


def test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves(recognizer, waveforms, monkeypatch, caplog):
    expected = recognizer.transcribe(waveforms)
    real, tried = recognizer.llm_searcher.find, []

    def find(hs_pad, *others):
        tried.append(len(hs_pad))
        if len(hs_pad) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return real(hs_pad, *others)

    monkeypatch.setattr(recognizer.llm_searcher, "find", find)
    found = recognizer.transcribe(waveforms)
    assert tried == [3, 1, 2, 1, 1] and recognizer.num_halved == 2
    assert [one.best.token_ids for one in found] == [one.best.token_ids for one in expected]
    assert "3 utterances do not fit into memory together: in halves" in caplog.text
    monkeypatch.setattr(recognizer.llm_searcher, "find", lambda *_: torch.empty(2**60))
    with pytest.raises(MemoryError, match=r"one utterance of \d+ frames does not fit into memory \(cpu\)"):
        recognizer.transcribe(waveforms[:1])


def test_other_errors_do_not_halve_a_batch(recognizer, waveforms, monkeypatch):
    def find(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(recognizer.llm_searcher, "find", find)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        recognizer.transcribe(waveforms)


def test_what_an_lm_does_not_do_is_refused(recognizer, waveforms):
    from espnet_larm.inference.recognizer import Search

    with pytest.raises(ValueError, match="beam_size is 4; allowed with an LM as decoder: 1"):
        recognizer.transcribe(waveforms, search=Search(4, 1))
    with pytest.raises(ValueError, match="times of words come from the CTC head, but the text from an LM"):
        recognizer.transcribe(waveforms, with_words=True)


def test_program_writes_texts_calls_and_what_was_broken_off(build_speech_llm, tiny_experiment, tmp_path):
    import yaml

    from espnet_larm.bin import asr_inference

    model = build_speech_llm(normalize="utterance_mvn")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    options = {
        "data_path_and_name_and_type": f"{tiny_experiment.data}/wav.scp,speech,sound",
        "asr_train_config": tmp_path / "config.yaml",
        "asr_model_file": tmp_path / "model.pth",
        "output_dir": tmp_path / "out",
    }
    command = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with pytest.raises(ValueError, match="ctc_weight is 1.0, but a model with an LM is decoded by the LM alone"):
        asr_inference.main([*command, "--ctc_weight", "1.0"])
    assert asr_inference.main(command) == 0
    keys = [line.split()[0] for line in (tiny_experiment.data / "wav.scp").read_text().splitlines()]
    texts = (tmp_path / "out" / "1best_recog" / "text").read_text().splitlines()
    assert [line.split()[0] for line in texts] == keys
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert stats["decoder_calls"] >= 1 and set(stats["guarded"]) == set(GUARDS)
    assert all(set(guarded) <= set(keys) for guarded in stats["guarded"].values())
    assert stats["num_halved_batches"] == 0
