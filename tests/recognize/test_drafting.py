"""Several tokens a call: options, sources of drafts, and what is counted."""

import pytest
import torch
import yaml

from espnet_larm.recognize.config import PREFIX, DecodeConfig
from espnet_larm.recognize.decoding import Tally
from espnet_larm.recognize.drafting import LONGER_TAU
from espnet_larm.recognize.output.effort import Effort, describe_search
from espnet_larm.recognize.output.finished import Done
from espnet_larm.recognize.output.results import Cost, Hypothesis, Transcript, skipped_transcript


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
    """Hypotheses and effort."""
    transcripts, cost = recognizer.decode(waveforms, DecodeConfig(**options))
    return [(one.best.token_ids, one.best.guards, one.text) for one in transcripts], cost.effort


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_drafts_of_all_sources_change_no_text(drafter, waveforms, ctc_weight):
    weight = {"ctc_weight": ctc_weight}
    expected, effort = found_by(drafter, waveforms, drafts="none", **weight)
    assert effort.acceptance() == {} and effort.num_tokens == effort.num_row_calls
    for drafts in ("heads", "ctc", "longer"):
        for tokens_per_call in (1, 2, 4):
            found, _ = found_by(drafter, waveforms, drafts=drafts, tokens_per_call=tokens_per_call, **weight)
            assert found == expected
    assert found_by(drafter, waveforms, **weight)[0] == expected and drafter.plan().llm.drafting.drafts == "heads"


def test_heads_make_calls_fewer_and_acceptance_is_counted_by_token(drafter, waveforms):
    expected = found_by(drafter, waveforms, drafts="none")[1].num_row_calls
    _, effort = found_by(drafter, waveforms, drafts="heads", tokens_per_call=3)
    calls, acceptance = effort.num_row_calls, effort.acceptance()
    assert calls < expected and effort.num_tokens == expected
    assert list(acceptance) == [2, 3] and 1 >= acceptance[2] >= acceptance[3] > 0
    stats = effort.stats()
    assert stats["tokens_per_row_call"] == pytest.approx(expected / calls)
    assert stats["row_calls_per_word"] == pytest.approx(calls / effort.num_words)


def test_a_threshold_above_one_is_greedy_and_a_low_one_is_not(drafter, waveforms):
    expected, plain = found_by(drafter, waveforms, drafts="none")
    found, as_many = found_by(drafter, waveforms, accept="threshold", draft_tau=1.5)
    assert (found, as_many.num_row_calls) == (expected, plain.num_row_calls)
    lossy = {"accept": "threshold", "least_ctc_share": 0.0, "stops_loops": False}
    found, fewer = found_by(drafter, waveforms, draft_tau=0.0, **lossy)
    assert found != expected and set(fewer.acceptance().values()) == {1.0}
    _, more = found_by(drafter, waveforms, draft_tau=0.5, **lossy)
    _, most = found_by(drafter, waveforms, draft_tau=0.5, draft_tau_of="product", **lossy)
    assert fewer.num_row_calls < more.num_row_calls <= most.num_row_calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drafts": "all"}, "drafts is all; allowed: heads, ctc, longer, none"),
        ({"accept": "always"}, "accept is always; allowed: verified, threshold"),
        ({"draft_tau": 0.5, "draft_tau_of": "sum"}, "draft_tau_of is sum; allowed: head, product"),
        ({"tokens_per_call": 5}, r"tokens_per_call is 5; allowed: 1 to 4 \(the model has 4 heads\)"),
        ({"tokens_per_call": 0}, "tokens_per_call is 0; allowed: 1 or more"),
        ({"drafts": "ctc", "tokens_per_call": 33}, "tokens_per_call is 33; allowed: 1 to 32"),
        ({"drafts": "none", "tokens_per_call": 2}, r"allowed: 1 to 1 \(without drafts\)"),
        ({"draft_tau": -0.1}, "draft_tau is -0.1; allowed: 0"),
        ({"draft_tau": float("nan")}, "draft_tau is nan; allowed: 0"),
        ({"drafts": "ctc", "draft_tau": 0.5}, "draft_tau is 0.5, but drafts is ctc"),
        ({"drafts": "ctc", "draft_tau_of": "product"}, "draft_tau_of is product, but drafts is ctc"),
        ({"drafts": "longer", "accept": "threshold", "draft_tau": 0.5}, "only drafts of heads can go unverified"),
        ({"accept": "threshold"}, "accept is threshold, which needs draft_tau"),
    ],
)
def test_drafting_out_of_range_is_refused(drafter, options, message):
    with pytest.raises(ValueError, match=message):
        drafter.plan(DecodeConfig(**options))


def test_drafts_of_what_the_model_lacks_are_refused(recognizer, drafter, build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    for drafts in ("heads", "longer"):
        with pytest.raises(ValueError, match=f"drafts is {drafts}, but the model has no draft heads"):
            recognizer.plan(DecodeConfig(drafts=drafts))
    without = Recognizer(build_speech_llm(model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0}).eval(), " ".join)
    with pytest.raises(ValueError, match="drafts is ctc, but the model has no CTC head"):
        without.plan(DecodeConfig(drafts="ctc"))
    with pytest.raises(ValueError, match="CTC cannot score tokens that are not verified"):
        drafter.plan(DecodeConfig(accept="threshold", draft_tau=0.9, ctc_weight=0.3))
    with pytest.raises(ValueError, match="drafts is none: an option of an LM's search, but this model is decoded"):
        drafter.plan(DecodeConfig(drafts="none", ctc_weight=1.0))


