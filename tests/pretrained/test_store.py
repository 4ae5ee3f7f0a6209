"""Stored frames: what was written is read, and what is damaged, missing or of another model is named."""

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_larm.pretrained.store import FramesReader, Place, add, finished, read_records
from espnet_larm.recipe.store_frames import main

SIZE = 6


def frames(num_frames, seed):
    return np.random.default_rng(seed).standard_normal((num_frames, SIZE)).astype(np.float16).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    """A store of two shards, with its table."""
    folder = tmp_path / "store"
    folder.mkdir()
    kept = {key: frames(length, length) for key, length in (("b", 5), ("a", 3), ("c", 4))}
    audio = dict.fromkeys(kept, "x")
    stored = {**add(folder, {"b": kept["b"], "a": kept["a"]}, audio), **add(folder, {"c": kept["c"]}, audio)}
    (tmp_path / "frames.scp").write_text("".join(f"{key} {each.place}\n" for key, each in sorted(stored.items())))
    return tmp_path, kept


def test_what_was_written_is_read(store):
    folder, kept = store
    reader = FramesReader(str(folder / "frames.scp"))
    assert list(reader) == ["a", "b", "c"] and len(reader) == 3
    assert all(np.array_equal(reader[key], kept[key]) and reader[key].dtype == np.float32 for key in kept)


def test_espnet_reads_it(store):
    from espnet2.train.dataset import ESPnetDataset

    from espnet_larm import registry

    registry.register()
    folder, kept = store
    data = ESPnetDataset([(str(folder / "frames.scp"), "speech", "frames")])
    assert np.array_equal(data["b"][1]["speech"], kept["b"])


def test_a_shard_without_its_table_is_made_again(store):
    folder, kept = store
    (folder / "store/0001.tsv").unlink()
    assert [key for key, _ in finished(folder / "store", SIZE)] == ["b", "a"]
    assert not (folder / "store/0001.npy").exists()
    assert add(folder / "store", {"d": kept["c"]}, {"d": "x"})["d"].place.shard.name == "0001.npy"


@pytest.mark.parametrize("damage", [lambda text: text[:-3], lambda text: text.replace(b"5", b"6"), lambda _: b"\xff"])
def test_a_damaged_table_is_as_a_damaged_shard(store, damage):
    folder, _ = store
    table = folder / "store/0000.tsv"
    table.write_bytes(damage(table.read_bytes()))
    with pytest.raises(ValueError, match=r"0000.tsv is damaged; run store-frames again"):
        FramesReader(str(folder / "frames.scp"))
    assert [key for key, _ in finished(folder / "store", SIZE)] == ["c"]
    assert not table.exists() and not table.with_suffix(".npy").exists()


def test_changed_frames_are_found_as_they_are_read(store):
    folder, kept = store
    shard = folder / "store/0000.npy"
    # The last of a's.
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    reader = FramesReader(str(folder / "frames.scp"))
    assert np.array_equal(reader["b"], kept["b"])
    with pytest.raises(ValueError, match=r"0000.npy is damaged: it lost the frames of a; run store-frames again"):
        reader["a"]


def test_other_files_in_a_store_stay(store):
    folder, kept = store
    np.save(folder / "store/notes.npy", np.zeros(1))
    assert {key for key, _ in finished(folder / "store", SIZE)} == {"a", "b", "c"}
    assert add(folder / "store", {"d": kept["c"]}, {"d": "x"})["d"].place.shard.name == "0002.npy"
    assert (folder / "store/notes.npy").exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-9] + b"\1" + content[-8:]])
def test_damaged_shards_are_removed(store, damage):
    folder, _ = store
    shard = folder / "store/0000.npy"
    shard.write_bytes(damage(shard.read_bytes()))
    assert [key for key, _ in finished(folder / "store", SIZE)] == ["c"]
    assert not shard.exists() and not shard.with_suffix(".tsv").exists()


def test_frames_of_another_size_do_not_count(store):
    assert list(finished(store[0] / "store", SIZE + 1)) == []


def test_frames_beyond_float16_are_refused(store):
    with pytest.raises(ValueError, match="z: frames of the model are too large for float16, or no numbers"):
        add(store[0] / "store", {"z": np.full((2, SIZE), 1e6)}, {"z": "x"})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda folder: (folder / "store/0001.npy").unlink(), FileNotFoundError, "0001.npy is missing; run"),
        (lambda folder: (folder / "store/0001.npy").write_bytes(b"x"), ValueError, "0001.npy is damaged"),
        (lambda folder: np.save(folder / "store/0001.npy", np.zeros((1, SIZE))), ValueError, "cut short: .* of c"),
        (lambda folder: (folder / "frames.scp").write_text("c store/1.npy\n"), ValueError, "is no place of frames"),
        (lambda folder: (folder / "frames.scp").write_text(""), ValueError, "frames.scp is empty; run store-frames"),
        (
            lambda folder: (folder / "frames.scp").write_text(f"a {folder}/store/0001.npy:0:3\n"),
            ValueError,
            "0001.npy does not hold a where",
        ),
    ],
)
def test_what_is_wrong_is_named_before_training(store, change, error, message):
    change(store[0])
    with pytest.raises(error, match=message):
        FramesReader(str(store[0] / "frames.scp"))


def test_a_store_that_was_not_finished_is_named(store):
    folder, _ = store
    with pytest.raises(FileNotFoundError, match=r"store.json is missing, so that the store of .* was not finished"):
        read_records(folder / "frames.scp")
    for content in ("{", "[]"):
        (folder / "store/store.json").write_text(content)
        with pytest.raises(ValueError, match=r"store.json is damaged"):
            read_records(folder / "frames.scp")


