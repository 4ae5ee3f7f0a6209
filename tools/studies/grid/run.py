"""Trains, decodes and compares the configurations of a grid; called again, it resumes what is not done.

    python -m studies.grid.run --plan conf/an4/baselines.yaml --recipe egs/an4/run.sh \
        --exp_dir egs/an4/exp/baselines --ref_dir egs/an4/dump/raw/test \
        --decoded decode_ctc_greedy_asr_model_latest/test --num_jobs 2 -- --ngpu 0

What follows `--` goes to the recipe. The recipe's data must be prepared (its stages 1-10). Writes a folder a run, and
`RESULTS.md` with `grid.png`: word error rates with intervals, each row beside the reference row. A plan is
described in tools/studies/grid/plan.py.
"""

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.origin import ROOT, without_root
from espnet_larm.program import run_program
from studies.grid.plan import Plan, Run, read_plan, runs_of
from studies.grid.running import LOG, Outcome, Recipe, attempts, failures, is_done, run_grid, write_configs
from studies.options import add_study_options, check_study_options
from studies.reports import RESULTS, different, origin_lines, write_text

if TYPE_CHECKING:
    from studies.grid.comparing import RowResult

PICTURE = "grid.png"
INTERRUPTED = 75  # as a training that was interrupted and has saved
# What tools/studies/grid/running.py gives a recipe.
RUN_OPTIONS = ("stage", "stop_stage", "asr_config", "asr_exp", "asr_args")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
logger = logging.getLogger(__name__)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_study_options(parser)
    parser.add_argument("--recipe", type=Path, required=True, help="run.sh of the recipe that does the runs")
    parser.add_argument("--ref_dir", type=Path, required=True, help="data folder of the test set: text, utt2spk")
    parser.add_argument("--decoded", required=True, help="<inference tag>/<set> that the recipe writes below a run")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="options for the recipe, after --")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Run the grid, then write its results, of an unfinished grid too."""
    args = get_parser().parse_args(cmd)
    check_study_options(args)
    if not (args.ref_dir / "text").is_file():
        raise FileNotFoundError(f"--ref_dir {args.ref_dir}: text is missing; run the recipe's stages 1-10 first.")
    check_options(args.options)
    args.exp_dir = args.exp_dir.resolve()
    plan = read_plan(args.plan, ROOT)
    status, failed = 0, []
    if not args.report_only:
        write_configs(plan, args.exp_dir)
        try:
            failed = run_all(plan, args)
        except KeyboardInterrupt:
            logger.warning("Interrupted; the same command resumes the grid.")
            status = INTERRUPTED
    report(plan, args)
    for outcome in failed:
        log = args.exp_dir / outcome.run.name / LOG
        print(f"ERROR: {outcome.run.name} ended with status {outcome.status}: {log}", file=sys.stderr)
    return status or int(bool(failed))


def check_options(options: Sequence[str]) -> None:
    """Refuse what would override a run's own options: the recipe takes the last value of each.

    Raises:
        ValueError: There is such an option.
    """
    for option in options:
        name = option.partition("=")[0].lstrip("-").replace("-", "_")
        if option.startswith("--") and name in RUN_OPTIONS:
            raise ValueError(
                f"--{name} after -- would override what the grid gives each run; what all runs share is the plan's "
                "`schedule`."
            )


def run_all(plan: Plan, args: argparse.Namespace) -> list[Outcome]:
    """Train what is not done and log each run; the runs that failed."""
    recipe = Recipe(args.recipe.resolve(), tuple(args.options))
    runs = runs_of(plan)
    num_done = sum(is_done(args.exp_dir / run.name) for run in runs)
    logger.info("%d of %d runs are done.", num_done, len(runs))
    outcomes = []
    # Closed here, an interruption between two outcomes ends the running ones too.
    with contextlib.closing(run_grid(plan, args.exp_dir, recipe, args.num_jobs)) as found:
        for outcome in found:
            outcomes.append(outcome)
            num_done += outcome.status == 0
            logger.info(
                "%s ended with status %d after %.0f s; %d of %d runs are done.",
                *(outcome.run.name, outcome.status, outcome.seconds, num_done, len(runs)),
            )
    return failures(outcomes)


def report(plan: Plan, args: argparse.Namespace) -> None:
    """Write and print RESULTS.md, and draw."""
    # Import numpy.
    from espnet_larm.scoring.bootstrap import NUM_RESAMPLES, group_utterances
    from studies.grid.comparing import compare_rows, read_row
    from studies.grid.reporting import draw_grid, format_table

    references = read_table(args.ref_dir / "text")
    utt2spk = read_table(args.ref_dir / "utt2spk") if (args.ref_dir / "utt2spk").is_file() else {}
    grouping = group_utterances(list(references), utt2spk)
    read = [read_row(row, args.exp_dir, args.decoded, references, grouping) for row in plan.rows]
    results = [result for result in read if result is not None]
    if not results:
        print(f"{args.exp_dir}: no run is done yet, so there is nothing to report.")
        return
    parameters = {
        result.row.name: count_parameters(first_folder(result, args.exp_dir) / "train.log") for result in results
    }
    comparisons = compare_rows(results, plan.reference, NUM_RESAMPLES)
    draw_grid(results, plan.reference, args.exp_dir / PICTURE)
    reference = next(row.title for row in plan.rows if row.name == plan.reference)
    intervals = (
        f"Intervals: 95 %, {NUM_RESAMPLES} resamples of {grouping.num_groups} {grouping.unit}s and of the seeds; "
        f"with one seed the spread between trainings is not in them. Reference: {reference}."
    )
    lines = [
        *(f"# {without_root(str(args.plan.resolve()))}", ""),
        *(*format_table(results, comparisons, parameters), ""),
        *(intervals, ""),
        *(f"![Word error rates of the grid]({PICTURE})", ""),
        *origin_lines(describe(plan, results, args)),
    ]
    write_text(args.exp_dir / RESULTS, "\n".join(lines) + "\n")
    print("\n".join(lines))


def first_folder(result: "RowResult", exp_dir: Path) -> Path:
    """Folder of a row's first finished run."""
    return exp_dir / Run(result.row.name, result.last.seeds[0]).name


def count_parameters(log: Path) -> int:
    """Number of a model's parameters, from the summary that ESPnet writes into its log.

    Raises:
        ValueError: The log has no summary.
    """
    found = re.search(r"Total Number of model parameters: ([0-9.]+) ([KMB]?)", log.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{log}: the number of the model's parameters is not in it; was it cut?")
    return round(float(found[1]) * UNITS[found[2]])


def describe(plan: Plan, results: "Sequence[RowResult]", args: argparse.Namespace) -> dict[str, str]:
    """What the numbers came from."""
    exp_dir, num_utts = args.exp_dir, len(read_table(args.ref_dir / "text"))
    done = [Run(result.row.name, seed) for result in results for seed in result.last.seeds]
    records = [attempt for run in done for attempt in attempts(exp_dir / run.name)]

    def all_of(key: str) -> str:
        return different(record[key] for record in records)

    return {
        "runs": f"{len(done)} of {len(runs_of(plan))}; seeds {', '.join(map(str, sorted({run.seed for run in done})))}",
        "recipe": f"{without_root(str(args.recipe.resolve()))} {' '.join(args.options)}".strip(),
        "test data": f"{without_root(str(args.ref_dir.resolve()))}, {num_utts} utterances",
        "commits": all_of("commit"),
        "machines": f"{all_of('machine')}; {all_of('threads')} thread(s) a run",
        "began": min(str(record["started"]) for record in records),
    }


if __name__ == "__main__":
    sys.exit(run_program(main))
