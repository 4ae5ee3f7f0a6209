"""Options, and what is read and written, of the programs that measure pooling."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_larm.cli.calibrate.inputs import add_inputs
from espnet_larm.cli.device import add_device, device_of
from espnet_larm.files.atomic import write_text
from espnet_larm.options import check_parameters, help_of
from espnet_larm.origin import footer
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import Batching

if TYPE_CHECKING:
    from espnet_larm.calibrate.pooling_places import Bounds
    from espnet_larm.calibrate.pooling_table import Reference
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.recognizer import Recognizer

# Options of pooling, by place.
Places = Mapping[str, Mapping[str, Any]]
INPUT, DEEP, FRONTEND = PLACES = ("input", "deep", "frontend")


class Folder(NamedTuple):
    """A data folder: its audio, which of it is read, and what is said."""

    table: "AudioTable"
    keys: list[str]
    reference: "Reference"


def add_options(parser: argparse.ArgumentParser, places: tuple[str, ...] = PLACES) -> None:
    """Add the options that all of them have."""
    add_inputs(parser)
    parser.add_argument("--place", default=INPUT, choices=places, help="site that pools (default: input)")
    parser.add_argument("--layer", type=int, help="layers of the LM that run before --place deep pools")
    parser.add_argument("--window", type=int, help="tokens of a group that are compared (1)")
    parser.add_argument("--max_group", type=int, help="most tokens of a group (any; of the front end 4)")
    parser.add_argument(
        "--batch_seconds", type=float, default=Batching.batch_seconds, help=help_of(Batching, "batch_seconds")
    )
    parser.add_argument("--output_dir", type=Path, help="folder of the results (default: the experiment)")
    add_places(parser)
    add_device(parser)


def check(args: argparse.Namespace) -> None:
    """Refuse what can be known before anything is loaded.

    Raises:
        ValueError: An option is out of its range, or means nothing beside another.
    """
    from espnet_larm.pooling.options import Pooling

    Batching(batch_seconds=args.batch_seconds)
    if args.layer is not None and args.place != DEEP:
        raise ValueError(f"--layer is {args.layer}, but --place is {args.place}; it is of --place deep alone.")
    Pooling(tau=1.0, window=args.window, max_group=args.max_group, where="--window and --max_group")


def check_retentions(name: str, retentions: list[float]) -> None:
    """Refuse parts of the tokens that cannot be left.

    Raises:
        ValueError: One is out of range.
    """
    from espnet_larm.pooling.options import Pooling

    for retention in retentions:
        check_parameters(Pooling.__init__, {"retention": retention}, f"--{name}")


def load(args: argparse.Namespace, needs_llm: bool = True) -> "Recognizer":
    """The model.

    Args:
        args: Options that name it.
        needs_llm: Whether it must have an LM.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: It has no LM, and needs one.
    """
    from espnet_larm.recognize.recognizer import Recognizer

    files = args.asr_train_config, args.asr_model_file
    recognizer = Recognizer.from_files(*files, device_of(args.device), llm=args.llm, encoder=args.encoder)
    if needs_llm and recognizer.heads.llm is None:
        raise ValueError(
            f"{args.asr_train_config}: the model is decoded by CTC alone; only the speech that an LM reads (decoder: "
            "speech_llm) is pooled and measured here."
        )
    return recognizer


def read_folder(path: Path, args: argparse.Namespace, recognizer: "Recognizer") -> Folder:
    """Audio and texts.

    Raises:
        FileNotFoundError: A table is missing.
        ValueError: An utterance has no text, or no text has a word.
    """
    from espnet_larm.calibrate.pooling_table import Reference
    from espnet_larm.data.kaldi_dir import read_table
    from espnet_larm.recognize.audio import AudioTable

    table = AudioTable(path / "wav.scp", args.audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    texts, keys = read_table(path / "text"), table.keys(None)
    if lacking := [key for key in keys if key not in texts]:
        raise ValueError(f"{path}: {len(lacking)} utterances have no text, the first of them {lacking[0]}.")
    utt2spk = path / "utt2spk"
    reference = Reference({key: texts[key] for key in keys}, read_table(utt2spk) if utt2spk.is_file() else {})
    return Folder(table, keys, reference.without([]))


def bounds_of(args: argparse.Namespace) -> "Bounds":
    """Bounds of the group size."""
    from espnet_larm.calibrate.pooling_places import Bounds

    return Bounds(args.window, args.max_group)


def place_name(args: argparse.Namespace, others: "Places") -> str:
    """The place and its options, and the others that pool, for people."""
    from espnet_larm.calibrate.pooling_places import describe_places

    words = [f"{name} {value}" for name in ("layer", "window", "max_group") if (value := vars(args)[name]) is not None]
    return f"{', '.join([args.place, *words])}; other places: {describe_places(others)}"


def file_stem(args: argparse.Namespace, table: str) -> str:
    """The name of results by site: `pooling_input`, `pooling_deep6`."""
    return f"{table}_{args.place}{args.layer or ''}"


def notes_on_places(args: argparse.Namespace, trained: "Places", others: "Places") -> Iterator[str]:
    """What rows are made of, where it is not what training made.

    Args:
        args: Options with the site that is measured.
        trained: Sites that pooled in training.
        others: Other sites that pool in all rows.
    """
    from espnet_larm.calibrate.pooling_places import describe_places

    if args.place in trained:
        here = describe_places({args.place: trained[args.place]})
        yield f"trained with {here}: the first row switches it off, which this model never met in training"
    gone = {place: each for place, each in trained.items() if place != args.place and place not in others}
    if gone:
        yield f"trained with {describe_places(gone)}, which is off in all rows: --pooling replaces all of the LM's"


def write_results(
    stem: Path, heading: str, notes: list[str], lines: list[str], origin: dict[str, Any], found: dict[str, Any]
) -> None:
    """Write `stem`.md for people and `stem`.json for programs."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    said = [*(f"- {note}" for note in notes), *footer(origin)]
    write_text(stem.with_suffix(".md"), "\n".join([f"# {heading}", "", *said, "", *lines, ""]))
    write_text(stem.with_suffix(".json"), json.dumps({**found, "notes": notes, **origin}, indent=2) + "\n")