def test_a_place_is_its_text():
    place = Place.parse("a:b/c.npy:12:3")
    assert (str(place), place.first, place.num_frames) == ("a:b/c.npy:12:3", 12, 3)


@pytest.fixture
def data(tmp_path, encoders):
    """A data folder of four utterances, and a configuration."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for number, seconds in enumerate((0.5, 1.0, 0.7, 0.3)):
        path = folder / f"u{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(int(16000 * seconds)), 16000)
        lines.append(f"u{number} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    options = {"frontend": "pretrained", "frontend_conf": {"model": encoders("whisper"), "layers": "mix"}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    return folder


def run(data, *options, config="train.yaml"):
    return main(["--data_dir", str(data), "--config", str(data.parent / config), *options])


def test_stored_frames_are_those_of_the_front_end(data, encoders):
    from espnet_larm.pretrained.frontend import PretrainedFrontend

    assert run(data, "--batch_seconds", "1.2") == 0
    frontend = PretrainedFrontend(encoders("whisper"), layers="mix").eval()
    reader = FramesReader(str(data / "frames.scp"))
    for key in ("u0", "u1", "u2", "u3"):
        samples = torch.from_numpy(soundfile.read(data / f"{key}.wav", dtype="float32")[0])
        wanted = frontend.hidden(samples[None], torch.tensor([len(samples)]))[0][0]
        torch.testing.assert_close(torch.from_numpy(reader[key]), wanted, atol=2e-3, rtol=2e-3)
    assert read_records(data / "frames.scp")[0]["layers"] == [0, 1, 2, 3]


def test_repeated_it_makes_what_is_missing_or_has_changed(data, monkeypatch, capsys):
    from espnet_larm.pretrained.frontend import PretrainedFrontend

    numbers, hidden = [], PretrainedFrontend.hidden
    monkeypatch.setattr(
        PretrainedFrontend, "hidden", lambda self, xs, lens: numbers.append(len(lens)) or hidden(self, xs, lens)
    )
    run(data)
    assert sum(numbers) == 4
    before = (data / "frames.scp").read_text()
    run(data)
    assert sum(numbers) == 4 and (data / "frames.scp").read_text() == before
    soundfile.write(data / "u2.wav", np.zeros(8000), 16000)
    run(data)
    assert sum(numbers) == 5 and len(FramesReader(str(data / "frames.scp"))["u2"]) == 25
    assert "4 utterances, 0.00 GB" in capsys.readouterr().out


def test_a_killed_run_goes_on_behind_its_shards(data, monkeypatch):
    from espnet_larm.recipe import store_frames

    monkeypatch.setattr(store_frames, "SECONDS_A_SHARD", 0.6)
    encode, done = store_frames._encode, []

    def dying(frontend, sources):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(sources)
        return encode(frontend, sources)

    monkeypatch.setattr(store_frames, "_encode", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data)
    assert not (data / "frames.scp").exists() and not list(data.glob("frames/*/store.json"))
    monkeypatch.setattr(store_frames, "_encode", lambda *args: done.extend(args[1]) or encode(*args))
    run(data)
    assert sorted(done) == ["u0", "u1", "u2", "u3"]


@pytest.mark.parametrize("changes", [{"layers": [0, 2]}, {"fs": "16k"}, {"revision": None, "fs": 16000}])
def test_options_of_every_type_are_understood(data, encoders, changes):
    conf = {"model": encoders("whisper"), **changes}
    (data.parent / "other.yaml").write_text(yaml.safe_dump({"frontend": "pretrained", "frontend_conf": conf}))
    assert run(data, config="other.yaml") == 0
    assert read_records(data / "frames.scp")[0]["layers"] == changes.get("layers", [3])


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"frontend_conf": {"layers": 2.5}}, "layers is 2.5, of type float; allowed: a text or list"),
        ({"frontend": "default"}, "frontend is not pretrained"),
        ({"frontend_conf": {"train": "all"}}, "train is all; frames change as it learns"),
        ({"frontend_conf": {"layer": "mix"}}, "unknown option layer; allowed: model"),
    ],
)
def test_other_front_ends_are_refused(data, conf, message):
    (data.parent / "other.yaml").write_text(yaml.safe_dump({"frontend": "pretrained", **conf}))
    with pytest.raises(ValueError, match=message):
        run(data, config="other.yaml")


def test_a_disk_without_room_is_refused_before_anything_is_computed(data, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(ValueError, match=r"the frames take 0.0 GB, and 0.0 GB are free; make room, read fewer layers"):
        run(data)


@pytest.mark.parametrize(
    ("samples", "rate_hz", "message"),
    [
        (8000, 8000, "u1 has 8000 Hz, the model reads 16000 Hz; convert the audio"),
        (0, 16000, "u1 has 0 samples, the front end needs 1; leave it out"),
    ],
)
def test_wrong_audio_is_named_before_anything_is_computed(data, monkeypatch, samples, rate_hz, message):
    from espnet_larm.recipe import store_frames

    monkeypatch.setattr(store_frames, "_encode", lambda *_: pytest.fail("it began"))
    soundfile.write(data / "u1.wav", np.zeros(samples), rate_hz)
    with pytest.raises(ValueError, match=message):
        run(data)


def test_nothing_to_store_and_a_model_of_a_pack_are_refused(data):
    (data.parent / "other.yaml").write_text("frontend: pretrained\nfrontend_conf: {model_config: {}}")
    with pytest.raises(ValueError, match=r"frontend_conf: model is missing; name the encoder \(--model\)"):
        run(data, config="other.yaml")
    (data / "wav.scp").write_text("")
    with pytest.raises(ValueError, match=r"wav.scp is empty; there is nothing to store"):
        run(data)
    assert not (data / "frames.scp").exists()
