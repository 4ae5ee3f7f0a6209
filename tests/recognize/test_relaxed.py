"""`accept: relaxed`: its two thresholds, what they take at their extremes and between, and what is counted."""

import json
import shutil

import pytest
import torch

from espnet_larm.recipe.join_outputs import join_statistics
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.model.thresholds import (
    RELAXED_CALIBRATION,
    Thresholds,
    read_thresholds,
    write_thresholds,
)
from espnet_larm.recognize.output.effort import Effort, describe_search

ALL, NONE = 100.0, 0.0
UNGUARDED = {"least_ctc_share": 0.0, "stops_loops": False}


@pytest.fixture
def waveforms():
    return [torch.randn(length).numpy() for length in (16000, 9000, 24000, 12000, 20000)]


@pytest.fixture
def relaxer(build_speech_llm):
    """A recogniser with draft heads whose CTC head is sure of some frames, and whose LM is of some tokens."""
    from espnet_larm.recognize.ctc import ctc_text_maker
    from espnet_larm.recognize.recognizer import Recognizer

    model = build_speech_llm(decoder_conf={"num_heads": 4}).eval()
    with torch.no_grad():
        model.decoder.projector.out.weight.mul_(20)
        model.ctc.ctc_lo.weight.mul_(8)
        for layer in model.decoder.heads.layers:
            layer.weight.normal_(std=0.3)
    return Recognizer(model, ctc_text_maker(model, model.args))


def decode(recognizer, waveforms, entropy, tau, **options):
    config = DecodeConfig(accept="relaxed", relaxed_entropy=entropy, relaxed_tau=tau, **UNGUARDED, **options)
    return recognizer.decode(waveforms, config)


def found_by(decoded):
    return [(one.best.token_ids, one.best.tokens, one.text, one.best.score) for one in decoded.transcripts]


def entropies_of(recognizer, waveforms):
    """By hand: of each utterance alone the entropy of its least certain frame."""
    found = []
    for waveform in waveforms:
        with torch.no_grad():
            output, lens = recognizer.model.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
            hs_pad = output[0] if isinstance(output, tuple) else output
            posteriors = recognizer.model.ctc.ctc_lo(hs_pad)[0, : int(lens)].softmax(-1)
        found.append(float(torch.distributions.Categorical(posteriors).entropy().max()))
    return found


def test_an_entropy_above_all_is_ctc_alone_and_calls_nobody(relaxer, waveforms):
    transcripts, cost = decode(relaxer, waveforms, ALL, 0.5)
    expected = relaxer.recognize(waveforms, DecodeConfig(ctc_weight=1.0))
    assert [one.text for one in transcripts] == [one.text for one in expected]
    assert [one.best.score for one in transcripts] == [one.best.score for one in expected]
    assert len({one.text for one in transcripts}) > 1
    assert cost.effort.num_calls == cost.effort.num_row_calls == 0
    assert cost.effort.accepted_by == {"ctc": 5, "llm": 0, "decoding": 0}


@pytest.mark.parametrize("drafts", ["none", "heads", "ctc", "longer"])
def test_thresholds_that_take_nothing_are_greedy_search(relaxer, waveforms, drafts):
    decoded = decode(relaxer, waveforms, NONE, 1.0, drafts=drafts)
    greedy = found_by(relaxer.decode(waveforms, DecodeConfig(drafts="none", **UNGUARDED)))
    found = found_by(decoded)
    assert [row[:3] for row in found] == [row[:3] for row in greedy]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in greedy], abs=1e-3)
    assert decoded.cost.effort.accepted_by == {"ctc": 0, "llm": 0, "decoding": 5}


def test_a_tau_of_nothing_is_ctcs_hypothesis_in_two_calls(relaxer, waveforms):
    transcripts, cost = decode(relaxer, waveforms, NONE, 0.0)
    expected = relaxer.recognize(waveforms, DecodeConfig(ctc_weight=1.0))
    assert [one.text for one in transcripts] == [one.text for one in expected]
    assert cost.effort.num_calls == 2 and cost.effort.num_row_calls == 10
    assert cost.effort.accepted_by == {"ctc": 0, "llm": 5, "decoding": 0}
    # Ends included, each a token of a draft.
    assert cost.effort.num_tokens == sum(len(one.best.token_ids) + 1 for one in transcripts)


