r"""The weight of CTC in the choice among edits (`--search edit --ctc_weight`), found on a development set.

An editor's best edits and the CTC head's best hypotheses are scored once by both, and the set is scored with each of
`--weights`. Writes `edit_calibration.md` and `.json`, and `decode_edit.yaml` for `--inference_config`, beside the
model.

Examples:
    espnet-larm calibrate-edits --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.wer_edit.ave.pth --data_dir dump/raw/dev --beam_size 8
"""

import argparse
import json
from pathlib import Path

import yaml

from espnet_larm.cli.calibrate.inputs import add_inputs
from espnet_larm.cli.device import add_device, device_of
from espnet_larm.files.atomic import write_text
from espnet_larm.options import Option, add_option, given_options, number
from espnet_larm.origin import footer, origin_of
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import EDIT, Batching, DecodeConfig

TABLE, CONFIG = "edit_calibration", "decode_edit.yaml"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    weight = number(float, Option("a weight", least=0.0, below=1.0))
    parser.add_argument("--weights", type=weight, nargs="+", help="values of ctc_weight that are tried (0 to 0.95)")
    size = number(int, Option("a size", least=1, most=1000))
    parser.add_argument("--beam_size", type=size, default=8, help="best edits, and as many CTC hypotheses (default: 8)")
    add_option(parser, DecodeConfig, "edit_passes")
    add_option(parser, Batching, "batch_seconds")
    parser.add_argument("--output_dir", type=Path, help="folder of the results (default: the experiment)")
    add_places(parser)
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Score, print and write the table, choose."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.calibrate import edits
    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.recognizer import Recognizer

    files = args.asr_train_config, args.asr_model_file
    recognizer = Recognizer.from_files(*files, device_of(args.device), llm=args.llm, encoder=args.encoder)
    texts = {utterance.id: utterance.text for utterance in read_dir(args.data_dir)}
    table = AudioTable(args.data_dir / "wav.scp", args.audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    batching = Batching(**given_options(Batching, args))
    found = edits.collect(recognizer, table, texts, args.beam_size, args.edit_passes, batching)
    rows = [*edits.rows_of(found, texts, sorted(args.weights or edits.WEIGHTS))]
    chosen = edits.choose(rows)
    marked = ("*" if row is chosen else "" for row in rows)
    lines = ["| | WER % | chosen |", "| --- | --- | --- |"]
    lines += [f"| {row.name} | {row.wer_percent:.2f} | {mark} |" for row, mark in zip(rows, marked, strict=True)]
    print("\n".join(lines))
    output_dir = args.output_dir or args.asr_train_config.parent
    head = f"Edits of {args.data_dir}, {len(found)} utterances, {args.asr_model_file.name}, beams of {args.beam_size}."
    origin = "\n".join(footer(origin_of("espnet-larm calibrate-edits", cmd, recognizer.device)))
    write_text(output_dir / f"{TABLE}.md", "\n".join([head, "", origin, "", *lines, ""]))
    listed = [{**row._asdict(), "is_chosen": row is chosen} for row in rows]
    write_text(output_dir / f"{TABLE}.json", json.dumps(listed, indent=2) + "\n")
    options = {"search": EDIT, "beam_size": args.beam_size, "ctc_weight": chosen.ctc_weight}
    if args.edit_passes is not None:
        options["edit_passes"] = args.edit_passes
    note = f"# Chosen by espnet-larm calibrate-edits ({TABLE}.md).\n"
    write_text(output_dir / CONFIG, f"{note}{yaml.safe_dump(options)}")
    print(f"{chosen.name}: --inference_config {output_dir / CONFIG}")
    return 0
