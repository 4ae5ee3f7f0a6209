r"""Thresholds of drafts on a development set: a table thresholds x (WER, calls, real-time factor), and which to take.

`--accept threshold`, of draft heads: decodes the set a token a call, with all drafts verified (the same words), and
with each tau as threshold (not the same words). Writes `drafts_calibration.md` and `.json` beside the model, and
`decode_drafts.yaml` for `--inference_config`.
`--accept relaxed`, of whole CTC hypotheses: decodes the set a token a call, and with pairs of an entropy that CTC must
stay below and a probability (`--taus`) that the LM must exceed. Writes `relaxed_calibration.md` and `.json` beside the
model, which `--accept relaxed` of decoding reads and packs hold.
Of those that lose at most `--target_wer_loss` points of WER the one with the fewest calls is chosen.

Examples:
    espnet-larm calibrate-drafts --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --target_wer_loss 0.2
    espnet-larm calibrate-drafts --accept relaxed --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --target_wer_loss -0.1
"""

import argparse
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from espnet_larm.cli.calibrate.inputs import add_inputs
from espnet_larm.cli.device import add_device, device_of
from espnet_larm.files.atomic import write_text
from espnet_larm.options import add_option, given_options
from espnet_larm.origin import footer, origin_of
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import HEADS, RELAXED, THRESHOLD, Batching, DecodeConfig
from espnet_larm.recognize.model.thresholds import Thresholds, write_thresholds

if TYPE_CHECKING:
    from espnet_larm.calibrate.drafts import Row

logger = logging.getLogger(__name__)

TAUS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
RELAXED_TAUS = (0.05, 0.1, 0.2, 0.3, 0.5)
TABLES, CONFIG = {THRESHOLD: "drafts_calibration", RELAXED: "relaxed_calibration"}, "decode_drafts.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    accept_help = f"rule whose thresholds are looked for (default: {THRESHOLD})"
    parser.add_argument("--accept", choices=tuple(TABLES), default=THRESHOLD, help=accept_help)
    taus_help = "values of draft_tau, or of relaxed_tau, that are tried (default: {})".format(
        f"{', '.join(map(str, TAUS))}; {', '.join(map(str, RELAXED_TAUS))}"
    )
    parser.add_argument("--taus", type=float, nargs="+", help=taus_help)
    loss_help = f"points of WER that may be lost, with {RELAXED} below 0 those that must be gained (default: 0.2)"
    parser.add_argument("--target_wer_loss", type=float, default=0.2, help=loss_help)
    add_option(parser, DecodeConfig, "drafts")
    add_option(parser, DecodeConfig, "tokens_per_call")
    add_option(parser, DecodeConfig, "draft_tau_of")
    add_option(parser, Batching, "batch_seconds")
    parser.add_argument("--output_dir", type=Path, help="folder of the results (default: the experiment)")
    add_places(parser)
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode, print and write the table, choose."""
    args = get_parser().parse_args(cmd)
    _check(args)
    batching = Batching(**given_options(Batching, args))
    from espnet_larm.calibrate import drafts, relaxed
    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.recognizer import Recognizer

    recognizer = Recognizer.from_files(
        args.asr_train_config,
        args.asr_model_file,
        device_of(args.device),
        llm=args.llm,
        encoder=args.encoder,
    )
    texts = {utterance.id: utterance.text for utterance in read_dir(args.data_dir)}
    table = AudioTable(args.data_dir / "wav.scp", args.audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    given = {name: getattr(args, name) for name in ("drafts", "tokens_per_call", "draft_tau_of")}
    given = {name: value for name, value in given.items() if value is not None}
    calibrate, taus = {
        THRESHOLD: (drafts.calibrate, TAUS),
        RELAXED: (relaxed.calibrate, RELAXED_TAUS),
    }[args.accept]
    rows = []
    for row in calibrate(recognizer, table, texts, args.taus or taus, given, batching):
        logger.info("%s: WER %.2f %%, %d calls", row.name, row.wer_percent, row.row_calls)
        rows.append(row)
    chosen = drafts.choose(rows, args.target_wer_loss, may_be_first=args.accept == THRESHOLD)
    lines = "\n".join(drafts.format_rows(rows, chosen))
    print(lines)
    head = (
        f"Thresholds ({args.accept}) on {args.data_dir}, {len(texts)} utterances, {args.asr_model_file.name}: at most "
        f"{args.target_wer_loss:g} points of WER may be lost."
    )
    origin = "\n".join(footer(origin_of("espnet-larm calibrate-drafts", cmd, recognizer.device)))
    output_dir = args.output_dir or args.asr_train_config.parent
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(output_dir / f"{TABLES[args.accept]}.md", f"{head}\n\n{origin}\n\n{lines}\n")
    print(f"{chosen.name}: {_write(args, output_dir, rows, chosen)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go with the rule."""
    allowed = "0 or more, points of WER" if args.accept == THRESHOLD else "a number of points of WER"
    loss = args.target_wer_loss
    if not math.isfinite(loss) or (args.accept == THRESHOLD and loss < 0.0):
        raise ValueError(f"--target_wer_loss is {loss}; allowed: {allowed}.")
    if args.accept == THRESHOLD and args.drafts not in (None, HEADS):
        raise ValueError(f"--drafts is {args.drafts} and --accept {THRESHOLD}: only drafts of heads can go unverified.")


def _write(args: argparse.Namespace, output_dir: Path, rows: Sequence["Row"], chosen: "Row") -> str:
    """Write what was found; how decoding takes it."""
    listed: list[dict[str, Any]] = [{**row._asdict(), "is_chosen": row is chosen} for row in rows]
    table = TABLES[args.accept]
    if args.accept == RELAXED:
        thresholds = Thresholds(*(chosen.options[name] for name in Thresholds._fields))
        facts = {
            "target_wer_loss": args.target_wer_loss,
            "weights": args.asr_model_file.name,
            "data": args.data_dir.name,
            "rows": listed,
        }
        return f"--accept {RELAXED} ({write_thresholds(output_dir, thresholds, facts)})"
    write_text(output_dir / f"{table}.json", json.dumps(listed, indent=2) + "\n")
    config = f"# {chosen.name}, chosen by espnet-larm calibrate-drafts ({table}.md).\n{yaml.safe_dump(chosen.options)}"
    write_text(output_dir / CONFIG, config)
    return f"--inference_config {output_dir / CONFIG}"
