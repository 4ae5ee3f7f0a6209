"""FastConformerEncoder: streams, padding, gradients, options. Its references are in test_references.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet2.torch_utils.initialize import initialize

from espnet_larm.fast_conformer.encoder import FastConformerEncoder
from espnet_larm.streaming.context import Context, in_context
from espnet_larm.upstream import TooShortUttError
from tests.streaming.streaming import TOLERANCE, Listener, hear_together, heard

NUM_FEATURES, SIZE = 20, 16
SMALL = {
    "output_size": SIZE,
    "attention_heads": 2,
    "linear_units": 32,
    "num_blocks": 2,
    "cnn_module_kernel": 5,
    "subsampling_channels": 4,
}


def new_encoder(**options) -> FastConformerEncoder:
    torch.manual_seed(0)
    encoder = FastConformerEncoder(NUM_FEATURES, **{**SMALL, **options})
    for parameter in encoder.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return encoder


def features(length: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(length, NUM_FEATURES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder() -> FastConformerEncoder:
    return new_encoder().eval().requires_grad_(False)


def offline(encoder, xs: torch.Tensor, context: Context) -> torch.Tensor:
    return encoder.encode(xs.unsqueeze(0), torch.tensor([len(xs)]), context)[0][0]


@pytest.mark.parametrize("factor", [2, 8, 16])
@given(
    left=st.integers(0, 3),
    chunk=st.integers(1, 6),
    length=st.integers(1, 200),
    sizes=st.lists(st.integers(0, 70), min_size=1, max_size=4).filter(any),
)
def test_a_stream_gives_what_the_masked_offline_forward_gives(factor, left, chunk, length, sizes):
    encoder, xs = new_encoder(subsampling_factor=factor, num_blocks=1).eval().requires_grad_(False), features(length)
    found, _ = heard(encoder, None, xs, Context(left, chunk), sizes)
    torch.testing.assert_close(found[1], offline(encoder, xs, Context(left, chunk)), **TOLERANCE)


@given(left=st.integers(0, 3), chunk=st.integers(1, 5), data=st.data())
def test_streams_of_other_ages_in_one_batch_give_what_each_gives_alone(encoder, left, chunk, data):
    context = Context(left, chunk)
    lens = data.draw(st.lists(st.integers(0, 150), min_size=2, max_size=4), label="lens")
    listeners = [Listener(features(n, seed), encoder.start_streams(context)) for seed, n in enumerate(lens)]
    while waiting := [listener for listener in listeners if not listener.is_over]:
        group = [each for each in waiting if data.draw(st.booleans(), label="here")] or waiting
        hear_together(encoder, None, group, [data.draw(st.integers(0, 60), label="size") for _ in group])
    for listener in listeners:
        said = torch.cat(listener.said[1])
        wanted = offline(encoder, listener.xs, context) if len(listener.xs) else said[:0]
        torch.testing.assert_close(said, wanted, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"causal": False, "cnn_norm": "batch"}])
def test_a_batch_gives_what_each_utterance_gives_alone(options):
    encoder = new_encoder(**options).eval()
    lens = torch.tensor([90, 41, 1])
    xs_pad = torch.randn(3, 95, NUM_FEATURES)
    together, hlens, _ = encoder(xs_pad, lens)
    assert together.size(1) == hlens.max() and torch.equal(hlens, encoder.subsampling.output_lens(lens))
    for row, length in enumerate(lens.tolist()):
        alone, _, _ = encoder(xs_pad[row : row + 1, :length], lens[row : row + 1])
        torch.testing.assert_close(together[row, : hlens[row]], alone[0], **TOLERANCE)
        assert not together[row, hlens[row] :].any()


def test_batch_norm_has_statistics_of_valid_frames_alone():
    longer, lens = torch.randn(2, 120, NUM_FEATURES), torch.tensor([80, 41])
    means = []
    for xs_pad in (longer[:, :80], longer):
        encoder = new_encoder(causal=False, cnn_norm="batch", dropout_rate=0.0, attention_dropout_rate=0.0).train()
        # The second batch has an utterance of no more than padding's length beside it.
        encoder(xs_pad, lens)
        means.append(encoder.layers[0].conv.norm.running_mean)
    torch.testing.assert_close(*means)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_frame_sees_nothing_behind_its_chunk(encoder, chunk):
    xs, context = features(150).requires_grad_(), Context(2, chunk)
    hs = offline(encoder, xs, context)
    for frame in range(len(hs)):
        (gradient,) = torch.autograd.grad(hs[frame].sum(), xs, retain_graph=True)
        # The last frame of its chunk sees features up to 8 times its number.
        last = min(len(hs) - 1, (frame // chunk + 1) * chunk - 1)
        assert int(gradient.any(dim=1).nonzero().max()) == min(8 * last, 149)


@pytest.mark.parametrize("causal", [True, False])
def test_a_frame_is_centred_where_the_subsampling_says(causal):
    subsampling, xs = new_encoder(causal=causal).subsampling, features(100).requires_grad_()
    frames, _ = subsampling(xs.unsqueeze(0), torch.tensor([100]))
    (gradient,) = torch.autograd.grad(frames[0, 5].abs().sum(), xs)
    touched = gradient.any(dim=1).nonzero().squeeze(1)
    assert (touched.min() + touched.max()).item() / 2 == 8 * 5 + subsampling.centre


def test_latency_is_the_chunk(encoder):
    assert encoder.latency(Context(5, 14)) == 112


@pytest.mark.parametrize("options", [{}, {"causal": False, "cnn_norm": "batch"}, {"streaming": {}}, {"bias": False}])
def test_gradients_reach_every_parameter(options):
    encoder = new_encoder(**options).train()
    (encoder(torch.randn(2, 90, NUM_FEATURES), torch.tensor([90, 41]))[0] ** 3).sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias of keys adds the same to all scores of a query, and one before a BatchNorm is taken away with the mean.
    assert all(name.endswith(("k_proj.bias", "depthwise_conv.bias")) for name in without)


def test_training_draws_a_context_a_step_and_validation_reads_the_widest():
    encoder = new_encoder(streaming={"chunk_frames": [1, 4], "left_chunks": [0, 2]}, dropout_rate=0.0)
    encoder = encoder.train()
    for module in encoder.modules():
        if hasattr(module, "dropout_rate"):
            module.dropout_rate = 0.0
    xs, lens = features(120).unsqueeze(0), torch.tensor([120])
    seed, _ = encoder.contexts.draws.tolist()
    for number in range(4):
        wanted, _ = encoder.encode(xs, lens, encoder.contexts.at(seed, number))
        assert torch.equal(encoder(xs, lens)[0], wanted)
    encoder.eval()
    assert torch.equal(encoder(xs, lens)[0], encoder.encode(xs, lens, Context(2, 4))[0])
    with in_context(Context(0, 1)):
        assert torch.equal(encoder(xs, lens)[0], encoder.encode(xs, lens, Context(0, 1))[0])


def test_espnets_init_keeps_places_without_preference():
    encoder = new_encoder()
    initialize(encoder, "xavier_uniform")
    assert not encoder.layers[0].self_attn.bias_u.any() and not encoder.layers[1].self_attn.bias_v.any()


def test_an_utterance_without_a_frame_is_refused(encoder):
    with pytest.raises(TooShortUttError, match="has no frame"):
        encoder(torch.randn(2, 8, NUM_FEATURES), torch.tensor([8, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_size": 18, "attention_heads": 4}, "output_size is 18; allowed: an even multiple of attention_heads"),
        ({"cnn_module_kernel": 4}, "cnn_module_kernel is 4; allowed: odd, 1 or more"),
        ({"subsampling_factor": 3}, "subsampling_factor is 3; allowed: 2, 4, 8, 16"),
        ({"causal": False, "streaming": {}}, "streaming needs causal: true"),
        ({"cnn_norm": "batch", "streaming": {}}, "streaming needs cnn_norm: layer"),
        ({"streaming": {"chunks": [1]}}, "streaming: unknown option chunks; allowed: chunk_frames, left_chunks"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_encoder(**options)


def test_streams_that_cannot_be_are_refused(encoder):
    centred = new_encoder(causal=False).eval()
    with pytest.raises(ValueError, match="chunks need encoder_conf: causal: true"):
        centred.start_streams(Context(1, 4))
    with in_context(Context(1, 4)), pytest.raises(ValueError, match="chunks need encoder_conf: causal: true"):
        centred(features(40).unsqueeze(0), torch.tensor([40]))
    with pytest.raises(ValueError, match="num_loops is 2; allowed: 1, since encoder: fast_conformer has no loops"):
        encoder.start_streams(Context(1, 4), num_loops=2)
    with pytest.raises(ValueError, match=r"skip_blank is 0.9; allowed: 1"):
        encoder.start_streams(Context(1, 4), skip_blank=0.9)
