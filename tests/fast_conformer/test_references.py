"""FastConformer against transformers' models with the same random weights."""

import pytest
import torch
from transformers import ParakeetEncoder, ParakeetEncoderConfig

from espnet_larm.fast_conformer.encoder import FastConformerEncoder
from espnet_larm.streaming.context import Context

MELS = 32
OURS = {
    "output_size": 24,
    "attention_heads": 4,
    "linear_units": 40,
    "num_blocks": 3,
    "cnn_module_kernel": 5,
    "subsampling_channels": 6,
}
THEIRS = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 6,
    "num_mel_bins": MELS,
}
# The same sums in another order, block after block.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
LENS = [131, 64, 9, 66, 1]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.add_(0.2 * (torch.rand_like(value) if name.endswith("running_var") else torch.randn_like(value)))
    return model.eval().requires_grad_(False)


def copied(encoder: FastConformerEncoder, weights: dict[str, torch.Tensor], stages: list[tuple[str, str | None]]):
    """Ours with their weights; `stages` names their convolutions of each stage of the subsampling."""
    names = {}
    for number, pair in enumerate(stages):
        for theirs, ours in zip(pair, ("depthwise_conv", "pointwise_conv"), strict=True):
            names |= {f"{theirs}.{each}": f"subsampling.stages.{number}.{ours}.{each}" for each in ("weight", "bias")}
    encoder.load_state_dict({names.get(name, name): value for name, value in weights.items()})
    return encoder.eval().requires_grad_(False)


def padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    lens = torch.tensor(LENS)
    mask = torch.arange(max(LENS)) < lens.unsqueeze(1)
    return torch.randn(len(LENS), max(LENS), MELS) * mask.unsqueeze(-1), lens, mask


def assert_the_same(found: torch.Tensor, hlens: torch.Tensor, wanted) -> None:
    assert hlens.tolist() == wanted.attention_mask.sum(1).tolist()
    for hs, other, length in zip(found, wanted.last_hidden_state, hlens.tolist(), strict=True):
        torch.testing.assert_close(hs[:length], other[:length], **TOLERANCE)
        assert not hs[length:].any()


@pytest.mark.parametrize("scale_input", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_offline_form_is_that_of_parakeet(scale_input, bias):
    config = ParakeetEncoderConfig(
        **THEIRS, scale_input=scale_input, attention_bias=bias, convolution_bias=bias, attn_implementation="eager"
    )
    reference = randomised(ParakeetEncoder(config))
    ours = FastConformerEncoder(MELS, **OURS, causal=False, cnn_norm="batch", scale_input=scale_input, bias=bias)
    convolutions = [f"subsampling.layers.{number}" for number in (0, 2, 3, 5, 6)]
    stages = [(convolutions[0], None), tuple(convolutions[1:3]), tuple(convolutions[3:])]
    ours = copied(ours, reference.state_dict(), stages)
    xs_pad, lens, mask = padded()
    found, hlens, _ = ours(xs_pad, lens)
    assert_the_same(found, hlens, reference(xs_pad, attention_mask=mask))


@pytest.fixture(scope="module")
def streaming():
    """Their streaming encoder, and ours with its weights."""
    transformers = pytest.importorskip("transformers.models.nemotron_asr_streaming")
    # Their eager attention takes a mask of numbers for one of booleans, and attends to nothing.
    config = transformers.NemotronAsrStreamingEncoderConfig(**THEIRS, sliding_window=13, attn_implementation="sdpa")
    reference = randomised(transformers.NemotronAsrStreamingEncoder(config))
    stages = [("subsampling.conv_in", None)]
    stages += [(f"subsampling.layers.{n}.depthwise_conv", f"subsampling.layers.{n}.pointwise_conv") for n in (0, 1)]
    return reference, copied(FastConformerEncoder(MELS, **OURS), reference.state_dict(), stages)


# 12 frames to the left, which are whole chunks.
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6, 12])
def test_the_masked_offline_form_is_that_of_nemotron(streaming, chunk):
    reference, ours = streaming
    xs_pad, lens, mask = padded()
    found, hlens = ours.encode(xs_pad, lens, Context(12 // chunk, chunk))
    wanted = reference(xs_pad, attention_mask=mask, num_lookahead_tokens=chunk - 1)
    assert_the_same(found, hlens, wanted)


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_a_stream_is_that_of_nemotron(streaming, chunk):
    reference, ours = streaming
    # Theirs takes the first frame of the first chunk from one feature, and each further frame from eight.
    length = 8 * (5 * chunk - 1) + 1
    xs = torch.randn(1, length, MELS, generator=torch.Generator().manual_seed(5))
    state, caches, begin = ours.start_streams(Context(12 // chunk, chunk)), {}, 0
    while begin < length:
        size = 8 * chunk - (0 if begin else 7)
        part, begin = xs[:, begin : begin + size], begin + size
        wanted = reference(part, use_cache=True, num_lookahead_tokens=chunk - 1, **caches)
        caches = {"cache": wanted.cache, "padding_cache": wanted.padding_cache}
        outputs, state = ours.stream(state, part, torch.tensor([size]), None)
        torch.testing.assert_close(outputs.hs_pad[1], wanted.last_hidden_state, **TOLERANCE)
    assert state.num_frames == (5 * chunk,)
