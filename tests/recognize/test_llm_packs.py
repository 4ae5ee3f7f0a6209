"""Packs of models with an LM: no unchanged weight of it, its tokenizer, its name; and nothing that reaches out."""

import io
import json
import shutil
import zipfile

import pytest
import torch
import yaml

import espnet_larm
from espnet_larm.pack.archive import write_archive
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.packs import load
from tests.packs import read

# Not more than the LM has: ESPnet names tokens of intermediate read-outs by the LM's list.
CTC_TOKENS = ["<blank>", "<unk>", "<space>", *"ABC", "<sos/eos>"]
SHA = r"SHA-256 of its weights [0-9a-f]{64}"


@pytest.fixture
def experiment(build_speech_llm, save_lm, tmp_path):
    """The folder of an experiment, laid out as recipes do, with characters for the CTC head."""

    def experiment(**decoder_conf):
        # Larger than all else, as LMs are.
        llm = save_lm(tmp_path / "big", hidden_size=192, initializer_range=0.1)
        tokens = tmp_path / "data/token_list/char/tokens.txt"
        tokens.parent.mkdir(parents=True)
        tokens.write_text("".join(f"{token}\n" for token in CTC_TOKENS))
        model = build_speech_llm(
            decoder_conf={"llm": llm, **decoder_conf},
            token_type="hugging_face",
            bpemodel=decoder_conf.get("tokenizer", llm),
            model_conf={"ctc_token_list": "data/token_list/char/tokens.txt"},
            preprocessor="speech_llm",
            preprocessor_conf={"ctc_token_list": "data/token_list/char/tokens.txt", "ctc_token_type": "char"},
            use_preprocessor=True,
        )
        folder = tmp_path / "exp/asr_llm"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        with torch.no_grad():
            model.decoder.projector.out.weight.mul_(20)
            for parameter in model.decoder.backbone.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.05)
        torch.save(model.state_dict(), folder / "valid.loss.ave.pth")
        return folder

    return experiment


@pytest.fixture(autouse=True)
def in_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def transcripts(recognizer):
    torch.manual_seed(0)
    waveforms = [torch.randn(length).numpy() for length in (9000, 16000)]
    return [(one.text, one.best.token_ids, one.best.score) for one in recognizer.recognize(waveforms)]


def move_away(tmp_path):
    """Leave only the LM of the training, in another place, as on another machine."""
    (tmp_path / "big").rename(tmp_path / "moved")
    for name in ("llm", "data", "exp"):
        shutil.rmtree(tmp_path / name)
    return str(tmp_path / "moved")


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"adaptation": "lora", "lora_conf": {"match": {"layer": "standard", "num_layers": 1}}},
        {"adaptation": "depth_upscaling"},
    ],
    ids=["frozen", "lora", "upscaled"],
)
def test_pack_holds_the_tokenizer_and_no_unchanged_weight(experiment, pack, tmp_path, conf):
    folder = experiment(**conf)
    expected = transcripts(load(folder))
    assert expected[0] != expected[1] and any(ids for _, ids, _ in expected)
    path = pack(folder)
    content = read(path)
    weights = torch.load(io.BytesIO(content["valid.loss.ave.pth"]), map_location="cpu")
    own = [name for name in weights if name.startswith("decoder.backbone.model.") and "lora_" not in name]
    assert own == [] and any(name.startswith("decoder.backbone.") for name in weights)
    assert {"tokenizer/tokenizer.json", "tokenizer/config.json", "tokens.txt"} <= content.keys()
    assert not any(name.endswith((".safetensors", ".bin")) for name in content)
    (llm,) = yaml.safe_load(content["meta.yaml"])["espnet_larm"]["external"]
    assert (llm["kind"], llm["name"], len(llm["sha256"])) == ("llm", "./big", 64)
    card = content["README.md"].decode()
    assert llm["sha256"] in card and 'espnet_larm.load("model.zip", llm="<folder of the LM>")' in card
    for name in ("meta.yaml", "config.yaml", "README.md", *(name for name in content if name.startswith("tokenizer/"))):
        assert str(tmp_path) not in content[name].decode()
    moved = move_away(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"needs the LM big \({SHA}\), .* with --llm \(llm= in Python\)"):
        load(path)
    assert transcripts(load(path, llm=moved)) == expected
    by_ctc = load(path, llm=moved)
    assert by_ctc.plan(DecodeConfig(ctc_weight=1.0)).numbers == (1, 2)