def test_utterances_of_which_ctc_is_sure_are_not_read_by_the_lm(relaxer, waveforms):
    entropies = entropies_of(relaxer, waveforms)
    ordered = sorted(entropies)
    assert ordered[0] < ordered[-1]
    threshold = sum(ordered[1:3]) / 2
    decoded = decode(relaxer, waveforms, threshold, 1.0)
    by_ctc, greedy = (decode(relaxer, waveforms, *each) for each in ((ALL, 0.5), (NONE, 1.0)))
    for entropy, found, sure, unsure in zip(entropies, *map(found_by, (decoded, by_ctc, greedy)), strict=True):
        assert found[:3] == (sure if entropy < threshold else unsure)[:3]
    assert decoded.cost.effort.accepted_by == {"ctc": 2, "llm": 0, "decoding": 3}
    assert decoded.cost.effort.num_row_calls < greedy.cost.effort.num_row_calls


class ByHand:
    """One utterance by hand: CTC's tokens while the LM finds each above tau, then the LM's best ones."""

    def __init__(self, recognizer, waveform):
        self.model = recognizer.model
        (heard,) = recognizer.recognize([waveform], DecodeConfig(ctc_weight=1.0))
        special = set(self.model.decoder.tokenizer.all_special_ids)
        self.draft = [*(token for token in heard.best.token_ids if token not in special), self.model.eos]
        output, self.lens = self.model.encode(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        self.hs_pad = output[0] if isinstance(output, tuple) else output
        room = (
            self.model.decoder.backbone.max_positions - self.model.decoder.start(self.hs_pad, self.lens).next_positions
        )
        self.most = min(int(room), 8 + int(24.0 * len(waveform) / 16000))

    def probabilities(self, text):
        ys = torch.tensor([[self.model.sos, *text]])
        return self.model.decoder(self.hs_pad, self.lens, ys, torch.tensor([ys.size(1)]))[0][0, -1].softmax(-1)

    def of_draft(self):
        return [float(self.probabilities(self.draft[:place])[token]) for place, token in enumerate(self.draft)]

    def decode(self, tau):
        """Its tokens, and whether all are CTC's."""
        text, follows = [], True
        while len(text) <= self.most:
            found = self.probabilities(text)
            follows = follows and bool(found[self.draft[len(text)]] > tau)
            token = self.draft[len(text)] if follows else int(found.argmax())
            if token == self.model.eos:
                return text, follows
            text.append(token)
        return text[: self.most], False


@torch.no_grad()
def test_decoding_goes_on_behind_what_the_lm_believes(relaxer, waveforms):
    greedy = [one.best.token_ids for one in relaxer.recognize(waveforms, DecodeConfig(**UNGUARDED))]
    by_hand = [ByHand(relaxer, waveform) for waveform in waveforms]
    found = [each.of_draft() for each in by_hand]
    # Some utterances are believed as a whole; of some the first token is.
    between = [sorted(map(min, found))[1:3], sorted(row[0] for row in found)[1:3]]
    for tau in (sum(pair) / 2 for pair in between):
        expected = [each.decode(tau) for each in by_hand]
        by_llm = sum(is_whole for _, is_whole in expected)
        assert [text for text, _ in expected] != greedy and by_llm < len(waveforms)
        for drafts in ("none", "heads", "ctc"):
            decoded = decode(relaxer, waveforms, NONE, tau, drafts=drafts)
            assert [one.best.token_ids for one in decoded.transcripts] == [text for text, _ in expected]
            assert decoded.cost.effort.accepted_by == {"ctc": 0, "llm": by_llm, "decoding": 5 - by_llm}


def test_a_batch_gives_what_each_utterance_gives_alone(relaxer, waveforms):
    threshold = sum(sorted(entropies_of(relaxer, waveforms))[1:3]) / 2
    together = found_by(decode(relaxer, waveforms, threshold, 0.05))
    for waveform, found in zip(waveforms, together, strict=True):
        (alone,) = found_by(decode(relaxer, [waveform], threshold, 0.05))
        assert found[:3] == alone[:3] and found[3] == pytest.approx(alone[3], abs=1e-3)


def test_lossless_ways_do_not_change_beside_it(relaxer, waveforms):
    for drafts in ("none", "heads", "ctc", "longer"):
        config = DecodeConfig(drafts=drafts)
        before = found_by(relaxer.decode(waveforms, config))
        decode(relaxer, waveforms, NONE, 0.05)
        again = relaxer.decode(waveforms, config)
        assert found_by(again) == before and again.cost.effort.accepted_by == {}


def test_words_have_times_whoever_took_them(relaxer, waveforms):
    for thresholds in ((ALL, 0.5), (NONE, 0.0), (NONE, 1.0)):
        for one in decode(relaxer, waveforms, *thresholds, with_words=True).transcripts:
            assert [word.text for word in one.best.words] == one.text.split()


def test_fractions_stand_in_the_statistics_and_are_made_anew_of_several_jobs(relaxer, waveforms):
    threshold = sum(sorted(entropies_of(relaxer, waveforms))[1:3]) / 2
    plan = relaxer.plan(DecodeConfig(accept="relaxed", relaxed_entropy=threshold, relaxed_tau=1.0))
    head = {"drafting": plan.llm.drafting.stats()}
    one, other = (relaxer.decode(part, plan).cost.effort for part in (waveforms[:2], waveforms[2:]))
    parts = [json.loads(json.dumps(head | each.stats())) for each in (one, other)]
    joined, whole = join_statistics(parts), one.plus(other).stats()
    assert joined["accepted_by"] == whole["accepted_by"] == {"ctc": 2, "llm": 0, "decoding": 3}
    assert joined["accepted_by_fraction"] == whole["accepted_by_fraction"] == {"ctc": 0.4, "llm": 0.0, "decoding": 0.6}
    said = describe_search(joined)
    assert f"drafts: heads, relaxed (entropy {threshold:.4g}, tau 1)" in said
    assert said.endswith("utterances by who took their hypothesis: ctc 40.0%, llm 0.0%, decoding 60.0%")
    assert "accepted_by" not in Effort().stats()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relaxed_entropy": -0.5}, "relaxed_entropy is -0.5; allowed: 0 or more"),
        ({"relaxed_entropy": float("nan")}, "relaxed_entropy is nan; allowed: 0 or more"),
        ({"relaxed_tau": 1.5}, "relaxed_tau is 1.5; allowed: 0 to 1"),
        ({"accept": "verified"}, "relaxed_entropy is 1.0, which needs accept: relaxed"),
        ({"relaxed_tau": None}, "accept is relaxed, but relaxed_tau is not set, and there is no relaxed_calibration"),
        ({"relaxed_entropy": None}, "run espnet-larm calibrate-drafts --accept relaxed, or set relaxed_entropy"),
        ({"beam_size": 2}, "accept is relaxed, which no beam knows"),
        ({"ctc_weight": 0.3}, "ctc_weight is 0.3 and accept is relaxed: CTC cannot score tokens that are not verified"),
        ({"ctc_weight": 1.0}, "accept is relaxed: an option of an LM's search"),
        ({"drafts": "ctc", "draft_tau": 0.5}, "draft_tau is 0.5, but drafts is ctc"),
    ],
)
def test_what_does_not_go_with_it_is_refused(relaxer, options, message):
    given = {"accept": "relaxed", "relaxed_entropy": 1.0, "relaxed_tau": 0.5, **options}
    with pytest.raises(ValueError, match=message):
        relaxer.plan(DecodeConfig(**given))


