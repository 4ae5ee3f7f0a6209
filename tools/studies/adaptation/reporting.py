"""The table of a study in Markdown, what it says of added layers, and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_larm.scoring.bootstrap import NUM_RESAMPLES, Grouping
from studies.adaptation.plan import Row, Run
from studies.grid.comparing import SeedErrors, count_words, row_interval

# Parts of a model that make up its LM with what was added to it.
LM_PARTS = ("LM", "LoRA", "added layers")


class TestSet(NamedTuple):
    """What texts are compared with.

    Attributes:
        name: Of the set.
        references: Text by utterance.
        grouping: Of the references, in their order.
    """

    name: str
    references: Mapping[str, str]
    grouping: Grouping


class Done(NamedTuple):
    """A row's runs that are done, all at one learning rate.

    Attributes:
        row: Which.
        lr: Of these runs.
        results: Of the seeds, as they were written.
        tried: Of its first seed, at all learning rates.
    """

    row: Row
    lr: float
    results: list[dict[str, Any]]
    tried: list[dict[str, Any]]

    @property
    def dev_wers(self) -> list[float]:
        """By seed, at the best point of each run."""
        return [found["best"]["dev_wer"] for found in self.results]

    @property
    def losses(self) -> list[float]:
        """Nats per token above the base at the best point, by seed."""
        return [found["text"]["nats_above_base"]["value"] for found in self.results]

    @property
    def num_trainable(self) -> int:
        """Of the LM and what was added to it."""
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
        """Likewise of all its runs, at any learning rate."""
        found = [*self.losses_at(dev_wer), *self._replace(results=self.tried).losses_at(dev_wer)]
        return float(np.nanmin([*found, np.inf]))

    def errors(self, exp_dir: Path, test: TestSet) -> SeedErrors:
        """Of a test set."""
        seeds = tuple(found["seed"] for found in self.results)
        counts = [
            count_words(
                exp_dir / Run(self.row.name, self.lr, seed).name / test.name / "text", test.references, test.grouping
            )
            for seed in seeds
        ]
        return SeedErrors(seeds, np.stack([errors for errors, _ in counts]), counts[0][1])


def format_table(done: Sequence[Done], reference: str, exp_dir: Path, tests: Sequence[TestSet]) -> Iterator[str]:
    """Lines of Markdown, a row a way.

    Args:
        done: In the order of the table.
        reference: Name of the row that the others are compared with.
        exp_dir: Of the runs.
        tests: Sets whose error rates are given.
    """
    columns = ["row", "learns in the LM", "lr", "seeds", "dev WER %"]
    columns += [f"{test.name} WER %, 95 % interval" for test in tests]
    columns += ["nats lost a token", "at equal dev WER", "KL to base", "minutes"]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    base = next((each for each in done if each.row.name == reference), None)
    for stream, each in enumerate(done):
        cells = [each.row.title, f"{each.num_trainable / 1e6:.2f} M{_share(each, base)}", f"{each.lr:g}"]
        cells += [str(len(each.results)), _spread(each.dev_wers, 1)]
        for test in tests:
            found = each.errors(exp_dir, test)
            low, high = row_interval(found, stream, NUM_RESAMPLES)
            cells.append(f"{_spread(list(found.by_seed), 1)}, {low:.1f} to {high:.1f}")
        cells.append(_spread(each.losses, 3))
        cells.append(_at_equal(each, base))
        cells.append(_spread([found["text"]["kl_to_base"]["value"] for found in each.results], 3))
        cells.append(f"{np.mean([found['seconds'] for found in each.results]) / 60:.1f}")
        yield f"| {' | '.join(cells)} |"


def equal_wer(each: Done, base: Done) -> float:
    """The error rate of the development set that two rows are compared at: the lowest that all runs of both reach."""
    return max(*each.dev_wers, *base.dev_wers)


def draw(done: Sequence[Done], path: Path) -> None:
    """Error rate of the development set against nats lost a token of text: a curve a run, a dot where it is best.

    Args:
        done: A colour each.
        path: A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, each in enumerate(done):
        color = f"C{index}" if index < 10 else f"{0.2 + 0.1 * (index - 10):.1f}"
        for found in each.results:
            nats = [point["nats"] - found["text"]["base_nats"] for point in found["points"]]
            axes.plot(nats, [point["dev_wer"] for point in found["points"]], color=color, alpha=0.35, linewidth=1)
        best = (each.losses, each.dev_wers)
        label = f"{each.row.title} ({each.num_trainable / 1e6:.2f} M)"
        axes.scatter(*best, color=color, s=36, zorder=3, label=label)
    axes.set_xscale("symlog", linthresh=0.01)
    axes.axvline(0.0, color="0.7", linewidth=0.8)
    axes.set_xlabel("text lost: nats per token above the LM before")
    axes.set_ylabel("WER of the development set, percent")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _share(each: Done, base: Done | None) -> str:
    if base is None or each is base or not base.num_trainable:
        return ""
    return f" ({100 * each.num_trainable / base.num_trainable:.0f} %)"


def _at_equal(each: Done, base: Done | None) -> str:
    """Of a row, its nats and those of the reference at the error rate that both reach."""
    if base is None or each is base:
        return ""
    wer = equal_wer(each, base)
    own, others = (which.losses_at(wer) for which in (each, base))
    any_own, any_others = (which.least_loss_at(wer) for which in (each, base))
    return (
        f"{_spread(own, 3)} beside {_spread(others, 3)}{_percent(float(np.mean(own)), float(np.mean(others)))} at "
        f"{wer:.1f} %; at any rate {any_own:.3f} beside {any_others:.3f}{_percent(any_own, any_others)}"
    )


def _percent(part: float, whole: float) -> str:
    return f": {100 * part / whole:.0f} %" if whole > 0 else ""


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the values that it is of."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({', '.join(f'{value:.{digits}f}' for value in sorted(values))})"
