"""Fixtures for all tests: seeded randomness, and ESPnet's task imported once."""

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_larm.data.kaldi_dir import Utterance, write_dir
from tests.hub import TOKEN, Hub, running_hub

if TYPE_CHECKING:
    from espnet_larm.train.task import LarmASRTask


def pytest_configure() -> None:
    """Let Ctrl-C be a signal for programs under test, also where pytest itself runs in the background without it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers for a test alone and among others; the states before are restored."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


@pytest.fixture(scope="session")
def larm_task() -> "type[LarmASRTask]":
    """Our task, with ESPnet's (10 s) imported once for all tests."""
    from espnet_larm.train.task import LarmASRTask

    return LarmASRTask


@pytest.fixture
def encoder_choices(larm_task: "type[LarmASRTask]") -> Iterator[dict[str, type]]:
    """ESPnet's table of encoders, put back as it was after the test."""
    from espnet2.tasks.asr import encoder_choices

    before = dict(encoder_choices.classes)
    yield encoder_choices.classes
    encoder_choices.classes.clear()
    encoder_choices.classes.update(before)


class TinyExperiment(NamedTuple):
    """Files as training leaves them, of a model whose random weights give text, and a data folder to decode."""

    config: Path
    model: Path
    data: Path

    def with_config(self, path: Path, **changes: Any) -> Path:
        """The configuration with other values; `encoder_conf` is updated, not replaced."""
        config = yaml.safe_load(self.config.read_text())
        changes["encoder_conf"] = {**config["encoder_conf"], **changes.get("encoder_conf", {})}
        path.write_text(yaml.safe_dump({**config, **changes}))
        return path


