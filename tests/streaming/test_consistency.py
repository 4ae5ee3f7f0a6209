"""Consistency: what the whole utterance teaches chunks, in the stock model and the one with an LM."""

import argparse
import math

import pytest
import torch
import yaml

from espnet2.asr.ctc import CTC

from espnet_larm.streaming.consistency import lessons_collected
from espnet_larm.streaming.context import Context, Contexts
from espnet_larm.train.checks.streaming import check_streaming
from tests.fast_conformer.test_encoder import new_encoder as new_fast_conformer
from tests.looped.test_encoder import SIZE, VOCAB, batch, new_encoder, randomise

CHUNKS = Context(1, 2)
STREAMING = {"chunk_frames": ["full", 2], "left_chunks": [1]}
WEIGHT = 0.3
SMALL = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1, "subsampling_channels": 4}
KINDS = {
    "larm": {**SMALL, "num_loops": 4, "checkpoint_period": 2, "block": "conformer"},
    "fast_conformer": {**SMALL, "subsampling_factor": 4, "cnn_module_kernel": 5},
}


@pytest.fixture
def ctc() -> CTC:
    torch.manual_seed(3)
    head = CTC(VOCAB, SIZE)
    # Clear posteriors, so that the divergence is far above rounding.
    head.ctc_lo.weight.data *= 10
    return head


@pytest.fixture
def build(larm_task, tiny_experiment):
    """Builds the stock model with a streaming encoder, whose steps all draw one context."""

    def build(kind, weight=WEIGHT, context=CHUNKS, **options):
        config = yaml.safe_load(tiny_experiment.config.read_text())
        streaming = STREAMING if weight is None else {**STREAMING, "consistency_weight": weight}
        config |= {"encoder": kind, "encoder_conf": {**KINDS[kind], "streaming": streaming, **options}}
        config |= {"normalize": None, "specaug": None}
        torch.manual_seed(0)
        model = larm_task.build_model(argparse.Namespace(**config)).train()
        randomise(model)
        model.encoder.contexts.draw = lambda: context
        return model

    return build


def utterances():
    torch.manual_seed(2)
    speech, text = 0.1 * torch.randn(3, 16000), torch.randint(3, 7, (3, 4))
    speech_lens, text_lens = torch.tensor([16000, 9000, 7000]), torch.tensor([4, 2, 3])
    for row, (num_samples, num_tokens) in enumerate(zip(speech_lens, text_lens, strict=True)):
        speech[row, num_samples:], text[row, num_tokens:] = 0.0, -1
    return {"speech": speech, "speech_lengths": speech_lens, "text": text, "text_lengths": text_lens}


def step(model):
    """Loss and figures of a training step; the same dropout masks each time."""
    torch.manual_seed(5)
    loss, stats, _ = model(**utterances())
    return loss, stats


def lesson_of(encoder, ctc, *lens):
    """What a step of an encoder without dropout teaches."""
    encoder.contexts.draw = lambda: CHUNKS
    with lessons_collected() as lessons:
        encoder(*batch(*lens), ctc=ctc)
    return lessons[0]


def larm(**options):
    streaming = {**STREAMING, "consistency_weight": WEIGHT}
    encoder = new_encoder(streaming=streaming, dropout_rate=0.0, block="conformer", **options)
    randomise(encoder)
    return encoder.train()


def fast_conformer():
    streaming = {**STREAMING, "consistency_weight": WEIGHT}
    return new_fast_conformer(streaming=streaming, dropout_rate=0.0, attention_dropout_rate=0.0).train()


