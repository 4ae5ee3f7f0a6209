"""Decoding with an LM whose speech is pooled: options of the program, what it says, times of words."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import yaml

from espnet_larm.pooling.affinity import Kept
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.llm_search import LlmFound
from espnet_larm.recognize.output.effort import Effort, Prompts, describe_search

HALF = {"method": "stride", "retention": 0.5}
BOTH = {"input": HALF, "deep": {"layer": 1, **HALF}}
POOLED = DecodeConfig(pooling=BOTH)


@pytest.fixture
def files(build_speech_llm, tmp_path):
    """Files of a model with an LM of two layers and characters for the CTC head, as training leaves them."""
    tokens = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
    (tmp_path / "ctc.txt").write_text("".join(f"{token}\n" for token in tokens))
    own = {"ctc_token_list": str(tmp_path / "ctc.txt")}

    def save(**decoder_conf):
        model = build_speech_llm(
            decoder_conf={"projector_frames": 1, **decoder_conf},
            model_conf=own,
            preprocessor="speech_llm",
            preprocessor_conf={**own, "ctc_token_type": "char"},
        )
        torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return tmp_path / "config.yaml", tmp_path / "model.pth"

    return save


@pytest.fixture
def recognizer(files):
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer.from_files(*files())


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


@pytest.fixture
def decode(files, tiny_experiment, tmp_path):
    """Runs the program; returns what stats.json holds."""
    from espnet_larm.cli import decode as asr_inference

    def decode(*options, **decoder_conf):
        config, model = files(**decoder_conf)
        data = f"{tiny_experiment.data}/wav.scp,speech,sound"
        command = ["--data_path_and_name_and_type", data, "--asr_train_config", config, "--asr_model_file", model]
        assert asr_inference.main([*map(str, command), "--output_dir", str(tmp_path / "out"), *options]) == 0
        return json.loads((tmp_path / "out" / "stats.json").read_text())

    return decode


def ids_of(transcripts):
    return [one.best.token_ids for one in transcripts]


def test_a_batch_gives_what_each_utterance_gives_alone_and_pooling_can_be_taken_back(recognizer, waveforms):
    plain = ids_of(recognizer.recognize(waveforms))
    together = ids_of(recognizer.recognize(waveforms, POOLED))
    assert together == [ids_of(recognizer.recognize([waveform], POOLED))[0] for waveform in waveforms] != plain
    assert ids_of(recognizer.recognize(waveforms)) == plain


def test_threads_share_a_recogniser_with_other_prompts_pooling_and_drafts_each(recognizer, waveforms):
    options = ({}, {"prefix": "A B"}, {"pooling": BOTH}, {"drafts": "ctc"}, {"ctc_weight": 0.4, "num_loops": 1})
    configs = [DecodeConfig(**each) for each in options]
    expected = [recognizer.recognize(waveforms, config) for config in configs]
    assert len({tuple(one.text for one in each) for each in expected}) == 4
    decoder = recognizer.model.decoder
    before = [(dict(vars(part)), list(part.buffers())) for part in (decoder, decoder.backbone, recognizer.model)]
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(recognizer.recognize, waveforms, config) for config in configs * 2]
        assert [ids_of(call.result()) for call in calls] == [ids_of(each) for each in expected * 2]
    after = [(vars(part), list(part.buffers())) for part in (decoder, decoder.backbone, recognizer.model)]
    assert [each for each, _ in before] == [each for each, _ in after]


def test_drafts_of_ctc_are_verified(recognizer, waveforms):
    expected = ids_of(recognizer.recognize(waveforms, POOLED))
    assert ids_of(recognizer.recognize(waveforms, replace(POOLED, drafts="ctc", tokens_per_call=5))) == expected


def test_times_of_words_are_those_of_the_text_in_ctcs_frames(recognizer, waveforms, monkeypatch):
    """The same text gets the same times without pooling."""
    found = recognizer.recognize(waveforms, replace(POOLED, with_words=True))
    times = [[(word.text, word.start_s, word.end_s) for word in one.best.words] for one in found]
    assert [[text for text, *_ in row] for row in times] == [one.text.split() for one in found] and any(times)
    assert max(end for *_, end in times[2]) > 0.75
    nbest = [[one.best._replace(words=())] for one in found]
    monkeypatch.setattr(recognizer.heads.llm, "find", lambda *_: LlmFound(nbest, Effort(), {}))
    again = recognizer.recognize(waveforms, DecodeConfig(with_words=True))
    assert [[(word.text, word.start_s, word.end_s) for word in one.best.words] for one in again] == times


def test_the_program_takes_options_from_the_command_line_and_says_what_was_kept(decode, capsys):
    options = ("input.method=stride", "input.retention=0.5", "deep.layer=1", "deep.tau=1")
    stats = decode(*(word for option in options for word in ("--pooling", option)))
    assert stats["pooling"] == {"input": HALF, "deep": {"layer": 1, "tau": 1}}
    speech, positions = stats["speech_tokens"], stats["prompt_positions"]
    # One position of suffix an utterance; rounded up in each.
    assert speech["input"]["before"] // 2 <= speech["input"]["after"] <= speech["input"]["before"] // 2 + 7
    assert speech["deep"]["before"] == speech["input"]["after"]
    assert positions == {
        "unpooled": speech["input"]["before"] + 7,
        "input": speech["input"]["after"] + 7,
        "deep": speech["deep"]["after"] + 7,
    }
    assert stats["retention"]["input"] == speech["input"]["after"] / speech["input"]["before"]
    numbers = " -> ".join(map(str, positions.values()))
    said = capsys.readouterr().out
    assert "; pooling: input (method stride, retention 0.5) keeps 5" in said and "deep (layer 1, tau 1) keeps" in said
    assert f"prompt positions {numbers}" in said


def test_the_program_takes_a_yaml_in_place_of_training_options(decode, tmp_path):
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump({"pooling": {"deep": {"layer": 1, **HALF}}}))
    stats = decode("--config", str(tmp_path / "decode.yaml"), pooling={"input": HALF})
    assert list(stats["pooling"]) == list(stats["retention"]) == ["deep"]
    assert list(decode(pooling={"input": HALF})["retention"]) == ["input"]
    stats = decode("--pooling", "input=null", pooling={"input": HALF})
    assert stats["pooling"] == stats["retention"] == {} and list(stats["prompt_positions"]) == ["unpooled"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pooling", "input.tau=-3"), "^pooling: input: tau is -3; allowed: -1 or more"),
        (("--pooling", "deep.tau=0.9", "--pooling", "deep.layer=2"), "deep: layer is 2; allowed: 1 to 1: so many"),
        (("--pooling", "middle.tau=0.9"), "pooling: unknown site middle; allowed: input, deep"),
        (("--pooling", "input.tau=0.9", "--ctc_weight", "1.0"), "pooling is .*: an option of an LM's search, but"),
    ],
)
def test_the_program_refuses_wrong_options(decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode(*options)


def test_counts_of_batches_and_jobs_are_added_and_shares_made_anew():
    from espnet_larm.recipe.join_outputs import join_statistics

    settings = {"pooling": {"input": {"tau": 0.9}, "deep": {"layer": 6, "tau": 0.8}}}
    parts, whole = [], Effort()
    for before, middle, after in (([10, 6], [5, 6], [1, 2]), ([20], [10], [3])):
        kept = {
            "input": Kept(torch.tensor(before), torch.tensor(middle)),
            "deep": Kept(torch.tensor(middle), torch.tensor(after)),
        }
        part = Effort(prompts=Prompts.of(torch.tensor(middle) + 3, kept))
        whole = whole.plus(part)
        parts.append({**settings, **part.stats()})
    joined = join_statistics(parts)
    assert joined == {**settings, **whole.stats()}
    assert joined["prompt_positions"] == {"unpooled": 45, "input": 30, "deep": 15}
    assert joined["retention"] == {"input": 21 / 36, "deep": 6 / 21}
    said = describe_search({**joined, "drafting": {"drafts": "none", "accept": "verified", "tokens_per_call": 1}})
    assert said.endswith(
        "; pooling: input (tau 0.9) keeps 58.3% of the speech tokens, "
        "deep (layer 6, tau 0.8) keeps 28.6% of the speech tokens; prompt positions 45 -> 30 -> 15"
    )
