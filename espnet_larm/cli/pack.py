"""Stage 14: pack a recogniser into one file: configuration, weights, tokens, statistics, results and a model card.

    python -m espnet_larm pack asr --exp_dir exp/asr_x
    python -m espnet_larm -m espnet2.bin.pack asr --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --outpath asr_x.zip

It takes ESPnet's arguments for its task `asr`. ESPnet can unpack and use the file, and so can `espnet_larm.load`. The
pack is loaded before it gets its name. The same input gives the same bytes. Other tasks, a language model beside the
recogniser, and models that only ESPnet decodes are handed over to ESPnet's own program, with a message.
If the decoder is an LM, the pack holds its tokenizer and the weights that training changed, and names the rest with
their SHA-256.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_larm.files import folder_beside, move_synced, read_yaml
from espnet_larm.origin import versions
from espnet_larm.pack.archive import digest, write_archive
from espnet_larm.pack.card import UNKNOWN, About, format_card
from espnet_larm.pack.llm import check_llm, has_llm, make_llm_portable, name_llm, name_tokenizer, places_near
from espnet_larm.pack.manifest import META, Manifest, plugins_of
from espnet_larm.pack.options import Config, check_self_contained, dump_yaml, make_portable
from espnet_larm.program import given, hand_over
from espnet_larm.scoring.experiment import SetResult, find_results

# Options that ESPnet's program lacks.
OURS = ("exp_dir", "llm", "name", "language", "license")
CONFIG, CARD = "config.yaml", "README.md"
# Files of the experiment's folder that are packed if they exist.
RESULTS = ("RESULTS.md", "images/wer_by_loops.png")
NO_LANGUAGE = "noinfo"
# Packages whose versions ESPnet keeps in a pack.
MADE_WITH = ("espnet", "torch", "python")

Members = dict[str, bytes | Path]


def get_parser() -> argparse.ArgumentParser:
    """The parser of ESPnet's options of `pack asr` and of ours."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="?", default="asr", help="asr; other tasks are handed over to ESPnet's program")
    parser.add_argument("--exp_dir", type=Path, help="experiment; its files are the defaults of the options below")
    parser.add_argument("--asr_train_config", type=Path, help="its configuration (default: EXP_DIR/config.yaml)")
    parser.add_argument("--asr_model_file", type=Path, help="its weights (default: the only EXP_DIR/*.ave.pth)")
    parser.add_argument("--outpath", type=Path, help="the pack to write (default: EXP_DIR/<name>_<weights>.zip)")
    parser.add_argument("--option", type=Path, action="append", default=[], help="a further file to pack; repeatable")
    parser.add_argument("--lm_train_config", help="configuration of a further LM; ESPnet's program then packs both")
    parser.add_argument("--lm_file", help="weights of that LM")
    parser.add_argument(
        "--llm",
        help="folder or hub id of the model's LM, where it is another than in training; the pack names it so. Its "
        "unchanged weights are not in the pack",
    )
    parser.add_argument("--name", help="name of the model (default: the experiment's)")
    parser.add_argument("--language", default="", help="code for the model card, en for example")
    parser.add_argument("--license", default=UNKNOWN, help="for the model card: what weights and training data allow")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Write the pack, and print its members."""
    parser = get_parser()
    # Other tasks have options that are not known here.
    args, unknown = parser.parse_known_args(cmd)
    if reason := why_espnet(args):
        return hand_over(
            "pack", cmd, reason, given(args, [action for action in parser._actions if action.dest in OURS])
        )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    config_file, model_file, outpath = check(args)
    from espnet_larm.recognize.model.loading import read_weights

    exp_dir = config_file.parent
    config = read_yaml(config_file)
    check_self_contained(config)
    check_llm(config)
    name_llm(config, args.llm, places_near(config_file))
    name_tokenizer(config, places_near(config_file))
    portable, files = make_portable(config, exp_dir)
    if files.setdefault(model_file.name, model_file) != model_file:
        raise ValueError(f"{files[model_file.name]} and {model_file} have one name; rename one of them.")
    files |= extra_files(exp_dir, args.option, files)
    weights = read_weights(model_file)
    tokenizer: dict[str, bytes] = {}
    llm = None
    if has_llm(config):
        portable, tokenizer, llm = make_llm_portable(portable, fingerprint_in(weights))
    name = args.name or exp_dir.resolve().name
    made_with = {package: found for package, found in versions().items() if package in MADE_WITH}
    manifest = Manifest(CONFIG, model_file.name, name, plugins_of(config), {}, made_with, llm)
    about = About("" if args.language == NO_LANGUAGE else args.language, args.license)
    num_parameters = count_parameters(config_file, model_file, args.llm)
    card = format_card(manifest, config, datasets_of(config), num_parameters, results_of(exp_dir), about)
    members: Members = {CONFIG: dump_yaml(portable), CARD: card.encode(), **dict(sorted(files.items())), **tokenizer}
    if taken := {CONFIG, CARD, META, *tokenizer} & files.keys():
        raise ValueError(f"{files[min(taken)]} has a name that packs need for themselves; leave it out or rename it.")
    manifest = manifest._replace(digests={name: digest(content) for name, content in members.items()})
    place = (config["decoder_conf"] or {}).get("llm") if llm is not None and llm.is_needed_folder else None
    publish(outpath, {META: dump_yaml(manifest.as_mapping()), **members}, place)
    print(f"{outpath}: {outpath.stat().st_size / 2**20:.1f} MiB, {', '.join([META, *members])}")
    return 0


def why_espnet(args: argparse.Namespace) -> str:
    """Why ESPnet's own program must pack; empty if ours does."""
    if args.task != "asr":
        return f"task is {args.task}"
    if args.lm_train_config or args.lm_file:
        return f"lm_file is {args.lm_file}, and packs of ours hold no language model"
    path = args.asr_train_config or (args.exp_dir and args.exp_dir / CONFIG)
    config = read_yaml(path) if path and path.is_file() else None
    if not isinstance(config, dict):
        # Packing it will report what is wrong.
        return ""
    if config.get("input_size") is not None:
        return f"the model reads features of size {config['input_size']} from archives"
    if (config.get("model_conf") or {}).get("ctc_weight") == 0.0 and not has_llm(config):
        return f"the model has decoder: {config.get('decoder')} without a CTC head"
    return ""