def test_a_hub_holds_the_tokenizer_and_no_unchanged_weight(experiment, pack, tmp_path, hub):
    from safetensors.torch import load

    from espnet_larm.pack.hub import upload, write_hub_folder
    from espnet_larm.recognize import packs

    folder = experiment()
    expected = transcripts(packs.load(folder))
    (tmp_path / "files").mkdir()
    write_hub_folder(pack(folder), "ann/llm", tmp_path / "files")
    upload(tmp_path / "files", "ann/llm", "Upload")
    content = hub.files("ann/llm")
    assert not [name for name in load(content["model.safetensors"]) if name.startswith("decoder.backbone.model.")]
    assert 'espnet_larm.load("ann/llm", llm="<folder of the LM>")' in content["README.md"].decode()
    moved = move_away(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"needs the LM big \({SHA}\)"):
        packs.load("ann/llm")
    assert transcripts(packs.load("ann/llm", llm=moved)) == expected


def test_other_added_layers_are_named_in_one_sentence(experiment):
    folder = experiment(adaptation="depth_upscaling", depth_upscaling_conf={"num_layers": 1})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["decoder_conf"]["depth_upscaling_conf"] = {"num_layers": 1, "placement": "bottom"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(
        ValueError, match=r"depth_upscaling_conf differs: .* behind layers 1 .* behind layers 0 "
    ) as told:
        load(folder)
    assert "missing" not in str(told.value)


def test_an_lm_of_that_name_in_the_working_folder_is_taken_if_it_is_the_same(experiment, pack, tmp_path, save_lm):
    path = pack(experiment())
    load(path)
    move_away(tmp_path)
    save_lm(tmp_path / "big", hidden_size=192, initializer_range=0.4)
    with pytest.raises(ValueError, match="their weights differ"):
        load(path)


def test_pack_of_a_trained_lm_needs_no_other_file(experiment, pack, tmp_path):
    folder = experiment(adaptation="full")
    expected = transcripts(load(folder))
    path = pack(folder)
    meta = yaml.safe_load(read(path)["meta.yaml"])["espnet_larm"]
    assert meta["external"] == [] and meta["started"]["name"] == "./big" and len(meta["started"]["sha256"]) == 64
    assert "all its weights are in this pack" in read(path)["README.md"].decode()
    moved = move_away(tmp_path)
    assert transcripts(load(path)) == expected
    with pytest.raises(ValueError, match="llm is .*, but the model holds all weights of its LM; leave --llm"):
        load(path, llm=moved)


def test_pack_of_an_lm_without_name_needs_no_other_file(experiment, pack, tmp_path):
    options = {"vocab_size": 7, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = {"model_type": "llama", "num_attention_heads": 2, "max_position_embeddings": 64, **options}
    folder = experiment(llm=None, llm_config=config, tokenizer="llm")
    expected = transcripts(load(folder))
    path = pack(folder)
    move_away(tmp_path)
    assert transcripts(load(path)) == expected


def test_pack_names_the_lm_as_the_option_does(experiment, pack, tmp_path):
    folder = experiment()
    (tmp_path / "big").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="name its folder or hub id with --llm"):
        pack(folder)
    content = read(pack(folder, "--llm", "moved"))
    assert yaml.safe_load(content["config.yaml"])["decoder_conf"]["llm"] == "./moved"


def test_same_experiment_gives_the_same_bytes(experiment, pack):
    folder = experiment()
    assert pack(folder).read_bytes() == pack(folder).read_bytes()


def test_an_unpacked_or_unzipped_pack_is_loaded_with_its_lm(experiment, pack, tmp_path):
    from espnet_larm.recognize.recognizer import Recognizer

    path = pack(experiment())
    expected = transcripts(load(path))
    moved = move_away(tmp_path)
    files = espnet_larm.unpack(path, tmp_path / "unpacked", llm=moved)
    assert transcripts(Recognizer.from_files(**files)) == expected
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unzipped")
    # Its own tokenizer counts, not one that happens to lie in the working folder.
    (tmp_path / "tokenizer").mkdir()
    assert transcripts(load(tmp_path / "unzipped", llm=moved)) == expected


@pytest.fixture
def changed(experiment, pack, tmp_path):
    """A pack after a change to its members; without the digests, which would give any change away."""

    def changed(decoder_conf=None, config=None, tokenizer=None, **members):
        content = read(pack(experiment()))
        meta, options = yaml.safe_load(content["meta.yaml"]), yaml.safe_load(content["config.yaml"])
        meta["espnet_larm"]["sha256"] = {}
        options["decoder_conf"] |= decoder_conf or {}
        options |= config or {}
        content |= {"meta.yaml": yaml.safe_dump(meta).encode(), "config.yaml": yaml.safe_dump(options).encode()}
        for name, change in (tokenizer or {}).items():
            content[f"tokenizer/{name}"] = json.dumps(json.loads(content[f"tokenizer/{name}"]) | change).encode()
        content |= {name.replace("__", "/"): value for name, value in members.items()}
        write_archive(tmp_path / "changed.zip", {name: value for name, value in content.items() if value is not None})
        return tmp_path / "changed.zip"

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_conf": {"llm": "/etc"}}, "llm is '/etc'; allowed in a pack: a hub id, or ./ and the name"),
        ({"decoder_conf": {"llm": "./../x"}}, "allowed in a pack: a hub id"),
        ({"decoder_conf": {"llm": ["x"]}}, "llm is .'x'.; allowed: text"),
        ({"decoder_conf": {"tokenizer": "../x"}}, "tokenizer is '../x'; allowed in a pack: tokenizer"),
        ({"decoder_conf": {"tokenizer": None}}, "tokenizer is None; allowed in a pack: tokenizer"),
        ({"config": {"bpemodel": "/etc"}}, "bpemodel is '/etc'; allowed in a pack: tokenizer"),
        ({"config": {"decoder": "transformer"}}, "token_type: hugging_face cannot be in a pack"),
        ({"config": {"model_conf": {"ctc_token_list": "/etc/passwd"}}}, "/etc/passwd is not in the pack"),
        ({"decoder_conf": {"lora_conf": {"megatron_core": "os"}}}, "lora_conf: megatron_core cannot be in a pack"),
        (
            {"decoder_conf": {"llm": None, "llm_config": {"attn_implementation": "some/kernel"}}},
            "llm_config: attn_implementation cannot be in a pack: it names code",
        ),
        ({"tokenizer": {"tokenizer_config.json": {"auto_map": {"x": "y"}}}}, "auto_map cannot be in a pack"),
        ({"tokenizer": {"tokenizer_config.json": {"vocab_file": "/etc/passwd"}}}, "vocab_file cannot be in a pack"),
        ({"tokenizer": {"config.json": {"auto_map": {"AutoConfig": "x.Y"}}}}, "config.json of the tokenizer: auto_map"),
        ({"tokenizer__evil.py": b""}, "tokenizer/evil.py cannot be in a pack"),
        ({"tokenizer__config.json": b"["}, "config.json of the tokenizer is no JSON"),
        ({"tokenizer__tokenizer.json": None}, "tokenizer/tokenizer.json is not in the pack"),
    ],
)  # fmt: skip
def test_packs_that_reach_out_are_refused(changed, change, message):
    with pytest.raises(ValueError, match=message):
        load(changed(**change))


def test_espnets_own_program_decodes_what_was_unpacked(experiment, pack, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    path = pack(experiment())
    ours = load(path)
    moved = move_away(tmp_path)
    files = espnet_larm.unpack(path, tmp_path / "model", llm=moved)
    speech2text = Speech2Text(**files, ctc_weight=0.0, beam_size=1, maxlenratio=-20)
    samples = torch.randn(16000).numpy()
    results = speech2text(samples)
    (text, _, token_ids, _), *_ = results[0] if isinstance(results, tuple) else results
    # ESPnet leaves token 0 out of results.
    expected = [token for token in ours.recognize([samples])[0].best.token_ids if token != 0]
    shared = min(len(expected), len(token_ids))
    assert shared and token_ids[:shared] == expected[:shared] and isinstance(text, str)


def test_pooling_travels_with_a_pack(experiment, pack, tmp_path):
    pooling = {"input": {"method": "stride", "retention": 0.5}, "deep": {"layer": 1, "tau": 0.5, "window": 2}}
    folder = experiment(pooling=pooling)
    expected = transcripts(load(folder))
    packed = load(pack(folder), llm=move_away(tmp_path))
    assert packed.model.decoder.pooling.options == pooling and transcripts(packed) == expected
