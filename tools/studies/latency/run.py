"""Word error rates and emission delays of streaming encoders by latency and loops, on sets decoded offline in chunks.

    PYTHONPATH=tools python -m studies.latency.run --model sampled EXP/config.yaml EXP/latest.pth
        --data_dirs dump/raw/test --output_dir EXP/latency

Several sets are pooled, several models compared (--model again). Writes `latency.md`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.cli.device import add_device, device_of
from espnet_larm.options import add_option, given_options
from espnet_larm.origin import commit, without_root
from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults
from espnet_larm.recognize.config import Batching
from studies.reports import command_of, origin_lines, table_of, write_text

if TYPE_CHECKING:
    from espnet_larm.recognize.leaving.leave import Leaving
    from espnet_larm.recognize.recognizer import Recognizer
    from espnet_larm.streaming.context import Context
    from studies.latency.decoding import Decoded, Reference

PROGRAM = "studies.latency.run"
FULL = "full"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    model_help = "a name, the config.yaml and the weights of a model whose encoder streams; may be repeated"
    parser.add_argument(
        "--model", nargs=3, action="append", required=True, metavar=("NAME", "CONFIG", "FILE"), help=model_help
    )
    aligner_help = "config.yaml and weights of the model that finds where words end (the first model, in full context)"
    parser.add_argument("--aligner", nargs=2, metavar=("CONFIG", "FILE"), help=aligner_help)
    parser.add_argument("--data_dirs", type=Path, nargs="+", required=True, help="data folders: wav.scp, text, utt2spk")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    chunk_help = f"lengths of chunks in seconds, {FULL} for whole utterances"
    parser.add_argument("--chunks", nargs="+", default=[FULL, "1.28", "0.64", "0.32"], help=chunk_help)
    parser.add_argument("--left_chunks", type=int, default=16, help="chunks before its own that a frame attends to")
    rules_help = "rules by which chunks leave before the last loop, with their thresholds: divergence:0.1 for example"
    parser.add_argument("--rules", nargs="+", default=[], metavar="RULE:THRESHOLD", help=rules_help)
    add_option(parser, Batching, "batch_seconds")
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode, align, report."""
    args = get_parser().parse_args(cmd)
    chunks = [_seconds(chunk) for chunk in args.chunks]
    from espnet_larm.recognize.recognizer import Recognizer
    from studies.latency.decoding import align_references, decode

    device = device_of(args.device)
    aligner = Recognizer.from_files(*(args.aligner or args.model[0][1:]), device)
    batching = Batching(**given_options(Batching, args))
    reference = align_references(aligner, args.data_dirs, batching)
    rows = []
    firsts: dict[float | None, Sequence[int]] = {}
    for name, config, weights in args.model:
        recognizer = aligner if not args.aligner and not rows else Recognizer.from_files(config, weights, device)
        for seconds in chunks:
            context = context_of(recognizer, seconds, args.left_chunks)
            decoded = decode(recognizer, reference, context, batching, leavings_of(recognizer, args.rules))
            first = firsts.setdefault(seconds, decoded.deepest.errors)
            rows += list(rows_of(name, decoded, reference, first))
    columns = (
        "model",
        "chunk",
        "latency, s",
        "loops",
        "WER %",
        "from",
        "to",
        f"points to {args.model[0][0]}, all loops",
    )
    columns += ("from", "to", "words' mean delay, s", "95 % within, s")
    facts = {
        "command": command_of(PROGRAM, cmd),
        "sets": ", ".join(without_root(str(folder)) for folder in args.data_dirs),
        "utterances": f"{len(reference.keys)}, {sum(map(len, reference.ends_s))} words with a time",
        "left context": f"{args.left_chunks} chunks",
        "commit": commit(),
    }
    lines = ["# Error rates by latency", ""]
    lines += [*table_of(columns, rows), "", *origin_lines(facts)]
    write_text(args.output_dir / "latency.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


def _seconds(chunk: str) -> float | None:
    """The seconds of a chunk, None for whole utterances."""
    if chunk == FULL:
        return None
    try:
        seconds = float(chunk)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--chunks has {chunk}; allowed: {FULL} and positive numbers of seconds.")
    return seconds


def leavings_of(recognizer: "Recognizer", rules: Sequence[str]) -> "list[Leaving]":
    """Rules with thresholds; none for a model without loops.

    Raises:
        ValueError: A rule is not known, or the model cannot let chunks leave.
    """
    from espnet_larm.recognize.config import AUTO, DecodeConfig
    from espnet_larm.recognize.model.read_outs import has_loops

    if not rules or not has_loops(recognizer.model.encoder):
        return []
    recognizer.model.encoder.check_chunks_can_leave()
    leavings = []
    for rule in rules:
        name, _, threshold = rule.partition(":")
        try:
            number = float(threshold) if threshold else None
        except ValueError:
            raise ValueError(f"--rules has {rule}; allowed: a rule, or a rule and a threshold.") from None
        leaving = recognizer.plan(DecodeConfig(num_loops=AUTO, loop_rule=name, loop_threshold=number)).leaving
        assert leaving is not None
        leavings.append(leaving)
    return leavings


def context_of(recognizer: "Recognizer", seconds: float | None, left_chunks: int) -> "Context":
    """The context whose chunks last so many seconds.

    Raises:
        ValueError: The encoder cannot stream, or its frames do not make up the seconds.
    """
    from espnet_larm.streaming.context import Context
    from espnet_larm.streaming.encoder import StreamingEncoder

    model = recognizer.model
    if not isinstance(model.encoder, StreamingEncoder):
        raise ValueError(f"{type(model.encoder).__name__} has no chunks; name a model of larm or fast_conformer.")
    if seconds is None:
        return Context()
    frame_s = model.encoder.window.factor * model.frontend.hop_length / recognizer.sample_rate_hz
    frames = round(seconds / frame_s)
    if frames < 1 or abs(frames * frame_s - seconds) > frame_s / 100:
        raise ValueError(f"--chunks has {seconds:g} s, but a frame of the encoder lasts {frame_s:g}; name a multiple.")
    return Context(left_chunks, frames)


def rows_of(
    name: str, decoded: "Decoded", reference: "Reference", first: Sequence[int] | None = None
) -> Iterator[list[str]]:
    """A row for each checkpoint loop, with the difference to the errors (U,) of the first model in the same context."""
    import numpy as np

    from espnet_larm.scoring.bootstrap import interval, resample_ratios

    grouping = reference.grouping
    words = np.bincount(grouping.group_of, reference.num_words).astype(float)
    chunk = FULL if decoded.chunk_s is None else f"{decoded.chunk_s:.2f} s"
    latency = "the utterance" if decoded.latency_s is None else f"{decoded.latency_s:.2f}"
    for loop, at_loop in decoded.loops.items():
        errors = np.bincount(grouping.group_of, [100.0 * each for each in at_loop.errors])
        bounds = interval(resample_ratios(errors, words))
        more = ["", "", ""]
        if first is not None and first is not at_loop.errors:
            change = errors - np.bincount(grouping.group_of, [100.0 * each for each in first])
            beside = interval(resample_ratios(change, words))
            more = [f"{each:+.2f}" for each in (change.sum() / words.sum(), beside.low, beside.high)]
        delays = at_loop.delays_s
        late = ["-", "-"] if not delays else [f"{np.mean(delays):.2f}", f"{np.percentile(delays, 95):.2f}"]
        rate = errors.sum() / words.sum()
        yield [name, chunk, latency, loop, f"{rate:.2f}", f"{bounds.low:.2f}", f"{bounds.high:.2f}", *more, *late]


if __name__ == "__main__":
    sys.exit(run_program(main))
