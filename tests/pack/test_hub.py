"""Packs on a hub: what is put there, what is fetched, and what is refused; the hub is a local one (tests/hub.py)."""

import shutil
import zipfile

import pytest
import soundfile
import torch
import yaml

import espnet_larm
from espnet_larm.pack.archive import digest
from espnet_larm.pack.hub import fetch, holds_pack, is_hub_name, upload, write_hub_folder
from espnet_larm.recognize.packs import load, load_from_hub

NAME = "ann/tiny"


@pytest.fixture
def published(hub, tiny_pack, tmp_path):
    """The hub with the tiny pack on it."""
    (tmp_path / "folder").mkdir()
    write_hub_folder(tiny_pack, NAME, tmp_path / "folder")
    upload(tmp_path / "folder", NAME, "Upload tiny")
    return hub


def changed(hub, **changes):
    """Commit the newest files with other values in meta.yaml or config.yaml, digests left out."""
    files = hub.files(NAME)
    meta, config = (yaml.safe_load(files[f"{name}.yaml"]) for name in ("meta", "config"))
    meta["espnet_larm"]["sha256"] = {}
    meta.update(changes.get("meta", {}))
    config.update(changes.get("config", {}))
    texts = {"meta.yaml": yaml.safe_dump(meta).encode(), "config.yaml": yaml.safe_dump(config).encode()}
    return hub.commit(NAME, texts | changes.get("files", {}))


