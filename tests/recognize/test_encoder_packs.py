"""Packs of models with a pre-trained speech encoder: no unchanged weight, its name, and nothing that reaches out."""

import io
import json
import shutil

import pytest
import torch
import yaml

import espnet_larm
from espnet_larm.pack.archive import write_archive
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.packs import load
from tests.packs import read
from tests.pretrained.models import save_encoder

# torch's, of how transformers masks WavLM.
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEF", "<sos/eos>"]
LARM = {
    "output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 1, "num_loops": 2,
    "checkpoint_period": 1, "subsampling": "linear", "subsampling_factor": 2,
}  # fmt: skip
SHA = r"SHA-256 of its weights [0-9a-f]{64}"


@pytest.fixture(autouse=True)
def in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def experiment(larm_task, tmp_path):
    """The folder of an experiment whose configuration names its encoder by a path from the recipe's folder."""
    from espnet_larm.train.refusals import without_nulls

    def experiment(kind="wavlm", *, wrapped=None, **conf):
        save_encoder(kind, tmp_path / "models/ears")
        conf = {"model": "models/ears", **conf}
        front = {"frontend": "pretrained", "frontend_conf": conf}
        if wrapped is not None:
            front = {"frontend": "affinity_pooling", "frontend_conf": {**front, **wrapped}}
        folder = tmp_path / "exp/asr_ears"
        folder.mkdir(parents=True)
        config = {
            **front, "encoder": "larm", "encoder_conf": LARM, "token_type": "char", "token_list": TOKENS,
            "normalize": None, "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.5},
        }  # fmt: skip
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        options = ["--config", str(tmp_path / "train.yaml"), "--output_dir", str(folder)]
        torch.manual_seed(0)
        args = without_nulls(larm_task.get_parser().parse_args(options))
        model = larm_task.build_model(args)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            torch.nn.init.normal_(model.ctc.ctc_lo.weight, std=3.0)
            model.ctc.ctc_lo.bias[0] -= 20.0
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
        torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
        return folder

    return experiment


def waveforms():
    generator = torch.Generator().manual_seed(0)
    return [0.3 * torch.randn(length, generator=generator).numpy() for length in (9000, 16000)]


def transcripts(recognizer):
    return [one.hypotheses for one in recognizer.recognize(waveforms())]


def tokens(recognizer):
    return [{loop: each.token_ids for loop, each in one.items()} for one in transcripts(recognizer)]


def move_away(tmp_path):
    """Leave only the encoder of the training, in another place, as on another machine."""
    (tmp_path / "models/ears").rename(tmp_path / "moved")
    for name in ("models", "exp"):
        shutil.rmtree(tmp_path / name)
    return str(tmp_path / "moved")


KEPT = {
    "frozen": ("wavlm", {"layers": "mix", "stack": 2}),
    "half": ("whisper", {"train": "last_n", "last_n": 1, "layers": [1, 3]}),
    "lora": ("wav2vec2 group", {"train": "lora", "lora_conf": {"r": 2}}),
    "pooled": ("hubert", {"wrapped": {"tau": 0.5, "min_frames_per_second": 25.0}}),
}


@pytest.mark.parametrize("name", KEPT)
def test_pack_names_the_encoder_and_holds_no_unchanged_weight(experiment, pack, tmp_path, name):
    kind, conf = KEPT[name]
    folder = experiment(kind, **conf)
    recognizer = load(folder)
    expected = transcripts(recognizer)
    assert expected[0] != expected[1] and all(one[2].token_ids for one in expected)
    alone = [recognizer.recognize([samples])[0].hypotheses for samples in waveforms()]
    assert [one[2].token_ids for one in alone] == [one[2].token_ids for one in expected]
    path = pack(folder)
    content = read(path)
    held = torch.load(io.BytesIO(content["valid.loss.ave.pth"]), map_location="cpu")
    learnt = {name for name, each in recognizer.model.named_parameters() if "encoder.model" in name}
    own = {name for name in held if name.startswith("frontend.encoder.model.")}
    assert len(own) < len(learnt) and "frontend.encoder.fingerprint" in held
    assert bool(own) == (conf.get("train") in ("last_n", "lora"))
    (used,) = yaml.safe_load(content["meta.yaml"])["espnet_larm"]["external"]
    assert (used["kind"], used["name"], len(used["sha256"])) == ("encoder", "./ears", 64)
    card = content["README.md"].decode()
    assert used["sha256"] in card and 'espnet_larm.load("model.zip", encoder="<folder of the speech encoder>")' in card
    for member in ("meta.yaml", "config.yaml", "README.md"):
        assert str(tmp_path) not in content[member].decode()
    moved = move_away(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=rf"needs the speech encoder ears \({SHA}\), .* with --encoder \(encoder= in Python\)"
    ):
        load(path)
    assert transcripts(load(path, encoder=moved)) == expected


