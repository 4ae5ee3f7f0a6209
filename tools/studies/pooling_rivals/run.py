"""Compares ways of pooling at equal tokens a second: word error rates with intervals.

Each set is encoded once. tau of affinity pooling is chosen for each retention on the development set, so that it leaves
as much as the other ways (they round up in each utterance), and applied to the test sets, where it may leave some
percent more or less; `--tau_from each` chooses it on each set. Differences are paired: to no pooling, and to a rival at
the same wanted retention, the uniform mean of neighbours by default. `runs` are groups of the CTC path; `_ctc` and
`_change` say what tokens count for in a group's mean. Ways that read a CTC head are left out of a model without. Other
sites pool as in training, and are named.
`--place encoder` and `frontend` need no LM: the encoder's output is pooled before the CTC head reads it, or the front
end's frames before the encoder does (ctc_place.py).
Writes `compare_pooling_<place>.md`, `.json` and `.png` beside the model.

    python -m studies.pooling_rivals.run --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --test_dirs dump/raw/test
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.cli.calibrate.pooling_options import (
    DEEP,
    FRONTEND,
    INPUT,
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
from espnet_larm.origin import origin_of
from espnet_larm.program import run_program
from studies.pooling_rivals.ways import UNIFORM_MEAN, WAYS, has_tau, needs_ctc

if TYPE_CHECKING:
    from studies.pooling_rivals.comparison import Compared

logger = logging.getLogger(__name__)

RETENTIONS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TABLE = "compare_pooling"
CTC_PLACES = ("encoder", FRONTEND)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, (INPUT, DEEP, *CTC_PLACES))
    parser.add_argument(
        "--test_dirs", type=Path, nargs="+", help="data folders of test sets; the development set by default"
    )
    parser.add_argument("--tau_from", default="dev", choices=["dev", "each"], help="set that tau is chosen on (dev)")
    parser.add_argument(
        "--methods", nargs="+", choices=list(WAYS), default=list(WAYS), help="ways to compare; all by default"
    )
    parser.add_argument(
        "--rival",
        choices=list(WAYS),
        default=UNIFORM_MEAN,
        help="the way that the others are compared with (uniform_mean)",
    )
    parser.add_argument(
        "--retentions",
        type=float,
        nargs="+",
        default=list(RETENTIONS),
        help="fractions of speech tokens to leave, above 0, up to 1 (0.9 down to 0.3)",
    )
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Compare, print, write."""
    args = get_parser().parse_args(cmd)
    check(args)
    check_retentions("retentions", args.retentions)
    from espnet_larm.calibrate.pooling_places import pooled_places
    from studies.pooling_rivals.comparison import draw

    is_by_ctc = args.place in CTC_PLACES
    recognizer = load(args, needs_llm=not is_by_ctc)
    trained = {} if is_by_ctc else pooled_places(recognizer.model)
    others = {name: each for name, each in trained.items() if name != args.place}
    compared = list(_compare(args, recognizer, bool(others)))
    output_dir = args.output_dir or args.asr_train_config.parent
    lines: list[str] = []
    for each in compared:
        lines += [*each.format(), ""]
    notes = list(notes_on_places(args, trained, others))
    print("\n".join([*notes, *lines]))
    rows = [{"data": each.name, **row} for each in compared for row in each.as_json()]
    source = args.data_dir if args.tau_from == "dev" else "each set"
    heading = f"Pooling at equal retention, {place_name(args, others)}; tau of {source}"
    origin = origin_of("python -m studies.pooling_rivals.run", cmd, recognizer.device)
    stem = output_dir / file_stem(args, TABLE)
    found = {"place": args.place, "layer": args.layer, "other_places": others}
    found |= {"sets": [each.about() for each in compared], "rows": rows}
    write_results(stem, heading, notes, lines, origin, found)
    draw(compared, stem.with_suffix(".png"))
    return 0


def _compare(args: argparse.Namespace, recognizer: Any, others_pool: bool) -> "Iterator[Compared]":
    """Compare the methods on each test set."""
    from espnet_larm.calibrate.pooling_places import SpeechPlace, check_layer
    from espnet_larm.calibrate.pooling_sweep import EncodedFolder
    from studies.pooling_rivals.comparison import compare, find_taus
    from studies.pooling_rivals.ctc_place import CtcPlace

    has_path = recognizer.model.ctc is not None and args.place != FRONTEND
    methods = [name for name in args.methods if has_path or not needs_ctc(name)]
    check_layer(recognizer, args.place, args.layer)

    def place_of(path: Path) -> tuple[Any, Any]:
        folder = read_folder(path, args, recognizer)
        if args.place in CTC_PLACES:
            given = folder.table, folder.keys, args.batch_seconds, bounds_of(args), args.place
            return CtcPlace(recognizer, *given), folder.reference
        spoken = EncodedFolder(recognizer, folder.table, folder.keys, args.batch_seconds)
        return SpeechPlace(spoken, args.place, args.layer, bounds_of(args)), folder.reference

    dev = place_of(args.data_dir)
    wanted = [retention for retention in dict.fromkeys(args.retentions) if retention < 1]
    sought = wanted if any(map(has_tau, methods)) else []
    taus = find_taus(dev[0], sought)
    for path in args.test_dirs or [args.data_dir]:
        place, reference = dev if path == args.data_dir else place_of(path)
        found = taus if args.tau_from == "dev" else find_taus(place, sought)
        yield compare(str(path), place, reference, methods, wanted, found, others_pool, args.rival)


if __name__ == "__main__":
    sys.exit(run_program(main))
