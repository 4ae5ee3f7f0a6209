"""A decoder whose LM has added layers: options, batches, cached steps, searches and checkpoints."""

import pytest
import torch

from espnet_larm.adaptation.depth_upscaling import LAYERS, drop
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.search.beam import beam
from espnet_larm.search.drafts import TextDrafts
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import greedy
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

from .conftest import ToyLm

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
EOS, VOCAB_SIZE, ENCODER_SIZE = ToyLm.eos, ToyLm.vocab_size, ToyLm.encoder_size


@pytest.fixture
def build(save_lm, tmp_path, kind):
    """Decoders of one LM of 2 layers, their added layers as after training."""
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))]
    saved = save_lm(tmp_path, words, kind, max_position_embeddings=512)

    def make(adaptation="depth_upscaling", is_disturbed=True, llm=saved, **conf):
        torch.manual_seed(1)
        options = {"adaptation": adaptation, "projector_frames": 2, "prefix": "w4 w7"}
        if conf:
            options["depth_upscaling_conf"] = conf
        made = SpeechLlmDecoder(VOCAB_SIZE, ENCODER_SIZE, llm=llm, **options).eval()
        if is_disturbed:
            for parameter in made.backbone.added.parameters():
                parameter.data += torch.randn_like(parameter) * 0.3
        return made

    return make


def texts():
    """Start symbol and tokens of four utterances, and their lengths."""
    ys_in = torch.randint(3, VOCAB_SIZE, (4, 7))
    ys_in[:, 0] = EOS
    return ys_in, torch.tensor([7, 3, 5, 6])


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_the_decoder_begins_as_with_a_frozen_lm_and_is_it_without_added_layers(build, frames, layer):
    frozen, upscaled = build("frozen"), build(is_disturbed=False, layer=layer, num_layers=2)
    upscaled.projector.load_state_dict(frozen.projector.state_dict())
    given = texts()
    expected = frozen(*frames, *given)[0]
    assert torch.equal(upscaled(*frames, *given)[0], expected)
    for parameter in upscaled.backbone.added.parameters():
        parameter.normal_()
    assert not torch.allclose(upscaled(*frames, *given)[0], expected, **CLOSE)
    drop(upscaled.backbone)
    assert torch.equal(upscaled(*frames, *given)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_gives_what_each_utterance_gives_alone(build, frames, layer):
    decoder, (ys_in, ys_lens) = build(layer=layer, num_layers=2), texts()
    logits, _ = decoder(*frames, ys_in, ys_lens)
    for row in range(4):
        rows, num_frames, num_tokens = slice(row, row + 1), int(frames[1][row]), int(ys_lens[row])
        given = frames[0][rows, :num_frames], frames[1][rows], ys_in[rows, :num_tokens], ys_lens[rows]
        torch.testing.assert_close(logits[row, :num_tokens], decoder(*given)[0][0], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
def test_cached_steps_are_the_teacher_forced_forward(build, frames, layer):
    decoder, (ys_in, _) = build(layer=layer, num_layers=2), texts()
    wanted, _ = decoder(*frames, ys_in, torch.full((4,), 7))
    started = decoder.start(*frames)
    torch.testing.assert_close(started.logits, wanted[:, 0], **CLOSE)
    found = started.step(ys_in[:, 1:4], torch.tensor([3, 1, 2, 3]))
    torch.testing.assert_close(found[1, :1], wanted[1, 1:2], **CLOSE)
    started.give_back(torch.tensor([2, 0, 1, 2]), started.hidden)
    rows = torch.tensor([3, 0, 0, 1])
    started.select(rows)
    found = started.step(ys_in[rows, 2:5], torch.full((4,), 3))
    torch.testing.assert_close(found, wanted[rows, 2:5], **CLOSE)


@torch.no_grad()
def test_searches_find_in_a_batch_what_they_find_alone_and_with_packed_weights(build, frames, one_by_one):
    decoder = build(num_layers=2)

    def find(frames):
        """Token ids of the greedy text and of the 3 best of a beam, by utterance."""
        bounds = [Bounds(30)] * len(frames[1])
        plain = [text.token_ids for text in greedy(decoder.start(*frames), bounds, EOS).hypotheses]
        drafts = TextDrafts([ids[:-1] for ids in plain], 3, EOS)
        verified = greedy(decoder.start(*frames), bounds, EOS, drafts).hypotheses
        assert [text.token_ids for text in verified] == plain
        beams = beam(decoder.start(*frames), bounds, EOS, 3, 3).hypotheses
        return [[ids, *(text.token_ids for text in best)] for ids, best in zip(plain, beams, strict=True)]

    expected = find(frames)
    assert len({tuple(ids) for ids, *_ in expected}) > 1
    assert [find(one)[0] for one in one_by_one] == expected
    pack_linear_layers(decoder.backbone, least_weights=1)
    assert find(frames) == expected


def test_only_projector_and_added_layers_learn_and_are_saved(build, frames):
    decoder, (ys_in, ys_lens) = build(num_layers=1, placement="bottom"), texts()
    decoder.train()(*frames, ys_in, ys_lens)[0].square().mean().backward()
    learning = {name for name, each in decoder.named_parameters() if each.grad is not None and each.grad.any()}
    assert {decoder.part_of(name) for name in learning} == {"projector", "added layers"}
    assert learning == {name for name, each in decoder.named_parameters() if each.requires_grad}
    frozen = {name for name, each in decoder.named_parameters(remove_duplicate=False) if not each.requires_grad}
    assert set(decoder.frozen_names()) == frozen and {decoder.part_of(name) for name in frozen} == {"LM"}
    state = decoder.state_dict()
    assert {name for name in state if name.startswith("backbone.model")} == set()
    fresh = build(is_disturbed=False, num_layers=1, placement="bottom")
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh.eval()(*frames, ys_in, ys_lens)[0], decoder.eval()(*frames, ys_in, ys_lens)[0])


def test_a_checkpoint_of_another_base_is_refused(build, save_lm, tmp_path):
    words = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(VOCAB_SIZE - 3))]
    other = save_lm(tmp_path / "other", words, max_position_embeddings=512, initializer_range=0.4)
    with pytest.raises(RuntimeError, match="llm is not the LM that the checkpoint was trained with"):
        build(num_layers=1, llm=other).load_state_dict(build(num_layers=1).state_dict())


@pytest.mark.parametrize(
    ("adaptation", "conf", "message"),
    [
        ("frozen", {"num_layers": 1}, "depth_upscaling_conf is given, but adaptation is frozen; leave it out, or take"),
        ("depth_upscaling", {"num_layers": 9}, "9 layers cannot be added: placement interleaved of an LM of 2 layers"),
        (
            "depth_upscaling",
            {"num_layer": 1},
            "depth_upscaling_conf: unknown option num_layer; allowed: layer, placement",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(build, adaptation, conf, message):
    with pytest.raises(ValueError, match=f"decoder_conf: .*{message}"):
        build(adaptation, **conf)
