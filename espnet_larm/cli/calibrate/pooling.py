r"""tau of affinity pooling for a wanted retention, on a development set: a table tau x (retention, WER, cost).

Encodes the set once, looks for the tau of each `--retention` by what it leaves alone, then decodes with these and with
those of `--grid`. Pooled is the LM's `input`, behind one of its layers (`deep`), or the `frontend`'s frames, where the
set is encoded for each tau. The place that is not calibrated stays as in training, or as `--pooling` says.
Writes beside the model `pooling_<place>.md`, `.json` and `.png` (`pooling_deep6.md` for layer 6) and, with the tau of
the first retention, `decode_pooling.yaml` for `--config` of decoding (`--inference_config` of recipes): that of the
place calibrated last. Decoding cannot change a front end: of that place there is `config_pooling.yaml` for
`--asr_train_config`, which also says what to train with.
Utterances too short for the encoder are left out of all rows, and named.

Examples:
    espnet-larm calibrate-pooling --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --retention 0.8
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from espnet_larm.cli.calibrate.pooling_options import (
    FRONTEND,
    Folder,
    add_options,
    bounds_of,
    check,
    check_retentions,
    file_stem,
    load,
    notes_on_places,
    place_name,
    read_folder,
    write_results,
)
from espnet_larm.files.atomic import write_text
from espnet_larm.files.reading import read_yaml
from espnet_larm.origin import origin_of
from espnet_larm.program import check_config_first

if TYPE_CHECKING:
    from espnet_larm.calibrate.pooling_places import FrontendPlace, SpeechPlace
    from espnet_larm.calibrate.pooling_table import Reference, Row
    from espnet_larm.pooling.in_llm import SpeechPooling
    from espnet_larm.recognize.recognizer import Recognizer

logger = logging.getLogger(__name__)

GRID = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TABLE = "pooling"
CONFIG, TRAIN_CONFIG = "decode_pooling.yaml", "config_pooling.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    from espnet2.utils.nested_dict_action import NestedDictAction

    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument(
        "--retention", type=float, nargs="+", default=[0.8], help="fraction of the speech to leave (default: 0.8)"
    )
    parser.add_argument(
        "--grid", type=float, nargs="*", default=list(GRID), help="retentions decoded besides, where tau reaches them"
    )
    parser.add_argument("--min_frames_per_second", type=float, help="frames to leave at least, with --place frontend")
    parser.add_argument(
        "--pooling",
        action=NestedDictAction,
        metavar="PLACE.OPTION=VALUE",
        help="pooling of the other site (default: as trained): with --place deep, input.tau=0.9. It replaces all that "
        "training pools in the LM: with --place frontend, what is left out is off",
    )
    check_config_first(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Look for tau, decode, print and write the table."""
    args = get_parser().parse_args(cmd)
    check(args)
    check_retentions("retention", args.retention)
    check_retentions("grid", args.grid)
    if args.min_frames_per_second is not None and args.place != FRONTEND:
        raise ValueError(
            f"--min_frames_per_second is {args.min_frames_per_second}, but --place is {args.place}; it is of --place "
            "frontend alone."
        )
    from espnet_larm.calibrate.pooling_places import pooled_places
    from espnet_larm.calibrate.pooling_table import draw, format_rows, notes_of

    recognizer = load(args)
    trained = pooled_places(recognizer.model)
    pooling = None if args.pooling is None else _pooling(args, recognizer)
    config = read_yaml(args.asr_train_config)
    folder = read_folder(args.data_dir, args, recognizer)
    place = _place(args, recognizer, config, folder, pooling)
    others = {name: each for name, each in pooled_places(recognizer.model, pooling).items() if name != args.place}
    reference = folder.reference.without(place.left_out)
    taus = _taus(args, place)
    rows = _decode(args, place, reference, bool(others), taus)
    chosen = next(row for row in rows[1:] if row.tau == taus[args.retention[0]])
    lines = list(format_rows(rows, chosen))
    notes = [*notes_on_places(args, trained, others), *notes_of(reference, place.left_out, rows)]
    print("\n".join([*notes, *lines]))
    output_dir = args.output_dir or args.asr_train_config.parent
    stem = output_dir / file_stem(args, TABLE)
    heading = f"Affinity pooling, {place_name(args, others)}: {args.data_dir}, {len(reference.texts)} utterances"
    found = {
        "data": str(args.data_dir),
        "place": args.place,
        "layer": args.layer,
        "other_places": others,
        "left_out": place.left_out,
        "interval_unit": reference.grouping.unit,
        "rows": [{**row.as_json(), "is_chosen": row is chosen} for row in rows],
    }
    write_results(
        stem, heading, notes, lines, origin_of("espnet-larm calibrate-pooling", cmd, recognizer.device), found
    )
    draw(rows, stem.with_suffix(".png"), chosen)
    print(_write_config(args, place, config, chosen, output_dir, pooling))
    return 0


