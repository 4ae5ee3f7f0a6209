"""`python -m espnet_larm list`: what it prints is what the classes take."""

import subprocess
import sys

import pytest
import yaml

from espnet_larm import registry
from espnet_larm.bin import list_plugins
from espnet_larm.registry import Plugin


class Documented:
    """A plugin of another package.

    More about it.

    Args:
        input_size: ESPnet sets it.
        depth (int): Layers, 1 or more;
            4 is usual: more is slow.
        name: Its name.
        rates: Dropout by layer.

    Raises:
        ValueError: depth: below 1.
    """

    def __init__(self, input_size, depth: int, name: "str | None" = None, rates: tuple[float, ...] = (0.1,), **kwargs):
        pass


class DescribedInItsConstructor:
    def __init__(self, depth: int = 4):
        """Make it.

        Args:
            depth: Layers.
        """


@pytest.fixture
def documented(monkeypatch):
    plugin = Plugin("encoder", "documented", f"{__name__}:Documented", "other")
    monkeypatch.setattr(registry, "PLUGINS", (plugin,))
    monkeypatch.setattr(registry, "load", lambda plugin: Documented)
    return plugin


@pytest.mark.parametrize("plugin", registry.PLUGINS, ids=lambda plugin: f"{plugin.kind}.{plugin.name}")
def test_every_option_of_our_plugins_has_a_type_a_default_and_a_meaning(plugin):
    options = list_plugins.options(registry.load(plugin), plugin.kind)
    assert options
    assert [option.name for option in options if not (option.type_name and option.meaning)] == []
    assert [option.name for option in options if option.is_required] == []


def test_options_are_read_from_signature_and_docstring():
    depth, name, rates = list_plugins.options(Documented, "encoder")
    assert depth[:2] == ("depth", "int")
    assert depth.is_required
    assert depth.meaning == "Layers, 1 or more; 4 is usual: more is slow."
    assert name == ("name", "str | None", None, "Its name.")
    assert rates.default == (0.1,)


def test_options_described_in_the_constructor_are_found():
    assert list_plugins.options(DescribedInItsConstructor, "encoder") == [("depth", "int", 4, "Layers.")]


def test_docstring_without_arguments_describes_none():
    assert list_plugins.described_arguments("What it is.\n\nReturns:\n    Something: else.") == {}
    assert list_plugins.described_arguments(None) == {}


def test_table_names_class_package_and_defaults(documented, capsys):
    assert list_plugins.main([]) == 0
    assert capsys.readouterr().out.splitlines()[:6] == [
        "encoder: documented",
        f"  {__name__}.Documented, package other",
        "  A plugin of another package.",
        "    depth: int, required",
        "        Layers, 1 or more; 4 is usual: more is slow.",
        "    name: str | None, default null",
    ]


def test_yaml_template_holds_the_defaults(documented, capsys):
    assert list_plugins.main(["--yaml"]) == 0
    template = yaml.safe_load(capsys.readouterr().out)
    assert template == {"encoder": "documented", "encoder_conf": {"depth": None, "name": None, "rates": [0.1]}}


def test_unknown_name_is_refused_with_the_known_ones(documented, capsys):
    assert list_plugins.main(["--name", "lram"]) == 1
    assert "no plugin is called lram. Allowed: documented." in capsys.readouterr().err


def test_plugin_that_cannot_be_imported_does_not_hide_the_others(monkeypatch, capsys):
    broken = Plugin("encoder", "broken", "nowhere:Encoder", "other")
    monkeypatch.setattr(registry, "PLUGINS", (broken, *registry.PLUGINS))
    assert list_plugins.main([]) == 1
    printed = capsys.readouterr()
    assert "encoder: broken of package other cannot be imported from nowhere:Encoder" in printed.err
    assert "encoder: larm" in printed.out


@pytest.mark.slow
def test_espnets_task_is_not_imported():
    program = (
        "import sys\nfrom espnet_larm.bin.list_plugins import main\nmain([])\n"
        "sys.exit('espnet2.tasks.asr' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
