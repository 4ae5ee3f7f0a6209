"""Names of models, and the models that come with the package."""

import re
import zipfile
from pathlib import Path

import pytest

import espnet_larm
from espnet_larm.listen import models
from espnet_larm.pack.card import header_of

WHISPER = Path.home() / ".cache/speech-models/whisper-tiny.en"
PLACES = [folder / "shared/data/mini_librispeech/LibriSpeech" for folder in Path(__file__).resolve().parents]
LIBRISPEECH = next((place for place in PLACES if place.is_dir()), None)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The folder of packaged models, empty."""
    monkeypatch.setattr(models, "PACKAGED", tmp_path / "models")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_the_default_is_the_model_that_is_called_so(packaged):
    (packaged / "small.zip").touch()
    with pytest.raises(FileNotFoundError, match="model is not given; allowed: small, a pack"):
        models.default_model()
    (packaged / "default.zip").touch()
    assert models.default_model() == packaged / "default.zip"


def test_the_name_of_a_packaged_model_stands_for_its_file_unless_something_is_called_so(
    packaged, tmp_path, monkeypatch
):
    (packaged / "small.zip").touch()
    monkeypatch.chdir(tmp_path)
    assert models.pack_of("small") == packaged / "small.zip" and models.pack_of("other.zip") == "other.zip"
    (tmp_path / "small").touch()
    assert models.pack_of("small") == "small"


def test_a_name_without_a_slash_is_a_packaged_model(packaged):
    (packaged / "small.zip").write_text("no zip")
    with pytest.raises(ValueError, match="small.zip is damaged or no zip file"):
        espnet_larm.load("small")
    with pytest.raises(FileNotFoundError, match="model is smal: .* no packaged model of that name; packaged: small"):
        espnet_larm.load("smal")


def test_a_hub_id_that_cannot_be_had_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="model is nobody/nothing, which transformers cannot load"):
        espnet_larm.load("nobody/nothing")


@pytest.mark.parametrize("name", models.packaged_names())
def test_a_packaged_model_is_small_and_says_what_it_is(name):
    path = models.PACKAGED / f"{name}.zip"
    assert path.stat().st_size <= 6 * 10**6
    with zipfile.ZipFile(path) as archive:
        card, files = archive.read("README.md").decode(), archive.namelist()
        told = "".join(archive.read(each).decode() for each in files if each.endswith((".md", ".yaml")))
    header = header_of(card)
    assert header["license"] == "cc-by-4.0" and header["language"] == ["en"] and len(header["datasets"]) == 3
    assert {result["dataset"]["name"] for result in header["model-index"][0]["results"]} == {
        "test_clean", "test_other", "test_cv",
    }  # fmt: skip
    # No path of the machine that made it.
    assert not re.search(r"/(root|home|tmp|work)/", told)


def test_the_default_model_hears_without_network_or_further_files():
    if LIBRISPEECH is None:
        pytest.skip("shared/data/mini_librispeech is not here")
    model = espnet_larm.load(models.default_model())
    found = model.transcribe(LIBRISPEECH / "test-clean/1089/134686/1089-134686-0000.flac", loops=[2, 4])
    assert list(found.loops) == [2, 4] and found.text.startswith("he hope they would be")


@pytest.mark.slow
def test_the_packaged_model_on_whispers_frames_hears():
    if not WHISPER.is_dir() or LIBRISPEECH is None:
        pytest.skip("whisper-tiny.en or shared/data/mini_librispeech is not here")
    model = espnet_larm.load("whisper-frames", encoder=WHISPER)
    found = model.transcribe(LIBRISPEECH / "test-clean/1089/134686/1089-134686-0000.flac", loops=[2, 4])
    assert list(found.loops) == [2, 4] and found.text.startswith("he hoped there would be ")