def test_the_longer_draft_leaves_to_ctc_what_heads_are_not_sure_of(drafter):
    assert drafter.plan(DecodeConfig(drafts="longer")).llm.drafting.tau == LONGER_TAU > 0
    assert drafter.plan(DecodeConfig(drafts="longer", draft_tau=0.0)).llm.drafting.tau == 0.0


def test_what_was_counted_is_said(drafter, waveforms):
    plan = drafter.plan(DecodeConfig(drafts="heads", tokens_per_call=2))
    search = {"beam_size": 1, "nbest": 1, "beam_type": "ordinary"}
    options = {"drafting": plan.llm.drafting._asdict(), "search": search}
    stats = {**options, **drafter.decode(waveforms, plan).cost.effort.stats()}
    said = describe_search(stats)
    assert said.startswith("drafts: heads, verified, at most 2 tokens a call; ")
    assert f"{stats['tokens_per_row_call']:.2f} tokens a call of an utterance" in said
    assert f"accepted: token 2 {stats['acceptance']['2']:.1%}" in said
    nothing = {**options, **Effort().stats()}
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
    found, effort = {}, {}
    for drafts in ("none", "heads"):
        config = DecodeConfig(drafts=drafts, ctc_weight=ctc_weight, beam_size=3, nbest=3)
        transcripts, cost = drafter.decode(waveforms, config)
        found[drafts] = [[each.token_ids for each in (one.best, *one.others)] for one in transcripts]
        effort[drafts] = cost.effort
    assert found["heads"] == found["none"] and all(len(each) == 3 for each in found["none"])
    assert effort["heads"].num_row_calls < effort["none"].num_row_calls
    assert effort["heads"].num_row_tokens > effort["none"].num_row_tokens


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3])
def test_a_prefix_beam_gives_the_same_in_any_batch(drafter, waveforms, ctc_weight):
    with torch.no_grad():
        # Heads that all say what head 1 says guess "a b" and "b a" alike: which is read would be rounding's choice.
        for parameter in drafter.model.decoder.heads.parameters():
            parameter.normal_(std=0.3)
    config = DecodeConfig(beam_size=3, nbest=3, beam_type=PREFIX, ctc_weight=ctc_weight)
    for waveform, found in zip(waveforms, drafter.recognize(waveforms, config), strict=True):
        (alone,) = drafter.recognize([waveform], config)
        ranked = [found.best, *found.others]
        assert [one.token_ids for one in ranked] == [one.token_ids for one in (alone.best, *alone.others)]
        scores = [one.score for one in ranked]
        assert scores == sorted(scores, reverse=True) and len({one.text for one in ranked}) == len(ranked)


def test_what_a_beam_cannot_do_is_refused(drafter):
    for options, message in (
        ({"drafts": "longer"}, "drafts is longer, but a beam looks ahead by the model's heads alone"),
        ({"accept": "threshold", "draft_tau": 0.5}, "accept is threshold, which no beam knows"),
        (
            {"drafts": "heads", "draft_tau": 0.5, "draft_tau_of": "product"},
            "draft_tau_of is product, which no beam knows",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            drafter.plan(DecodeConfig(beam_size=2, **options))


def test_what_heads_hardly_believe_is_not_read(drafter, waveforms):
    numbers = []
    for tau in (0.0, 0.9):
        config = DecodeConfig(drafts="heads", draft_tau=tau, beam_size=3, beam_type=PREFIX)
        effort = drafter.decode(waveforms, config).cost.effort
        numbers.append(effort.num_row_tokens / effort.num_row_calls)
    assert numbers[1] < numbers[0]


def test_a_decoding_of_an_earlier_version_is_described_too(drafter):
    stats = {"drafting": drafter.plan().llm.drafting._asdict(), "row_calls": 3, "acceptance": {}}
    assert describe_search(stats).startswith("drafts: heads, verified, at most 4 tokens a call")


def test_utterances_with_fewer_hypotheses_than_asked_for_are_noted(drafter):
    tally = Tally(drafter.plan(DecodeConfig(beam_size=3, nbest=3)))
    best = Hypothesis("a", ["a"], [4], -1.0)
    transcripts = {
        "enough": Transcript({1: best}, others=(best, best)),
        "few": Transcript({1: best}, others=(best,)),
        "too short": skipped_transcript([1], "too short"),
    }
    tally.add(Done(transcripts, 3, Cost()))
    # Joined from pieces, it has one whatever is asked for.
    tally.add(Done({"long": Transcript({1: best})}, 1, Cost(), is_cut=True))
    assert tally.num_utts == 4 and tally.cut == ["long"]
    assert tally.few == ["few"]


def test_bytes_that_are_no_character_yet_are_not_merged(drafter, monkeypatch):
    tokenizer = drafter.model.decoder.tokenizer
    spelled = {(3,): "\ufffd", (4,): "\ufffd", (5,): "a", (6,): "a"}
    monkeypatch.setattr(tokenizer, "decode", lambda tokens, **_: spelled[tuple(tokens)])
    string_of = drafter.heads.llm.string_of
    assert string_of([3]) != string_of([4]) and string_of([5]) == string_of([6])
