"""Thresholds of draft heads on a development set: a table tau x (WER, calls, real-time factor), and the one to take.

Decodes the set a token a call, with all drafts verified (the same words), and with each tau as threshold (not the same
words). Of those that lose at most `--target_wer_loss` points of WER the one with the fewest calls is chosen.
Writes `drafts_calibration.md` and `.json` beside the model, and `decode_drafts.yaml` for `--inference_config`.

Examples:
    python -m espnet_larm calibrate-drafts --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --target_wer_loss 0.2
"""

import argparse
import json
import logging
from pathlib import Path

import yaml

from espnet_larm.cli.device import add_device, device_of
from espnet_larm.files.atomic import write_text
from espnet_larm.options import add_option, given_options
from espnet_larm.origin import footer, origin_of
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import Batching, DecodeConfig

logger = logging.getLogger(__name__)

TAUS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
TABLE, CONFIG = "drafts_calibration", "decode_drafts.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asr_train_config", type=Path, required=True, help="the experiment's config.yaml")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="the experiment's weights")
    parser.add_argument("--data_dir", type=Path, required=True, help="development set: wav.scp, text, utt2spk")
    parser.add_argument("--audio_type", default="sound", help="type of wav.scp: sound or kaldi_ark (default: sound)")
    parser.add_argument("--taus", type=float, nargs="+", default=list(TAUS), help="thresholds that are tried")
    parser.add_argument("--target_wer_loss", type=float, default=0.2, help="points of WER that may be lost (0.2)")
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
    if not args.target_wer_loss >= 0.0:
        raise ValueError(f"--target_wer_loss is {args.target_wer_loss}; allowed: 0 or more, points of WER.")
    batching = Batching(**given_options(Batching, args))
    from espnet_larm.calibrate.drafts import calibrate, choose, format_rows
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
    given = {"tokens_per_call": args.tokens_per_call, "draft_tau_of": args.draft_tau_of}
    heads = {name: value for name, value in given.items() if value is not None}
    rows = []
    for row in calibrate(recognizer, table, texts, args.taus, heads, batching):
        logger.info("%s: WER %.2f %%, %d calls", row.name, row.wer_percent, row.row_calls)
        rows.append(row)
    chosen = choose(rows, args.target_wer_loss)
    lines = "\n".join(format_rows(rows, chosen))
    print(lines)
    output_dir = args.output_dir or args.asr_train_config.parent
    output_dir.mkdir(parents=True, exist_ok=True)
    head = (
        f"Thresholds of draft heads on {args.data_dir}, {len(texts)} utterances, {args.asr_model_file.name}: at most "
        f"{args.target_wer_loss} points of WER may be lost."
    )
    origin = "\n".join(footer(origin_of("espnet-larm calibrate-drafts", cmd, recognizer.device)))
    write_text(output_dir / f"{TABLE}.md", f"{head}\n\n{origin}\n\n{lines}\n")
    rows_json = [{**row._asdict(), "is_chosen": row is chosen} for row in rows]
    write_text(output_dir / f"{TABLE}.json", json.dumps(rows_json, indent=2) + "\n")
    config = f"# {chosen.name}, chosen by espnet-larm calibrate-drafts ({TABLE}.md).\n{yaml.safe_dump(chosen.options)}"
    write_text(output_dir / CONFIG, config)
    print(f"{chosen.name}: --inference_config {output_dir / CONFIG}")
    return 0
