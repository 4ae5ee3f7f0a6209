"""Audio to text by an LM: in batches, within bounds, with its calls counted."""

import json
from dataclasses import replace

import pytest
import soundfile
import torch
import yaml

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.llm_search import EARLY_END, FAR_FROM_CTC, GUARDS, LIMIT, LOOP
from espnet_larm.recognize.output.results import Hypothesis
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.spelling import Spelling


@pytest.fixture
def recognizer(build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    model = build_speech_llm().eval()
    # Small embeddings of speech would all give one text.
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
    return Recognizer(model, " ".join)


WORDS = DecodeConfig(with_words=True)
BY_CTC = DecodeConfig(ctc_weight=1.0)
UNGUARDED = DecodeConfig(least_ctc_share=0.0, stops_loops=False)
WITH_LOOPS = DecodeConfig(stops_loops=False)


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


def test_batch_gives_what_each_utterance_gives_alone(recognizer, waveforms):
    together = recognizer.recognize(waveforms)
    alone = [recognizer.recognize([waveform])[0] for waveform in waveforms]
    assert [one.best.token_ids for one in together] == [one.best.token_ids for one in alone]
    assert len({one.text for one in together}) > 1
    for found, expected in zip(together, alone, strict=True):
        assert found.best.score == pytest.approx(expected.best.score, abs=1e-3)


def test_words_of_the_lms_text_have_times_from_the_ctc_head(own_tokens, build_speech_llm, waveforms):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(*own_tokens[0])
    plain = recognizer.recognize(waveforms)
    timed = recognizer.recognize(waveforms, WORDS)
    assert [one.text for one in timed] == [one.text for one in plain] and any(one.text for one in plain)
    for one, waveform in zip(timed, waveforms, strict=True):
        assert [word.text for word in one.best.words] == one.text.split()
        times = [time for word in one.best.words for time in (word.start_s, word.end_s)]
        assert times == sorted(times) and all(0 <= time <= len(waveform) / 16000 for time in times)
    without = type(recognizer)(build_speech_llm(model_conf={"ctc_weight": 0.0}, encoder_conf={"feedback": False}), str)
    with pytest.raises(ValueError, match="times of words, which long audio is joined by, come from a CTC head"):
        without.recognize(waveforms, WORDS)


def test_long_audio_is_joined_from_pieces_that_the_lm_reads(own_tokens, tmp_path):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(*own_tokens[0])
    speech, silence = torch.randn(2, 24000).numpy() * 0.1, torch.zeros(16000).numpy()
    blocks = [speech[0], silence, speech[1]]
    pieces = {"long_seconds": 2.5, "longest_piece": 2.0, "shortest_piece": 0.5, "overlap": 0.2}
    (joined,), _ = recognizer.decode_blocks(blocks, recognizer.plan(DecodeConfig(**pieces)))
    assert joined.best.text and joined.best.score < 0
    assert set(joined.best.tokens) <= set(recognizer.heads.ctc.token_list)


@torch.no_grad()
def test_text_is_that_of_greedy_search_on_the_last_loop(recognizer, waveforms):
    model = recognizer.model
    for num_loops in (1, 2):
        (found,) = recognizer.recognize(waveforms[:1], DecodeConfig(num_loops=num_loops))
        assert list(found.hypotheses) == [num_loops]
        with model.encoder.looped(num_loops):
            output, lens = model.encode(torch.from_numpy(waveforms[0]).unsqueeze(0), torch.tensor([16000]))
        hs_pad = output[0] if isinstance(output, tuple) else output
        (expected,) = greedy(model.decoder.start(hs_pad, lens), [Bounds(32)], model.eos).hypotheses
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
    found = babbler.recognize(waveforms[:2], WITH_LOOPS)
    assert all(LIMIT in one.best.guards for one in found)
    # 24 tokens a second and 8.
    assert [len(one.best.token_ids) for one in found] == [32, 21]
    slow = DecodeConfig(max_tokens_per_second=5.0, stops_loops=False)
    assert [len(one.best.token_ids) for one in babbler.recognize(waveforms[:2], slow)] == [13, 10]


def test_a_loop_is_cut_back_and_said(babbler, waveforms):
    (found,) = babbler.recognize(waveforms[:1])
    assert found.best.guards == (LOOP,)
    assert found.best.token_ids.count(3) == 1 and found.best.token_ids[-1] == 3


def test_an_end_before_half_of_what_ctc_hears_is_not_believed(recognizer, waveforms, monkeypatch):
    # A token that the random LM says anyway.
    recognizer.model.eos = recognizer.recognize(waveforms[:1], UNGUARDED)[0].best.token_ids[3]
    free = recognizer.recognize(waveforms, UNGUARDED)
    longest = max(len(one.best.token_ids) for one in free)
    heard = Hypothesis("A B " * (longest + 1), [], [], 0.0)
    monkeypatch.setattr(recognizer.heads.ctc, "find", lambda hs_pad, *_: [[heard] for _ in hs_pad])
    held = recognizer.recognize(waveforms, WITH_LOOPS)
    assert all(len(one.best.token_ids) > longest or LIMIT in one.best.guards for one in held)
    assert any(EARLY_END in one.best.guards for one in held)
    again = recognizer.recognize(waveforms, UNGUARDED)
    assert [one.best.token_ids for one in again] == [one.best.token_ids for one in free]


def test_a_text_far_longer_than_what_ctc_hears_is_said_and_kept(babbler, waveforms, monkeypatch):
    (heard,) = babbler.recognize(waveforms[:1], WITH_LOOPS)
    nothing = Hypothesis("", [], [], 0.0)
    monkeypatch.setattr(babbler.heads.ctc, "find", lambda *_: [[nothing]])
    (found,) = babbler.recognize(waveforms[:1], WITH_LOOPS)
    assert FAR_FROM_CTC in found.best.guards and found.best.token_ids == heard.best.token_ids


def test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves(recognizer, waveforms, monkeypatch, caplog):
    expected = recognizer.recognize(waveforms)
    real, tried = recognizer.heads.llm.find, []

    def find(hs_pad, *others):
        tried.append(len(hs_pad))
        if len(hs_pad) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        return real(hs_pad, *others)

    monkeypatch.setattr(recognizer.heads.llm, "find", find)
    found, cost = recognizer.decode(waveforms)
    assert tried == [3, 1, 2, 1, 1] and cost.num_halved == 2
    assert [one.best.token_ids for one in found] == [one.best.token_ids for one in expected]
    assert "3 utterances do not fit into memory together: in halves" in caplog.text
    monkeypatch.setattr(recognizer.heads.llm, "find", lambda *_: torch.empty(2**60))
    with pytest.raises(MemoryError, match=r"one utterance of \d+ frames does not fit into memory \(cpu\)"):
        recognizer.recognize(waveforms[:1])


def test_an_utterance_longer_than_the_context_is_left_out_and_the_others_are_not(recognizer, waveforms):
    expected = recognizer.recognize(waveforms)
    found = recognizer.recognize([waveforms[0], torch.randn(16000 * 12).numpy(), *waveforms[1:]])
    assert "of the LM's context; take shorter audio" in found[1].skipped and not found[1].text
    assert [one.best.token_ids for one in (found[0], *found[2:])] == [one.best.token_ids for one in expected]


def test_bounds_need_no_hop_length_of_the_frontend(recognizer, waveforms):
    expected = recognizer.recognize(waveforms)
    del recognizer.model.frontend.hop_length
    assert recognizer.recognize(waveforms) == expected


def test_drafts_of_a_ctc_head_with_its_own_tokens_are_spelled_as_the_lm_spells(own_tokens, waveforms, monkeypatch):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(*own_tokens[0])
    (expected,), cost = recognizer.decode(waveforms[:1], UNGUARDED)
    heard = Hypothesis(expected.text, [], [], 0.0)
    monkeypatch.setattr(recognizer.heads.ctc, "find", lambda *_: [[heard]])
    drafted = replace(UNGUARDED, drafts="ctc", tokens_per_call=5)
    (found,), less = recognizer.decode(waveforms[:1], drafted)
    assert found.best.token_ids == expected.best.token_ids
    # The random LM's text holds special tokens, which no spelling has.
    assert less.effort.num_calls < cost.effort.num_calls and less.effort.acceptance()[2] > 0.3


def test_other_errors_do_not_halve_a_batch(recognizer, waveforms, monkeypatch):
    def find(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(recognizer.heads.llm, "find", find)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        recognizer.recognize(waveforms)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_a_beam_gives_as_many_hypotheses_as_asked_for_and_no_worse_ones_than_greedy_search(
    recognizer, waveforms, ctc_weight
):
    weighted = DecodeConfig(ctc_weight=ctc_weight)
    greedy_scores = [one.best.score for one in recognizer.recognize(waveforms, weighted)]
    wide = replace(weighted, beam_size=4, nbest=3)
    together = recognizer.recognize(waveforms, wide)
    for waveform, found, score in zip(waveforms, together, greedy_scores, strict=True):
        (alone,) = recognizer.recognize([waveform], wide)
        ranked = [found.best, *found.others]
        assert [one.token_ids for one in ranked] == [one.token_ids for one in (alone.best, *alone.others)]
        scores = [one.score for one in ranked]
        assert len(ranked) == 3 and scores == sorted(scores, reverse=True) and len({one.text for one in ranked}) > 1
        assert found.best.score >= score - 1e-3
    with pytest.raises(ValueError, match="drafts is ctc, but a beam looks ahead by the model's heads alone"):
        recognizer.plan(replace(wide, drafts="ctc"))


@pytest.fixture
def save(tmp_path):
    """Files of a model as training leaves them."""

    def save(model):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return tmp_path / "config.yaml", tmp_path / "model.pth"

    return save


@pytest.fixture
def command(save, build_speech_llm, tiny_experiment, tmp_path):
    """A command line of the program, for a model with an LM."""
    config, model = save(build_speech_llm())
    options = {
        "data_path_and_name_and_type": f"{tiny_experiment.data}/wav.scp,speech,sound",
        "asr_train_config": config,
        "asr_model_file": model,
        "output_dir": tmp_path / "out",
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def stats_of(tmp_path):
    return json.loads((tmp_path / "out" / "stats.json").read_text())


def test_program_writes_texts_calls_and_what_was_broken_off(command, tiny_experiment, tmp_path):
    from espnet_larm.cli import decode as asr_inference

    assert asr_inference.main(command) == 0
    keys = [line.split()[0] for line in (tiny_experiment.data / "wav.scp").read_text().splitlines()]
    texts = (tmp_path / "out" / "1best_recog" / "text").read_text().splitlines()
    assert [line.split()[0] for line in texts] == keys
    stats = stats_of(tmp_path)
    assert stats["decoder_calls"] >= 1 and set(stats["guarded"]) == set(GUARDS)
    assert all(set(guarded) <= set(keys) for guarded in stats["guarded"].values())
    assert stats["num_halved_batches"] == 0
    assert stats["prompt"] == {"prefix": "", "suffix": "<s>"}


def test_program_writes_the_n_best_of_a_beam(command, tiny_experiment, tmp_path):
    from espnet_larm.cli import decode as asr_inference

    assert asr_inference.main([*command, "--beam_size", "3", "--nbest", "2"]) == 0
    keys = [line.split()[0] for line in (tiny_experiment.data / "wav.scp").read_text().splitlines()]
    texts = [(tmp_path / "out" / f"{rank}best_recog" / "token_int").read_text().splitlines() for rank in (1, 2)]
    assert all([line.split()[0] for line in lines] == keys for lines in texts) and texts[0] != texts[1]
    stats = stats_of(tmp_path)
    assert stats["drafting"]["drafts"] == "none" and stats["row_calls"] > stats["tokens"]
    with pytest.raises(ValueError, match="drafts is ctc, but a beam looks ahead by the model's heads alone"):
        asr_inference.main([*command, "--beam_size", "3", "--drafts", "ctc"])


def test_program_says_how_a_prefix_beam_searched_and_who_has_fewer_hypotheses_than_asked_for(
    command, tiny_experiment, tmp_path, capsys
):
    from espnet_larm.cli import decode as asr_inference

    asr_inference.main([*command, "--beam_size", "6", "--nbest", "6", "--beam_type", "prefix"])
    stats, said = stats_of(tmp_path), capsys.readouterr().out
    assert stats["search"] == {"beam_size": 6, "nbest": 6, "beam_type": "prefix"}
    assert stats["row_tokens"] >= stats["row_calls"] and "prefix beam of 6; drafts: none, at most 1 token" in said
    last = (tmp_path / "out" / "6best_recog" / "text").read_text().splitlines()
    keys = [line.split()[0] for line in (tiny_experiment.data / "wav.scp").read_text().splitlines()]
    assert stats["few_hypotheses"] == [key for key in keys if key not in {line.split()[0] for line in last}]
    assert ("have fewer hypotheses than nbest, which is 6" in said) == bool(stats["few_hypotheses"])
    with pytest.raises(ValueError, match="beam_type is wide; allowed: ordinary, prefix"):
        asr_inference.main([*command, "--beam_size", "6", "--beam_type", "wide"])
    with pytest.raises(ValueError, match="beam_type is prefix: an option of an LM's search, but this model is decoded"):
        asr_inference.main([*command, "--ctc_weight", "1.0", "--beam_type", "prefix"])


def test_program_takes_another_prompt_and_says_which(command, tmp_path):
    from espnet_larm.cli import decode as asr_inference

    assert asr_inference.main([*command, "--prefix", "A B", "--suffix", "C"]) == 0
    assert stats_of(tmp_path)["prompt"] == {"prefix": "A B", "suffix": "C"}
    with pytest.raises(ValueError, match="no chat template; write prefix and suffix"):
        asr_inference.main([*command, "--instruction", "Write."])
    with pytest.raises(ValueError, match="suffix is C: an option of an LM's search, but this model is decoded by CTC"):
        asr_inference.main([*command, "--suffix", "C", "--ctc_weight", "1.0"])


def test_program_decodes_by_the_ctc_head_at_all_loops_on_demand(command, tiny_experiment, tmp_path):
    from espnet_larm.cli import decode as asr_inference

    assert asr_inference.main([*command, "--ctc_weight", "1.0", "--write_ctm", "true"]) == 0
    stats = stats_of(tmp_path)
    assert list(stats["loops"]) == ["1", "2"] and "decoder_calls" not in stats and "prompt" not in stats
    assert (tmp_path / "out/loop1/text").is_file() and (tmp_path / "out/1best_recog/ctm").is_file()
    assert asr_inference.main([*command, "--ctc_weight", "0.0", "--max_tokens_per_second", "1"]) == 0
    assert stats_of(tmp_path)["decoder_calls"] >= 1 and stats_of(tmp_path)["guarded"]["limit"]
    assert asr_inference.main([*command, "--ctc_weight", "0.3"]) == 0
    assert stats_of(tmp_path)["ctc_weight"] == 0.3


def test_a_prompt_at_decoding_is_that_prompt_of_training(build_speech_llm, recognizer, waveforms):
    trained = type(recognizer)(build_speech_llm(decoder_conf={"prefix": "A D", "suffix": "B"}).eval(), " ".join)
    trained.model.load_state_dict(recognizer.model.state_dict())
    before = recognizer.recognize(waveforms)
    found = recognizer.recognize(waveforms, DecodeConfig(prefix="A D", suffix="B"))
    assert found == trained.recognize(waveforms) and found != before
    assert recognizer.recognize(waveforms) == before


def greedy_ids(recognizer, waveform, loop, no_text):
    """Greedy ids of the CTC head, worked out from the model's parts."""
    model = recognizer.model
    with model.encoder.looped(loop):
        output, lens = model.encode(torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)]))
    hs_pad = output[0] if isinstance(output, tuple) else output
    path = model.ctc.ctc_lo(hs_pad)[0, : lens[0]].argmax(-1)
    return [index for index in torch.unique_consecutive(path).tolist() if index not in (0, *no_text)]


