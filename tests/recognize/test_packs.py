"""From packs and folders to recognisers; and that a stranger's pack runs no code."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import espnet_larm
from espnet_larm.pack.archive import write_archive
from espnet_larm.recognize.packs import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def global_mvn(larm_task, tiny_experiment, tmp_path_factory):
    """The tiny experiment, laid out as recipes do, with statistics that it names by a path from the recipe's folder."""
    recipe = tmp_path_factory.mktemp("recipe")
    (recipe / "exp/asr_tiny").mkdir(parents=True)
    generator = np.random.default_rng(0)
    frames = generator.standard_normal((100, 80)) * 3 - 2
    np.savez(recipe / "exp/stats.npz", count=100, sum=frames.sum(0), sum_square=(frames**2).sum(0))
    folder = recipe / "exp/asr_tiny"
    tiny_experiment.with_config(
        folder / "config.yaml", normalize="global_mvn", normalize_conf={"stats_file": "exp/stats.npz"}
    )
    weights = torch.load(tiny_experiment.model, weights_only=True)
    mean = torch.from_numpy(frames.mean(0))
    std = torch.from_numpy(((frames**2).mean(0) - frames.mean(0) ** 2) ** 0.5)
    torch.save({**weights, "normalize.mean": mean, "normalize.std": std}, folder / "valid.loss.ave.pth")
    return folder


@pytest.fixture(scope="module")
def pack(global_mvn, tmp_path_factory):
    from espnet_larm.cli.pack import main

    path = tmp_path_factory.mktemp("packs") / "model.zip"
    assert main(["asr", "--exp_dir", str(global_mvn), "--outpath", str(path)]) == 0
    return path


@pytest.fixture
def changed(pack, tmp_path):
    """The pack after a change to its members; without the digests, which would give any change away."""

    def changed(config=None, meta=None, **members):
        with zipfile.ZipFile(pack) as archive:
            content = {info.filename: archive.read(info) for info in archive.infolist()}
        values = yaml.safe_load(content["meta.yaml"])
        values["espnet_larm"] |= {"sha256": {}, **(meta or {})}
        content["meta.yaml"] = yaml.safe_dump(values).encode()
        options = yaml.safe_load(content["config.yaml"]) | (config or {})
        content["config.yaml"] = yaml.safe_dump(options).encode()
        content |= {name.replace("__", "."): value for name, value in members.items()}
        write_archive(tmp_path / "changed.zip", {name: value for name, value in content.items() if value is not None})
        return tmp_path / "changed.zip"

    return changed


@pytest.fixture
def speech(tiny_experiment):
    return tiny_experiment.data / "u1.wav"


def pickled_harm(path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(path), "w"))

    return Harmful()


def test_pack_gives_what_the_folder_gives(pack, global_mvn, speech):
    samples = soundfile.read(speech, dtype="float32")[0]
    found, expected = (load(source).recognize([samples])[0] for source in (pack, global_mvn))
    assert len(found.text) > 2 and found == expected


def test_folder_is_found_from_anywhere(global_mvn, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load(str(global_mvn)).model.normalize is not None


def test_unzipped_pack_is_a_folder_to_load(pack, tmp_path, speech):
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path / "model")
    assert load(tmp_path / "model").transcribe_file(speech) == load(pack).transcribe_file(speech)


@pytest.mark.slow
def test_three_lines_transcribe_in_a_fresh_process(pack, speech, tmp_path):
    script = f"import espnet_larm\nrecognizer = espnet_larm.load({str(pack)!r})\n"
    script += f"print(recognizer.transcribe({str(speech)!r}, vad=False).text)\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    # ESPnet prints when it is imported.
    assert done.stdout.splitlines()[-1] == load(pack).transcribe_file(speech).text


@pytest.mark.parametrize("by", ["espnet", "us"])
def test_espnets_own_program_loads_what_was_unpacked(pack, speech, tmp_path, by):
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.main_funcs.pack_funcs import unpack

    files = (unpack if by == "espnet" else espnet_larm.unpack)(pack, tmp_path / "model")
    speech2text = Speech2Text(**files, ctc_weight=1.0, beam_size=1, maxlenratio=-1)
    ours = load(pack)
    state = speech2text.asr_model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in ours.model.state_dict().items())
    results, greedy_by_loop = speech2text(soundfile.read(speech, dtype="float32")[0])
    assert isinstance(results[0][0], str)
    # ESPnet reads intermediate checkpoints out greedily.
    assert greedy_by_loop[2] == ours.transcribe_file(speech).hypotheses[2].tokens


