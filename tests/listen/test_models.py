"""Names of models."""

import pytest

import espnet_larm
from espnet_larm.listen import models


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The folder of packaged models, empty."""
    monkeypatch.setattr(models, "PACKAGED", tmp_path / "models")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_the_default_is_the_only_model_or_the_one_that_is_called_so(packaged):
    with pytest.raises(
        FileNotFoundError, match="model is not given, and no model comes with this installation; allowed"
    ):
        models.default_model()
    (packaged / "small.zip").touch()
    assert models.default_model() == packaged / "small.zip"
    (packaged / "large.zip").touch()
    with pytest.raises(FileNotFoundError, match="model is not given; allowed: large, small, a pack"):
        models.default_model()
    (packaged / "default.zip").touch()
    assert models.default_model() == packaged / "default.zip"


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
