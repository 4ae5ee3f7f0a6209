"""Words of a hand-made alignment, and an LM that reads them reduced, beside the pooling that decoding has."""

import pytest
import torch

from espnet_larm.pooling.affinity import unpooled
from espnet_larm.pooling.baselines import uniform_mean
from espnet_larm.pooling.in_llm import speech_pooling_of
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ctc import ctc_text_maker
from espnet_larm.recognize.recognizer import Recognizer
from studies.frames import Utterances
from studies.pooling_oracle.oracle import (
    Cell,
    Utterance,
    check_model,
    decode,
    find_windows,
    num_kept,
    reduced,
    similarity_profile,
)
from studies.pooling_oracle.windows import METHODS, RANDOM

# Tokens of LLM_WORDS; 0 is the blank.
A, B, C = 3, 4, 5

UNGUARDED = DecodeConfig(drafts="none", least_ctc_share=0.0, stops_loops=False)


@pytest.fixture
def recognizer(build_speech_llm):
    """Recogniser whose CTC head takes a frame whose v-th number is high for token v."""

    def make(**changes):
        model = build_speech_llm(**changes).eval()
        with torch.no_grad():
            model.ctc.ctc_lo.weight.copy_(torch.eye(7, 16) * 30)
            model.ctc.ctc_lo.bias.zero_()
            model.decoder.projector.out.weight.mul_(20)
        return Recognizer(model, ctc_text_maker(model, model.args))

    return make


def frames_of(*tokens):
    return torch.nn.functional.one_hot(torch.tensor(tokens), 16).float()


def spoken(**texts_and_frames):
    names = list(texts_and_frames)
    texts, frames = zip(*texts_and_frames.values(), strict=True)
    return Utterances(names, list(texts), [0.04 * len(each) for each in frames], list(frames))


