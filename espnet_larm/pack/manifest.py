"""The manifest of a pack, `meta.yaml`, in ESPnet's layout (`espnet2.main_funcs.pack_funcs`) with an entry of ours.

Our entry, `espnet_larm`:
    format      1; a higher number is refused, unknown entries are ignored
    name        name of the experiment
    version     version of espnet_larm
    plugins     kind, name, package and version of every plugin in the configuration
    external    pre-trained models that the model needs and the pack lacks: kind (`llm` or `encoder`), name, revision
                and SHA-256 of the weights; other kinds are refused
    started     the LM that training began with, if the pack holds all its weights; a list of all such models if a
                speech encoder is one
    sha256      SHA-256 of every member by name
A pack of ESPnet's own `pack` has no such entry and is read too.
"""

import importlib.metadata
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from espnet_larm import registry
from espnet_larm.llm.words import LM
from espnet_larm.pack.models import KINDS
from espnet_larm.pack.named import NamedModel
from espnet_larm.pack.options import Config
from espnet_larm.version import __version__

logger = logging.getLogger(__name__)

META = "meta.yaml"
FORMAT = 1
# Fields of NamedModel in its order.
MODEL_KEYS = ("kind", "name", "revision", "sha256")
# Names of the arguments of ESPnet's Speech2Text.
CONFIG, WEIGHTS = "asr_train_config", "asr_model_file"


class PluginUse(NamedTuple):
    """A plugin that a model is made of."""

    kind: str
    name: str
    package: str
    version: str


class Manifest(NamedTuple):
    """The content of `meta.yaml`.

    Attributes:
        config: Member that holds the configuration.
        weights: Member that holds the weights.
        name: Name of the experiment.
        plugins: Plugins in use.
        digests: SHA-256 by member; empty in packs of ESPnet's own.
        versions: Versions of packages when the pack was made.
        models: The pre-trained models that the model was trained with and that have names, one of a kind at most.
    """

    config: str
    weights: str
    name: str
    plugins: tuple[PluginUse, ...]
    digests: dict[str, str]
    versions: dict[str, str]
    models: tuple[NamedModel, ...] = ()

    def as_mapping(self) -> dict[str, Any]:
        """The mapping in `meta.yaml`, without a date: the same input gives the same pack."""
        external, started = (
            [dict(zip(MODEL_KEYS, model, strict=False)) for model in self.models if model.is_needed == is_needed]
            for is_needed in (True, False)
        )
        return {
            "yaml_files": {CONFIG: self.config},
            "files": {WEIGHTS: self.weights},
            **self.versions,
            "espnet_larm": {
                "format": FORMAT,
                "name": self.name,
                "version": __version__,
                "plugins": [plugin._asdict() for plugin in self.plugins],
                "external": external,
                **({"started": started[0] if _is_llm_alone(started) else started} if started else {}),
                "sha256": self.digests,
            },
        }


def plugins_of(config: Config) -> tuple[PluginUse, ...]:
    """The plugins that a configuration names, with the versions installed."""
    return tuple(
        PluginUse(plugin.kind, plugin.name, plugin.package, installed_version(plugin.package))
        for plugin in registry.plugins()
        if config.get(plugin.kind) == plugin.name
    )


def installed_version(package: str) -> str:
    """Version of an installed package; ours may run from its source."""
    return __version__ if package == "espnet_larm" else importlib.metadata.version(package)


