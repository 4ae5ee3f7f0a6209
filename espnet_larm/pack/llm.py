"""The LM of a `speech_llm` model in packs: its name (pack/named.py), and its tokenizer.

A pack holds the tokenizer and config.json of its LM in the folder `tokenizer`. An LM whose weights are all in the pack
is built from `llm_config`.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from espnet_larm.llm.words import LM
from espnet_larm.pack.named import (
    NamedModel,
    check_conf,
    check_name,
    check_plain,
    find_folder,
    name_in_pack,
    named_anew,
)
from espnet_larm.pack.options import Config

# Names in the pack.
TOKENIZER, VOCABULARY = "tokenizer", "tokenizer.json"
# The fast tokenizers of transformers: no Python, no pickles, no model of another library.
TOKENIZER_FILES = (
    VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "config.json",
)  # fmt: skip
LEFT_OUT = ("is_local", "local_files_only", "name_or_path", "tokenizer_file", "special_tokens_map_file")


def has_llm(config: Config) -> bool:
    """Whether the model decodes with an LM."""
    return config.get("decoder") == "speech_llm"


def llm_conf(config: Config) -> dict[str, Any]:
    """Options of the decoder; none for a model without an LM."""
    conf = config.get("decoder_conf") if has_llm(config) else None
    return conf if isinstance(conf, dict) else {}


def name_llm(config: Config, llm: str | None, places: tuple[Path, ...], needed: NamedModel | None = None) -> None:
    """Put the LM's folder or hub id into a configuration: the given one, or that of the training.

    Args:
        config: The configuration; it is changed.
        llm: Folder or hub id; None for the LM that the configuration names.
        places: Folders from which the LM of the configuration is sought.
        needed: The LM that a pack names, if the configuration is from a pack.

    Raises:
        FileNotFoundError: The LM is not there.
        ValueError: An LM is given, but the model needs none.
    """
    trained = llm_conf(config).get("llm")
    conf = named_anew(LM, llm_conf(config) if has_llm(config) else None, llm, places, needed)
    if trained is None:
        return
    config["decoder_conf"] = conf
    if config.get("token_type") == "hugging_face" and config.get("bpemodel") == trained:
        config["bpemodel"] = conf["llm"]


def name_tokenizer(config: Config, places: tuple[Path, ...]) -> None:
    """Put the folder of a tokenizer other than the LM's own into a configuration, if that folder exists."""
    conf = llm_conf(config)
    tokenizer = conf.get("tokenizer")
    if tokenizer is not None and (found := find_folder(tokenizer, places)):
        if config.get("token_type") == "hugging_face" and config.get("bpemodel") == tokenizer:
            config["bpemodel"] = str(found)
        config["decoder_conf"] = {**conf, "tokenizer": str(found)}


def check_llm(config: Config) -> None:
    """Refuse options of an LM that would load code.

    Raises:
        ValueError: There is such an option.
    """
    check_conf(LM, llm_conf(config), ("llm", "tokenizer", "revision"), ("llm_config",))


def make_llm_portable(config: Config, fingerprint: str | None) -> tuple[Config, dict[str, bytes], NamedModel | None]:
    """Name the LM in a configuration as packs do, and collect the files of its tokenizer.

    Args:
        config: The configuration after `name_llm`.
        fingerprint: SHA-256 in the weights; None if these are complete.

    Returns:
        The changed copy, the tokenizer's members of the pack, and the LM of the training, if it has a name.

    Raises:
        ValueError: The tokenizer cannot be in a pack.
    """
    from espnet_larm.llm.backbone import config_of

    conf = dict(llm_conf(config))
    llm, revision = conf.get("llm"), conf.get("revision")
    tokenizer = conf.get("tokenizer")
    bpemodel = config.get("bpemodel") if config.get("token_type") == "hugging_face" else None
    if bpemodel not in (None, tokenizer, llm):
        raise ValueError(
            f"bpemodel is {bpemodel}, but the LM's tokenizer {tokenizer or llm}; a pack holds one of them: name the "
            "same in both."
        )
    options = conf["llm_config"] if llm is None else config_of(llm, revision)
    members = dict(_tokenizer_members(str(tokenizer or llm), revision if tokenizer is None else None, options))
    used = name_in_pack(LM, conf, fingerprint)
    if used is not None:
        held = {"llm": None, "llm_config": options, "revision": None}
        conf.update({"llm": used.name} if used.is_needed else held)
    portable = {**config, "decoder_conf": {**conf, "tokenizer": TOKENIZER}}
    if bpemodel is not None:
        portable["bpemodel"] = TOKENIZER
    check_llm(portable)
    return portable, members, used


def check_inside(config: Config, names: set[str]) -> None:
    """Refuse names of the LM that lead out of a pack.

    Args:
        config: Configuration in the pack.
        names: Names of the pack's members.

    Raises:
        ValueError: An option or member is not allowed.
    """
    conf = llm_conf(config)
    check_name(LM, conf)
    folders = {"decoder_conf: tokenizer": conf.get("tokenizer")}
    if config.get("token_type") == "hugging_face":
        folders["bpemodel"] = config.get("bpemodel")
    for option, value in folders.items():
        if value != TOKENIZER:
            raise ValueError(f"{option} is {value!r}; allowed in a pack: {TOKENIZER}.")
    inside = {name.partition("/")[2] for name in names if name.startswith(f"{TOKENIZER}/")}
    if VOCABULARY not in inside:
        raise ValueError(f"{TOKENIZER}/{VOCABULARY} is not in the pack; a pack holds the LM's tokenizer.")
    if foreign := inside - set(TOKENIZER_FILES):
        raise ValueError(f"{TOKENIZER}/{min(foreign)} cannot be in a pack. Allowed: {', '.join(TOKENIZER_FILES)}.")


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that names code or outside files.

    Raises:
        ValueError: A file is no JSON or has such a key.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} of the tokenizer is no JSON: {error}.") from error
        if path.name != VOCABULARY:
            check_plain(f"{path.name} of the tokenizer", content)


def _tokenizer_members(name: str, revision: str | None, llm_config: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    from espnet_larm.llm.backbone import load_tokenizer

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        load_tokenizer(name, revision).save_pretrained(folder)
        (folder / "config.json").write_bytes(_json(llm_config))
        path = folder / "tokenizer_config.json"
        options = json.loads(path.read_bytes())
        path.write_bytes(_json({key: value for key, value in options.items() if key not in LEFT_OUT}))
        if not (folder / VOCABULARY).is_file():
            raise ValueError(f"the tokenizer of {name} has no {VOCABULARY}, and cannot be in a pack without.")
        check_tokenizer(folder)
        for file in TOKENIZER_FILES:
            if (folder / file).is_file():
                yield f"{TOKENIZER}/{file}", (folder / file).read_bytes()


def _json(content: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)}\n".encode()
