"""Live recognisers of tiny models with random weights, which find tokens in some frames and blanks in others."""

import numpy as np
import pytest
import torch
from hypothesis import settings

from espnet_larm.recognize.model.features import extract_features
from espnet_larm.recognize.recognizer import Recognizer

settings.register_profile("live", deadline=None, derandomize=True, database=None, max_examples=12)
settings.load_profile("live")

RATE = 16000
STREAMING = {"chunk_frames": ["full", 3, 8], "left_chunks": [2, 4]}


@pytest.fixture(scope="session")
def live_files(tiny_experiment, tmp_path_factory):
    """Configuration and weights of a looped encoder that streams; tokens are letters."""
    path = tmp_path_factory.mktemp("live") / "config.yaml"
    config = tiny_experiment.with_config(
        path, normalize=None, normalize_conf={}, encoder_conf={"streaming": STREAMING, "block": "transformer"}
    )
    weights = torch.load(tiny_experiment.model)
    weights["encoder.contexts.draws"] = torch.tensor([0, 0])
    model_file = path.with_name("model.pth")
    torch.save(weights, model_file)
    model = Recognizer.from_files(config, model_file).model
    _spread(model)
    torch.save(model.state_dict(), model_file)
    return config, model_file


@pytest.fixture(scope="session")
def recognizer(live_files):
    """A recogniser of it."""
    return Recognizer.from_files(*live_files)


@torch.no_grad()
def _spread(model):
    """Let the CTC head find each token now and then, blanks and spaces more often."""
    xs = extract_features(model, torch.from_numpy(speech(100_000) / 32768)).unsqueeze(0)
    head = model.ctc.ctc_lo
    for _ in range(3):
        # The encoder reads the head's posteriors.
        *_, read = model.encoder.read_outs(xs, torch.tensor([xs.size(1)]), model.ctc)
        logits = head(read.hs_pad[0])
        mean, std = logits.mean(0), logits.std(0)
        head.weight.div_(std.unsqueeze(1)).mul_(3)
        head.bias.sub_(mean).div_(std).mul_(3)
        head.bias[[0, 2]] += torch.tensor([4.0, 2.0])
        # A stream takes sos/eos for a blank; the alignment of a whole utterance gives its frame to a neighbour.
        head.bias[-1] -= 100.0


def speech(num_samples, seed=0):
    """Bursts of noise with pauses between them, as int16 (N,)."""
    generator = np.random.default_rng(seed)
    loud = np.repeat(generator.choice([0.0, 0.02, 0.1, 0.3], num_samples // 2400 + 1), 2400)[:num_samples]
    return (8000 * (loud * generator.standard_normal(num_samples)).clip(-3, 3)).astype(np.int16)
