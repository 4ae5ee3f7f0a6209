"""Several tokens a call: options, sources of drafts, and what is counted."""

import pytest
import torch
import yaml

from espnet_larm.recognize.decoding import Tally
from espnet_larm.recognize.drafting import LONGER_TAU
from espnet_larm.recognize.llm_search import Guards
from espnet_larm.recognize.output.effort import Effort, describe_search
from espnet_larm.recognize.output.results import PREFIX, Hypothesis, Search, Transcript, skipped_transcript


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000)]


@pytest.fixture
def recognizer(build_speech_llm):
    """Without draft heads."""
    from espnet_larm.recognize.recognizer import Recognizer

    return Recognizer(build_speech_llm().eval(), " ".join)


@pytest.fixture
def drafter(build_speech_llm):
    """A recogniser with draft heads, which at the start say what head 1 says: right where the LM repeats itself."""
    from espnet_larm.recognize.recognizer import Recognizer

    model = build_speech_llm(decoder_conf={"num_heads": 4}).eval()
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
    return Recognizer(model, " ".join)


def found_by(recognizer, waveforms, **options):
    """Texts, calls of utterances and acceptance by token."""
    searcher = recognizer.llm_searcher
    searcher.effort = Effort()
    recognizer.set_drafting(**options)
    found = [(one.best.token_ids, one.best.guards, one.text) for one in recognizer.transcribe(waveforms)]
    return found, searcher.effort.num_row_calls, searcher.effort.acceptance()


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_drafts_of_all_sources_change_no_text(drafter, waveforms, ctc_weight):
    drafter.set_ctc_weight(ctc_weight)
    expected, calls, acceptance = found_by(drafter, waveforms, drafts="none")
    assert acceptance == {} and drafter.llm_searcher.effort.num_tokens == calls
    for drafts in ("heads", "ctc", "longer"):
        for tokens_per_call in (1, 2, 4):
            found, *_ = found_by(drafter, waveforms, drafts=drafts, tokens_per_call=tokens_per_call)
            assert found == expected
    assert found_by(drafter, waveforms)[0] == expected and drafter.llm_searcher.drafting.drafts == "heads"


def test_heads_make_calls_fewer_and_acceptance_is_counted_by_token(drafter, waveforms):
    _, expected, _ = found_by(drafter, waveforms, drafts="none")
    _, calls, acceptance = found_by(drafter, waveforms, drafts="heads", tokens_per_call=3)
    effort = drafter.llm_searcher.effort
    assert calls < expected and effort.num_tokens == expected
    assert list(acceptance) == [2, 3] and 1 >= acceptance[2] >= acceptance[3] > 0
    stats = effort.stats()
    assert stats["tokens_per_row_call"] == pytest.approx(expected / calls)
    assert stats["row_calls_per_word"] == pytest.approx(calls / effort.num_words)


def test_a_threshold_above_one_is_greedy_and_a_low_one_is_not(drafter, waveforms):
    expected, calls, _ = found_by(drafter, waveforms, drafts="none")
    found, as_many, _ = found_by(drafter, waveforms, accept="threshold", tau=1.5)
    assert (found, as_many) == (expected, calls)
    drafter.llm_searcher.guards = Guards(least_ctc_share=0.0, stops_loops=False)
    found, fewer, acceptance = found_by(drafter, waveforms, accept="threshold", tau=0.0)
    assert found != expected and set(acceptance.values()) == {1.0}
    _, more, _ = found_by(drafter, waveforms, accept="threshold", tau=0.5)
    _, most, _ = found_by(drafter, waveforms, accept="threshold", tau=0.5, tau_of="product")
    assert fewer < more <= most


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafts": "all"}, "drafts is all; allowed: heads, ctc, longer, none"),
        ({"accept": "always"}, "accept is always; allowed: verified, threshold"),
        ({"tau": 0.5, "tau_of": "sum"}, "tau_of is sum; allowed: head, product"),
        ({"tokens_per_call": 5}, r"tokens_per_call is 5; allowed: 1 to 4 \(the model has 4 heads\)"),
        ({"tokens_per_call": 0}, "tokens_per_call is 0; allowed: 1 to 4"),
        ({"drafts": "ctc", "tokens_per_call": 33}, "tokens_per_call is 33; allowed: 1 to 32"),
        ({"drafts": "none", "tokens_per_call": 2}, r"allowed: 1 to 1 \(without drafts\)"),
        ({"tau": -0.1}, "tau is -0.1; allowed: 0"),
        ({"tau": float("nan")}, "tau is nan; allowed: 0"),
        ({"drafts": "ctc", "tau": 0.5}, "tau is 0.5, but drafts is ctc"),
        ({"drafts": "ctc", "tau_of": "product"}, "tau_of is product, but drafts is ctc"),
        ({"drafts": "longer", "accept": "threshold", "tau": 0.5}, "only drafts of heads can go unverified"),
        ({"accept": "threshold"}, "accept is threshold, which needs tau"),
    ],
)
def test_drafting_out_of_range_is_refused(drafter, options, message):
    with pytest.raises(ValueError, match=message):
        drafter.set_drafting(**options)


