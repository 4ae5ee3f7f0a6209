"""`espnet-larm list`: every plugin with its options, their ranges and defaults, and the options of decoding.

Examples:
    espnet-larm list --name larm
    espnet-larm list --name larm --yaml  # a template that trains as it stands
    espnet-larm list --markdown          # docs/options.md

A plugin's options are the parameters of its constructor, described by their annotation (`options.Option`) or by the
`Args:` section of the docstring. ESPnet's tasks, which take 10 s to import, are imported only if other packages bring
plugins: those are checked as programs will check them.
"""

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from espnet_larm import registry
from espnet_larm.options import Option, describe, options_of, parameters_of
from espnet_larm.recognize.config import DecodeConfig

# Parameters that ESPnet passes itself, and no YAML sets.
GIVEN_BY_ESPNET = {
    "frontend": (),
    "encoder": ("input_size",),
    "decoder": ("vocab_size", "encoder_output_size"),
    "model": (
        *("vocab_size", "token_list", "frontend", "specaug", "normalize", "preencoder", "encoder", "postencoder"),
        *("decoder", "ctc", "joint_network"),
    ),
    "preprocessor": ("train", "token_type", "token_list", "bpemodel", "text_cleaner", "g2p_type"),
}
# Lines that a YAML needs beside the plugin's own options, unless its class has a `yaml_beside`.
BESIDE = {"encoder": "model_conf:\n    ctc_weight: 1.0  # CTC alone: no decoder is named\n"}
WIDTH = 110
# A value of --name beside the names of plugins.
DECODING = "decoding"
POOLING_TITLE = "Options of a site of `decoder_conf: pooling` and of `--pooling`; `deep` also has `layer`"
UPSCALING_TITLE = "Options of `decoder_conf: depth_upscaling_conf`, and of `match` in `lora_conf`"
STREAMING_TITLE = "Options of `encoder_conf: streaming`, of `larm` and `fast_conformer`"
EDITING_TITLE = "Options of `decoder_conf: editing`"
DECODING_TITLE = "Options of decoding: `espnet-larm decode` has them, and `DecodeConfig` in Python"


class PluginOption(NamedTuple):
    """One option of a plugin.

    Attributes:
        name: Key in `<kind>_conf`.
        type_name: The annotated type; empty if there is none.
        default: The default; `inspect.Parameter.empty` if the option is required.
        meaning: Description on one line; empty if there is none.
    """

    name: str
    type_name: str
    default: Any
    meaning: str

    @property
    def is_required(self) -> bool:
        """Whether a YAML must set the option."""
        return self.default is inspect.Parameter.empty


def main(argv: list[str] | None = None) -> int:
    """Print the plugins, and the package and fault of each broken one.

    Args:
        argv: Arguments; by default those of this process.

    Returns:
        The exit status: 1 if a plugin is broken or none has the given name, else 0.
    """
    arguments = get_parser().parse_args(argv)
    if arguments.markdown:
        print(reference_page(), end="")
        return 0
    if arguments.name == DECODING:
        print(_decoding())
        return 0
    sound, broken = registry.survey()
    for entry_point, package, reason in broken:
        print(f"{entry_point} of package {package}: {reason}", file=sys.stderr)
    chosen = [plugin for plugin in sound if arguments.name in (None, plugin.name)]
    is_broken = any(entry_point.partition(".")[2] == arguments.name for entry_point, _, _ in broken)
    if not chosen and arguments.name is not None and not is_broken:
        names = ", ".join([*sorted({plugin.name for plugin in sound}), DECODING])
        print(f"--name: no plugin is called {arguments.name}. Allowed: {names}.", file=sys.stderr)
    for plugin in chosen:
        plugin_class = registry.load(plugin)
        print(_snippet(plugin, plugin_class) if arguments.yaml else _table(plugin, plugin_class))
    if arguments.name is None and not arguments.yaml:
        print(_decoding())
    return 1 if broken or not chosen else 0


def options(plugin_class: type, kind: str) -> list[PluginOption]:
    """The options of a class that YAML can set, in the order of its constructor."""
    constructor = plugin_class.__init__  # type: ignore[misc]
    meanings = described_arguments(inspect.getdoc(plugin_class)) | described_arguments(inspect.getdoc(constructor))
    meanings |= {name: describe(said, None) for name, said, _ in parameters_of(constructor)}
    found = []
    for parameter in inspect.signature(plugin_class).parameters.values():
        is_open = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_open or parameter.name in GIVEN_BY_ESPNET[kind]:
            continue
        annotated = parameter.annotation is not inspect.Parameter.empty
        plain = getattr(parameter.annotation, "__origin__", parameter.annotation)
        is_said = hasattr(parameter.annotation, "__metadata__")
        shown = plain if is_said else parameter.annotation
        type_name = inspect.formatannotation(shown).strip("'") if annotated else ""
        found.append(PluginOption(parameter.name, type_name, parameter.default, meanings.get(parameter.name, "")))
    return found


