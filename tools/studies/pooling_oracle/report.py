"""The report of the oracle study: rates, tables in Markdown, one sentence, two pictures.

A word error rate can exceed 100 % of an utterance, where an LM repeats itself or invents text: clamped, an utterance
has no more errors than words. Both rates are errors of all utterances over words of all utterances, so that they are
equal where no utterance exceeds 100 %.
Shapes: N utterances.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from espnet_larm.scoring.bootstrap import Floats, Grouping, Interval, interval, resample_ratios
from studies.pooling_oracle.oracle import Cell, Similarity
from studies.pooling_oracle.windows import MERGE, METHODS
from studies.reports import new_figure, save_figure, table_of

MOST_NUMBERED_LAYERS = 16
MOST_PERCENT = 100.0


def error_percent(errors: Sequence[int], words: Sequence[int]) -> float:
    """Errors per 100 words of all utterances."""
    return 100.0 * sum(errors) / sum(words)


def clamped_percent(errors: Sequence[int], words: Sequence[int]) -> float:
    """Errors per 100 words, with at most as many errors (N,) as words (N,) in an utterance."""
    return 100.0 * sum(map(min, errors, words)) / sum(words)


def error_interval(errors: Sequence[int], words: Sequence[int], grouping: Grouping) -> Interval:
    """95 % interval of `error_percent`."""
    return interval(_resampled(errors, words, grouping))


def loss_interval(errors: Sequence[int], base: Sequence[int], words: Sequence[int], grouping: Grouping) -> Interval:
    """95 % interval of the points that errors (N,) lie above `base` (N,) by `error_percent`, on the same resamples."""
    return interval(_resampled(errors, words, grouping) - _resampled(base, words, grouping))


def is_safe(loss: Interval) -> bool:
    """Whether no loss is shown: the interval reaches 0 or below."""
    return loss.low <= 0


def safe_layer(losses: Mapping[int, Interval]) -> int | None:
    """The earliest layer from which on no loss is shown; None if the last layer shows one.

    Args:
        losses: Intervals of the loss by layer.
    """
    found = None
    for layer in sorted(losses, reverse=True):
        if not is_safe(losses[layer]):
            break
        found = layer
    return found


def conclude(losses: Mapping[Cell, Interval], num_layers: int) -> str:
    """One sentence that says from which layers on words may be merged.

    Args:
        losses: WER above that of no pooling, in points.
        num_layers: Number of the LM's layers.
    """
    parts = []
    layers = sorted({cell.layer for cell in losses})
    for count in sorted({cell.tokens_per_word for cell in losses}):
        of_merge = {c.layer: loss for c, loss in losses.items() if c.method == MERGE and c.tokens_per_word == count}
        layer = safe_layer(of_merge)
        where = "at no layer" if layer is None else f"from layer {layer} on"
        parts.append(f"with {count} token{'s' * (count > 1)} a word {where}")
    measured = f"; measured: {', '.join(map(str, layers))}" if len(layers) < num_layers else ""
    return (
        f"By {MERGE}, no loss of WER is shown (95 % of the paired difference to no pooling reach 0) {', '.join(parts)} "
        f"(layer 0 is the LM's input, the last one that can pool is {num_layers - 1}{measured})."
    )


def format_tables(
    rates: Mapping[Cell, float],
    clamped: Mapping[Cell, float],
    kept: Mapping[int, float],
    losses: Mapping[Cell, Interval],
) -> Iterator[str]:
    """Lines of tables in Markdown: one for each R, with a row a layer.

    Args:
        rates: WER in percent.
        clamped: Clamped WER in percent.
        kept: Percent of the tokens that are left, by R.
        losses: WER above that of no pooling, in points; rates where none is shown are bold.
    """
    layers = sorted({cell.layer for cell in rates})
    for count in sorted({cell.tokens_per_word for cell in rates}):
        yield f"### {count} token{'s' * (count > 1)} a word: {kept[count]:.1f} % kept"
        yield ""
        cells = {layer: [Cell(layer, count, method) for method in METHODS] for layer in layers}
        rows = [(str(layer), *(_rate(cell, rates, clamped, losses) for cell in row)) for layer, row in cells.items()]
        yield from table_of(("layer", *METHODS), rows)
        yield ""


def format_profile(profile: Sequence[Similarity]) -> Iterator[str]:
    """Lines of the table of cosines in Markdown."""
    rows = [(str(row.layer), f"{row.within:.3f}", f"{row.across:.3f}", f"{row.random:.3f}") for row in profile]
    return table_of(("layer", "within words", "across their edges", "random pairs"), rows)


def draw_rates(rates: Mapping[Cell, float], clamped: Mapping[Cell, float], base: float, path: Path) -> None:
    """Draw a column of panels a method: WER above, clamped WER below, by layer and R.

    Args:
        rates: WER in percent.
        clamped: Clamped WER in percent.
        base: WER of no pooling, where the colours begin; they end at the highest rate, or MOST_PERCENT.
        path: PNG to write.
    """
    layers = sorted({cell.layer for cell in rates})
    counts = sorted({cell.tokens_per_word for cell in rates})
    has_numbers = len(layers) <= MOST_NUMBERED_LAYERS
    figure = new_figure(3 + 0.42 * len(METHODS) * max(8, min(len(layers), 2 * MOST_NUMBERED_LAYERS)), 2 + len(counts))
    panels = figure.subplots(2, len(METHODS), sharex=True, sharey=True)
    image = None
    top = max(min(MOST_PERCENT, max(rates.values())), base + 1)
    for row, (name, values) in enumerate((("WER", rates), ("clamped WER", clamped))):
        for axes, method in zip(panels[row], METHODS, strict=True):
            table = np.array([[values[Cell(layer, count, method)] for layer in layers] for count in counts])
            image = axes.imshow(table, cmap="viridis_r", vmin=base, vmax=top, aspect="auto", origin="lower")
            axes.set_title(f"{method}: {name}", fontsize=10)
            axes.set_yticks(range(len(counts)), counts)
            every = 1 if has_numbers else 4
            axes.set_xticks(range(0, len(layers), every), layers[::every])
            for (place, column), rate in np.ndenumerate(table) if has_numbers else ():
                color = "white" if rate > (base + top) / 2 else "black"
                axes.text(column, place, f"{rate:.0f}", ha="center", va="center", fontsize=8, color=color)
    for axes in panels[1]:
        axes.set_xlabel("layers that read all speech")
    for axes in panels[:, 0]:
        axes.set_ylabel("tokens a word")
    assert image is not None
    figure.colorbar(image, ax=panels, label=f"percent; yellow: no pooling ({base:.1f})")
    save_figure(figure, path, dpi=90)


def draw_profile(profile: Sequence[Similarity], path: Path) -> None:
    """Draw mean cosines by layer: a curve for each kind of pairs.

    Args:
        profile: Cosines by layer.
        path: PNG to write.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    layers = [row.layer for row in profile]
    curves = (
        ("neighbours within a word", [row.within for row in profile], "-"),
        ("neighbours across the edge of two words", [row.across for row in profile], "-"),
        ("random pairs of an utterance", [row.random for row in profile], "--"),
    )
    # Names stand at the curves: the first two lie close together, one above and one below them.
    for index, ((label, values, style), side) in enumerate(zip(curves, ("top", "bottom", "bottom"), strict=True)):
        axes.plot(layers, values, style, marker="o", markersize=4, color=f"C{index}")
        middle = len(layers) // 2
        place = (layers[middle], values[middle])
        shift = (0, 8 if side == "bottom" else -10)
        where = {"textcoords": "offset points", "ha": "center", "va": side}
        axes.annotate(label, place, shift, color=f"C{index}", **where)
    axes.set(xlabel="layers that have read the speech", ylabel="mean cosine of speech tokens")
    if len(layers) <= MOST_NUMBERED_LAYERS:
        axes.set_xticks(layers)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.15)
    save_figure(figure, path, dpi=100)


def _resampled(errors: Sequence[int], words: Sequence[int], grouping: Grouping) -> Floats:
    """`error_percent` of each resample; the same groups are drawn at every call."""
    numerators, denominators = (np.bincount(grouping.group_of, 1.0 * np.array(counts)) for counts in (errors, words))
    return 100.0 * resample_ratios(numerators, denominators)


def _rate(
    cell: Cell, rates: Mapping[Cell, float], clamped: Mapping[Cell, float], losses: Mapping[Cell, Interval]
) -> str:
    text = f"{rates[cell]:.2f} ({clamped[cell]:.2f})"
    return f"**{text}**" if is_safe(losses[cell]) else text
