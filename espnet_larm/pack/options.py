"""Options that a training configuration may hold in a pack: no path of the machine, no foreign code.

ESPnet builds a model from names in its configuration. Some classes fetch files from the network, or unpickle files that
the configuration names, and unpickling can run any code. A pack may name only classes that do neither, and installed
plugins.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_larm import registry
from espnet_larm.data.text import is_control

Config = dict[str, Any]

# Options whose value is a file that the model needs. ESPnet writes tokens into config.yaml; other programs may name
# their file.
FILE_OPTIONS = (
    ("normalize_conf", "stats_file"), ("bpemodel",), ("non_linguistic_symbols",), ("token_list",),
    ("model_conf", "ctc_token_list"), ("preprocessor_conf", "ctc_token_list"), ("preprocessor_conf", "ctc_bpemodel"),
    ("decoder_conf", "editing", "tokens"),
)  # fmt: skip
# Options with paths and names of the training machine, useless elsewhere.
PLACES = (
    "config", "output_dir", "train_shape_file", "valid_shape_file", "train_data_path_and_name_and_type",
    "valid_data_path_and_name_and_type", "dist_init_method", "dist_master_addr", "dist_master_port", "init_param",
    "pretrain_path", "wandb_project", "wandb_id", "wandb_entity", "wandb_name",
)  # fmt: skip
# Files that are read in training only; ESPnet checks that the options exist.
TRAINING_FILES = ("rir_scp", "noise_scp")
# Options of model_conf that only training needs begin so.
TRAINING_PREFIX = "text_kl_"
# ESPnet's classes that are made of numbers alone; all classes of other kinds are.
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
    """Refuses aliases, a few lines of which can expand beyond any memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def parse_yaml(name: str, text: bytes) -> Config:
    """Read a mapping of plain values, without tags that make objects and without aliases.

    Args:
        name: Name of the file, for messages.
        text: Content in UTF-8.

    Raises:
        ValueError: The text is something else.
    """
    try:
        parsed = yaml.load(text.decode("utf-8"), _NoAliases)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is refused: {error}. A pack holds plain YAML.") from error
    if not isinstance(parsed, dict) or not all(isinstance(key, str) for key in parsed):
        raise ValueError(f"{name} holds no options.")
    return parsed


def dump_yaml(content: Mapping[str, Any]) -> bytes:
    """YAML that `parse_yaml` can read, with keys in the order given."""

    class NoAliasDumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    return yaml.dump(dict(content), Dumper=NoAliasDumper, sort_keys=False, allow_unicode=True).encode()


def check_self_contained(config: Config) -> None:
    """Refuse a configuration whose model needs more than its numbers, its weights and the files in FILE_OPTIONS.

    Raises:
        ValueError: The message says what is allowed.
    """
    check_sections(config)
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
    check_tokens(token_list, token_type)


def check_sections(config: Config) -> None:
    """Refuse sections of options that are none.

    Raises:
        ValueError: An `x_conf` is neither options nor null.
    """
    for name, value in config.items():
        if str(name).endswith("_conf") and not isinstance(value, dict | None):
            raise ValueError(f"{name} is {value!r:.80}; allowed: options, a line `name: value` each, or nothing.")


def empty_for_null(config: Config) -> Config:
    """A copy in which a section that is null is empty."""
    return {name: {} if value is None and str(name).endswith("_conf") else value for name, value in config.items()}


def check_tokens(token_list: list[str], token_type: str | None) -> None:
    """Refuse tokens with control characters, or that turn the direction of writing: a terminal would obey them.

    Args:
        token_list: The tokens.
        token_type: Their type; an LM's own are not looked at: its tokenizer spells any bytes, and hypotheses lose them.

    Raises:
        ValueError: There is one.
    """
    if token_type == LLM_TOKENS[0]:
        return
    for token in token_list:
        if any(map(is_control, token)):
            raise ValueError(f"token_list holds {token!r}, which has a control character; make the token list again.")


def make_portable(config: Config, near: Path) -> tuple[Config, dict[str, Path]]:
    """Copy a configuration with the names that files have in the pack, and no paths of this machine.

    Args:
        config: The configuration that training wrote.
        near: The experiment's folder.

    Returns:
        The copy, and the files by name in the pack.

    Raises:
        FileNotFoundError: A file that it names is missing.
        ValueError: Two files have the same name.
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
        portable = with_option(portable, option, path.name)
    return portable, files


def leave_training_out(config: Config) -> None:
    """Remove options that only training needs, so that no file or LM is sought for them."""
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


def with_option(config: Config, option: tuple[str, ...], value: str) -> Config:
    """A copy with another value of an option of FILE_OPTIONS; other values are shared."""
    first, *inner = option
    return {**config, first: with_option(config[first], tuple(inner), value) if inner else value}


def locate(value: str, near: Path) -> Path:
    """Find a file that a configuration names, often from a recipe's folder above the experiment's.

    Args:
        value: The path in the configuration.
        near: Folder of the configuration.

    Raises:
        FileNotFoundError: There is no such file from `near`, the working folder or the folders above.
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
