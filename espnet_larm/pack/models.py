"""All pre-trained models of a configuration, its LM and its speech encoder: where they are, and what packs say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.llm.words import LM, SPEECH_ENCODER, Words
from espnet_larm.options import add_option, help_of, option
from espnet_larm.pack.encoder import (
    check_encoder,
    check_encoder_inside,
    encoder_conf,
    make_encoder_portable,
    name_encoder,
)
from espnet_larm.pack.llm import check_inside, check_llm, has_llm, llm_conf, make_llm_portable, name_llm
from espnet_larm.pack.named import NamedModel
from espnet_larm.pack.options import Config

KINDS: dict[str, Words] = {words.argument: words for words in (LM, SPEECH_ENCODER)}


@dataclass(frozen=True)
class ModelPlaces:
    """Where the pre-trained models of a model are, if not where they were in training."""

    llm: str | None = option(None, "folder or hub id of the model's LM, where it is another place than in training")
    encoder: str | None = option(
        None, "folder or hub id of the model's pre-trained speech encoder, where it is another place than in training"
    )


def add_places(parser: Any) -> None:
    """Add the options of `ModelPlaces` to a parser or group, each None unless it is given."""
    add_option(parser, ModelPlaces, "llm")
    # Two spellings: recipes call the encoder's place by the shorter one, as Python does.
    parser.add_argument("--encoder_folder", "--encoder", dest="encoder", help=help_of(ModelPlaces, "encoder"))


def conf_of(config: Config, kind: str) -> dict[str, Any]:
    """Options of a configuration's model of one of KINDS; none if it has none."""
    return llm_conf(config) if kind == LM.argument else encoder_conf(config)


def _of_kind(models: Iterable[NamedModel], kind: str) -> NamedModel | None:
    """The model of a kind, if there is one."""
    return next((model for model in models if model.kind == kind), None)


def name_models(
    config: Config, given: ModelPlaces, places: tuple[Path, ...], needed: tuple[NamedModel, ...] = ()
) -> None:
    """Put folders or hub ids of the models into a configuration: the given ones, or those of the training.

    Args:
        config: The configuration; it is changed.
        given: Where they are.
        places: Folders from which those of the configuration are sought.
        needed: The models that a pack names, if the configuration is from a pack.

    Raises:
        FileNotFoundError: A model is not there.
        ValueError: A model is given that the configuration does not need.
    """
    name_llm(config, given.llm, places, _of_kind(needed, LM.argument))
    name_encoder(config, given.encoder, places, _of_kind(needed, SPEECH_ENCODER.argument))


def check_models(config: Config) -> None:
    """Refuse options of the models that would load code.

    Raises:
        ValueError: There is such an option.
    """
    check_llm(config)
    check_encoder(config)


def check_models_inside(config: Config, names: set[str]) -> None:
    """Refuse names of the models that lead out of a pack.

    Args:
        config: Configuration in the pack.
        names: Names of the pack's members.

    Raises:
        ValueError: An option or member is not allowed.
    """
    if has_llm(config):
        check_inside(config, names)
    check_encoder_inside(config)


class Portable(NamedTuple):
    """A configuration as packs have it.

    Attributes:
        config: The configuration.
        members: Members of the pack that belong to the models.
        models: The models of the training that have names.
    """

    config: Config
    members: dict[str, bytes]
    models: tuple[NamedModel, ...]


def make_models_portable(config: Config, fingerprints: Mapping[str, str]) -> Portable:
    """Name the models in a configuration as packs do, and collect their files.

    Args:
        config: The configuration after `name_models`.
        fingerprints: SHA-256 by kind, as the weights have it.

    Raises:
        ValueError: A file or an option cannot be in a pack.
    """
    llm, members = None, dict[str, bytes]()
    if has_llm(config):
        config, members, llm = make_llm_portable(config, fingerprints.get(LM.argument))
    config, encoder = make_encoder_portable(config, fingerprints.get(SPEECH_ENCODER.argument))
    return Portable(config, members, tuple(model for model in (llm, encoder) if model is not None))


def needed_places(config: Config, models: Iterable[NamedModel]) -> ModelPlaces:
    """Where the folders are that a pack needs, from the configuration after `name_models`."""
    kinds = [model.kind for model in models if model.is_needed_folder]
    return ModelPlaces(**{kind: conf_of(config, kind)[KINDS[kind].name] for kind in kinds})
