"""The speech encoder of a model with `frontend: pretrained` in packs: its name (pack/named.py), or its config.json.

An encoder that learns as a whole, or has no name, is built from `model_config` and `preprocessor_config`: nothing is
fetched for such a pack.
"""

from pathlib import Path
from typing import Any

from espnet_larm.llm.words import SPEECH_ENCODER
from espnet_larm.pack.named import NamedModel, check_conf, check_name, name_in_pack, named_anew
from espnet_larm.pack.options import Config

FRONTEND, AROUND = "pretrained", "affinity_pooling"


def _has_encoder(config: Config) -> bool:
    """Whether the front end is a pre-trained speech encoder, or wraps one."""
    return config.get("frontend") == FRONTEND or _is_wrapped(config)


def encoder_conf(config: Config) -> dict[str, Any]:
    """Options of the speech encoder; none for a model without one."""
    if not _has_encoder(config):
        return {}
    conf = config.get("frontend_conf") or {}
    inner = conf.get("frontend_conf") if _is_wrapped(config) else conf
    return inner if isinstance(inner, dict) else {}


def name_encoder(
    config: Config, encoder: str | None, places: tuple[Path, ...], needed: NamedModel | None = None
) -> None:
    """Put the speech encoder's folder or hub id into a configuration: the given one, or that of the training.

    Args:
        config: The configuration; it is changed.
        encoder: Folder or hub id; None for the encoder that the configuration names.
        places: Folders from which the encoder of the configuration is sought.
        needed: The encoder that a pack names, if the configuration is from a pack.

    Raises:
        FileNotFoundError: The encoder is not there.
        ValueError: An encoder is given, but the model needs none.
    """
    conf = named_anew(SPEECH_ENCODER, encoder_conf(config) if _has_encoder(config) else None, encoder, places, needed)
    if conf != encoder_conf(config):
        config.update(_with_conf(config, conf))


def check_encoder(config: Config) -> None:
    """Refuse options of a speech encoder that would load code.

    Raises:
        ValueError: There is such an option.
    """
    plain = ("model_config", "preprocessor_config")
    check_conf(SPEECH_ENCODER, encoder_conf(config), ("model", "revision"), plain)


def check_encoder_inside(config: Config) -> None:
    """Refuse a name of the encoder that leads out of a pack.

    Raises:
        ValueError: It does.
    """
    check_name(SPEECH_ENCODER, encoder_conf(config))


def make_encoder_portable(config: Config, fingerprint: str | None) -> tuple[Config, NamedModel | None]:
    """Name the speech encoder in a configuration as packs do.

    Args:
        config: The configuration after `name_encoder`.
        fingerprint: SHA-256 in the weights; None if these are complete.

    Returns:
        The changed copy, and the encoder of the training, if it has a name.

    Raises:
        ValueError: Its config.json cannot be in a pack.
    """
    conf = encoder_conf(config)
    used = name_in_pack(SPEECH_ENCODER, conf, fingerprint)
    if used is None:
        return config, None
    portable = _with_conf(config, {**conf, **({"model": used.name} if used.is_needed else _held(conf))})
    check_encoder(portable)
    return portable, used


def _held(conf: dict[str, Any]) -> dict[str, Any]:
    """Options from which an encoder is built whose weights are all in the pack."""
    from espnet_larm.pretrained.loading import config_of, settings_of

    named = conf["model"], conf.get("revision")
    held = {"model_config": config_of(*named), "preprocessor_config": settings_of(*named)}
    return {"model": None, "revision": None, **held}


def _is_wrapped(config: Config) -> bool:
    return config.get("frontend") == AROUND and (config.get("frontend_conf") or {}).get("frontend") == FRONTEND


def _with_conf(config: Config, conf: dict[str, Any]) -> Config:
    """A copy with other options of the encoder."""
    return {
        **config,
        "frontend_conf": {**config["frontend_conf"], "frontend_conf": conf} if _is_wrapped(config) else conf,
    }
