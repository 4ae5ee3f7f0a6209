"""`python -m espnet_larm list`: what it prints is what the classes take."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm import registry
from espnet_larm.cli import list_plugins
from espnet_larm.recognize.model.read_outs import has_loops
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
    assert options or plugin.name == "passthrough"
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
    assert template["encoder_conf"] == {"depth": None, "name": None, "rates": [0.1]}


def test_template_of_an_encoder_has_a_loss_without_a_decoder(documented, capsys):
    list_plugins.main(["--yaml"])
    assert yaml.safe_load(capsys.readouterr().out)["model_conf"] == {"ctc_weight": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin", [each for each in registry.PLUGINS if each.kind == "encoder"], ids=lambda each: each.name
)
def test_template_of_our_encoders_trains_as_it_stands(plugin, larm_task, tiny_experiment, tmp_path, capsys):
    list_plugins.main(["--yaml", "--name", plugin.name])
    (tmp_path / "train.yaml").write_text(capsys.readouterr().out)
    tokens = tiny_experiment.config.parent / "tokens.txt"
    args = larm_task.get_parser().parse_args(
        ["--config", str(tmp_path / "train.yaml"), "--token_list", str(tokens), "--output_dir", str(tmp_path)]
    )
    model = larm_task.build_model(args)
    # Refuses losses that would miss checkpoint loops.
    assert len(larm_task.build_optimizers(args, model)) == 1
    loss, stats, _ = model(torch.randn(1, 8000), torch.tensor([8000]), torch.tensor([[2, 3]]), torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    loops = model.encoder.allowed_loops(model.encoder.num_loops)[:-1] if has_loops(model.encoder) else []
    assert [name for name in stats if name.startswith("loss_interctc")] == [f"loss_interctc_layer{n}" for n in loops]


def test_unknown_name_is_refused_with_the_known_ones(documented, capsys):
    assert list_plugins.main(["--name", "lram"]) == 1
    assert "no plugin is called lram. Allowed: documented, decoding." in capsys.readouterr().err


def test_plugin_that_cannot_be_imported_does_not_hide_the_others(monkeypatch, capsys):
    broken = Plugin("encoder", "broken", "nowhere:Encoder", "other")
    monkeypatch.setattr(registry, "PLUGINS", (broken, *registry.PLUGINS))
    assert list_plugins.main([]) == 1
    printed = capsys.readouterr()
    assert "encoder: broken of package other cannot be imported from nowhere:Encoder" in printed.err
    assert "encoder: larm" in printed.out


@pytest.mark.parametrize("options", [[], ["--name", "larm"], ["--name", "broken"]])
def test_broken_plugin_of_another_package_is_named(larm_task, encoder_choices, monkeypatch, capsys, options):
    entry = EntryPoint("encoder.broken", "espnet2.asr.frontend.default:DefaultFrontend", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    assert list_plugins.main(options) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("encoder.broken of package espnet2.asr.frontend.default:DefaultFrontend: ")
    assert "must be a subclass of" in printed.err and "no plugin is called" not in printed.err
    assert ("encoder: larm" in printed.out) == (options != ["--name", "broken"])


def test_entry_point_of_an_unknown_kind_is_named(larm_task, encoder_choices, monkeypatch, capsys):
    entry = EntryPoint("encodr.x", "nowhere:X", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    assert list_plugins.main([]) == 1
    printed = capsys.readouterr()
    assert "encodr.x of package nowhere:X: " in printed.err and "encoder: larm" in printed.out


@pytest.mark.slow
def test_espnets_task_is_not_imported():
    program = (
        "import sys\nfrom espnet_larm.cli.list_plugins import main\nmain([])\n"
        "sys.exit('espnet2.tasks.asr' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (done.returncode, "encoder: larm" in done.stdout) == (0, True), done.stderr


def test_the_reference_page_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs/options.md"
    assert page.read_text(encoding="utf-8") == list_plugins.reference_page(), "espnet-larm list --markdown makes it"


def test_ranges_of_annotated_options_are_listed(capsys):
    assert list_plugins.main(["--name", "larm"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "num_blocks: int, default 4 blocks in the stack (1 to 1000)" in shown
    assert "dropout_rate: float, default 0.1 dropout after each part" in shown and "(0 to below 1)" in shown


def test_the_options_of_decoding_are_listed(capsys):
    assert list_plugins.main(["--name", "decoding"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "ctc_weight: float weight of CTC beside the LM; with search edit, " in shown