def test_unpacking_again_replaces_the_files(pack, tmp_path):
    first = espnet_larm.unpack(pack, tmp_path / "model")
    Path(first["asr_train_config"]).write_text("damaged")
    assert espnet_larm.unpack(pack, tmp_path / "model") == first
    assert "token_list" in Path(first["asr_train_config"]).read_text()


def test_pickled_code_in_weights_does_not_run(changed, tmp_path):
    torch.save({"weight": pickled_harm(tmp_path / "harmed")}, tmp_path / "evil.pth")
    path = changed(valid__loss__ave__pth=(tmp_path / "evil.pth").read_bytes())
    for use in (load, lambda pack: espnet_larm.unpack(pack, tmp_path / "out")):
        with pytest.raises(ValueError, match="holds more than tensors"):
            use(path)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("form", ["npz", "npy", "pickle"])
def test_pickled_code_in_statistics_does_not_run(changed, tmp_path, form):
    harm = pickled_harm(tmp_path / "harmed")
    array = np.array([harm], dtype=object)
    with (tmp_path / "evil").open("wb") as file:
        if form == "npz":
            np.savez(file, count=array, sum=array, sum_square=array)
        elif form == "npy":
            np.save(file, array, allow_pickle=True)
        else:
            pickle.dump(harm, file)
    with pytest.raises(ValueError, match="stats.npz holds more than numbers of features, or is damaged; it is refused"):
        load(changed(stats__npz=(tmp_path / "evil").read_bytes()))
    assert not (tmp_path / "harmed").exists()