@pytest.mark.parametrize("kind", ["whisper", "wavlm", "wav2vec2 group", "parakeet"])
def test_pack_of_a_trained_encoder_needs_no_other_file(experiment, pack, tmp_path, kind):
    folder = experiment(kind, train="all")
    expected = transcripts(load(folder))
    path = pack(folder)
    content = read(path)
    meta, conf = yaml.safe_load(content["meta.yaml"])["espnet_larm"], yaml.safe_load(content["config.yaml"])
    assert meta["external"] == [] and [each["name"] for each in meta["started"]] == ["./ears"]
    assert conf["frontend_conf"]["model"] is None and "speech encoder: began as `ears`" in content["README.md"].decode()
    moved = move_away(tmp_path)
    assert transcripts(load(path)) == expected
    with pytest.raises(ValueError, match="encoder is .*, but the model holds all weights of its speech encoder; leave"):
        load(path, encoder=moved)
    unpacked = tmp_path / "unpacked"
    espnet_larm.unpack(path, unpacked)
    again = pack(unpacked)
    assert transcripts(load(again)) == expected


@pytest.mark.parametrize("wrapped", [None, {"tau": 1.1}])
def test_another_encoder_is_refused(experiment, tmp_path, wrapped):
    folder = experiment(wrapped=wrapped)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_encoder("wavlm", tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"frontend_conf: model is not the speech encoder .* Name that one; --encoder \(encoder= in P"
    ):
        load(folder, encoder="other")


def test_an_experiments_encoder_is_found_from_any_folder_and_by_option(experiment, pack, tmp_path, monkeypatch):
    folder = experiment()
    expected = transcripts(load(folder))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert transcripts(load(folder)) == expected
    (tmp_path / "models/ears").rename(tmp_path / "moved")
    assert transcripts(load(folder, encoder=str(tmp_path / "moved"))) == expected
    content = read(pack(folder, "--encoder", "../moved"))
    assert yaml.safe_load(content["config.yaml"])["frontend_conf"]["model"] == "./moved"


def test_a_hub_id_keeps_its_revision(experiment):
    from espnet_larm.pack.encoder import make_encoder_portable, name_encoder

    config = {"frontend": "pretrained", "frontend_conf": {"model": "org/ears", "revision": "r1"}}
    name_encoder(config, None, ())
    portable, used = make_encoder_portable(config, "00ff")
    assert portable["frontend_conf"] == config["frontend_conf"] == {"model": "org/ears", "revision": "r1"}
    assert used == ("encoder", "org/ears", "r1", "00ff", True)
    name_encoder(config, "org/others", ())
    assert config["frontend_conf"] == {"model": "org/others", "revision": None}


def test_an_encoder_for_a_model_without_one_is_refused(tiny_experiment):
    from espnet_larm.recognize.recognizer import Recognizer

    with pytest.raises(ValueError, match="encoder is ears, but the model has no speech encoder; leave --encoder"):
        Recognizer.from_files(tiny_experiment.config, tiny_experiment.model, encoder="ears")


def test_same_experiment_gives_the_same_bytes(experiment, pack):
    folder = experiment("parakeet", train="all")
    assert pack(folder).read_bytes() == pack(folder).read_bytes()


def test_too_short_an_utterance_has_an_empty_hypothesis_with_its_reason(experiment):
    recognizer = load(experiment(wrapped={"tau": 1.1}))
    least = recognizer.model.frontend.min_samples
    assert least == 400
    short, fits = recognizer.recognize([torch.randn(least - 1).numpy(), torch.randn(least).numpy()])
    assert short.text == "" and short.skipped == "399 samples are too few for a frame"
    assert fits.skipped != short.skipped


def test_a_pack_may_need_an_lm_and_an_encoder(build_speech_llm, save_lm, pack, tmp_path):
    save_encoder("hubert", tmp_path / "ears")
    model = build_speech_llm(
        decoder_conf={"llm": save_lm(tmp_path / "lm")},
        token_type="hugging_face", bpemodel=str(tmp_path / "lm"),
        frontend="pretrained", frontend_conf={"model": str(tmp_path / "ears")}, model_conf={"ctc_weight": 0.5},
    )  # fmt: skip
    folder = tmp_path / "exp"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
    torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
    expected = tokens(load(folder))
    path = pack(folder)
    meta = yaml.safe_load(read(path)["meta.yaml"])["espnet_larm"]
    assert [(each["kind"], each["name"]) for each in meta["external"]] == [("llm", "./lm"), ("encoder", "./ears")]
    assert len({each["sha256"] for each in meta["external"]}) == 2
    for name in ("lm", "ears"):
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
    with pytest.raises(FileNotFoundError, match="needs the speech encoder ears"):
        load(path, llm="moved_lm")
    assert tokens(load(path, llm="moved_lm", encoder="moved_ears")) == expected