def go_offline(hub, monkeypatch):
    """Let nothing be asked of the hub any more."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()


def test_a_published_pack_transcribes_as_the_file_does(published, tiny_pack, tiny_experiment):
    speech = tiny_experiment.data / "u1.wav"
    found, expected = (load(source).transcribe_file(speech) for source in (NAME, tiny_pack))
    assert len(found.text) > 2 and found == expected


def test_a_repository_holds_the_members_with_weights_in_safetensors(published, tiny_pack):
    from safetensors.torch import load as read

    files = published.files(NAME)
    assert sorted(files) == ["README.md", "config.yaml", "meta.yaml", "model.safetensors"]
    with zipfile.ZipFile(tiny_pack) as archive, archive.open("model.pth") as weights:
        expected = torch.load(weights, weights_only=True)
    found = read(files["model.safetensors"])
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    digests = yaml.safe_load(files["meta.yaml"])["espnet_larm"]["sha256"]
    assert digests == {name: digest(files[name]) for name in ("config.yaml", "model.safetensors")}


def test_the_card_is_one_that_the_hubs_client_reads_and_names_the_repository(published):
    from huggingface_hub import ModelCard

    text = published.files(NAME)["README.md"].decode()
    data = ModelCard(text).data
    assert (data.license, data.language, data.library_name) == ("cc-by-4.0", ["en"], "espnet-larm")
    assert f'espnet_larm.load("{NAME}")' in text and f'espnet_larm.unpack("{NAME}", "model")' in text
    assert "model.zip" not in text


def test_the_same_pack_gives_the_same_files(published, tiny_pack, tmp_path):
    (tmp_path / "again").mkdir()
    write_hub_folder(tiny_pack, NAME, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == published.files(NAME)


def test_tied_weights_are_kept_under_both_names(tiny_pack, tmp_path):
    from safetensors.torch import load_file

    with zipfile.ZipFile(tiny_pack) as archive:
        archive.extractall(tmp_path / "old")
    weights = torch.load(tmp_path / "old/model.pth", weights_only=True)
    name = next(iter(weights))
    torch.save({**weights, "tied": weights[name]}, tmp_path / "old/model.pth")
    with zipfile.ZipFile(tmp_path / "tied.zip", "w") as archive:
        for path in (tmp_path / "old").iterdir():
            archive.write(path, path.name)
    (tmp_path / "folder").mkdir()
    write_hub_folder(tmp_path / "tied.zip", NAME, tmp_path / "folder")
    found = load_file(tmp_path / "folder/model.safetensors")
    assert torch.equal(found["tied"], found[name])


def test_what_was_fetched_loads_without_a_network(published, monkeypatch):
    load(NAME)
    go_offline(published, monkeypatch)
    load(NAME)
    assert published.requests == []


def test_what_was_never_fetched_says_what_to_do_without_a_network(published, monkeypatch):
    go_offline(published, monkeypatch)
    with pytest.raises(
        FileNotFoundError, match=r"does not answer .* meta.yaml of ann/tiny was not fetched before; fetch"
    ):
        load_from_hub(NAME)
    with pytest.raises(FileNotFoundError, match="ann/tiny is no file or folder here, and on the hub: http"):
        load(NAME)


def test_packs_are_told_from_models_of_transformers_with_and_without_a_network(published, monkeypatch):
    published.commit("ann/whisper", {"config.json": b"{}"})
    published.commit("ann/other", {"meta.yaml": b"a: 1"})
    assert holds_pack(NAME) and not holds_pack("ann/whisper")
    with pytest.raises(FileNotFoundError, match="ann/none is not there, or is private"):
        holds_pack("ann/none")
    go_offline(published, monkeypatch)
    assert holds_pack(NAME) and not holds_pack("ann/whisper") and not holds_pack("ann/other")


def test_only_what_a_recogniser_needs_is_fetched(published):
    published.commit(NAME, {"images/loops.png": b"png", "pytorch_model.bin": b"pickle"})
    folder = fetch(NAME)
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "meta.yaml", "model.safetensors"]


def test_a_revision_is_fetched(published):
    first = next(iter(published.repositories[NAME]))
    published.commit(NAME, {"meta.yaml": b"espnet_larm: {format: 99}"})
    with pytest.raises(ValueError, match="ann/tiny: |names no asr_train_config"):
        fetch(NAME)
    assert fetch(NAME, first).name == first
    with pytest.raises(FileNotFoundError, match="ann/tiny has no revision v9; name a branch, tag or commit"):
        fetch(NAME, "v9")


def test_texts_for_people_may_be_edited_on_the_hub(published):
    published.commit(NAME, {"README.md": b"# edited"})
    assert load_from_hub(NAME).has_loops


def test_a_private_repository_is_read_with_a_token_alone(published, monkeypatch):
    published.private.add(NAME)
    fetch(NAME)
    shutil.rmtree(fetch(NAME).parents[1])
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match=r"ann/tiny is not there, or is private or gated .* HF_TOKEN\.$"):
        fetch(NAME)


@pytest.mark.parametrize("name", ["ann/missing", "ann/mis..sing"])
def test_a_missing_repository_is_one_sentence(hub, name):
    with pytest.raises((FileNotFoundError, ValueError), match=name) as caught:
        fetch(name)
    assert "\n" not in str(caught.value)


def test_a_repository_without_a_pack_is_told(hub):
    hub.commit(NAME, {"config.json": b"{}"})
    with pytest.raises(ValueError, match=r"ann/tiny holds no meta.yaml; it is no pack"):
        fetch(NAME)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"frontend": "s3prl"}}, "frontend: s3prl cannot be in a pack"),
        (
            {"config": {"bpemodel": "/etc/passwd", "token_type": "bpe"}},
            r"'/etc/passwd' has a name that leaves the folder",
        ),
        ({"config": {"normalize_conf": {"stats_file": "none.npz"}}}, "holds no none.npz"),
        ({"files": {"config.yaml": b"a: !!python/object/apply:os.getcwd []"}}, "config.yaml is refused"),
        (
            {"files": {"model.safetensors": b"\x80\x04cos\nsystem"}},
            "ann/tiny: model.safetensors is truncated or damaged",
        ),
    ],
)
def test_a_strangers_repository_is_checked_like_a_strangers_file(published, changes, message):
    changed(published, **changes)
    with pytest.raises(ValueError, match=message):
        load_from_hub(NAME)


def test_weights_that_are_not_those_of_the_digests_are_refused(published):
    published.commit(NAME, {"model.safetensors": published.files(NAME)["model.safetensors"] + b" "})
    with pytest.raises(ValueError, match=r"ann/tiny: model.safetensors is not what meta.yaml says"):
        load_from_hub(NAME)


def test_pickled_weights_are_read_without_running_code(published, tmp_path):
    meta = yaml.safe_load(published.files(NAME)["meta.yaml"])
    harm = tmp_path / "harm"
    pickled = f"cbuiltins\nopen\n(S'{harm}'\nS'w'\ntR.".encode()
    changed(
        published, meta={"files": {"asr_model_file": "m.pth"}} | {"espnet": meta["espnet"]}, files={"m.pth": pickled}
    )
    with pytest.raises(ValueError, match=r"ann/tiny: m.pth"):
        load_from_hub(NAME)
    assert not harm.exists()


def test_espnets_own_program_loads_what_was_unpacked_of_the_hub(published, tmp_path, tiny_experiment):
    from espnet2.bin.asr_inference import Speech2Text

    files = espnet_larm.unpack(NAME, tmp_path / "model")
    assert files["asr_model_file"].endswith(".pth")
    speech = tiny_experiment.data / "u1.wav"
    samples = soundfile.read(speech, dtype="float32")[0]
    text = Speech2Text(**files, ctc_weight=1.0, beam_size=1)(samples)[0][0][0]
    assert text == load(NAME).transcribe_file(speech).text


def test_a_repository_in_espnets_layout_is_read(hub, tiny_pack):
    with zipfile.ZipFile(tiny_pack) as archive:
        weights, config = archive.read("model.pth"), archive.read("config.yaml")
    names = {
        "yaml_files": {"asr_train_config": "exp/asr/config.yaml"},
        "files": {"asr_model_file": "exp/asr/model.pth"},
    }
    meta = yaml.safe_dump({**names, "espnet": "202511", "timestamp": 1.0}).encode()
    files = {"meta.yaml": meta, "exp/asr/config.yaml": config, "exp/asr/model.pth": weights, "exp/asr/RESULTS.md": b""}
    hub.commit("ann/espnet", files)
    assert load_from_hub("ann/espnet").has_loops
    assert not (fetch("ann/espnet") / "exp/asr/RESULTS.md").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"HF_TOKEN": ""}, "does not let you do that: `hf auth login`"),
        ({"HF_TOKEN": "hf_of_bob"}, "does not let you do that: `hf auth login`"),
    ],
)
def test_who_may_not_write_is_told(hub, tiny_pack, tmp_path, monkeypatch, change, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(PermissionError, match=message) as caught:
        upload(tmp_path, NAME, "Upload")
    assert "\n" not in str(caught.value)


def test_another_users_repository_is_refused(hub, tmp_path):
    with pytest.raises(PermissionError, match="rights to create a model under bob"):
        upload(tmp_path, "bob/tiny", "Upload")


def test_a_hub_that_does_not_answer_is_told(hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9 does not answer"):
        upload(tmp_path, NAME, "Upload")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ann/tiny-1.0_b", True), ("tiny", False), ("../tiny", False), ("a/b/c", False), ("/ann/tiny", False)],
)
def test_names_on_the_hub_have_two_parts(name, expected):
    assert is_hub_name(name) == expected
