"""meta.yaml: formats, versions of plugins, and ESPnet's own."""

import logging

import pytest

from espnet_larm import __version__
from espnet_larm.pack import manifest as manifests
from espnet_larm.pack.manifest import Manifest, PluginUse, check_plugins, parse_manifest, plugins_of
from espnet_larm.pack.named import NamedModel

LARM = PluginUse("encoder", "larm", "espnet_larm", __version__)
PLAIN = Manifest("config.yaml", "model.pth", "asr_x", (LARM,), {"config.yaml": "00"}, {"espnet": "202511"})


def test_manifest_comes_back_as_it_was():
    assert parse_manifest(PLAIN.as_mapping()) == PLAIN
    for is_needed in (True, False):
        manifest = PLAIN._replace(models=(NamedModel("llm", "org/lm", "r1", "00ff", is_needed),))
        assert parse_manifest(manifest.as_mapping()) == manifest
        assert bool(manifest.as_mapping()["espnet_larm"]["external"]) == is_needed


def test_plugins_are_those_that_the_configuration_names():
    assert plugins_of({"encoder": "larm", "decoder": "transformer"}) == (LARM,)
    assert plugins_of({"encoder": "conformer"}) == ()


def test_packs_of_espnet_are_understood():
    meta = {
        "yaml_files": {"asr_train_config": "exp/config.yaml"},
        "files": {"asr_model_file": "exp/a.pth"},
        "torch": "2",
    }
    assert parse_manifest(meta) == Manifest("exp/config.yaml", "exp/a.pth", "", (), {}, {"torch": "2"})


def test_later_entries_of_the_same_format_are_left_alone():
    meta = PLAIN.as_mapping()
    meta["espnet_larm"]["quantised"] = True
    assert parse_manifest(meta) == PLAIN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r'of format 2, espnet_larm .* reads up to 1; pip install -U "espnet-larm>='),
        ({"external": [{"kind": "llm", "name": "x"}]}, "needs what it does not hold: .*'llm'"),
        ({"external": [{"kind": "data", "name": "x", "revision": "", "sha256": ""}]}, "needs what it does not hold"),
        ({"plugins": [{"kind": "encoder"}]}, "plugins or sha256 is not what format 1 has"),
        ({"sha256": ["a"]}, "plugins or sha256 is not what format 1 has"),
    ],
)
def test_what_this_version_does_not_know_is_refused(change, message):
    meta = PLAIN.as_mapping()
    meta["espnet_larm"].update(change)
    with pytest.raises(ValueError, match=message):
        parse_manifest(meta)


@pytest.mark.parametrize(
    "meta", [{}, {"yaml_files": [], "files": 1}, {"yaml_files": {"train_config": "a"}, "files": {}}]
)
def test_packs_of_other_tasks_are_refused(meta):
    with pytest.raises(ValueError, match="names no asr_train_config and asr_model_file"):
        parse_manifest(meta)


def test_missing_plugin_is_named_with_the_line_that_installs_it():
    use = PluginUse("encoder", "average", "average-encoder", "1.2")
    with pytest.raises(
        ValueError, match=r'needs encoder: average of package average-encoder 1.2.*pip install "average-'
    ):
        check_plugins((use,))


def test_plugin_of_another_package_is_not_the_same():
    with pytest.raises(ValueError, match=r"encoder: larm of package other .*not installed"):
        check_plugins((LARM._replace(package="other"),))


def test_names_of_packages_are_compared_as_pip_does():
    check_plugins((LARM._replace(package="Espnet-LARM"),))


def test_older_plugin_than_the_packs_is_refused():
    with pytest.raises(ValueError, match=f'made with espnet_larm 99.0, {__version__} is installed.*espnet_larm>=99.0"'):
        check_plugins((LARM._replace(version="99.0"),))


def test_plugin_of_a_later_series_is_said(monkeypatch, caplog):
    monkeypatch.setattr(manifests, "installed_version", lambda package: "3.4.5")
    with caplog.at_level(logging.WARNING):
        check_plugins((LARM._replace(version="3.4.1"),))
        assert not caplog.records
        check_plugins((LARM._replace(version="3.3.9"),))
    assert "made with espnet_larm 3.3.9, 3.4.5 is installed: results may differ" in caplog.text


def test_version_that_is_none_is_refused():
    with pytest.raises(ValueError, match="espnet_larm new: Invalid version"):
        check_plugins((LARM._replace(version="new"),))
