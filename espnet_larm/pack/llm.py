"""The LM of a `speech_llm` model in packs: its name, its tokenizer and the weights that are left out.

A pack holds the tokenizer and config.json of its LM in the folder `tokenizer`, but no weights that training left
unchanged: its configuration names the LM, and `meta.yaml` has the SHA-256 of those weights. Weights that training
changed, or that have no name to fetch them by, are in the pack, and the LM is then built from `llm_config`.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.pack.options import Config

# Names in the pack.
TOKENIZER, VOCABULARY = "tokenizer", "tokenizer.json"
# The fast tokenizers of transformers: no Python, no pickles, no model of another library.
TOKENIZER_FILES = (
    VOCABULARY, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "config.json",
)  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# A pack's name for an LM that was in a folder: users get it from the maker of the pack.
FOLDER_NAME = re.compile(r"\./[A-Za-z0-9][\w.-]*")
# Keys of a tokenizer or an LM that name code, or files of another machine.
REFUSED_KEY = re.compile(r"auto_map|quantization_config|.*implementation|.*_file|_?name_or_path|.*kernel.*")
LEFT_OUT = ("is_local", "local_files_only", "name_or_path", "tokenizer_file", "special_tokens_map_file")
LORA_KEYS = frozenset(
    {
        "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "use_rslora",
        "use_dora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern",
        "alpha_pattern", "task_type", "match",
    }
)  # fmt: skip


class NamedLlm(NamedTuple):
    """An LM that a model was trained with.

    Attributes:
        name: Hub id, or `./` and the name of the folder.
        revision: Revision on the hub; empty for none.
        sha256: SHA-256 of its weights, as `llm/fingerprint.py` computes it.
        is_needed: Whether the pack lacks its weights.
    """

    name: str
    revision: str
    sha256: str
    is_needed: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether the LM was in a folder."""
        return self.name.startswith("./")

    @property
    def is_needed_folder(self) -> bool:
        """Whether the user must name the LM's folder."""
        return self.is_needed and self.is_folder

    def __str__(self) -> str:
        return f"{self.name.removeprefix('./')} (SHA-256 of its weights {self.sha256})"


def has_llm(config: Config) -> bool:
    """Whether the model decodes with an LM."""
    return config.get("decoder") == "speech_llm"


def llm_conf(config: Config) -> dict[str, Any]:
    """Options of the decoder; none for a model without an LM."""
    conf = config.get("decoder_conf") if has_llm(config) else None
    return conf if isinstance(conf, dict) else {}


def places_near(config_file: Path) -> tuple[Path, ...]:
    """Folders from which a configuration's relative paths are sought: its own, those above, and the working folder."""
    return (*config_file.resolve().parents, Path.cwd())


def name_llm(config: Config, llm: str | None, places: tuple[Path, ...], needed: NamedLlm | None = None) -> None:
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
    conf = llm_conf(config)
    trained = conf.get("llm")
    if trained is None:
        if llm is not None:
            why = "holds all weights of its LM" if has_llm(config) else "has no LM"
            raise ValueError(f"llm is {llm}, but the model {why}; leave --llm (llm= in Python) out.")
        return
    found = _find_folder(trained, places) if llm is None else _find_folder(llm, (Path.cwd(),))
    if found is None and not HUB_ID.fullmatch(llm or trained):
        wanted = trained if needed is None else needed
        raise FileNotFoundError(
            f"--llm {llm} is no folder that is there, and no hub id."
            if llm is not None
            else f"the model needs the LM {wanted}, which it does not hold, and which is not there; name its folder or "
            "hub id with --llm (llm= in Python)."
        )
    named = str(found) if found is not None else llm or trained
    is_other = llm is not None and llm != trained
    config["decoder_conf"] = {**conf, "llm": named, **({"revision": None} if is_other else {})}
    if config.get("token_type") == "hugging_face" and config.get("bpemodel") == trained:
        config["bpemodel"] = named


def name_tokenizer(config: Config, places: tuple[Path, ...]) -> None:
    """Put the folder of a tokenizer other than the LM's own into a configuration, if that folder exists."""
    conf = llm_conf(config)
    tokenizer = conf.get("tokenizer")
    if tokenizer is not None and (found := _find_folder(tokenizer, places)):
        if config.get("token_type") == "hugging_face" and config.get("bpemodel") == tokenizer:
            config["bpemodel"] = str(found)
        config["decoder_conf"] = {**conf, "tokenizer": str(found)}


def check_llm(config: Config) -> None:
    """Refuse options of an LM that would load code.

    Raises:
        ValueError: There is such an option.
    """
    conf = llm_conf(config)
    if foreign := set(conf.get("lora_conf") or {}) - LORA_KEYS:
        raise ValueError(f"decoder_conf: lora_conf: {min(foreign)} cannot be in a pack; leave it out.")
    for name in ("llm", "tokenizer", "revision"):
        if not isinstance(conf.get(name), str | None):
            raise ValueError(f"decoder_conf: {name} is {conf[name]!r}; allowed: text.")
    _check_plain("decoder_conf: llm_config", conf.get("llm_config") or {})


def make_llm_portable(config: Config, fingerprint: str | None) -> tuple[Config, dict[str, bytes], NamedLlm | None]:
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
    used = None
    if llm is not None:
        name = f"./{_plain_name(Path(llm).name)}" if Path(llm).is_absolute() else llm
        is_needed = conf.get("adaptation") != "full"
        used = NamedLlm(name, revision or "", fingerprint or "", is_needed)
        conf.update({"llm": name} if is_needed else {"llm": None, "llm_config": options, "revision": None})
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
    llm = conf.get("llm")
    if llm is not None and not (HUB_ID.fullmatch(llm) or FOLDER_NAME.fullmatch(llm)):
        raise ValueError(f"decoder_conf: llm is {llm!r}; allowed in a pack: a hub id, or ./ and the name of a folder.")
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
            _check_plain(f"{path.name} of the tokenizer", content)


def _find_folder(name: str, places: tuple[Path, ...]) -> Path | None:
    return next((path.resolve() for place in places if (path := place / name).is_dir()), None)


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


def _plain_name(name: str) -> str:
    """A name that FOLDER_NAME allows."""
    return re.sub(r"[^\w.-]", "_", name).lstrip("._-") or "llm"


def _json(content: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)}\n".encode()


def _check_plain(name: str, content: Any) -> None:
    """Refuse a REFUSED_KEY at any depth, unless its value is null."""
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if REFUSED_KEY.fullmatch(str(key)) and inner is not None:
                    raise ValueError(f"{name}: {key} cannot be in a pack: it names code, or files of elsewhere.")
            stack += value.values()
        elif isinstance(value, list):
            stack += value