def test_a_model_without_ctc_cannot_and_one_without_heads_drafts_by_ctc(build_speech_llm):
    from espnet_larm.recognize.recognizer import Recognizer

    config = DecodeConfig(accept="relaxed", relaxed_entropy=1.0, relaxed_tau=0.5)
    without = build_speech_llm(model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0}).eval()
    with pytest.raises(ValueError, match="accept is relaxed, but the model has no CTC head"):
        Recognizer(without, " ".join).plan(config)
    assert Recognizer(build_speech_llm().eval(), " ".join).plan(config).llm.drafting.drafts == "ctc"


def test_thresholds_beside_the_model_stand_where_none_are_given(relaxer, tmp_path):
    assert read_thresholds(tmp_path) is None
    path = write_thresholds(tmp_path, Thresholds(0.7, 0.2), {"data": "dev"})
    assert path == tmp_path / RELAXED_CALIBRATION
    relaxer.thresholds = read_thresholds(tmp_path)
    assert relaxer.plan(DecodeConfig(accept="relaxed")).llm.drafting.thresholds == (0.7, 0.2)
    half = relaxer.plan(DecodeConfig(accept="relaxed", relaxed_tau=0.5))
    assert half.llm.drafting.thresholds == (0.7, 0.5)


def test_thresholds_travel_with_a_pack(tiny_experiment, pack, tmp_path):
    import espnet_larm

    folder = tmp_path / "exp"
    folder.mkdir()
    tiny_experiment.with_config(folder / "config.yaml")
    shutil.copy(tiny_experiment.model, folder / "valid.loss.ave.pth")
    write_thresholds(folder, Thresholds(0.7, 0.2), {})
    assert espnet_larm.load(pack(folder)).recognizer.thresholds == (0.7, 0.2)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"relaxed_entropy": 1.0}',
        '{"relaxed_entropy": null, "relaxed_tau": 0.5}',
        '{"relaxed_entropy": NaN, "relaxed_tau": 0.5}',
        '{"relaxed_entropy": 1.0, "relaxed_tau": 2}',
    ],
)
def test_a_strangers_file_of_thresholds_is_refused(tmp_path, content):
    (tmp_path / RELAXED_CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match="relaxed_calibration.json .*run espnet-larm calibrate-drafts again"):
        read_thresholds(tmp_path)
