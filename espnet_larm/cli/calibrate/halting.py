r"""A halting head for `num_loops: auto`: a linear layer that says whether deeper loops would hear an utterance better.

Runs all loops of the trained model on a set, and trains the layer on the label "a deeper checkpoint loop has a CTC loss
that is lower by more than delta, a token", from the mean and deviation of the utterance's frames. The model stays as it
is. Take speech that the model was not trained on, and not the set of `calibrate-loops`, which comes next: it finds the
head's threshold, and puts it in one table with the rules that need no training.
Writes `halting_head.json` beside the model, which `--loop_rule head` reads and packs hold. The table says how well the
labels of held-out speakers are foretold, beside what the loop's number alone tells.

Examples:
    espnet-larm train-halting-head --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev_other
"""

import argparse
import time
from pathlib import Path

from espnet_larm.cli.calibrate.inputs import add_inputs
from espnet_larm.cli.device import add_device, device_of
from espnet_larm.options import Option, add_option, given_options, number
from espnet_larm.pack.models import add_places
from espnet_larm.recognize.config import HALTING, Batching, DecodeConfig
from espnet_larm.recognize.leaving.calibration import HEAD_FILE

DELTA = 0.01
nats = number(float, Option("nats a token", least=0.0))


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser, "speech with texts: wav.scp, text, utt2spk")
    delta_help = f"gain of a deeper loop that counts, in nats a token (default: {DELTA})"
    parser.add_argument("--delta", type=nats, default=DELTA, help=delta_help)
    add_option(parser, Batching, "batch_seconds")
    parser.add_argument("--output_dir", type=Path, help="folder of the head (default: the experiment)")
    add_places(parser)
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Run all loops, train, write and print the table."""
    args = get_parser().parse_args(cmd)
    batching = Batching(**given_options(Batching, args))
    from espnet_larm.calibrate.halting import collect, fit, format_labels
    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.leaving.halting_head import HaltingHead, digest_of, write_head
    from espnet_larm.recognize.recognizer import Recognizer
    from espnet_larm.scoring.bootstrap import group_utterances

    files = args.asr_train_config, args.asr_model_file
    recognizer = Recognizer.from_files(*files, device_of(args.device), llm=args.llm, encoder=args.encoder)
    utterances = read_dir(args.data_dir)
    table = AudioTable(args.data_dir / "wav.scp", args.audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    begin = time.perf_counter()
    references = {each.id: each.text for each in utterances}
    examples = collect(recognizer, table, references, DecodeConfig().long_seconds, batching)
    middle = time.perf_counter()
    grouping = group_utterances(examples.keys, {each.id: each.speaker for each in utterances})
    fitted = fit(examples, args.delta, grouping)
    end = time.perf_counter()
    print("\n".join(format_labels(examples.loops, examples.labels(args.delta), fitted)))
    if examples.num_left_out:
        print(f"left out: {examples.num_left_out} utterances that are too short for their texts")
    cost = {
        "utterances": len(examples.keys),
        "frames": examples.num_frames,
        "seconds": round(middle - begin, 1),
        "fit_seconds": round(end - middle, 1),
        "weights": len(fitted.weight) + len(fitted.biases),
    }
    print(
        "cost: {utterances} utterances, {frames} encoder frames at {loops} loops in {seconds} s; {weights} weights "
        "fitted in {fit_seconds} s".format(**cost, loops=examples.loops[-1])
    )
    output_dir = args.output_dir or args.asr_train_config.parent
    output_dir.mkdir(parents=True, exist_ok=True)
    biases = dict(zip(examples.loops[:-1], fitted.biases.tolist(), strict=True))
    facts = {"data": args.data_dir.name, "penalty": fitted.penalty, **cost}
    write_head(output_dir, HaltingHead(fitted.weight, biases, args.delta, digest_of(args.asr_model_file)), facts)
    print(f"{output_dir / HEAD_FILE}: --loop_rule {HALTING}, once espnet-larm calibrate-loops has its threshold")
    return 0