def test_drafts_of_what_the_model_lacks_are_refused(recognizer, drafter, build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    for drafts in ("heads", "longer"):
        with pytest.raises(ValueError, match=f"drafts is {drafts}, but the model has no draft heads"):
            recognizer.set_drafting(drafts=drafts)
    without = Recognizer(build_speech_llm(model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0}).eval(), " ".join)
    with pytest.raises(ValueError, match="drafts is ctc, but the model has no CTC head"):
        without.set_drafting(drafts="ctc")
    drafter.set_drafting(accept="threshold", tau=0.9)
    with pytest.raises(ValueError, match="what is not verified cannot hear CTC"):
        drafter.set_ctc_weight(0.3)
    drafter.set_ctc_weight(1.0)
    with pytest.raises(ValueError, match="drafts: of an LM's search, but this model is decoded by CTC alone"):
        drafter.set_drafting(drafts="none")


def test_the_longer_draft_leaves_to_ctc_what_heads_are_not_sure_of(drafter):
    drafter.set_drafting(drafts="longer")
    assert drafter.llm_searcher.drafting.tau == LONGER_TAU > 0
    drafter.set_drafting(drafts="longer", tau=0.0)
    assert drafter.llm_searcher.drafting.tau == 0.0


def test_what_was_counted_is_said(drafter, waveforms):
    found_by(drafter, waveforms, drafts="heads", tokens_per_call=2)
    searcher = drafter.llm_searcher
    options = {"drafting": searcher.drafting._asdict(), "search": {"beam_size": 1, "nbest": 1, "beam_type": "ordinary"}}
    stats = {**options, **searcher.effort.stats()}
    said = describe_search(stats)
    assert said.startswith("drafts: heads, verified, at most 2 tokens a call; ")
    assert f"{stats['tokens_per_row_call']:.2f} tokens a call of an utterance" in said
    assert f"accepted: token 2 {stats['acceptance']['2']:.1%}" in said
    searcher.effort = Effort()
    nothing = {**options, **searcher.effort.stats()}
    assert describe_search(nothing) == "drafts: heads, verified, at most 2 tokens a call"