@pytest.fixture
def changed(experiment, pack, tmp_path):
    """A pack after a change to its front end; without the digests, which would give any change away."""

    def changed(conf, train="frozen", **config):
        content = read(pack(experiment(train=train)))
        meta, options = yaml.safe_load(content["meta.yaml"]), yaml.safe_load(content["config.yaml"])
        meta["espnet_larm"]["sha256"] = {}
        options["frontend_conf"] = {**options["frontend_conf"], **conf}
        if config.pop("is_wrapped", False):
            config |= {
                "frontend": "affinity_pooling",
                "frontend_conf": {"frontend": "pretrained", "frontend_conf": options["frontend_conf"]},
            }
        options |= config
        content |= {"meta.yaml": yaml.safe_dump(meta).encode(), "config.yaml": yaml.safe_dump(options).encode()}
        write_archive(tmp_path / "changed.zip", content)
        return tmp_path / "changed.zip"

    return changed


@pytest.mark.parametrize(
    ("conf", "train", "message"),
    [
        ({"model": "/etc"}, "frozen", "model is '/etc'; allowed in a pack: a hub id, or ./ and the name"),
        ({"model": "./../x"}, "frozen", "allowed in a pack: a hub id"),
        ({"model": ["x"]}, "frozen", "model is .'x'.; allowed: text"),
        ({"lora_conf": {"megatron_core": "os"}}, "frozen", "lora_conf: megatron_core cannot be in a pack"),
        ({"lora_conf": ["r"]}, "frozen", "lora_conf is .'r'.; allowed: options, or nothing"),
        (
            {"model_config": {"model_type": "wavlm", "_attn_implementation": "some/kernel"}},
            "all",
            "model_config: _attn_implementation cannot be in a pack: it names code",
        ),
        ({"model_config": {"model_type": "wavlm", "x": {"auto_map": {"a": "b"}}}}, "all", "auto_map cannot be in a"),
        ({"model_config": {"kernel_config": {"layer": "x/y"}}}, "all", "kernel_config cannot be in a pack"),
        ({"model_config": {"use_kernels": True}}, "all", "use_kernels cannot be in a pack"),
        ({"model_config": {"model_type": "llama"}}, "all", "model_type is llama; allowed: whisper"),
        ({"preprocessor_config": {"mel_file": "/etc/passwd"}}, "all", "mel_file cannot be in a pack"),
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_packs_that_reach_out_are_refused(changed, conf, train, message, is_wrapped):
    with pytest.raises(ValueError, match=message):
        load(changed(conf, train, is_wrapped=is_wrapped))


def test_a_hub_model_that_names_a_kernel_is_refused(tmp_path):
    from espnet_larm.pretrained.frontend import PretrainedFrontend

    folder = save_encoder("wavlm", tmp_path / "ears")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_attn_implementation": "some/kernel"}))
    with pytest.raises(ValueError, match="asks for attention some/kernel, which would load code; allowed: eager, sdpa"):
        PretrainedFrontend(str(folder))


def test_frames_of_an_encoder_that_are_pooled_keep_their_times(experiment):
    recognizer = load(experiment(wrapped={"tau": 0.5, "min_frames_per_second": 25.0}))
    (found,) = recognizer.recognize(waveforms()[:1], DecodeConfig(num_loops=1, with_words=True))
    assert list(found.hypotheses) == [1] and found.best.words[0].start_s >= 0


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_named_models_files_is_unpickled(experiment, save_lm, tmp_path):
    from espnet_larm.llm.backbone import Backbone

    folder = experiment()
    save_lm(tmp_path / "lm")
    for model in ("models/ears", "lm"):
        (tmp_path / model / "model.safetensors").unlink()
        torch.save({"x": Harmful(tmp_path / "harmed")}, tmp_path / model / "pytorch_model.bin")
    with pytest.raises(ValueError, match="model .*/ears: its weights are damaged, or hold more than tensors"):
        load(folder)
    with pytest.raises(ValueError, match="llm .*/lm: its weights are damaged, or hold more than tensors"):
        Backbone.from_pretrained(str(tmp_path / "lm"))
    assert not (tmp_path / "harmed").exists()
