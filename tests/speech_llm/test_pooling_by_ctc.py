"""Speech pooled by what the model's CTC head recognises: batches, cached steps, both sites, training, errors."""

import pytest
import torch

from espnet_larm.pooling.in_llm import speech_pooling_of
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import path_of
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
from tests.speech_llm.conftest import ToyLm

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
BOUNDS = [Bounds(20)] * 4
BY_CTC = {
    "runs": {"input": {"boundaries": "ctc"}},
    "weights": {"input": {"method": "uniform_mean", "retention": 0.5, "weight": "ctc"}},
    "both sites": {
        "input": {"retention": 0.7, "boundaries": "ctc", "weight": "ctc"},
        "deep": {"layer": 1, "boundaries": "ctc", "retention": 0.5, "weight": "ctc"},
    },
    "deep": {"deep": {"layer": 1, "method": "uniform_mean", "retention": 0.5, "weight": "ctc"}},
}


@pytest.fixture
def build(save_lm, tmp_path):
    """Decoders of one LM beside one CTC head of 5 tokens."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(ToyLm.vocab_size - 3))]
    llm = save_lm(tmp_path / "lm", words, num_hidden_layers=2, initializer_range=0.3, max_position_embeddings=256)

    def make(pooling, frames=2, has_ctc=True):
        torch.manual_seed(1)
        made = SpeechLlmDecoder(
            ToyLm.vocab_size, ToyLm.encoder_size, llm=llm, projector_frames=frames, pooling=pooling
        ).eval()
        if has_ctc:
            made.read_from(torch.nn.Linear(ToyLm.encoder_size, 5))
        return made

    return make


def texts():
    ys_in = torch.randint(3, ToyLm.vocab_size, (4, 6), generator=torch.Generator().manual_seed(4))
    return ys_in, torch.tensor([6, 3, 5, 2])


@torch.no_grad()
@pytest.mark.parametrize("pooling", BY_CTC.values(), ids=BY_CTC)
@pytest.mark.parametrize("num_frames", [1, 2])
def test_a_batch_gives_what_each_utterance_gives_alone_and_padding_nothing(build, frames, pooling, num_frames):
    decoder, (ys_in, ys_lens) = build(pooling, num_frames), texts()
    for row, length in enumerate(frames[1].tolist()):
        frames[0][row, length:] = frames[0][row, length - 1]
    together = decoder.read_text(*frames, ys_in, ys_lens)
    assert all(0.1 < float(each.retention) < 1 for each in together.kept.values())
    for row, length in enumerate(frames[1].tolist()):
        rows, num_tokens = slice(row, row + 1), int(ys_lens[row])
        given = frames[0][rows, :length], frames[1][rows], ys_in[rows, :num_tokens], ys_lens[rows]
        alone = decoder.read_text(*given)
        torch.testing.assert_close(together.hidden[row, :num_tokens], alone.hidden[0], **CLOSE)
        for site, each in alone.kept.items():
            assert int(each.after) == int(together.kept[site].after[row])


@torch.no_grad()
@pytest.mark.parametrize("pooling", BY_CTC.values(), ids=BY_CTC)
def test_cached_steps_are_the_teacher_forced_forward(build, frames, pooling):
    decoder, (ys_in, _) = build(pooling), texts()
    wanted, _ = decoder(*frames, ys_in, torch.full((4,), 6))
    begun = decoder.start(*frames)
    torch.testing.assert_close(begun.logits, wanted[:, 0], **CLOSE)
    found = begun.step(ys_in[:, 1:], torch.full((4,), 5))
    torch.testing.assert_close(found, wanted[:, 1:], **CLOSE)


@torch.no_grad()
def test_the_lm_reads_the_means_of_runs_of_the_path(build, frames):
    decoder, plain = build(BY_CTC["runs"]), build(None)
    embeddings, lens = plain.project(*frames)
    (head,) = decoder._ctc_head
    path = path_of(head(frames[0]).softmax(-1), frames[1], 2)
    expected = Pooling(boundaries="ctc")(embeddings, lens, path=path)
    found = decoder.read_prompt(*frames)
    prefix = len(decoder.prompt.prefix)
    for row, length in enumerate(expected.lens.tolist()):
        assert torch.equal(found.embeddings[row, prefix : prefix + length], expected.tokens[row, :length])
    assert int(expected.lens.sum()) < int(lens.sum())


@torch.no_grad()
def test_a_deep_layer_reads_what_the_head_recognises_in_what_the_input_left(build, frames, monkeypatch):
    seen = []
    pool = Pooling.__call__
    monkeypatch.setattr(
        Pooling,
        "__call__",
        lambda self, *given, **named: seen.append((given[1], named["path"])) or pool(self, *given, **named),
    )
    build(BY_CTC["both sites"]).start(*frames)
    (lens, path), (left, deep) = seen
    pooled = pool(Pooling(retention=0.7, boundaries="ctc"), *build(None).project(*frames), path=path)
    expected = path.pooled(pooled.groups, pooled.tokens.size(1))
    assert torch.equal(left, pooled.lens) and bool((left < lens).any())
    assert all(torch.equal(one, other) for one, other in zip(deep, expected, strict=True))


@torch.no_grad()
def test_pooling_that_is_off_changes_no_bit(build, frames):
    off = {"input": {"method": "uniform_mean", "retention": 1.0, "weight": "ctc"}}
    found, plain = build(off).start(*frames), build(None).start(*frames)
    assert torch.equal(found.logits, plain.logits)
    texts_of = [greedy(each, BOUNDS, ToyLm.eos).hypotheses for each in (found, plain)]
    assert [one.token_ids for one in texts_of[0]] == [one.token_ids for one in texts_of[1]]


def test_gradients_reach_projector_and_frames_and_not_the_head(build, frames):
    decoder, given = build(BY_CTC["both sites"]).train(), texts()
    frames[0].requires_grad_()
    decoder(*frames, *given)[0].log_softmax(-1).square().sum().backward()
    assert all(each.grad.any() for each in decoder.projector.parameters())
    assert decoder._ctc_head[0].weight.grad is None
    assert frames[0].grad[0].any() and not frames[0].grad[1, 11:].any()


@pytest.mark.parametrize("site", ["input", "deep"])
def test_a_model_without_a_ctc_head_is_refused(build, frames, site):
    options = {"method": "uniform_mean", "retention": 0.5, "weight": "ctc"}
    pooling = {site: {**options, **({"layer": 1} if site == "deep" else {})}}
    with pytest.raises(ValueError, match="^pooling: weight or boundaries is ctc, but the model has no CTC head"):
        build(pooling, has_ctc=False).start(*frames)
    decoder = build(None, has_ctc=False)
    given = speech_pooling_of(pooling, decoder.backbone)
    with pytest.raises(ValueError, match="the model has no CTC head"):
        decoder.start(*frames, pooling=given)


def test_a_model_hands_its_head_over_or_is_refused_when_it_is_built(build_speech_llm):
    pooling = {"input": {"boundaries": "ctc", "retention": 0.5}}
    model = build_speech_llm(decoder_conf={"pooling": pooling})
    assert model.decoder._ctc_head == (model.ctc.ctc_lo,)
    assert not [name for name in model.decoder.state_dict() if "ctc" in name]
    with pytest.raises(
        ValueError, match="decoder_conf: pooling: weight or boundaries is ctc, but the model has no CTC"
    ):
        build_speech_llm(decoder_conf={"pooling": pooling}, model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0})