def zeros_of_256_mib():
    """An array whose file is a thousandth of it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("sum.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (2**25,)})
        for _ in range(256):
            member.write(bytes(2**20))
    return content.getvalue()


def header_of_an_exabyte():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("sum.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**20)})
    return content.getvalue()


@pytest.mark.parametrize("make", [zeros_of_256_mib, header_of_an_exabyte])
def test_statistics_are_bounded_before_they_are_read(changed, make, monkeypatch):
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(ValueError, match="stats.npz holds more than numbers of features"):
        load(changed(stats__npz=make()))


def test_compressed_weights_are_refused(changed, tmp_path, global_mvn):
    with (
        zipfile.ZipFile(global_mvn / "valid.loss.ave.pth") as weights,
        zipfile.ZipFile(tmp_path / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for info in weights.infolist():
            deflated.writestr(info.filename, weights.read(info))
    with pytest.raises(ValueError, match="valid.loss.ave.pth is compressed, which torch's files are not"):
        load(changed(valid__loss__ave__pth=(tmp_path / "deflated.pth").read_bytes()))


def test_what_nothing_names_is_not_unpacked(changed, tmp_path):
    espnet_larm.unpack(changed(sitecustomize__py=b"print('harm')"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.yaml", "meta.yaml", "stats.npz", "valid.loss.ave.pth",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": "hubert", "encoder_conf": {}}, "encoder: hubert cannot be in a pack"),
        ({"encoder": "larn"}, "encoder: larn cannot be in a pack"),
        ({"normalize_conf": {"stats_file": "/etc/passwd"}}, "/etc/passwd is not in the pack"),
        ({"bpemodel": "../x.model"}, r"\.\./x.model is not in the pack"),
        ({"encoder_conf": {"num_lops": 3}}, "num_lops is not an option of encoder: larm"),
        ({"token_list": ["<blank>", "<unk>", "A", "<sos/eos>"]}, "ctc.ctc_lo.bias .* instead of"),
        ({"token_list": ["<blank>", "A\x1b[2J", "<sos/eos>"]}, r"token_list holds 'A\\x1b\[2J', which has a control"),
        ({"encoder_conf": {"num_loops": 10**30}}, "num_loops is 10+; allowed: 1 to 1000"),
    ],
)
def test_configurations_that_reach_out_or_do_not_fit_are_refused(changed, config, message):
    with pytest.raises(ValueError, match=message):
        load(changed(config))


def test_yaml_that_makes_objects_is_refused(changed, tmp_path):
    harmful = f"a: !!python/object/apply:os.system ['touch {tmp_path}/harmed']\n".encode()
    for name in ("config__yaml", "meta__yaml"):
        with pytest.raises(ValueError, match="could not determine a constructor"):
            load(changed(**{name: harmful}))
    assert not (tmp_path / "harmed").exists()


def test_front_ends_that_cannot_compute_are_refused(changed, global_mvn):
    config = yaml.safe_load((global_mvn / "config.yaml").read_text())
    for conf in ({"hop_length": -5}, {"n_fft": 512, "win_length": 513}):
        with pytest.raises(ValueError, match=rf"^frontend: default cannot be made of .*{list(conf)[-1]}: "):
            load(changed(config={"frontend_conf": {**(config["frontend_conf"] or {}), **conf}}))


def test_missing_and_unexpected_weights_are_named(changed, pack, tmp_path):
    with zipfile.ZipFile(pack) as archive:
        archive.extract("valid.loss.ave.pth", tmp_path)
    weights = torch.load(tmp_path / "valid.loss.ave.pth", weights_only=True)
    del weights["ctc.ctc_lo.bias"]
    torch.save({**weights, "more": torch.zeros(1)}, tmp_path / "other.pth")
    pack = changed(valid__loss__ave__pth=(tmp_path / "other.pth").read_bytes())
    # The pack is named, not the folder that it is unpacked in.
    said = rf"^{pack}: valid.loss.ave.pth .* 1 missing \(ctc.ctc_lo.bias\); 1 unexpected \(more\)"
    with pytest.raises(ValueError, match=said):
        load(pack)


def test_missing_members_are_named(changed):
    for name, message in (
        ("meta__yaml", "has no meta.yaml; it is no pack"),
        ("config__yaml", "has no config.yaml"),
        ("valid__loss__ave__pth", "valid.loss.ave.pth is not in the pack"),
        ("stats__npz", "stats.npz is not in the pack"),
    ):
        with pytest.raises(ValueError, match=message):
            load(changed(**{name: None}))


def test_member_that_is_not_what_the_manifest_says_is_named(changed):
    with pytest.raises(ValueError, match=r"README.md is not what meta.yaml says; copy or download the pack again"):
        load(changed(meta={"sha256": {"README.md": "00"}}))


def test_plugin_that_is_not_installed_is_named(changed):
    plugin = {"kind": "encoder", "name": "average", "package": "average", "version": "2.0"}
    with pytest.raises(ValueError, match='needs encoder: average of package average 2.0.*pip install "average==2.0"'):
        load(changed(meta={"plugins": [plugin]}))


def test_weights_of_a_folder_are_its_only_average(global_mvn, tmp_path):
    from espnet_larm.recognize.packs import files_of_folder

    for name in ("config.yaml", "3epoch.pth", "checkpoint.pth"):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"no \*.ave.pth .*asr_model_file: 3epoch.pth"):
        files_of_folder(tmp_path)
    assert files_of_folder(tmp_path, "3epoch.pth")[1] == tmp_path / "3epoch.pth"
    (tmp_path / "valid.loss.ave.pth").touch()
    assert files_of_folder(tmp_path) == (tmp_path / "config.yaml", tmp_path / "valid.loss.ave.pth")
    (tmp_path / "valid.acc.ave.pth").touch()
    with pytest.raises(ValueError, match=r"several averages; .*: valid.acc.ave.pth, valid.loss.ave.pth"):
        files_of_folder(tmp_path)


def test_weights_cannot_be_named_for_a_pack(pack):
    with pytest.raises(ValueError, match="is no folder; a pack names its weights"):
        load(pack, asr_model_file="other.pth")


def test_what_is_no_pack_is_named(tmp_path):
    (tmp_path / "a.zip").write_text("no zip file")
    with pytest.raises(ValueError, match=r"a.zip is damaged or no zip file"):
        load(tmp_path / "a.zip")
    with pytest.raises(FileNotFoundError, match=r"none.zip is missing"):
        load(tmp_path / "none.zip")
