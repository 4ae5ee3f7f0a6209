"""What rules of num_loops auto do on test sets with thresholds from development sets, over seeds and corpora.

    PYTHONPATH=tools python -m studies.loop_oracle.held_out --output_dir exp/adaptive
        --dev exp/*/dev/loop_oracle.json --test exp/*/test/loop_oracle.json

The files are those of `studies.loop_oracle.run`, one of each kind a model, in the same order; nothing is decoded again.
Writes `held_out.md`: each fixed number of loops beside the deepest of training, those beyond training too; then what
the rules do, beside the same mean loops without a choice: a mixture of the two fixed numbers around it, on the same
utterances. Intervals are over speakers, whose errors are those of all models together.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults
from studies.reports import command_of, different, origin_lines, table_of, write_text

if TYPE_CHECKING:
    from espnet_larm.calibrate.loop_traces import Floats, Integers, Traces
    from studies.loop_oracle.kept import Kept

PROGRAM = "studies.loop_oracle.held_out"
ANY_RULE = "the best on dev"


class Outcome(NamedTuple):
    """What a way does on one model's test set.

    Attributes:
        loops: Loops of each utterance (U,).
        errors: Its word errors (U,); of a mixture of fixed loops, those to be expected.
    """

    loops: "Floats"
    errors: "Floats"


class Chosen(NamedTuple):
    """A rule and its threshold."""

    rule: str
    threshold: float

    def __str__(self) -> str:
        return f"{self.rule}:{self.threshold:.4g}"


class Aim(NamedTuple):
    """By what a threshold is chosen on a development set: one of both.

    Attributes:
        share: The most loops up to this share of the deepest one on average; of all rules that with the fewest errors.
        loss: The fewest loops with at most so many points of WER more than at the deepest loop, as counted.
    """

    share: float | None
    loss: float | None

    def __str__(self) -> str:
        return f"{self.loss:g} points" if self.share is None else f"{self.share:.0%} of the loops"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--dev", type=Path, nargs="+", required=True, help="loop_oracle.json of development sets")
    parser.add_argument(
        "--test", type=Path, nargs="+", required=True, help="loop_oracle.json of test sets, in the same order"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--shares", type=float, nargs="*", default=[0.35, 0.4, 0.5, 0.6], help="shares of the deepest loop"
    )
    parser.add_argument("--losses", type=float, nargs="*", default=[0.0, 0.2], help="points of WER lost on dev")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Count and report."""
    args = get_parser().parse_args(cmd)
    if len(args.dev) != len(args.test):
        raise ValueError(
            f"--dev names {len(args.dev)} files, --test {len(args.test)}; there must be one of each a model."
        )
    from studies.loop_oracle.kept import read_kept

    devs, tests = ([read_kept(path) for path in paths] for paths in (args.dev, args.test))
    for dev, test, path in zip(devs, tests, args.test, strict=True):
        if dev.trained.loops != test.trained.loops:
            raise ValueError(f"{path}: loops {test.trained.loops} are not those of its --dev, {dev.trained.loops}.")
    aims = [*(Aim(share, None) for share in args.shares), *(Aim(None, loss) for loss in args.losses)]
    facts = {
        "command": command_of(PROGRAM, cmd),
        "models": str(len(tests)),
        "test": f"{sum(len(each.traces.keys) for each in tests)} utterances decoded, "
        f"{len({speaker for each in tests for speaker in each.speakers})} speakers",
        "deepest loops": different(each.num_loops for each in tests),
    }
    lines = ["# Adaptive loops with thresholds from development sets", "", *format_fixed(tests), ""]
    lines += [*format_rules(devs, tests, aims), "", *origin_lines(facts)]
    write_text(args.output_dir / "held_out.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


def format_fixed(tests: Sequence["Kept"]) -> Iterator[str]:
    """A table of the numbers of loops that all models can run alike."""
    deepest = [at_loop(each.traces, each.num_loops) for each in tests]
    common = sorted(set.intersection(*(set(each.traces.loops) for each in tests)))
    rows = []
    for loop in common:
        found = [at_loop(each.traces, loop) for each in tests]
        beyond = ", beyond training" if all(loop > each.num_loops for each in tests) else ""
        rows.append([f"{loop}{beyond}", f"{_wer(tests, found):.2f}", _difference(tests, found, deepest)])
    yield from table_of(("loops", "WER %", "points to the deepest of training (from, to)"), rows)


def format_rules(devs: Sequence["Kept"], tests: Sequence["Kept"], aims: Sequence[Aim]) -> Iterator[str]:
    """A table of rules by aim: test error rates beside equal mean loops, and beside the deepest loop."""
    deepest = [at_loop(each.traces, each.num_loops) for each in tests]
    names = [name for name in devs[0].traces.numbers if all(name in each.traces.numbers for each in (*devs, *tests))]
    rows = []
    for aim in aims:
        for name in (*names, ANY_RULE):
            rules = names if name == ANY_RULE else [name]
            found = [choose(dev.trained, rules, aim) for dev in devs]
            chosen = [each for each in found if each is not None]
            if len(chosen) < len(devs):
                rows.append([str(aim), name, "no threshold on dev", *[""] * 5])
                continue
            outcomes = [left_by(test.trained, each) for test, each in zip(tests, chosen, strict=True)]
            equal = [mixture(test.trained, each.loops.mean()) for test, each in zip(tests, outcomes, strict=True)]
            share = sum(each.loops.mean() / test.num_loops for test, each in zip(tests, outcomes, strict=True))
            rows.append(
                [
                    str(aim),
                    name,
                    f"{share / len(tests):.0%}",
                    f"{_wer(tests, outcomes):.2f}",
                    f"{_wer(tests, equal):.2f}",
                    _difference(tests, outcomes, equal),
                    _difference(tests, outcomes, deepest),
                    ", ".join(map(str, chosen)),
                ]
            )
    columns = ("threshold by dev", "rule", "loops run", "WER %", "fixed, equal mean loops")
    yield from table_of((*columns, "points to that (from, to)", "points to the deepest (from, to)", "chosen"), rows)


def choose(dev: "Traces", rules: Sequence[str], aim: Aim) -> Chosen | None:
    """The best of some rules with the best of its thresholds; None where none has what the aim asks for."""
    from espnet_larm.calibrate.loop_rules import thresholds_of

    best = []
    for rule in rules:
        allowed = []
        for threshold in thresholds_of(dev, rule):
            done = left_by(dev, Chosen(rule, threshold))
            loops, errors = float(done.loops.mean()), float(done.errors.sum())
            if aim.share is not None and loops <= aim.share * dev.loops[-1] + 1e-9:
                allowed.append((-loops, errors, threshold))
            if aim.loss is not None and errors - dev.errors[:, -1].sum() <= aim.loss * dev.words.sum() / 100:
                allowed.append((loops, errors, threshold))
        if allowed:
            loops, errors, threshold = min(allowed)
            best.append(((errors, -loops) if aim.share is not None else (loops, errors), Chosen(rule, threshold)))
    return min(best, key=lambda each: each[0])[1] if best else None


def left_by(traces: "Traces", chosen: Chosen) -> Outcome:
    """What a set does where utterances leave by a rule."""
    from espnet_larm.calibrate.loop_rules import places_left

    return _outcome(traces, places_left(traces, chosen.rule, chosen.threshold))


def _outcome(traces: "Traces", places: "Integers") -> Outcome:
    import numpy as np

    loops = np.array(traces.loops, dtype=np.float64)[places]
    return Outcome(loops, traces.errors[np.arange(len(places)), places].astype(np.float64))


def at_loop(traces: "Traces", loop: int) -> Outcome:
    """What a fixed number of loops does."""
    import numpy as np

    return _outcome(traces, np.full(len(traces.keys), traces.loops.index(loop)))


def mixture(traces: "Traces", mean_loops: float) -> Outcome:
    """What utterances are to expect that draw one of the two fixed numbers of loops around a mean, without a look."""
    import numpy as np

    loops = np.array(traces.loops, dtype=np.float64)
    place = min(int(np.searchsorted(loops, mean_loops, side="right")) - 1, len(loops) - 2)
    share = (mean_loops - loops[place]) / (loops[place + 1] - loops[place])
    low, high = (at_loop(traces, traces.loops[index]) for index in (place, place + 1))
    return Outcome(*((1 - share) * one + share * other for one, other in zip(low, high, strict=True)))


def _by_speaker(tests: Sequence["Kept"], outcomes: Sequence[Outcome]) -> Mapping[str, "Floats"]:
    """Errors and words of each speaker, of all models together."""
    import numpy as np

    found: dict[str, Floats] = {}
    for test, outcome in zip(tests, outcomes, strict=True):
        for speaker, errors, words in zip(test.speakers, outcome.errors, test.traces.words, strict=True):
            found[speaker] = found.get(speaker, np.zeros(2)) + np.array([errors, words])
    return found


def _wer(tests: Sequence["Kept"], outcomes: Sequence[Outcome]) -> float:
    errors, words = sum(_by_speaker(tests, outcomes).values())
    return float(100 * errors / words)


def _difference(tests: Sequence["Kept"], ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    """Points of WER of ours above theirs, and its 95 % interval on resamples of speakers."""
    import numpy as np

    from espnet_larm.scoring.bootstrap import interval, resample_ratios

    one, other = _by_speaker(tests, ours), _by_speaker(tests, theirs)
    lost = np.array([100 * (one[speaker][0] - other[speaker][0]) for speaker in one])
    words = np.array([each[1] for each in one.values()])
    bounds = interval(resample_ratios(lost, words))
    return f"{lost.sum() / words.sum():+.2f} ({bounds.low:+.2f}, {bounds.high:+.2f})"


if __name__ == "__main__":
    sys.exit(run_program(main))