@torch.no_grad()
def test_ctc_alone_has_the_lms_tokens_where_the_head_has_none_of_its_own(recognizer, waveforms):
    torch.nn.init.normal_(recognizer.model.ctc.ctc_lo.weight, std=3.0)
    (found,) = recognizer.recognize(waveforms[:1], BY_CTC)
    assert list(found.hypotheses) == [1, 2]
    for loop in (1, 2):
        expected = greedy_ids(recognizer, waveforms[0], loop, [recognizer.model.eos])
        assert found.hypotheses[loop].token_ids == expected and expected
        assert found.hypotheses[loop].tokens == [recognizer.model.token_list[index] for index in expected]


@pytest.fixture
def own_tokens(build_speech_llm, save, tmp_path):
    """Files of a model whose CTC head has characters."""
    tokens = ["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]
    (tmp_path / "ctc.txt").write_text("".join(f"{token}\n" for token in tokens))
    model = build_speech_llm(
        model_conf={"ctc_token_list": str(tmp_path / "ctc.txt")},
        preprocessor="speech_llm",
        preprocessor_conf={"ctc_token_list": str(tmp_path / "ctc.txt"), "ctc_token_type": "char"},
    )
    torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    return save(model), tokens


def test_relaxed_thresholds_at_their_ends_are_ctc_alone_and_greedy_search_with_its_own_tokens_too(
    own_tokens, waveforms
):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(*own_tokens[0])
    ends = [(BY_CTC, 100.0, 0.5), (UNGUARDED, 0.0, 1.0)]
    for config, entropy, tau in ends:
        relaxed = replace(UNGUARDED, accept="relaxed", relaxed_entropy=entropy, relaxed_tau=tau)
        expected, found = recognizer.recognize(waveforms, config), recognizer.recognize(waveforms, relaxed)
        assert [one.text for one in found] == [one.text for one in expected]
        assert any(one.text for one in found)


@torch.no_grad()
def test_ctc_alone_has_its_own_tokens_and_times_of_its_words(own_tokens, waveforms):
    from espnet_larm.recognize.recognizer import Recognizer

    files, tokens = own_tokens
    recognizer = Recognizer.from_files(*files)
    (found,) = recognizer.recognize(waveforms[:1], replace(BY_CTC, with_words=True))
    for loop in (1, 2):
        expected = greedy_ids(recognizer, waveforms[0], loop, [len(tokens) - 1])
        names = [tokens[index] for index in expected]
        assert found.hypotheses[loop].tokens == names and len(names) > 2
        assert found.hypotheses[loop].text == "".join(" " if name == "<space>" else name for name in names)
    assert [word.text for word in found.best.words] == found.text.split()
    (best,) = recognizer.recognize(waveforms[:1], replace(BY_CTC, beam_size=3, nbest=2))
    assert len(best.others) == 1 and best.best.tokens and "<sos/eos>" not in best.best.tokens
    (by_lm,) = recognizer.recognize(waveforms[:1], DecodeConfig(ctc_weight=0.0))
    assert set(by_lm.best.tokens) <= set(recognizer.model.token_list)


@torch.no_grad()
@pytest.mark.parametrize("has_own_tokens", [False, True])
def test_an_lm_hears_ctc_in_a_batch_as_alone(recognizer, own_tokens, waveforms, has_own_tokens):
    from espnet_larm.recognize.recognizer import Recognizer

    if has_own_tokens:
        recognizer = Recognizer.from_files(*own_tokens[0])
        assert isinstance(recognizer.heads.llm.spell, Spelling)
    torch.nn.init.normal_(recognizer.model.ctc.ctc_lo.weight, std=3.0)
    by_lm = recognizer.recognize(waveforms)
    weighted = DecodeConfig(ctc_weight=0.7)
    found = recognizer.recognize(waveforms, weighted)
    for waveform, one in zip(waveforms, found, strict=True):
        (alone,) = recognizer.recognize([waveform], weighted)
        assert alone.best.token_ids == one.best.token_ids
        assert alone.best.score == pytest.approx(one.best.score, abs=1e-3)
    assert [one.text for one in found] != [one.text for one in by_lm]
    assert recognizer.recognize(waveforms) == by_lm


@torch.no_grad()
def test_what_ctc_hears_is_spelled_in_the_lms_tokens(own_tokens, recognizer, build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    spelling = Recognizer.from_files(*own_tokens[0])
    without = type(recognizer)(build_speech_llm(model_conf={"ctc_weight": 0.0}, encoder_conf={"feedback": False}), str)
    hs_pad, hlens = torch.randn(2, 30, spelling.model.encoder.output_size()), torch.tensor([30, 11])
    heard = [best for (best,) in spelling.heads.ctc.find(hs_pad, hlens)]
    encode = spelling.model.decoder.tokenizer.encode
    found = spelling.heads.llm.ctc_tokens(hs_pad, hlens)
    assert found == [encode(each.text, add_special_tokens=False) for each in heard] and all(found)
    shared = recognizer.heads.llm.ctc_tokens(hs_pad, hlens)
    special = set(recognizer.model.decoder.tokenizer.all_special_ids)
    assert any(shared) and not special.intersection(*shared)
    assert without.heads.llm.ctc_tokens(hs_pad, hlens) == [[], []]


def test_ctc_is_not_heard_where_the_spelling_is_not_known(own_tokens):
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(*own_tokens[0])
    bare = Recognizer(recognizer.model, recognizer.tokens_to_text)
    with pytest.raises(ValueError, match="no preprocessor: speech_llm says how a text is spelled"):
        bare.plan(DecodeConfig(ctc_weight=0.3))


def test_what_the_model_has_no_head_for_is_refused(build_speech_llm, recognizer):
    without = type(recognizer)(build_speech_llm(model_conf={"ctc_weight": 0.0}, encoder_conf={"feedback": False}), str)
    for weight in (0.3, 1.0):
        with pytest.raises(ValueError, match=f"ctc_weight is {weight}, but the model has no CTC head"):
            without.plan(DecodeConfig(ctc_weight=weight))
    with pytest.raises(ValueError, match=r"max_tokens_per_second is 3.0: an option of an LM's search, but this"):
        recognizer.plan(replace(BY_CTC, max_tokens_per_second=3.0))


def test_options_of_an_lm_are_refused_for_a_model_without(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    files = tiny_experiment.config, tiny_experiment.model
    with pytest.raises(ValueError, match=r"llm is x, but the model has no LM; leave --llm \(llm= in Python\) out"):
        Recognizer.from_files(*files, llm="x")
    recognizer = Recognizer.from_files(*files)
    with pytest.raises(ValueError, match="prefix is A: an option of an LM's search"):
        recognizer.plan(DecodeConfig(prefix="A"))
    with pytest.raises(ValueError, match="ctc_weight is 0.0, but the model has a CTC head alone"):
        recognizer.plan(DecodeConfig(ctc_weight=0.0))


def test_an_lm_that_was_moved_is_named(build_speech_llm, save, waveforms, tmp_path, monkeypatch):
    from espnet_larm.recognize.recognizer import Recognizer

    files = save(build_speech_llm(token_type="hugging_face", bpemodel=str(tmp_path / "llm")))
    expected = Recognizer.from_files(*files).recognize(waveforms)
    (tmp_path / "llm").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"needs the LM .*/llm, .* name its folder or hub id with --llm"):
        Recognizer.from_files(*files)
    with pytest.raises(FileNotFoundError, match=r"--llm /none is no folder that is there, and no hub id"):
        Recognizer.from_files(*files, llm="/none")
    assert Recognizer.from_files(*files, llm=str(tmp_path / "moved")).recognize(waveforms) == expected
    monkeypatch.chdir(tmp_path)
    assert Recognizer.from_files(*files, llm="moved").recognize(waveforms) == expected


@pytest.mark.parametrize("options", [{}, {"hidden_size": 24}], ids=["same shapes", "other shapes"])
def test_another_lm_is_refused_in_one_sentence_with_both_hashes(build_speech_llm, save, save_lm, tmp_path, options):
    from espnet_larm.recognize.recognizer import Recognizer

    files = save(build_speech_llm())
    other = save_lm(tmp_path / "other", rms_norm_eps=0.1, initializer_range=0.4, **options)
    with pytest.raises(
        ValueError, match=r"SHA-256 [0-9a-f]{12}, the checkpoint's [0-9a-f]{12}\). Name that one"
    ) as error:
        Recognizer.from_files(*files, llm=other)
    assert "\n" not in str(error.value) and "Missing" not in str(error.value)


def test_ctc_alone_joins_long_audio_in_its_own_tokens(own_tokens, tmp_path):
    from espnet_larm.recognize.recognizer import Recognizer

    files, tokens = own_tokens
    recognizer = Recognizer.from_files(*files)
    soundfile.write(tmp_path / "long.wav", torch.randn(64000).clip(-3, 3).numpy() / 4, 16000)
    pieces = {"long_seconds": 1.5, "longest_piece": 1.5, "shortest_piece": 0.5, "overlap": 0.4}
    found = recognizer.transcribe_file(tmp_path / "long.wav", replace(BY_CTC, with_words=True, **pieces))
    for hypothesis in found.hypotheses.values():
        assert [tokens[index] for index in hypothesis.token_ids] == hypothesis.tokens != []
    assert " ".join(word.text for word in found.best.words) == found.text != ""
