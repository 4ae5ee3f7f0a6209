"""The table of a study in Markdown, and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_larm.scoring.bootstrap import NUM_RESAMPLES, Grouping
from studies.adaptation.plan import Row, Run
from studies.reports import new_figure, save_figure, spread, table_of
from studies.seed_errors import SeedErrors, count_words, row_interval

# Parts of a model that make up its LM with what was added to it.
LM_PARTS = ("LM", "LoRA", "added layers")


class TestSet(NamedTuple):
    """References that hypotheses are compared with.

    Attributes:
        name: Name of the set.
        references: Reference text by utterance.
        grouping: Groups of the references, in their order.
    """

    name: str
    references: Mapping[str, str]
    grouping: Grouping


class Done(NamedTuple):
    """A row's runs that are done, all at one learning rate.

    Attributes:
        row: The row.
        lr: Learning rate of these runs.
        results: Results of the seeds, as they were written.
        tried: Results of its first seed at all learning rates.
    """

    row: Row
    lr: float
    results: list[dict[str, Any]]
    tried: list[dict[str, Any]]

    @property
    def dev_wers(self) -> list[float]:
        """Error rates of the development set by seed, at the best point of each run."""
        return [found["best"]["dev_wer"] for found in self.results]

    @property
    def losses(self) -> list[float]:
        """Nats per token above the base at the best point, by seed."""
        return [found["text"]["nats_above_base"]["value"] for found in self.results]

    @property
    def num_trainable(self) -> int:
        """Number of trained parameters of the LM and of the parts added to it."""
        return sum(part["trainable"] for part in self.results[0]["shares"] if part["part"] in LM_PARTS)

    def losses_at(self, dev_wer: float) -> list[float]:
        """Least nats above the base by seed, of all points with at most this error rate; NaN where there is none."""
        return [
            min(
                (
                    point["nats"] - found["text"]["base_nats"]
                    for point in found["points"]
                    if point["dev_wer"] <= dev_wer
                ),
                default=float("nan"),
            )
            for found in self.results
        ]

    def least_loss_at(self, dev_wer: float) -> float:
        """Least nats above the base of all the row's runs, at any learning rate, with at most this error rate."""
        found = [*self.losses_at(dev_wer), *self._replace(results=self.tried).losses_at(dev_wer)]
        return float(np.nanmin([*found, np.inf]))

    def errors(self, exp_dir: Path, test: TestSet) -> SeedErrors:
        """Word errors of a test set."""
        seeds = tuple(found["seed"] for found in self.results)
        counts = [
            count_words(
                exp_dir / Run(self.row.name, self.lr, seed).name / test.name / "text", test.references, test.grouping
            )
            for seed in seeds
        ]
        return SeedErrors(seeds, np.stack([errors for errors, _ in counts]), counts[0][1])


def format_table(done: Sequence[Done], reference: str, exp_dir: Path, tests: Sequence[TestSet]) -> Iterator[str]:
    """Lines of the table in Markdown.

    Args:
        done: Rows in the order of the table.
        reference: Name of the row that the others are compared with.
        exp_dir: Folder of the runs' folders.
        tests: Test sets.
    """
    columns = ["row", "learns in the LM", "lr", "seeds", "dev WER %"]
    for test in tests:
        columns += [f"{test.name} WER %", "from", "to"]
    columns += ["nats lost a token", "at equal dev WER", "KL to base", "minutes"]
    base = next((each for each in done if each.row.name == reference), None)
    rows = []
    for stream, each in enumerate(done):
        cells = [each.row.title, f"{each.num_trainable / 1e6:.2f} M{_fraction(each, base)}", f"{each.lr:g}"]
        cells += [str(len(each.results)), spread(each.dev_wers, 1)]
        for test in tests:
            found = each.errors(exp_dir, test)
            low, high = row_interval(found, stream, NUM_RESAMPLES)
            cells += [spread(list(found.by_seed), 1), f"{low:.1f}", f"{high:.1f}"]
        cells += [spread(each.losses, 3), _at_equal(each, base)]
        cells.append(spread([found["text"]["kl_to_base"]["value"] for found in each.results], 3))
        cells.append(f"{np.mean([found['seconds'] for found in each.results]) / 60:.1f}")
        rows.append(cells)
    return table_of(columns, rows)


def equal_wer(each: Done, base: Done) -> float:
    """The error rate of the development set that two rows are compared at: the lowest that all runs of both reach."""
    return max(*each.dev_wers, *base.dev_wers)


def draw(done: Sequence[Done], path: Path) -> None:
    """Error rate of the development set against nats lost a token of text: a curve a run, a dot where it is best.

    Args:
        done: Rows, each with a colour of its own.
        path: PNG to write.
    """
    figure = new_figure(9.5, 5.2)
    axes = figure.subplots()
    for index, each in enumerate(done):
        color = f"C{index}" if index < 10 else f"{0.2 + 0.1 * (index - 10):.1f}"
        for found in each.results:
            nats = [point["nats"] - found["text"]["base_nats"] for point in found["points"]]
            axes.plot(nats, [point["dev_wer"] for point in found["points"]], color=color, alpha=0.35, linewidth=1)
        best = (each.losses, each.dev_wers)
        axes.scatter(*best, color=color, s=36, zorder=3)
        label = f"{each.row.title} ({each.num_trainable / 1e6:.2f} M)"
        place = (float(np.mean(each.losses)), float(np.mean(each.dev_wers)))
        axes.annotate(label, place, (6, 4), textcoords="offset points", fontsize=8, color=color)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.axvline(0.0, color="0.7", linewidth=0.8)
    axes.set_xlabel("text lost: nats per token above the LM before")
    axes.set_ylabel("WER of the development set, percent")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def _fraction(each: Done, base: Done | None) -> str:
    if base is None or each is base or not base.num_trainable:
        return ""
    return f" ({100 * each.num_trainable / base.num_trainable:.0f} %)"


def _at_equal(each: Done, base: Done | None) -> str:
    """Nats of a row and of the reference at the error rate that both reach."""
    if base is None or each is base:
        return ""
    wer = equal_wer(each, base)
    own, others = (which.losses_at(wer) for which in (each, base))
    any_own, any_others = (which.least_loss_at(wer) for which in (each, base))
    return (
        f"{spread(own, 3)} beside {spread(others, 3)}{_percent(float(np.mean(own)), float(np.mean(others)))} at "
        f"{wer:.1f} %; at any rate {any_own:.3f} beside {any_others:.3f}{_percent(any_own, any_others)}"
    )


def _percent(part: float, whole: float) -> str:
    return f": {100 * part / whole:.0f} %" if whole > 0 else ""
