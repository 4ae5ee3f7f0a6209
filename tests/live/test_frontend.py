"""The front end piece by piece: features of the whole waveform, whatever the pieces."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet_larm.live.frontend import LiveFrontend
from espnet_larm.recognize.model.features import extract_features
from tests.streaming.streaming import pieces_of

SIZES = st.lists(st.integers(0, 3000), min_size=1, max_size=4).filter(any)
KINDS = {
    "default": {"n_fft": 512, "win_length": 400, "hop_length": 160},
    "long hop": {"n_fft": 256, "hop_length": 200, "n_mels": 20},
    "not centred": {"n_fft": 400, "hop_length": 160, "center": False, "window": "hamming"},
}


def model_of(frontend, normalize=None, dtype=torch.float32):
    return SimpleNamespace(
        frontend=frontend, normalize=normalize, encoder=torch.nn.Linear(1, 1).to(dtype), ctc=None, decoder=None
    )


@pytest.fixture(scope="module")
def normalize(tmp_path_factory):
    path = tmp_path_factory.mktemp("stats") / "stats.npz"
    generator = np.random.default_rng(3)
    means = generator.normal(size=80).astype(np.float32)
    np.savez(path, count=100, sum=100 * means, sum_square=100 * (means**2 + generator.uniform(1, 4, 80)))
    return GlobalMVN(path)


def heard(live, waveform, sizes):
    """Features (T, F) of a waveform that comes in pieces, and what is left of it."""
    unheard, parts = live.start(), []
    for begin, end in pieces_of(len(waveform), sizes):
        before = [each.clone() for each in unheard[:2]]
        features, now = live.advance(unheard, waveform[begin:end], end == len(waveform))
        assert all(torch.equal(old, new) for old, new in zip(before, unheard[:2], strict=True))
        parts.append(features)
        unheard = now
    return torch.cat(parts), unheard


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(257, 9000), sizes=SIZES)
def test_pieces_give_the_features_of_the_whole_waveform(kind, length, sizes):
    model = model_of(DefaultFrontend(**KINDS[kind]))
    length = max(length, 400)
    waveform = 0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length))
    found, _ = heard(LiveFrontend(model), waveform, sizes)
    torch.testing.assert_close(found, extract_features(model, waveform), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_normalised_by_fixed_statistics_and_of_the_encoders_type(normalize, dtype):
    model = model_of(DefaultFrontend(n_fft=512, hop_length=160), normalize, dtype)
    waveform = 0.1 * torch.randn(5000)
    found, _ = heard(LiveFrontend(model), waveform, [700, 1, 33])
    wanted = extract_features(model, waveform)
    assert found.dtype == wanted.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [0, 1, 256, 257, 258, 416, 417])
def test_short_streams_give_the_frames_that_the_whole_has_or_none(length):
    model = model_of(DefaultFrontend(n_fft=512, hop_length=160))
    waveform = 0.1 * torch.randn(length)
    found, _ = heard(LiveFrontend(model), waveform, [100])
    assert len(found) == (0 if length < 257 else length // 160 + 1)
    if len(found):
        torch.testing.assert_close(found, extract_features(model, waveform), rtol=1e-4, atol=1e-4)


def test_what_is_kept_does_not_grow_and_holds_no_more_memory_than_it_says():
    live = LiveFrontend(model_of(DefaultFrontend(n_fft=512, hop_length=160)))
    unheard = live.start()
    for _ in range(40):
        features, unheard = live.advance(unheard, torch.randn(1600))
        assert len(unheard.waiting) < 512 and len(unheard.recent) == 257
        assert all(each.untyped_storage().nbytes() == each.nbytes for each in unheard[:2])
    assert len(features) == 10


def test_the_models_own_front_end_stays_as_it_is():
    frontend = DefaultFrontend(n_fft=512, hop_length=160)
    names = set(frontend.state_dict())
    live = LiveFrontend(model_of(frontend))
    assert frontend.stft.center and not live.frontend.stft.center
    assert set(frontend.state_dict()) == names and live.frontend.logmel is frontend.logmel


@pytest.mark.parametrize(
    ("frontend", "normalize", "message"),
    [
        (None, None, "front end is null, which cannot work piece by piece; allowed for live use: frontend: default"),
        (DefaultFrontend(frontend_conf={"use_wpe": True}), None, "enhances whole utterances"),
        (DefaultFrontend(), UtteranceMVN(), "normalises by UtteranceMVN, .*: global_mvn, or null"),
    ],
)
def test_what_reads_the_future_is_refused(frontend, normalize, message):
    with pytest.raises(ValueError, match=message):
        LiveFrontend(model_of(frontend, normalize))
