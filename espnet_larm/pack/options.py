"""What a training configuration may hold in a pack: its files beside it, no path of the machine, no foreign code.

ESPnet builds a model from names in its configuration. Most of its classes take numbers; some fetch files from the
network, or unpickle files that the configuration names, and unpickling runs whatever the file says. Only classes that
do neither can be in a pack, and plugins that are installed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_larm import registry

Config = dict[str, Any]

# Options whose value is a file that the model cannot do without. ESPnet writes the tokens into config.yaml, others
# may name their file.
FILE_OPTIONS = (
    ("normalize_conf", "stats_file"), ("bpemodel",), ("non_linguistic_symbols",), ("token_list",),
    ("model_conf", "ctc_token_list"), ("preprocessor_conf", "ctc_token_list"), ("preprocessor_conf", "ctc_bpemodel"),
)  # fmt: skip
# Options that say where things lay on the training machine, of no use elsewhere.
PLACES = (
    "config", "output_dir", "train_shape_file", "valid_shape_file", "train_data_path_and_name_and_type",
    "valid_data_path_and_name_and_type", "dist_init_method", "dist_master_addr", "dist_master_port", "init_param",
    "pretrain_path", "wandb_project", "wandb_id", "wandb_entity", "wandb_name",
)  # fmt: skip
# Read in training only; ESPnet asks whether they are there.
TRAINING_FILES = ("rir_scp", "noise_scp")
# Of model_conf, what a model does in training only begins with these.
TRAINING_PREFIX = "text_kl_"
# Of ESPnet's classes, those that are made of numbers alone. Kinds that are not listed have no others.
SELF_CONTAINED: dict[str, frozenset[str]] = {
    "frontend": frozenset({"default", "sliding_window", "wav2vec_cnn"}),
    "encoder": frozenset(
        {
            "conformer", "transformer", "transformer_multispkr", "contextual_block_transformer",
            "contextual_block_conformer", "vgg_rnn", "rnn", "longformer", "branchformer", "e_branchformer",
            "multiconv_conformer",
        }
    ),
    "postencoder": frozenset({"length_adaptor"}),
    "decoder": frozenset(
        {
            "transformer", "lightweight_conv", "lightweight_conv2d", "dynamic_conv", "dynamic_conv2d", "rnn",
            "transducer", "mlm", "linear_decoder",
        }
    ),
    "preprocessor": frozenset({"default", "multi"}),
}  # fmt: skip
TOKEN_TYPES = ("bpe", "char", "word", "phn")
# token_type of the decoder whose tokenizer is in the pack too (pack/llm.py).
LLM_TOKENS = ("hugging_face", "speech_llm")


class _NoAliases(yaml.SafeLoader):
    """A few lines of aliases can stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def parse_yaml(name: str, text: bytes) -> Config:
    """A mapping of plain values: no tags that make objects, no aliases.

    Args:
        name: Of the file, for messages.
        text: UTF-8.

    Raises:
        ValueError: It is something else.
    """
    try:
        parsed = yaml.load(text.decode("utf-8"), _NoAliases)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is refused: {error}. A pack holds plain YAML.") from error
    if not isinstance(parsed, dict) or not all(isinstance(key, str) for key in parsed):
        raise ValueError(f"{name} holds no options.")
    return parsed


def dump_yaml(content: Mapping[str, Any]) -> bytes:
    """As `parse_yaml` reads it, in the order given."""

    class NoAliasDumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    return yaml.dump(dict(content), Dumper=NoAliasDumper, sort_keys=False, allow_unicode=True).encode()


def check_self_contained(config: Config) -> None:
    """Refuse a configuration whose model is more than its numbers, its weights and the files named by FILE_OPTIONS.

    Raises:
        ValueError: With what is allowed.
    """
    ours = {(plugin.kind, plugin.name) for plugin in registry.plugins()}
    wrapped = (config.get("frontend_conf") or {}).get("frontend")
    named = [*((kind, config.get(kind)) for kind in SELF_CONTAINED), ("frontend", wrapped)]
    for kind, name in named:
        allowed = SELF_CONTAINED[kind]
        if name is not None and str(name) not in allowed and (kind, str(name)) not in ours:
            names = sorted({*allowed, *(name for other, name in ours if other == kind)})
            raise ValueError(
                f"{kind}: {name} cannot be in a pack: it is not known, or takes files or code from elsewhere. "
                f"Allowed: {', '.join(names)}."
            )
    token_type, token_list = config.get("token_type"), config.get("token_list")
    if token_type not in (None, *TOKEN_TYPES) and (token_type, config.get("decoder")) != LLM_TOKENS:
        raise ValueError(f"token_type: {token_type} cannot be in a pack. Allowed: {', '.join(TOKEN_TYPES)}.")
    if not isinstance(token_list, list) or not all(isinstance(token, str) for token in token_list):
        raise ValueError("token_list must be a list of tokens.")


def make_portable(config: Config, near: Path) -> tuple[Config, dict[str, Path]]:
    """A copy that names its files as they are called in the pack, and no place of this machine.

    Args:
        config: As training wrote it.
        near: The experiment's folder.

    Returns:
        The copy, and the files by name in the pack.

    Raises:
        FileNotFoundError: A file that it names is missing.
        ValueError: Two of them have one name.
    """
    portable = {name: value for name, value in config.items() if name not in PLACES}
    portable.update({name: None for name in TRAINING_FILES if name in portable})
    leave_training_out(portable)
    files: dict[str, Path] = {}
    for option, value in file_options(config):
        path = locate(value, near)
        if files.setdefault(path.name, path) != path:
            raise ValueError(
                f"{path} and {files[path.name]} have one name; rename one of them and name it in {option}."
            )
        set_option(portable, option, path.name)
    return portable, files


def leave_training_out(config: Config) -> None:
    """Remove options that training alone needs: what they name is not looked for, and no LM is copied for them."""
    if isinstance(conf := config.get("model_conf"), dict):
        config["model_conf"] = {name: each for name, each in conf.items() if not name.startswith(TRAINING_PREFIX)}


def file_options(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """The options of FILE_OPTIONS that are set, with their values."""
    for option in FILE_OPTIONS:
        if option == ("bpemodel",) and config.get("token_type") == "hugging_face":
            continue  # a folder or hub id of an LM
        value: Any = config
        for key in option:
            value = (value or {}).get(key) if isinstance(value, dict | None) else None
        if isinstance(value, str):
            yield option, value


def set_option(config: Config, option: tuple[str, ...], value: str) -> None:
    """Set an option of FILE_OPTIONS; a nested mapping is copied first, since it may be another configuration's too."""
    *outer, last = option
    for key in outer:
        config[key] = dict(config[key])
        config = config[key]
    config[last] = value


def locate(value: str, near: Path) -> Path:
    """A file that a configuration names: recipes name it from their own folder, which is above the experiment's.

    Args:
        value: As the configuration has it.
        near: Folder of the configuration.

    Raises:
        FileNotFoundError: It is neither there from `near`, nor from the working folder, nor from the folders above.
    """
    near = near.resolve()
    # A pack that was unzipped names files beside it, and none that happens to lie in the working folder.
    for base in (near, Path.cwd(), *near.parents):
        if (base / value).is_file():
            return (base / value).resolve()
    raise FileNotFoundError(
        f"{value} is missing (config.yaml in {near} names it); sought from {Path.cwd()} (the working folder) and from "
        f"{near} upwards."
    )
