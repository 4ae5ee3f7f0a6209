"""Pre-trained models that a model was trained with, by name: an LM (pack/llm.py), a speech encoder (pack/encoder.py).

A pack holds no weights of theirs that training left unchanged: its configuration names the model, and `meta.yaml` has
the SHA-256 of those weights. Weights that training changed, or that have no name to fetch them by, are in the pack.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.llm.words import Words

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# A pack's name for a model that was in a folder: users get it from the maker of the pack.
FOLDER_NAME = re.compile(r"\./[A-Za-z0-9][\w.-]*")
# Keys of a model that name code, or files of another machine.
REFUSED_KEY = re.compile(r"auto_map|quantization_config|.*implementation|.*_file|_?name_or_path|.*kernel.*")
LORA_KEYS = frozenset(
    {
        "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias", "use_rslora",
        "use_dora", "modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern",
        "alpha_pattern", "task_type", "match",
    }
)  # fmt: skip


class NamedModel(NamedTuple):
    """A pre-trained model that a model was trained with.

    Attributes:
        kind: `llm` or `encoder`.
        name: Hub id, or `./` and the name of the folder.
        revision: Revision on the hub; empty for none.
        sha256: SHA-256 of its weights, as `llm/fingerprint.py` computes it.
        is_needed: Whether the pack lacks its weights.
    """

    kind: str
    name: str
    revision: str
    sha256: str
    is_needed: bool = True

    @property
    def is_folder(self) -> bool:
        """Whether the model was in a folder."""
        return self.name.startswith("./")

    @property
    def is_needed_folder(self) -> bool:
        """Whether the user must name the model's folder."""
        return self.is_needed and self.is_folder

    def __str__(self) -> str:
        return f"{self.name.removeprefix('./')} (SHA-256 of its weights {self.sha256})"


def name_in_pack(words: Words, conf: Mapping[str, Any], fingerprint: str | None) -> NamedModel | None:
    """The model that options name, as packs do; None for one without a name.

    Args:
        words: The kind of model, LM or SPEECH_ENCODER.
        conf: The options, after `named_anew`.
        fingerprint: SHA-256 in the weights.
    """
    name = conf.get(words.name)
    if name is None:
        return None
    if Path(name).is_absolute():
        plain = re.sub(r"[^\w.-]", "_", Path(name).name).lstrip("._-")
        name = f"./{plain or words.argument}"
    is_needed = conf.get(words.method) != words.all_learn
    return NamedModel(words.argument, name, conf.get("revision") or "", fingerprint or "", is_needed)


def named_anew(
    words: Words,
    conf: Mapping[str, Any] | None,
    given: str | None,
    places: tuple[Path, ...],
    needed: NamedModel | None = None,
) -> dict[str, Any]:
    """A model's options with its folder or hub id: the given one, or that of the training.

    Args:
        words: The kind of model, LM or SPEECH_ENCODER.
        conf: Its options; None if there is no such model.
        given: Folder or hub id; None for what the options name.
        places: Folders from which a folder of the options is sought.
        needed: What a pack names, if the options are from a pack.

    Raises:
        FileNotFoundError: The model is not there.
        ValueError: One is given, but none is needed.
    """
    trained = (conf or {}).get(words.name)
    if trained is None:
        if given is not None:
            why = f"has no {words.kind}" if conf is None else f"holds all weights of its {words.kind}"
            raise ValueError(f"{words.argument} is {given}, but the model {why}; leave {words.by_argument} out.")
        return dict(conf or {})
    found = find_folder(trained, places) if given is None else find_folder(given, (Path.cwd(),))
    if found is None and not HUB_ID.fullmatch(given or trained):
        raise FileNotFoundError(
            f"--{words.argument} {given} is no folder that is there, and no hub id."
            if given is not None
            else f"the model needs the {words.kind} {needed or trained}, which it does not hold, and which is not "
            f"there; name its folder or hub id with {words.by_argument}."
        )
    named = str(found) if found is not None else given or trained
    is_other = given is not None and given != trained
    return {**(conf or {}), words.name: named, **({"revision": None} if is_other else {})}


def places_near(config_file: Path) -> tuple[Path, ...]:
    """Folders from which a configuration's relative paths are sought: its own, those above, and the working folder."""
    return (*config_file.resolve().parents, Path.cwd())


def find_folder(name: str, places: tuple[Path, ...]) -> Path | None:
    """The first folder of a name below one of the places."""
    return next((path.resolve() for place in places if (path := place / name).is_dir()), None)


def check_conf(words: Words, conf: Mapping[str, Any], texts: tuple[str, ...], plain: tuple[str, ...]) -> None:
    """Refuse options of a model that would load code or files of elsewhere.

    Args:
        words: The kind of model, LM or SPEECH_ENCODER.
        conf: Its options.
        texts: Options that are a text or null.
        plain: Options that are plain options.

    Raises:
        ValueError: There is such an option.
    """
    for name in ("lora_conf", *plain):
        if not isinstance(conf.get(name), dict | None):
            raise ValueError(f"{words.section}: {name} is {conf[name]!r:.80}; allowed: options, or nothing.")
    if foreign := set(conf.get("lora_conf") or {}) - LORA_KEYS:
        raise ValueError(f"{words.section}: lora_conf: {min(map(str, foreign))} cannot be in a pack; leave it out.")
    for name in texts:
        if not isinstance(conf.get(name), str | None):
            raise ValueError(f"{words.section}: {name} is {conf[name]!r}; allowed: text.")
    for name in plain:
        check_plain(f"{words.section}: {name}", conf.get(name))


def check_name(words: Words, conf: Mapping[str, Any]) -> None:
    """Refuse a model's name that leads out of a pack.

    Raises:
        ValueError: It is neither a hub id nor the plain name of a folder.
    """
    name = conf.get(words.name)
    if name is not None and not (HUB_ID.fullmatch(name) or FOLDER_NAME.fullmatch(name)):
        raise ValueError(f"{words.option} is {name!r}; allowed in a pack: a hub id, or ./ and the name of a folder.")


def check_plain(name: str, content: Any) -> None:
    """Refuse a REFUSED_KEY at any depth, unless its value says nothing, or sizes, as kernels of convolutions have."""
    stack = [content]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if REFUSED_KEY.fullmatch(str(key)) and inner not in (None, "") and not _is_sizes(inner):
                    raise ValueError(f"{name}: {key} cannot be in a pack: it names code, or files of elsewhere.")
            stack += value.values()
        elif isinstance(value, list):
            stack += value


def _is_sizes(value: Any) -> bool:
    return all(type(each) is int for each in value) if isinstance(value, list) else type(value) is int
