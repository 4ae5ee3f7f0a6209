"""Audio to text by an LM: in batches, within bounds, with its calls counted."""

import json

import pytest
import torch

from espnet_larm.search.greedy_text import greedy


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
        expected = greedy(model.decoder.start(hs_pad, lens), torch.tensor([31]), model.eos)
        assert found.best.token_ids == expected.token_ids[0]
        words = [model.token_list[token] for token in expected.token_ids[0] if token > 2]
        assert found.text == " ".join(words)


def test_texts_have_bounds_and_say_when_they_met_them(recognizer, waveforms):
    model = recognizer.model
    model.eos = model.vocab_size - 1
    with torch.no_grad():
        model.decoder.backbone.model.get_output_embeddings().weight[model.eos] = 0
        model.decoder.backbone.model.get_output_embeddings().weight[3] *= 100
    found = recognizer.transcribe(waveforms[:2])
    assert not any(one.best.is_ended for one in found)
    # 24 tokens a second and 8, for 30 and 17 frames of 32 ms.
    assert [len(one.best.token_ids) for one in found] == [31, 21]


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
    assert stats["decoder_calls"] >= 1 and set(stats["broken_off"]) <= set(keys)
