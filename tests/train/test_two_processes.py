"""Two processes learn what one learns: equal losses, epoch by epoch, and equal weights in the end.

A step weighs each utterance alike, however many processes share its batch: losses are means over utterances, and ESPnet
weighs each process by its utterances. Dropout and SpecAugment are off, since each process draws its own, and all
utterances have one length, since ESPnet's STFT reflects what is behind the end of a padded one. What is left are sums
in another order, which the steps of Adam make larger, so that most trainings are in float64. accum_grad is 1, since
ESPnet reports a loss divided by it from one process alone.
"""

import itertools

import numpy as np
import pytest
import soundfile
import torch
import yaml

from tests.pretrained.models import save_encoder

pytestmark = pytest.mark.slow

WORDS = ["<unk>", "<s>", "</s>", *("".join(letters) for letters in itertools.product("ABC", repeat=3))]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
QUIET = ("--specaug", "none", "--encoder_conf", "dropout_rate=0.0", "--max_epoch", "2", "--accum_grad", "1")
DOUBLE = ("--train_dtype", "float64")
ADAPTATIONS = {
    "LoRA": ["adaptation=lora", "lora_conf={r: 2}"],
    "added layers": ["adaptation=depth_upscaling", "depth_upscaling_conf={share: 1.0}"],
    "all weights": ["adaptation=full"],
}


@pytest.fixture
def data(tmp_path):
    """Options that name ten utterances of half a second."""
    random = np.random.default_rng(0)
    scp, text = tmp_path / "wav.scp", tmp_path / "text"
    for number in range(10):
        soundfile.write(tmp_path / f"u{number}.wav", random.uniform(-0.5, 0.5, 8000), 16000)
    scp.write_text("".join(f"u{number} {tmp_path}/u{number}.wav\n" for number in range(10)))
    text.write_text("".join(f"u{number} {''.join(random.choice(list('ABC'), 3))}\n" for number in range(10)))
    named = (f"{scp},speech,sound", f"{text},text,text")
    words = [word for each in named for word in ("--train_data_path_and_name_and_type", each)]
    return [*words, "--train_shape_file", str(scp)]


@pytest.fixture
def compare(trainings, data, tmp_path):
    """Trains with one process and with two."""

    def compare(*options):
        found = []
        for count in (1, 2):
            folder = tmp_path / f"by_{count}"
            assert trainings.run(folder, *QUIET, *data, *options, num_processes=count, train_data=()) == 0, (
                trainings.log(folder)
            )
            reporter = torch.load(folder / "checkpoint.pth", weights_only=False)["reporter"]
            losses = [reporter["stats"][epoch]["train"]["loss"] for epoch in (1, 2)]
            found.append((torch.tensor(losses), torch.load(folder / "2epoch.pth", weights_only=True)))
        (one, weights), (two, others) = found
        assert one[0] != one[1]
        torch.testing.assert_close(two, one, **CLOSE)
        torch.testing.assert_close(others, weights, **CLOSE)

    return compare


def test_a_looped_encoder_with_sampled_loops(compare):
    compare(*DOUBLE, "--encoder_conf", "loop_sampling=uniform", "--encoder_conf", "num_loops=4")


def test_chunks_that_whole_utterances_teach(compare):
    streaming = "streaming={chunk_frames: [full, 2], left_chunks: [1], consistency_weight: 0.3}"
    compare(*DOUBLE, "--normalize", "none", "--encoder_conf", streaming)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # torch's, of WavLM's mask
@pytest.mark.parametrize(("kind", "conf"), [("wavlm", {"layers": "mix"}), ("whisper", {"train": "last_n"})])
def test_a_pre_trained_front_end(compare, trainings, tmp_path, kind, conf):
    changes = {"dropout": 0.0, "encoder_layerdrop": 0.0} if kind == "whisper" else {}
    ears = save_encoder(kind, tmp_path / "ears", **changes)
    config = yaml.safe_load((trainings.folder / "config.yaml").read_text())
    config |= {"frontend": "pretrained", "frontend_conf": {"model": str(ears), **conf}}
    config["encoder_conf"] |= {"subsampling": "linear", "subsampling_factor": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    # transformers' features are float32. Steps in proportion to gradients leave their rounding small.
    compare("--config", str(tmp_path / "config.yaml"), "--optim", "sgd", "--optim_conf", "lr=0.01")


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_a_speech_llm(compare, save_lm, tmp_path, adaptation):
    llm, tokens = save_lm(tmp_path / "llm", WORDS), tmp_path / "tokens.txt"
    tokens.write_text("".join(f"{word}\n" for word in WORDS))
    options = ["--decoder", "speech_llm", "--model", "speech_llm", "--token_list", str(tokens)]
    options += ["--token_type", "hugging_face", "--bpemodel", llm, "--model_conf", "ctc_weight=0.5"]
    for conf in (f"llm={llm}", "projector_frames=2", *ADAPTATIONS[adaptation]):
        options += ["--decoder_conf", conf]
    compare(*DOUBLE, *options)