def reference_page() -> str:
    """The page docs/options.md: options of our plugins and of decoding, in Markdown."""
    lines = ["# Options", "", "`espnet-larm list --markdown` makes this page from the code."]
    for plugin in registry.PLUGINS:
        plugin_class = registry.load(plugin)
        lines += ["", f"## `{plugin.kind}: {plugin.name}`", "", (inspect.getdoc(plugin_class) or "").partition("\n")[0]]
        lines += ["", f"| `{plugin.kind}_conf` | type | default | meaning |", "| --- | --- | --- | --- |"]
        for each in options(plugin_class, plugin.kind):
            default = "required" if each.is_required else f"`{_yaml_value(each.default)}`"
            lines.append(f"| `{each.name}` | {_cell(each.type_name)} | {default} | {_cell(each.meaning)} |")
    # They import torch.
    from espnet_larm.adaptation.depth_upscaling import UpscalingOptions
    from espnet_larm.pooling.options import Pooling
    from espnet_larm.speech_llm.editing.options import EditingOptions
    from espnet_larm.streaming.context import Contexts

    lines += _section("Streaming", STREAMING_TITLE, _parameters(Contexts))
    lines += _section("Pooling", POOLING_TITLE, _parameters(Pooling))
    lines += _section("Inserted layers", UPSCALING_TITLE, _parameters(UpscalingOptions))
    lines += _section("Editing", EDITING_TITLE, _parameters(EditingOptions))
    lines += _section(
        "Decoding", DECODING_TITLE, ((name, said, value) for name, said, _, value in options_of(DecodeConfig))
    )
    return "\n".join(lines) + "\n"


def _section(name: str, title: str, found: Iterable[tuple[str, Option, Any]]) -> list[str]:
    """A table of options by name, with what is said of them and their defaults."""
    rows = [f"| `{option}` | {_cell(describe(said, default))} |" for option, said, default in found]
    return ["", f"## {name}", "", f"{title}.", "", "| option | meaning |", "| --- | --- |", *rows]


def _parameters(options_class: type) -> Iterator[tuple[str, Option, Any]]:
    defaults = inspect.signature(options_class).parameters
    constructor = options_class.__init__  # type: ignore[misc]
    return ((name, said, defaults[name].default) for name, said, _ in parameters_of(constructor))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _decoding() -> str:
    lines = [DECODING_TITLE]
    for name, said, kind, default in options_of(DecodeConfig):
        lines.append(f"    {name}: {kind.__name__}")
        lines += textwrap.wrap(describe(said, default), WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines) + "\n"


def described_arguments(docstring: str | None) -> dict[str, str]:
    """Descriptions of arguments in the `Args:` section of a Google-style docstring, one line each."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\s*\n)*)", (docstring or "") + "\n", flags=re.MULTILINE)
    if section is None:
        return {}
    # An entry starts at the section's own indentation, its further lines are indented deeper.
    entries = re.split(r"^(?=\*{0,2}\w)", textwrap.dedent(section[1]), flags=re.MULTILINE)
    found = {}
    for entry in entries:
        name, colon, meaning = entry.partition(":")
        if colon:
            found[name.split("(")[0].strip(" *")] = " ".join(meaning.split())
    return found


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help=f"only the plugin of this YAML name, or {DECODING}")
    parser.add_argument("--markdown", action="store_true", help="print docs/options.md, the reference page")
    parser.add_argument("--yaml", action="store_true", help="print a template to paste into a training YAML")
    return parser


def _heading(plugin: registry.Plugin, plugin_class: type) -> str:
    what = (inspect.getdoc(plugin_class) or "").partition("\n")[0]
    return f"{plugin.path.replace(':', '.')}, package {plugin.package}\n{what}".rstrip()


def _table(plugin: registry.Plugin, plugin_class: type) -> str:
    lines = [f"{plugin.kind}: {plugin.name}", textwrap.indent(_heading(plugin, plugin_class), "  ")]
    for option in options(plugin_class, plugin.kind):
        value = "required" if option.is_required else f"default {_yaml_value(option.default)}"
        kind = f"{option.type_name}, " if option.type_name else ""
        lines.append(f"    {option.name}: {kind}{value}")
        lines += textwrap.wrap(option.meaning, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines) + "\n"


def _snippet(plugin: registry.Plugin, plugin_class: type) -> str:
    found = options(plugin_class, plugin.kind)
    lines = [f"# {line}" for line in _heading(plugin, plugin_class).splitlines()]
    lines.append(f"{plugin.kind}: {plugin.name}")
    lines.append(f"{plugin.kind}_conf:" if found else f"{plugin.kind}_conf: {{}}")
    for option in found:
        comment = f"{option.type_name}. {option.meaning}" if option.type_name else option.meaning
        lines += textwrap.wrap(comment, WIDTH, initial_indent="    # ", subsequent_indent="    # ")
        value = "  # required" if option.is_required else f" {_yaml_value(option.default)}"
        lines.append(f"    {option.name}:{value}")
    return "\n".join(lines) + "\n" + getattr(plugin_class, "yaml_beside", BESIDE.get(plugin.kind, ""))


def _yaml_value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    try:
        text: str = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    except yaml.YAMLError:
        # A class of another package may have a default that YAML cannot write.
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")