def _pooling(args: argparse.Namespace, recognizer: "Recognizer") -> "SpeechPooling":
    """The LM's pooling that `--pooling` asks for.

    Raises:
        ValueError: It names the place that is calibrated, or an option is not allowed.
    """
    from espnet_larm.pooling.in_llm import speech_pooling_of

    if args.place in args.pooling:
        raise ValueError(
            f"--pooling names {args.place}, but --place {args.place} is what is calibrated; give --window, "
            "--max_group or --layer for it, and with --pooling the other place alone."
        )
    return speech_pooling_of(args.pooling, recognizer.model.decoder.backbone, "--pooling")


def _place(
    args: argparse.Namespace,
    recognizer: "Recognizer",
    config: dict[str, Any],
    folder: Folder,
    pooling: "SpeechPooling | None",
) -> "SpeechPlace | FrontendPlace":
    from espnet_larm.calibrate.pooling_places import FrontendPlace, SpeechPlace, check_layer
    from espnet_larm.calibrate.pooling_sweep import EncodedFolder

    bounds, seconds = bounds_of(args), args.batch_seconds
    if args.place == FRONTEND:
        least = args.min_frames_per_second
        options = None if pooling is None else pooling.options
        return FrontendPlace(recognizer, config, folder.table, folder.keys, seconds, bounds, least, options)
    check_layer(recognizer, args.place, args.layer)
    encoded = EncodedFolder(recognizer, folder.table, folder.keys, seconds)
    return SpeechPlace(encoded, args.place, args.layer, bounds, pooling)


def _taus(args: argparse.Namespace, place: "SpeechPlace | FrontendPlace") -> dict[float, float]:
    """By retention: those that are asked for must be reached, those of the grid may.

    Raises:
        ValueError: One that is asked for cannot be reached.
    """
    from espnet_larm.calibrate.pooling_places import refusal
    from espnet_larm.calibrate.pooling_sweep import UnreachableError, find_tau

    reach = place.retention(-1.0), place.retention(1.0)
    taus: dict[float, float] = {}
    for wanted in dict.fromkeys([*args.retention, *args.grid]):
        try:
            taus[wanted] = find_tau(place.retention, wanted, reach)[0]
        except UnreachableError as error:
            if wanted in args.retention:
                raise ValueError(refusal("--retention", wanted, place, error)) from error
            logger.info("left out of the table: %s", refusal("--grid", wanted, place, error))
    return taus


def _decode(
    args: argparse.Namespace,
    place: "SpeechPlace | FrontendPlace",
    reference: "Reference",
    others_pool: bool,
    taus: dict[float, float],
) -> "list[Row]":
    """The row without pooling at the site, then one for each tau from the highest on."""
    from espnet_larm.calibrate.pooling_sweep import OFF
    from espnet_larm.calibrate.pooling_table import Rows

    maker = Rows(reference, args.place, others_pool, place.decode(OFF), place.unpooled_cost())
    rows = [maker.first()]
    for wanted, tau in sorted(taus.items(), reverse=True):
        row = maker.row("affinity", wanted, tau, place.decode(tau))
        logger.info("tau %g: %.3f left, WER %.2f %%", tau, row.retention, row.scores.total.error_percent)
        rows.append(row)
    return rows


def _write_config(
    args: argparse.Namespace,
    place: "SpeechPlace | FrontendPlace",
    config: dict[str, Any],
    chosen: "Row",
    output_dir: Path,
    pooling: "SpeechPooling | None",
) -> str:
    """Write what decoding reads; return the option that names it."""
    from espnet_larm.calibrate.pooling_places import FrontendPlace

    said = f"# {args.place}: {chosen.retention:.3f} of the speech is left on {args.data_dir}: "
    said += "espnet-larm calibrate-pooling.\n"
    assert chosen.tau is not None
    if isinstance(place, FrontendPlace):
        said += "# The training's configuration with another front end, for --asr_train_config of decoding.\n"
        path, option = output_dir / TRAIN_CONFIG, "--asr_train_config"
        content = {**config, **place.conf(chosen.tau)}
        if pooling is not None:
            # What the rows were decoded with.
            content["decoder_conf"] = {**config["decoder_conf"], "pooling": pooling.options}
    else:
        path, option = output_dir / CONFIG, "--config"
        content = {"pooling": place.conf(tau=chosen.tau, **place.bounds.options)}
    write_text(path, said + yaml.safe_dump(content, sort_keys=False))
    return f"tau {chosen.tau:g}: {option} {path}"
