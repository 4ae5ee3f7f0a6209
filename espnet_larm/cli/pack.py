r"""Stage 14: pack a recogniser into one file: configuration, weights, tokens, statistics, results and a model card.

Examples:
    espnet-larm pack asr --exp_dir exp/asr_x
    espnet-larm -m espnet2.bin.pack asr --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.loss.ave.pth --outpath asr_x.zip

It takes ESPnet's arguments for its task `asr`. ESPnet can unpack and use the file, and so can `espnet_larm.load`. The
pack is loaded before it gets its name. The same input gives the same bytes. Other tasks, a language model beside the
recogniser, and models that only ESPnet decodes are handed over to ESPnet's own program, with a message.
If the decoder is an LM, the pack holds its tokenizer. Of an LM or a pre-trained speech encoder it holds what training
changed, and names the rest with its SHA-256: as --llm and --encoder do, if they are given.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_larm.files.atomic import check_no_folder, folder_beside, move_synced
from espnet_larm.files.reading import read_yaml
from espnet_larm.llm.words import words_of
from espnet_larm.options import given_options
from espnet_larm.origin import versions
from espnet_larm.pack.archive import digest, write_archive
from espnet_larm.pack.card import CARD, UNKNOWN, About, format_card
from espnet_larm.pack.llm import has_llm, name_tokenizer
from espnet_larm.pack.manifest import META, Manifest, plugins_of
from espnet_larm.pack.models import (
    ModelPlaces,
    add_places,
    check_models,
    make_models_portable,
    name_models,
    needed_places,
)
from espnet_larm.pack.named import places_near
from espnet_larm.pack.options import Config, check_self_contained, dump_yaml, make_portable
from espnet_larm.program import given, hand_over
from espnet_larm.recognize.leaving.calibration import CALIBRATION, HEAD_FILE
from espnet_larm.recognize.model.thresholds import RELAXED_CALIBRATION
from espnet_larm.scoring.experiment import SetResult, find_results

# Options that ESPnet's program lacks.
OURS = ("exp_dir", "llm", "encoder", "name", "language", "license", "datasets", "note")
CONFIG = "config.yaml"
# Files of the experiment's folder that are packed if they exist.
RESULTS = ("RESULTS.md", "images/wer_by_loops.png", CALIBRATION, RELAXED_CALIBRATION, HEAD_FILE)
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
    add_places(parser)
    parser.add_argument("--name", help="name of the model (default: the experiment's)")
    parser.add_argument("--language", default="", help="code for the model card, en for example")
    parser.add_argument("--license", default=UNKNOWN, help="for the model card: what weights and training data allow")
    parser.add_argument(
        "--datasets", nargs="+", default=[], help="for the model card: names of the training data on the hub"
    )
    note_help = "for the model card, in Markdown: hours and licences of the corpora, what the model is unfit for"
    parser.add_argument("--note", default="", metavar="TEXT", help=note_help)
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
    check_models(config)
    places = ModelPlaces(**given_options(ModelPlaces, args))
    name_models(config, places, places_near(config_file))
    name_tokenizer(config, places_near(config_file))
    portable, files = make_portable(config, exp_dir)
    if files.setdefault(model_file.name, model_file) != model_file:
        raise ValueError(f"{files[model_file.name]} and {model_file} have one name; rename one of them.")
    files |= _extra_files(exp_dir, args.option, files)
    portable, tokenizer, models = make_models_portable(portable, _fingerprints_in(read_weights(model_file)))
    name = args.name or exp_dir.resolve().name
    made_with = {package: found for package, found in versions().items() if package in MADE_WITH}
    manifest = Manifest(CONFIG, model_file.name, name, plugins_of(config), {}, made_with, models)
    about = About("" if args.language == NO_LANGUAGE else args.language, args.license, tuple(args.datasets), args.note)
    num_parameters = count_parameters(config_file, model_file, places)
    card = format_card(manifest, config, _datasets_of(config), num_parameters, _results_of(exp_dir), about)
    members: Members = {CONFIG: dump_yaml(portable), CARD: card.encode(), **dict(sorted(files.items())), **tokenizer}
    if taken := {CONFIG, CARD, META, *tokenizer} & files.keys():
        raise ValueError(f"{files[min(taken)]} has a name that packs need for themselves; leave it out or rename it.")
    manifest = manifest._replace(digests={name: digest(content) for name, content in members.items()})
    publish(outpath, {META: dump_yaml(manifest.as_mapping()), **members}, needed_places(config, models))
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
    if config is None:
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
        IsADirectoryError: The pack's name is a folder's.
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
    outpath = args.outpath or folder / f"{folder.resolve().name}_{model_file.stem}.zip"
    check_no_folder(outpath)
    return config_file, model_file, outpath


def _extra_files(exp_dir: Path, options: list[Path], named: dict[str, Path]) -> dict[str, Path]:
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


def _datasets_of(config: Config) -> list[str]:
    """Names of the training sets' folders."""
    paths = [Path(path) for path, *_ in config.get("train_data_path_and_name_and_type") or []]
    return list(dict.fromkeys(path.parent.name for path in paths))


def count_parameters(config_file: Path, model_file: Path, places: ModelPlaces) -> int:
    """Number of parameters of the whole model with its LM and speech encoder, as in train.log.

    A file of weights also holds statistics and filters, and lacks the unchanged weights of those.
    """
    import torch

    from espnet_larm.recognize.model.loading import load_model
    from espnet_larm.train.learning import learning_parts, sum_of

    model = load_model(config_file, model_file, "cpu", torch.float32, places.llm, places.encoder).model
    return sum_of(learning_parts(model)).total


def _fingerprints_in(weights: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the models that are left out of the weights or that training began with, by kind."""
    from espnet_larm.llm.fingerprint import FINGERPRINT, hexadecimal

    found = {name: tensor for name, tensor in weights.items() if name.endswith(f".{FINGERPRINT}")}
    return {words_of(name).argument: hexadecimal(tensor) for name, tensor in found.items()}


def _results_of(exp_dir: Path) -> list[SetResult]:
    """Scored sets of an experiment; empty if nothing was scored."""
    try:
        return find_results(exp_dir)
    except FileNotFoundError:
        return []


def publish(outpath: Path, members: Members, places: ModelPlaces) -> None:
    """Write the pack, load it, and only then give it its name.

    Args:
        outpath: Path of the pack.
        members: Members of the pack.
        places: Folders of the models that the pack needs.

    Raises:
        ValueError: The pack cannot be loaded: the weights do not fit the configuration.
    """
    from espnet_larm.recognize.packs import load

    with folder_beside(outpath) as folder:
        written = folder / outpath.name
        write_archive(written, members)
        load(written, llm=places.llm, encoder=places.encoder)
        move_synced(written, outpath)
