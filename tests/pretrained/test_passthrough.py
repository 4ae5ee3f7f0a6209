"""encoder: passthrough."""

import pytest
import torch

from espnet_larm.pretrained.passthrough import PassthroughEncoder


def build(build_speech_llm, folder, **model_conf):
    return build_speech_llm(
        frontend="pretrained",
        frontend_conf={"model": folder},
        encoder="passthrough",
        encoder_conf=None,
        normalize=None,
        model_conf={"ctc_weight": 0.0, "interctc_weight": 0.0, **model_conf},
    )


def test_frames_are_handed_on_without_the_padding_that_nobody_has() -> None:
    frames = torch.randn(2, 7, 3)
    encoder = PassthroughEncoder(3)
    found, lens, states = encoder(frames, torch.tensor([5, 2]))
    assert encoder.output_size() == 3 and not list(encoder.parameters())
    assert torch.equal(found, frames[:, :5]) and lens.tolist() == [5, 2] and states is None


def test_an_lm_reads_the_front_ends_frames(build_speech_llm, encoders, monkeypatch) -> None:
    from espnet_larm.llm.backbone import Backbone

    model = build(build_speech_llm, encoders("whisper"), alignment_weight=1.0, alignment_only=True).train()
    monkeypatch.setattr(Backbone, "forward", lambda *given, **options: pytest.fail("the LM was asked"))
    speech, lens = torch.randn(2, 9600) / 10, torch.tensor([9600, 6400])
    frames, frame_lens = model.encode(speech, lens)
    assert frames.shape[:2] == (2, 30) and frame_lens.tolist() == [30, 20]
    loss, _, _ = model(speech, lens, torch.tensor([[3, 4], [5, -1]]), torch.tensor([2, 1]))
    loss.backward()
    learning = {name for name, each in model.named_parameters() if each.grad is not None}
    assert learning == {name for name, each in model.named_parameters() if each.requires_grad}
    assert {name.split(".")[1] for name in learning if name.startswith("decoder.")} == {"projector"}


def test_such_a_model_decodes_a_batch_as_each_alone(build_speech_llm, encoders) -> None:
    from espnet_larm.recognize.ctc import ctc_text_maker
    from espnet_larm.recognize.recognizer import Recognizer

    model = build(build_speech_llm, encoders("hubert group")).eval()
    recognizer = Recognizer(model, ctc_text_maker(model, model.args))
    waveforms = [torch.randn(samples).numpy() / 10 for samples in (9600, 6400)]
    together = recognizer.recognize(waveforms)
    alone = [recognizer.recognize([one])[0] for one in waveforms]
    assert [each.best.token_ids for each in together] == [each.best.token_ids for each in alone]
    assert [each.best.score for each in together] == pytest.approx([each.best.score for each in alone], abs=1e-4)
    assert any(each.best.token_ids for each in together)
