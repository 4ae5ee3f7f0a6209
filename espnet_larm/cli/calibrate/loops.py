r"""When utterances leave the looped encoder (`num_loops: auto`): a threshold for each rule, and the rule to take.

Decodes a development set at every checkpoint loop, and counts what each rule would lose and save with every threshold.
With `--max_wer_loss` the fewest loops are taken that are shown, by a paired bootstrap, to lose at most so many points
of WER against the deepest loop; with `--mean_loops` the best words at that many loops. A rule that compares two loops
cannot let an utterance leave before the second: its floor stands in the table.
Writes `loops_calibration.json` beside the model, which `--num_loops auto` reads and packs hold, and the table, as
`loops_calibration_ctc.md`, or `_llm.md` for a model that its LM decodes.

Examples:
    espnet-larm calibrate-loops --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --max_wer_loss 0.3
"""

import argparse
import logging
from pathlib import Path

from espnet_larm.cli.calibrate.inputs import add_inputs
from espnet_larm.cli.device import add_device, device_of
from espnet_larm.files.atomic import write_text
from espnet_larm.options import Option, add_option, given_options, number
from espnet_larm.origin import footer, origin_of
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import LOOP_RULES, Batching, DecodeConfig

logger = logging.getLogger(__name__)

MAX_WER_LOSS = 0.3
points = number(float, Option("points of WER", above=0.0, most=100.0))
mean = number(float, Option("loops", least=1.0))


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    aim = parser.add_mutually_exclusive_group()
    aim.add_argument("--max_wer_loss", type=points, help=f"points of WER that may be lost (default: {MAX_WER_LOSS})")
    aim.add_argument("--mean_loops", type=mean, help="mean number of loops to come near, instead")
    rules_help = "rules to choose among (default: all by which an utterance of the model can leave early)"
    parser.add_argument("--rules", nargs="+", choices=LOOP_RULES, help=rules_help)
    add_option(parser, DecodeConfig, "ctc_weight")
    add_option(parser, DecodeConfig, "beam_size")
    add_option(parser, DecodeConfig, "skip_blank")
    add_option(parser, Batching, "batch_seconds")
    parser.add_argument("--output_dir", type=Path, help="folder of the results (default: the experiment)")
    add_places(parser)
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode, choose, write and print the table."""
    args = get_parser().parse_args(cmd)
    batching = Batching(**given_options(Batching, args))
    config = DecodeConfig(**given_options(DecodeConfig, args))
    from espnet_larm.calibrate import loop_rules
    from espnet_larm.calibrate.loop_traces import trace
    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.leaving.calibration import CALIBRATION, CTC, LLM, Calibrated, write_calibration
    from espnet_larm.recognize.leaving.rules import RULES
    from espnet_larm.recognize.recognizer import Recognizer
    from espnet_larm.scoring.bootstrap import group_utterances

    files = args.asr_train_config, args.asr_model_file
    recognizer = Recognizer.from_files(*files, device_of(args.device), llm=args.llm, encoder=args.encoder)
    utterances = read_dir(args.data_dir)
    max_wer_loss = (args.max_wer_loss or MAX_WER_LOSS) if args.mean_loops is None else None
    if max_wer_loss is not None:
        # Before anything is decoded.
        loop_rules.check_size(sum(len(each.text.split()) for each in utterances), max_wer_loss)
    table = AudioTable(args.data_dir / "wav.scp", args.audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    traces = trace(recognizer, table, {each.id: each.text for each in utterances}, config, batching)
    if wrong := [name for name in args.rules or () if name not in traces.numbers]:
        raise ValueError(
            f"rules has {wrong[0]}, by which no utterance can leave before the last of {len(traces.loops)} checkpoint "
            f"loops; allowed: {', '.join(traces.numbers)}."
        )
    grouping = group_utterances(traces.keys, {each.id: each.speaker for each in utterances})
    by_rule = {name: loop_rules.rows_of(traces, name, grouping) for name in args.rules or traces.numbers}
    best, chosen = loop_rules.choose(traces, by_rule, max_wer_loss, args.mean_loops or 0.0)
    aim = f"at most {args.mean_loops} loops on average"
    if max_wer_loss is not None:
        aim = f"at most {max_wer_loss:g} points of WER may be lost"
    lines = "\n".join(loop_rules.format_rows(traces, best, chosen))
    print(lines)
    output_dir, way = args.output_dir or args.asr_train_config.parent, LLM if traces.is_by_llm else CTC
    output_dir.mkdir(parents=True, exist_ok=True)
    head = (
        f"Rules of leaving the encoder on {args.data_dir}, {len(traces.keys)} utterances, {args.asr_model_file.name}, "
        f"decoded by {way.upper()}: {aim}. Points are against loop {traces.loops[-1]}."
    )
    origin = "\n".join(footer(origin_of("espnet-larm calibrate-loops", cmd, recognizer.device)))
    write_text(output_dir / f"loops_calibration_{way}.md", f"{head}\n\n{origin}\n\n{lines}\n")
    thresholds = {row.rule: row.threshold for row in best if RULES[row.rule].threshold is None}
    facts = {
        "aim": aim,
        "weights": args.asr_model_file.name,
        "data": args.data_dir.name,
        "skip_blank": config.skip_blank,
        **loop_rules.facts_of(traces, best),
    }
    write_calibration(output_dir, way, Calibrated(chosen.rule, thresholds), facts)
    print(f"{chosen.rule} from loop {chosen.floor} on: --num_loops auto ({output_dir / CALIBRATION})")
    return 0