@pytest.mark.parametrize(("num_found", "num_wanted"), [(3, 2), (3, 1), (1, 3)])
def test_heads_of_another_number_in_the_file_are_named_as_such(build_speech_llm, tmp_path, num_found, num_wanted):
    from espnet_larm.recognize.recognizer import Recognizer

    torch.save(build_speech_llm(decoder_conf={"num_heads": num_found}).state_dict(), tmp_path / "model.pth")
    args = build_speech_llm(decoder_conf={"num_heads": num_wanted}).args
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    message = f"has heads for {num_found} tokens a call, but decoder_conf: num_heads is {num_wanted}"
    with pytest.raises(ValueError, match=message):
        Recognizer.from_files(tmp_path / "config.yaml", tmp_path / "model.pth")


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_a_beam_looks_ahead_by_heads_and_finds_what_it_finds_without(drafter, waveforms, ctc_weight):
    drafter.set_ctc_weight(ctc_weight)
    searcher, found, effort = drafter.llm_searcher, {}, {}
    for drafts in ("none", "heads"):
        drafter.set_drafting(drafts=drafts)
        searcher.effort = Effort()
        transcripts = drafter.transcribe(waveforms, search=Search(3, 3))
        found[drafts] = [[each.token_ids for each in (one.best, *one.others)] for one in transcripts]
        effort[drafts] = searcher.effort
    assert found["heads"] == found["none"] and all(len(each) == 3 for each in found["none"])
    assert effort["heads"].num_row_calls < effort["none"].num_row_calls
    assert effort["heads"].num_row_tokens > effort["none"].num_row_tokens


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_a_prefix_beam_gives_the_same_in_any_batch(drafter, waveforms, ctc_weight):
    drafter.set_ctc_weight(ctc_weight)
    with torch.no_grad():
        # Heads that all say what head 1 says guess "a b" and "b a" alike: which is read would be rounding's choice.
        for parameter in drafter.model.decoder.heads.parameters():
            parameter.normal_(std=0.3)
    search = Search(3, 3, PREFIX)
    for waveform, found in zip(waveforms, drafter.transcribe(waveforms, search=search), strict=True):
        (alone,) = drafter.transcribe([waveform], search=search)
        ranked = [found.best, *found.others]
        assert [one.token_ids for one in ranked] == [one.token_ids for one in (alone.best, *alone.others)]
        scores = [one.score for one in ranked]
        assert scores == sorted(scores, reverse=True) and len({one.text for one in ranked}) == len(ranked)


def test_what_a_beam_cannot_do_is_refused(drafter, waveforms):
    for search, message in (
        (Search(0), "beam_size is 0; allowed: 1"),
        (Search(2, 3), "nbest is 3; allowed: 1 to beam_size, which is 2"),
        (Search(2, 1, "wide"), "beam_type is wide; allowed: ordinary, prefix"),
    ):
        with pytest.raises(ValueError, match=message):
            drafter.transcribe(waveforms, search=search)
    for options, message in (
        ({"drafts": "longer"}, "drafts is longer, but a beam looks ahead by the model's heads alone"),
        ({"drafts": "heads", "accept": "threshold", "tau": 0.5}, "accept is threshold, which no beam knows"),
        ({"drafts": "heads", "tau": 0.5, "tau_of": "product"}, "tau_of is product, which no beam knows"),
    ):
        drafter.set_drafting(**options)
        with pytest.raises(ValueError, match=message):
            drafter.transcribe(waveforms, search=Search(2))


def test_what_heads_hardly_believe_is_not_read(drafter, waveforms):
    numbers = []
    for tau in (0.0, 0.9):
        drafter.set_drafting(drafts="heads", tau=tau)
        drafter.llm_searcher.effort = Effort()
        drafter.transcribe(waveforms, search=Search(3, 1, PREFIX))
        numbers.append(drafter.llm_searcher.effort.num_row_tokens / drafter.llm_searcher.effort.num_row_calls)
    assert numbers[1] < numbers[0]


def test_a_decoding_of_an_earlier_version_is_described_too(drafter):
    stats = {"drafting": drafter.llm_searcher.drafting._asdict(), "row_calls": 3, "acceptance": {}}
    assert describe_search(stats).startswith("drafts: heads, verified, at most 4 tokens a call")


def test_utterances_with_fewer_hypotheses_than_asked_for_are_noted():
    tally = Tally([1])
    best = Hypothesis("a", ["a"], [4], -1.0)
    tally.note("enough", Transcript({1: best}, others=(best, best)), 3)
    tally.note("few", Transcript({1: best}, others=(best,)), 3)
    tally.note("too short", skipped_transcript([1], "too short"), 3)
    assert tally.few == ["few"]


def test_bytes_that_are_no_character_yet_are_not_merged(drafter, monkeypatch):
    tokenizer = drafter.model.decoder.tokenizer
    spelled = {(3,): "\ufffd", (4,): "\ufffd", (5,): "a", (6,): "a"}
    monkeypatch.setattr(tokenizer, "decode", lambda tokens, **_: spelled[tuple(tokens)])
    string_of = drafter.llm_searcher.string_of
    assert string_of([3]) != string_of([4]) and string_of([5]) == string_of([6])