@torch.no_grad()
@pytest.mark.parametrize("make", [larm, fast_conformer])
def test_the_loss_is_the_divergence_of_each_frame_added_up(make, ctc):
    encoder, (xs_pad, ilens) = make(), batch(90, 57)
    lesson, total = lesson_of(encoder, ctc, 90, 57), 0.0
    if encoder.num_loops > 1:
        modes = [list(encoder.read_outs(xs_pad, ilens, ctc, context=each)) for each in (Context(), CHUNKS)]
        pairs = [(whole.hs_pad, chunks.hs_pad) for whole, chunks in zip(*modes, strict=True)]
        assert len(pairs) == 2
    else:
        pairs = [tuple(encoder.encode(xs_pad, ilens, each)[0] for each in (Context(), CHUNKS))]
    for whole, chunks in pairs:
        for row, hlen in enumerate(lesson.hlens.tolist()):
            for frame in range(hlen):
                p, q = (ctc.softmax(each[row, frame][None, None])[0, 0].tolist() for each in (whole, chunks))
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    wanted = total / len(ilens) / len(pairs)
    assert wanted > 0.01 and lesson.hlens[1] < lesson.hlens[0]
    assert lesson.loss(ctc.ctc_lo).item() == pytest.approx(wanted, rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("make", [larm, fast_conformer])
def test_a_batch_teaches_what_each_utterance_does_alone(make, ctc):
    encoder, (xs_pad, ilens) = make(), batch(90, 57)
    together = lesson_of(encoder, ctc, 90, 57).loss(ctc.ctc_lo).item()
    alone = []
    for row, ilen in enumerate(ilens.tolist()):
        with lessons_collected() as lessons:
            encoder(xs_pad[row : row + 1, :ilen], ilens[row : row + 1], ctc=ctc)
        alone.append(lessons[0].loss(ctc.ctc_lo).item())
    assert together == pytest.approx(sum(alone) / 2, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_weight_a_step_is_bit_for_bit_what_it_was(build, kind):
    found = []
    for weight in (None, 0.0):
        model = build(kind, weight)
        loss, stats = step(model)
        loss.backward()
        assert "loss_consistency" not in stats
        found.append((loss, torch.get_rng_state(), [parameter.grad for parameter in model.parameters()]))
    (loss, state, gradients), (other, other_state, others) = found
    assert torch.equal(loss, other) and torch.equal(state, other_state)
    assert all(torch.equal(one, two) for one, two in zip(gradients, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_with_it_has_the_masks_and_the_ctc_loss_of_one_without(build, kind):
    plain, plain_stats = step(build(kind, None))
    model = build(kind)
    loss, stats = step(model)
    assert torch.equal(stats["loss_ctc"], plain_stats["loss_ctc"])
    assert stats["loss_consistency"].item() > 0 and torch.equal(stats["loss"], loss.detach())
    assert loss.shape == plain.shape == stats["loss_consistency"].shape
    torch.testing.assert_close(loss, plain + WEIGHT * stats["loss_consistency"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_whole_utterances_and_validation_teach_nothing(build, kind):
    whole = [step(build(kind, weight, Context())) for weight in (None, WEIGHT)]
    assert torch.equal(whole[0][0], whole[1][0]) and "loss_consistency" not in whole[1][1]
    assert "loss_consistency" not in step(build(kind).eval())[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_chunks_learn_and_the_teacher_does_not(build, kind, activation_checkpointing):
    options = {"activation_checkpointing": True} if activation_checkpointing and kind == "larm" else {}
    model = build(kind, dropout_rate=0.0, **options)
    with lessons_collected() as lessons:
        model.encode(*(utterances()[name] for name in ("speech", "speech_lengths")))
    (lesson,) = lessons
    assert not any(each.requires_grad for each in lesson.taught) and all(each.requires_grad for each in lesson.learned)
    before = lesson.loss(model.ctc.ctc_lo)
    before.backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    # The gradient of the CTC head is that of the student alone: softmax(chunks) - softmax(whole), frame by frame.
    is_frame = torch.arange(lesson.learned[0].size(1)) < lesson.hlens.unsqueeze(1)
    wanted = 0.0
    with torch.no_grad():
        for learned, taught in zip(lesson.learned, lesson.taught, strict=True):
            difference = model.ctc.softmax(learned) - model.ctc.softmax(taught)
            wanted = wanted + difference[is_frame].sum(0) / 3 / len(lesson.learned)
    if kind == "fast_conformer":
        # The looped encoder reads the head's posteriors, which has a gradient of its own.
        torch.testing.assert_close(gradients["ctc.ctc_lo.bias"], wanted, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1e-3 * parameter.grad)
    with lessons_collected() as lessons:
        model.encode(*(utterances()[name] for name in ("speech", "speech_lengths")))
    assert lessons[0].loss(model.ctc.ctc_lo) < before


def test_both_modes_run_the_loops_that_the_step_has_drawn(build):
    model = build("larm", loop_sampling="uniform")
    model.encoder.sampling.draw = lambda: 2
    _, stats = step(model)
    assert "loss_interctc_layer2" not in stats and stats["loss_consistency"].item() > 0


def test_a_model_with_an_lm_has_it_with_the_weight_of_its_ctc_loss(build_speech_llm):
    losses = []
    for weight in (0.0, WEIGHT):
        model = build_speech_llm(encoder_conf={"streaming": {**STREAMING, "consistency_weight": weight}}).train()
        model.encoder.contexts.draw = lambda: CHUNKS
        losses.append(step(model))
    (plain, _), (loss, stats) = losses
    torch.testing.assert_close(loss, plain + model.ctc_weight * WEIGHT * stats["loss_consistency"])


def test_an_encoder_whose_model_adds_no_loss_is_refused(ctc):
    encoder = larm()
    encoder.contexts.draw = lambda: CHUNKS
    with pytest.raises(ValueError, match=r"consistency_weight is 0\.3, but the model does not add this loss; train by"):
        encoder(*batch(60), ctc=ctc)


@pytest.mark.parametrize("chunk_frames", [["full"], [4, 8]])
def test_what_has_nothing_to_compare_is_refused(chunk_frames):
    with pytest.raises(ValueError, match="full teaches chunks, so both must be trained. Add what is missing"):
        Contexts(chunk_frames, [2], 0.1)


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ValueError, match=r"streaming: consistency_weight is -1\.0; allowed: 0 or more \(0 is off\)"):
        Contexts.of({"consistency_weight": -1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: setattr(model, "ctc", None), "compares CTC posteriors; set ctc_weight above 0"),
        (lambda model: model.encoder.requires_grad_(False), r"the encoder is frozen; let it learn \(freeze_param\)"),
    ],
)
def test_a_training_that_could_not_have_it_is_refused(build, change, message):
    model, args = build("larm"), argparse.Namespace(normalize=None, frontend="default", preencoder=None)
    check_streaming(args, model)
    change(model)
    with pytest.raises(ValueError, match=message):
        check_streaming(args, model)