def check(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Paths of the configuration, the weights and the pack.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The options do not name the files.
    """
    from espnet_larm.recognize.packs import files_of_folder

    if args.exp_dir is None and (args.asr_train_config is None or args.asr_model_file is None):
        raise ValueError("name --exp_dir, or both --asr_train_config and --asr_model_file.")
    config_file, model_file = args.asr_train_config, args.asr_model_file
    if config_file is None or model_file is None:
        found = files_of_folder(args.exp_dir, model_file)
        config_file, model_file = config_file or found[0], found[1]
    for path in (config_file, model_file, *args.option):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; stage 11 makes weights and config.yaml.")
    folder = config_file.parent
    return config_file, model_file, args.outpath or folder / f"{folder.resolve().name}_{model_file.stem}.zip"


def extra_files(exp_dir: Path, options: list[Path], named: dict[str, Path]) -> dict[str, Path]:
    """Results and the files of --option (folders with all their files), by name in the pack.

    Raises:
        ValueError: Two files have the same name.
    """
    found = {name: exp_dir / name for name in RESULTS if (exp_dir / name).is_file()}
    for option in options:
        inside = sorted(path for path in option.rglob("*") if path.is_file()) if option.is_dir() else [option]
        for path in inside:
            name = path.relative_to(option.parent).as_posix()
            other = found.get(name) or named.get(name)
            if other is not None and other.resolve() != path.resolve():
                raise ValueError(f"--option {path}: {other} is called {name} in the pack already; rename one of them.")
            found[name] = path
    return found


def datasets_of(config: Config) -> list[str]:
    """Names of the training sets' folders."""
    paths = [Path(path) for path, *_ in config.get("train_data_path_and_name_and_type") or []]
    return list(dict.fromkeys(path.parent.name for path in paths))


def count_parameters(config_file: Path, model_file: Path, llm: str | None) -> int:
    """Number of parameters of the whole model with its LM, as in train.log.

    A file of weights also holds statistics and filters, and lacks the LM's unchanged weights.
    """
    import torch

    from espnet_larm.recognize.model.loading import load_model
    from espnet_larm.train.learning import learning_parts, sum_of

    return sum_of(learning_parts(load_model(config_file, model_file, "cpu", torch.float32, llm).model)).total


def fingerprint_in(weights: Mapping[str, Any]) -> str | None:
    """SHA-256 of the LM that is left out of the weights or that training began with; None without an LM."""
    from espnet_larm.llm.fingerprint import FINGERPRINT, hexadecimal

    found = [tensor for name, tensor in weights.items() if name.endswith(FINGERPRINT)]
    return hexadecimal(found[0]) if found else None


def results_of(exp_dir: Path) -> list[SetResult]:
    """Scored sets of an experiment; empty if nothing was scored."""
    try:
        return find_results(exp_dir)
    except FileNotFoundError:
        return []


def publish(outpath: Path, members: Members, llm: str | None = None) -> None:
    """Write the pack, load it, and only then give it its name.

    Args:
        outpath: Path of the pack.
        members: Members of the pack.
        llm: Folder of the LM that the pack needs, if any.

    Raises:
        ValueError: The pack cannot be loaded: the weights do not fit the configuration.
    """
    from espnet_larm.recognize.packs import load

    with folder_beside(outpath) as folder:
        written = folder / outpath.name
        write_archive(written, members)
        load(written, llm=llm)
        move_synced(written, outpath)
