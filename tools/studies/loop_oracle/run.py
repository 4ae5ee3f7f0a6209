"""How few loops would do: fixed numbers, the two oracles and all rules of num_loops auto, on sets decoded once.

    PYTHONPATH=tools python -m studies.loop_oracle.run --asr_train_config EXP/config.yaml
        --asr_model_file EXP/valid.loss.ave.pth --data_dirs dump/raw/test --output_dir EXP/loop_oracle

Several sets are pooled. Writes `loop_oracle.md`, `loop_oracle.png` (WER against mean loops) and `loop_oracle.json`
(what each utterance does at each loop), with `_llm` behind the name if an LM decodes. Rules and oracles choose among
the loops of training; `--num_loops` decodes more, as fixed numbers.
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
from espnet_larm.recognize.config import Batching, DecodeConfig
from studies.options import add_model_options
from studies.reports import new_figure, origin_lines, save_figure, table_of, write_text

if TYPE_CHECKING:
    from espnet_larm.calibrate.loop_traces import Traces
    from espnet_larm.recognize.recognizer import Recognizer
    from studies.loop_oracle.oracle import Curves

NAME = "loop_oracle"
# Points of WER at whose loss the fewest loops are told.
LOSSES = (0.0, 0.2, 0.5, 1.0)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    add_model_options(parser)
    parser.add_argument("--data_dirs", type=Path, nargs="+", required=True, help="data folders: wav.scp, text, utt2spk")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    parser.add_argument("--num_loops", type=int, help="the deepest fixed number of loops (the deepest of training)")
    add_option(parser, DecodeConfig, "ctc_weight")
    add_option(parser, Batching, "batch_seconds")
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode, count, report."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize.recognizer import Recognizer
    from espnet_larm.scoring.bootstrap import group_utterances
    from studies.loop_oracle.kept import Kept, write_kept
    from studies.loop_oracle.oracle import curves_of, fixed_of

    recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, device_of(args.device), llm=args.llm)
    speakers = {one.id: one.speaker for folder in args.data_dirs for one in read_dir(folder)}
    every = _traces(args, recognizer)
    kept = Kept(every, [speakers[key] for key in every.keys], recognizer.model.encoder.num_loops)
    traces = kept.trained
    curves = curves_of(traces, group_utterances(traces.keys, speakers))._replace(fixed=fixed_of(every))
    name = f"{NAME}_llm" if traces.is_by_llm else NAME
    facts = {
        "sets": ", ".join(without_root(str(folder)) for folder in args.data_dirs),
        "utterances": f"{len(traces.keys)}, {int(traces.words.sum())} words",
        "model": without_root(str(args.asr_model_file)),
        "decoding": "greedy, by the LM" if traces.is_by_llm else "greedy, by CTC",
        "commit": commit(),
    }
    lines = [
        *("# Word error rate by mean loops", ""),
        *format_curves(traces, curves),
        *("", f"![WER by mean loops]({name}.png)", "", *origin_lines(facts)),
    ]
    draw(curves, args.output_dir / f"{name}.png")
    write_text(args.output_dir / f"{name}.md", "\n".join(lines) + "\n")
    write_kept(kept, args.output_dir / f"{name}.json")
    print("\n".join(lines))
    return 0


def _traces(args: argparse.Namespace, recognizer: "Recognizer") -> "Traces":
    """The traces of all sets together."""
    import numpy as np

    from espnet_larm.calibrate.loop_traces import Traces, trace
    from espnet_larm.data.kaldi_dir import read_table
    from espnet_larm.recognize.audio import AudioTable

    config = DecodeConfig(**given_options(DecodeConfig, args))
    batching = Batching(**given_options(Batching, args))
    found = []
    for folder in args.data_dirs:
        table = AudioTable(folder / "wav.scp", "sound", recognizer.sample_rate_hz, recognizer.preprocess)
        found.append(trace(recognizer, table, read_table(folder / "text"), config, batching, args.num_loops))
    return Traces(
        [key for each in found for key in each.keys],
        found[0].loops,
        [texts for each in found for texts in each.texts],
        np.concatenate([each.errors for each in found]),
        np.concatenate([each.words for each in found]),
        {name: np.concatenate([each.numbers[name] for each in found]) for name in found[0].numbers},
        found[0].is_by_llm,
    )


def format_curves(traces: "Traces", curves: "Curves") -> Iterator[str]:
    """Tables: fixed loops and oracles; and of each curve the fewest mean loops at some losses."""
    from studies.loop_oracle.oracle import Point, loops_at_loss

    deepest = traces.wer_percent(traces.errors[:, -1])
    rows = [("fixed", point, "") for point in curves.fixed]
    for name, point in curves.oracles.items():
        used = ", ".join(f"{loop}: {number}" for loop, number in curves.chosen[name].items())
        rows.append((f"oracle, {name}", point, used))
    columns = ("loops", "mean loops", "WER %", "points", "utterances by loops")
    yield from table_of(columns, [_cells(name, point, deepest, used) for name, point, used in rows])
    yield ""
    yield "Fewest mean loops at a WER within so many points of the deepest loop's, and the floor of each rule:"
    yield ""
    lines = {"fixed": (traces.loops[0], curves.fixed)}
    for name, found in curves.rules.items():
        lines[name] = (found[0].floor, [Point(row.mean_loops, row.wer_percent) for row in found])
    header = ("loops", "floor", *(f"{loss:g} points" for loss in LOSSES))
    yield from table_of(
        header,
        [
            [name, str(floor), *(_number(loops_at_loss(points, deepest + loss)) for loss in LOSSES)]
            for name, (floor, points) in lines.items()
        ],
    )


def _cells(name: str, point: tuple[float, float], deepest: float, used: str) -> list[str]:
    mean_loops, rate = point
    return [name, f"{mean_loops:.2f}", f"{rate:.2f}", f"{rate - deepest:+.2f}", used]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def draw(curves: "Curves", path: Path) -> None:
    """Draw WER against mean loops."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    _plot(axes, curves.fixed, "fixed", color="black", marker="o")
    for name, rows in curves.rules.items():
        # A rule without a choice of thresholds is one point, which the curves would hide.
        style = {"marker": "s", "linestyle": "", "zorder": 3} if len(rows) == 1 else {"marker": ".", "linewidth": 1}
        _plot(axes, [(row.mean_loops, row.wer_percent) for row in rows], name, **style)
    for marker, (name, point) in zip("*D", curves.oracles.items(), strict=True):
        _plot(axes, [point], f"oracle, {name}", marker=marker, markersize=9, linestyle="")
    axes.set(xlabel="mean loops", ylabel="word error rate, %")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _plot(axes: object, points: Sequence[tuple[float, float]], label: str, **style: object) -> None:
    axes.plot(*zip(*points, strict=True), label=label, **style)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(run_program(main))