def utterances_of_noise():
    lengths = {"a": 20, "b": 11, "c": 20, "d": 5}
    return [
        Utterance(name, "A B", 0.5, 3 * torch.randn(length, 16), -(-length // 2), [0, 2])
        for name, length in lengths.items()
    ]


def test_windows_follow_a_hand_made_alignment(recognizer):
    # A at 2 and 3, B at 8, C at 12 of 15 frames: windows from 0, 6 and 10; two frames a token, eight tokens.
    found, left_out = find_windows(
        recognizer(),
        spoken(
            first=("A B C", frames_of(0, 0, A, A, 0, 0, 0, 0, B, 0, 0, 0, C, 0, 0)), second=("B", frames_of(0, 0, B))
        ),
    )
    assert left_out == {}
    assert [(one.name, one.num_tokens, one.starts) for one in found] == [("first", 8, [0, 3, 5]), ("second", 2, [0])]
    assert num_kept(found, Cell(1, 2, RANDOM), 0) == 2 + 2 + 2 + 2


def test_words_of_a_ctc_head_with_its_own_tokens_end_at_its_spaces(build_speech_llm, larm_task, tmp_path):
    tokens = ["<blank>", "<unk>", "<space>", *"ABCD", "<sos/eos>"]
    (tmp_path / "own.txt").write_text("".join(f"{token}\n" for token in tokens))
    conf = {"ctc_token_list": str(tmp_path / "own.txt")}
    model = build_speech_llm(
        model_conf=conf, preprocessor="speech_llm", preprocessor_conf={**conf, "ctc_token_type": "char"}
    ).eval()
    with torch.no_grad():
        model.ctc.ctc_lo.weight.copy_(torch.eye(8, 16) * 30)
        model.ctc.ctc_lo.bias.zero_()
    preprocess = larm_task.build_preprocess_fn(model.args, False)
    made = Recognizer(model, ctc_text_maker(model, model.args), preprocess=preprocess)
    # "A" in frame 0 and "B" in frame 5 of 8, the space between belongs to neither: windows from 0 and 3.
    found, left_out = find_windows(made, spoken(a=("A B", frames_of(3, 0, 2, 0, 0, 4, 0, 0)), b=("A X", frames_of(3))))
    assert [(one.num_tokens, one.starts) for one in found] == [(4, [0, 2])]
    assert left_out == {"b": "the CTC head cannot spell its text"}


def test_what_cannot_be_measured_is_left_out_with_its_reason(recognizer):
    given = spoken(
        unknown=("A X", frames_of(A, 0, B)),
        silent=("", frames_of(0, 0)),
        crowded=("A A", frames_of(A, A)),
        fine=("A A", frames_of(A, 0, A)),
        long=("A", frames_of(*[A] * 130)),
    )
    found, left_out = find_windows(recognizer(), given)
    assert [one.name for one in found] == ["fine"]
    assert left_out == {
        "unknown": "the CTC head cannot spell its text",
        "silent": "no word is said in it",
        "crowded": "its text has more tokens than its 2 frames have room for",
        "long": "its 66 positions are more than the LM's context has",
    }


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_as_many_tokens_as_there_are_is_no_pooling_bit_for_bit(recognizer, layer, method):
    made, given = recognizer(), utterances_of_noise()
    expected = decode(made, given, None, config=UNGUARDED)
    assert len(set(expected.values())) > 1
    assert decode(made, given, Cell(layer, 99, method), config=UNGUARDED) == expected
    hs_pad, hlens = given[0].frames.unsqueeze(0), torch.tensor([20])
    before = made.model.decoder.start(hs_pad, hlens).logits
    found = made.model.decoder.start(hs_pad, hlens, pooling=reduced(layer, unpooled))
    assert torch.equal(found.logits, before)


@torch.no_grad()
@pytest.mark.parametrize(("layer", "place"), [(0, {}), (1, {"layer": 1})])
def test_layers_are_those_of_the_pooling_of_decoding_and_nothing_stays_behind(recognizer, layer, place):
    decoder = recognizer().model.decoder
    given = torch.randn(3, 20, 16), torch.tensor([20, 7, 12])
    whole = decoder.start(*given).logits
    pooling = reduced(layer, lambda xs_pad, lens: uniform_mean(xs_pad, lens, 0.5))
    found = decoder.start(*given, pooling=pooling).logits
    assert torch.equal(decoder.start(*given).logits, whole) and not torch.equal(found, whole)
    conf = {"deep" if layer else "input": {**place, "method": "stride", "retention": 0.5}}
    assert torch.equal(decoder.start(*given, pooling=speech_pooling_of(conf, decoder.backbone)).logits, found)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_batch_gives_what_its_utterances_give_alone(recognizer, layer):
    made, given, cell = recognizer(), utterances_of_noise(), Cell(layer, 1, RANDOM)
    together = decode(made, given, cell, config=UNGUARDED)
    assert together != decode(made, given, None, config=UNGUARDED)
    alone = [decode(made, [one], cell, config=UNGUARDED) for one in given]
    assert together == {name: text for each in alone for name, text in each.items()}


@torch.no_grad()
def test_cosines_at_the_input_are_those_of_the_frames(recognizer):
    """One frame a token and words of equal frames: neighbours in a word are alike."""
    made = recognizer(decoder_conf={"projector": "linear", "projector_frames": 1})
    frames = torch.randn(2, 16).repeat_interleave(torch.tensor([3, 2]), dim=0)
    one = Utterance("a", "A B", 0.2, frames, 5, [0, 3])
    alone = Utterance("b", "A", 0.2, torch.randn(1, 16), 1, [0])
    first, *others = similarity_profile(made, [one, alone])
    tokens = made.model.decoder.projector(frames.unsqueeze(0), torch.tensor([5])).embeddings[0]
    across = float(torch.cosine_similarity(tokens[2], tokens[3], dim=0))
    assert first.layer == 0 and first.within == 1.0 and first.across == pytest.approx(across, abs=1e-6)
    assert across < first.random < 1
    # Behind the layers a token also knows what was before it.
    assert [row.layer for row in others] == [1, 2] and all(row.within < 1 for row in others)


def test_models_without_lm_or_words_are_refused(build_speech_llm, tmp_path):
    def refused(message, **changes):
        model = build_speech_llm(**changes).eval()
        made = Recognizer(model, str)
        with pytest.raises(ValueError, match=message):
            check_model(made)

    message = "words are found by a CTC head that knows how a text is spelled"
    refused(message, model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0})
    (tmp_path / "own.txt").write_text("<blank>\n<unk>\nA\nB\n")
    refused(message, model_conf={"ctc_token_list": str(tmp_path / "own.txt")})