def parse_manifest(meta: Mapping[str, Any]) -> Manifest:
    """Check the content of `meta.yaml`.

    Raises:
        ValueError: The pack holds no speech recogniser, has a later format, or needs a kind of file that it lacks.
    """
    try:
        config, weights = meta["yaml_files"][CONFIG], meta["files"][WEIGHTS]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{META} names no {CONFIG} and {WEIGHTS}; a pack of a recogniser does (python -m espnet_larm pack)."
        ) from error
    ours = meta.get("espnet_larm", {})
    if not isinstance(ours, dict) or not isinstance(config, str) or not isinstance(weights, str):
        raise ValueError(f"{META} is not that of a pack.")
    _check_format(ours)
    try:
        plugins = tuple(PluginUse(*(str(use[name]) for name in PluginUse._fields)) for use in ours.get("plugins") or [])
        digests = {str(name): str(value) for name, value in (ours.get("sha256") or {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{META}: plugins or sha256 is not what format {FORMAT} has.") from error
    versions = {name: str(meta[name]) for name in ("espnet", "torch", "python") if name in meta}
    return Manifest(config, weights, str(ours.get("name", "")), plugins, digests, versions, _models_of(ours))


def _check_format(ours: Mapping[str, Any]) -> None:
    version = ours.get("version", "a later version")
    if not isinstance(ours.get("format", FORMAT), int) or ours.get("format", FORMAT) > FORMAT:
        raise ValueError(
            f"the pack is of format {ours['format']}, espnet_larm {__version__} reads up to {FORMAT}; "
            f'pip install -U "espnet-larm>={version}".'
        )


def _is_llm_alone(started: list[dict[str, Any]]) -> bool:
    """Whether there is no speech encoder, of which earlier versions know nothing."""
    return [model["kind"] for model in started] == [LM.argument]


def _models_of(ours: Mapping[str, Any]) -> tuple[NamedModel, ...]:
    started = ours.get("started") or []
    external, started = ours.get("external") or [], [started] if isinstance(started, dict) else started
    for entries in (external, started):
        if not isinstance(entries, list) or not all(_is_model(entry) for entry in entries):
            raise ValueError(
                f"the pack needs what it does not hold: {entries}; espnet_larm {__version__} cannot fetch it, install "
                "a later one."
            )
    kinds = [entry["kind"] for entry in (*external, *started)]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"{META} names two models of kind {kinds[0]}; a model has one.")
    found = [_parse_model(entry, True) for entry in external] + [_parse_model(entry, False) for entry in started]
    return tuple(sorted(found, key=lambda model: list(KINDS).index(model.kind)))


def _parse_model(entry: Mapping[str, Any], is_needed: bool) -> NamedModel:
    return NamedModel(**{key: str(entry[key]) for key in MODEL_KEYS}, is_needed=is_needed)


def _is_model(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) == set(MODEL_KEYS) and entry["kind"] in tuple(KINDS)


def check_plugins(plugins: tuple[PluginUse, ...]) -> None:
    """Refuse plugins that are missing or older than the pack's; warn if they are of a later series.

    Raises:
        ValueError: A plugin is missing or too old; the message has the line that installs it.
    """
    present = {(plugin.kind, plugin.name): plugin for plugin in registry.plugins()}
    for use in plugins:
        found = present.get((use.kind, use.name))
        if found is None or _normal(found.package) != _normal(use.package):
            raise ValueError(
                f"the pack needs {use.kind}: {use.name} of package {use.package} {use.version}, which is not "
                f'installed; if you trust that package: pip install "{use.package}=={use.version}".'
            )
        _check_version(use, installed_version(found.package))


def _check_version(use: PluginUse, installed: str) -> None:
    try:
        made, here = Version(use.version), Version(installed)
    except InvalidVersion as error:
        raise ValueError(f"{META}: {use.package} {use.version}: {error}.") from error
    if made > here:
        raise ValueError(
            f"the pack was made with {use.package} {use.version}, {installed} is installed and may build another "
            f'model; pip install "{use.package}>={use.version}".'
        )
    if made.release[:2] != here.release[:2]:
        logger.warning(
            "the pack was made with %s %s, %s is installed: results may differ; pip install %s==%s gives the same.",
            use.package, use.version, installed, use.package, use.version,
        )  # fmt: skip


def _normal(package: str) -> str:
    return package.replace("_", "-").lower()