@pytest.fixture(scope="session")
def tiny_experiment(larm_task: "type[LarmASRTask]", tmp_path_factory: pytest.TempPathFactory) -> TinyExperiment:
    """conf/tiny's looped encoder with 4 loops and checkpoints at 2 and 4, and 7 utterances of noise, 0.4 to 1.6 s."""
    folder = tmp_path_factory.mktemp("experiment")
    tokens = folder / "tokens.txt"
    tokens.write_text("\n".join(["<blank>", "<unk>", "<space>", *"ABCDEFGH", "<sos/eos>"]) + "\n")
    conf = Path(__file__).parents[1] / "conf/tiny/train_larm.yaml"
    options = ["--config", str(conf), "--token_list", str(tokens), "--token_type", "char", "--output_dir", str(folder)]
    args = larm_task.get_parser().parse_args(options)
    generator = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = larm_task.build_model(args)
        for parameter in model.parameters():
            # FiLM begins at zero; norms, at one, would not show a mistake either.
            parameter.data += torch.randn_like(parameter) * 0.1
        torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    data = folder / "data"
    data.mkdir()
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "utt2num_samples": []}
    for index, num_samples in enumerate((9000, 25600, 6400, 16000, 16000, 21111, 12345)):
        bursts = np.repeat(generator.uniform(0, 0.3, num_samples // 800 + 1), 800)[:num_samples]
        path = data / f"u{index}.wav"
        soundfile.write(path, bursts * generator.standard_normal(num_samples).clip(-3, 3), 16000)
        values = (str(path), "AB C", f"s{index % 5}", str(num_samples))
        for lines, value in zip(tables.values(), values, strict=True):
            lines.append(f"s{index % 5}-u{index} {value}\n")
    for name, lines in tables.items():
        (data / name).write_text("".join(sorted(lines)))
    return TinyExperiment(folder / "config.yaml", folder / "model.pth", data)


@pytest.fixture(scope="session")
def tiny_pack(tiny_experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of the looped encoder with random weights, and a licence."""
    from espnet_larm.cli.pack import main

    path = tmp_path_factory.mktemp("packs") / "model.zip"
    files = ["--asr_train_config", str(tiny_experiment.config), "--asr_model_file", str(tiny_experiment.model)]
    assert main(["asr", *files, "--outpath", str(path), "--license", "cc-by-4.0", "--language", "en"]) == 0
    return path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub of our own, which huggingface_hub takes for the only one; the cache is empty, and the token may write."""
    from huggingface_hub import constants

    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


LLM_WORDS = ["<unk>", "<s>", "</s>", "A", "B", "C", "D"]
TINY_LARM = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 16,
    "num_blocks": 1,
    "num_loops": 2,
    "checkpoint_period": 1,
    "subsampling_channels": 4,
    "dropout_rate": 0.1,
}


@pytest.fixture
def save_lm() -> Callable[..., str]:
    """Saves a tiny random LM and its tokenizer."""
    return _save_lm


LMS: dict[str, dict[str, Any]] = {
    "llama": {},
    # Its window is shorter than prompts and texts. With a head of its own, or it would repeat what it reads.
    "gemma3_text": {
        "head_dim": 12,
        "num_key_value_heads": 1,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 12,
        "tie_word_embeddings": False,
    },
}


def _save_lm(folder: Path, words: list[str] = LLM_WORDS, kind: str = "llama", **options: Any) -> str:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=len(words),
        intermediate_size=24,
        num_attention_heads=2,
        **{
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.5,
            **LMS[kind],
            **options,
        },
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if kind != "llama" and "norm" in name:
            # At zero, as they begin, another formula of the norms would give the same.
            weight.data.normal_(mean=0.5, std=0.5)
    model.save_pretrained(folder)
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def build_speech_llm(larm_task: "type[LarmASRTask]", tmp_path: Path) -> Callable[..., Any]:
    """Builds a model with an LM from a YAML, as training does; its options are in `args`."""
    from espnet_larm.train.refusals import without_nulls

    llm = _save_lm(tmp_path / "llm")

    def build(words: list[str] = LLM_WORDS, **changes: Any) -> Any:
        config = {
            "token_type": "char",
            "encoder": "larm",
            "encoder_conf": TINY_LARM,
            "decoder": "speech_llm",
            "decoder_conf": {"llm": llm, "projector_frames": 2},
            "model": "speech_llm",
            "model_conf": {"ctc_weight": 0.3, "interctc_weight": 0.5},
            "normalize": "utterance_mvn",
        }
        for name, value in changes.items():
            config[name] = {**config.get(name, {}), **value} if isinstance(value, dict) else value
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config))
        (tmp_path / "tokens.txt").write_text("".join(f"{word}\n" for word in words))
        options = ["--config", str(path), "--token_list", str(tmp_path / "tokens.txt"), "--output_dir", str(tmp_path)]
        torch.manual_seed(0)
        args = without_nulls(larm_task.get_parser().parse_args(options))
        model = larm_task.build_model(args)
        model.args = args
        return model

    return build


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., str]:
    """Write noise of a second (by default) and return the path."""

    def make(name: str = "a.flac", seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> str:
        samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype="PCM_16")
        return str(path)

    return make


@pytest.fixture
def data_dir(tmp_path: Path, make_audio: Callable[..., str]) -> Path:
    """A Kaldi folder of three utterances of two speakers."""
    utterances = [
        Utterance(f"{speaker}-{number}", speaker, make_audio(f"audio/{speaker}{number}.flac"), f"WORD {number}")
        for speaker, number in (("ann", 1), ("ann", 2), ("bob", 1))
    ]
    write_dir(tmp_path / "set", utterances)
    return tmp_path / "set"


SHAPES = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 4, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    "gemma3_text": {
        "num_key_value_heads": 2,
        "head_dim": 12,
        "query_pre_attn_scalar": 20,
        "sliding_window": 6,
        # Every second layer is global.
        "sliding_window_pattern": 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
        },
        "pad_token_id": 3,
    },
}
COMMON = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def tiny_config() -> "Callable[..., dict[str, Any]]":
    """Options of a tiny LM by architecture."""
    return _tiny_config


def _tiny_config(kind: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": kind, **COMMON, **SHAPES[kind], **changes}


@pytest.fixture
def hf_model() -> Callable[..., Any]:
    """HF's model by architecture, with SDPA attention."""

    transformers = pytest.importorskip("transformers")

    def make(kind: str = "llama", **changes: Any) -> Any:
        torch.manual_seed(0)
        options = _tiny_config(kind, **changes)
        config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    return make
