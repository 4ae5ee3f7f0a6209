"""A confusion model: what a recogniser writes for the units of a text, learned from pairs of references and drafts.

Each unit of a reference (a character, or a piece of the CTC head's) is kept, deleted or replaced, and units are
inserted. The chances are those of an alignment in which units that are often taken for each other stand together: it is
found again with the chances that it gives (Ristad and Yianilos, "Learning string-edit distance", 1998, Viterbi
training). An unseen replacement is as likely as a walk over two seen ones. Errors come in bursts, and some utterances
have many: the odds of an error depend on whether the unit before was wrong, and on a factor drawn for each line.
Shapes: U units, of which 0 is none; N units of a reference, M of a draft.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from espnet_larm.files.atomic import write_text
from espnet_larm.scoring.alignment import add_counts, align, split_words

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Split = Callable[[str], list[str]]

NONE = ""
SPACE_PIECE = "\u2581"
NUM_ROUNDS = 4
# Pseudo-counts: of what is seen nowhere in an alignment, and of an unseen replacement beside the seen ones.
FLOOR, UNSEEN = 0.1, 2.0
# Lines that a chosen error rate is measured on.
NUM_TRIED = 400


class Pair(NamedTuple):
    """A unit of a reference and what stands in its place; 0 on one side is an insertion or a deletion."""

    unit: int
    draft: int


@dataclasses.dataclass(frozen=True)
class ConfusionModel:
    """Chances of errors.

    Attributes:
        units: Names of the units, "" for none the first.
        counts: How often each unit (row) was written as each other (column) (U, U); the row of none are insertions, the
            column of none deletions.
        bursts: Odds of an error relative to the mean, behind a unit that is right, and behind one that is wrong.
        spread: Odds of errors of each utterance relative to the mean, from which lines draw theirs.
        facts: Where it is from, for people.
    """

    units: tuple[str, ...]
    counts: Ints
    bursts: tuple[float, float]
    spread: tuple[float, ...]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write a JSON file."""
        rows, columns = np.nonzero(self.counts)
        content = {
            "facts": self.facts,
            "units": list(self.units),
            "counts": [[int(a), int(b), int(self.counts[a, b])] for a, b in zip(rows, columns, strict=True)],
            "bursts": list(self.bursts),
            "spread": [round(each, 6) for each in self.spread],
        }
        write_text(path, json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: Path) -> "ConfusionModel":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"--confusions {path} is missing; espnet-larm learn-confusions makes it.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            units = tuple(content["units"])
            counts = np.zeros((len(units), len(units)), dtype=np.int64)
            for unit, draft, number in content["counts"]:
                counts[unit, draft] = number
            return cls(units, counts, tuple(content["bursts"]), tuple(content["spread"]), content["facts"])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"--confusions {path} is no file of learn-confusions ({type(error).__name__}: {error}); make it again."
            ) from error


def learn(references: Sequence[Sequence[str]], drafts: Sequence[Sequence[str]]) -> ConfusionModel:
    """Learn from references and drafts, each in units.

    Raises:
        ValueError: There is no pair, or no error to learn from.
    """
    units = (NONE, *sorted({unit for text in (*references, *drafts) for unit in text}))
    index = {unit: number for number, unit in enumerate(units)}
    pairs = [
        (np.array([index[each] for each in one], dtype=np.int64), np.array([index[each] for each in other], dtype=int))
        for one, other in zip(references, drafts, strict=True)
    ]
    costs = np.ones((len(units), len(units))) - np.eye(len(units))
    counts, aligned = np.zeros_like(costs, dtype=np.int64), []
    for _ in range(NUM_ROUNDS):
        aligned = [align_units(one, other, costs) for one, other in pairs]
        counts = np.zeros_like(counts)
        for row in aligned:
            np.add.at(counts, ([pair.unit for pair in row], [pair.draft for pair in row]), 1)
        costs = _costs(counts)
    num_wrong = int(counts.sum() - np.trace(counts))
    if not num_wrong:
        raise ValueError(f"{len(pairs)} drafts have no error to learn from; take those of more, or harder, speech.")
    return ConfusionModel(units, counts, _bursts(aligned), _spread(aligned))


def _costs(counts: Ints) -> Floats:
    """Negative logarithms of the joint chances of pairs (U, U)."""
    smoothed = counts + FLOOR
    smoothed[0, 0] = FLOOR
    costs: Floats = -np.log(smoothed / smoothed.sum())
    return costs


def align_units(reference: Ints, draft: Ints, costs: Floats) -> list[Pair]:
    """The cheapest alignment of units (N,) and (M,) by costs of pairs (U, U)."""
    replace = costs[reference][:, draft]  # (N, M)
    delete, insert = costs[reference, 0], np.concatenate([[0.0], np.cumsum(costs[0, draft])])
    rows = [insert]
    for unit in range(len(reference)):
        before = rows[-1]
        best = np.concatenate(
            [[before[0] + delete[unit]], np.minimum(before[1:] + delete[unit], before[:-1] + replace[unit])]
        )
        # An insertion goes on in the same row: the least of what stands before it, less what lies between.
        rows.append(np.minimum.accumulate(best - insert) + insert)
    return _trace_back(reference, draft, rows, replace, delete)[::-1]


def _trace_back(reference: Ints, draft: Ints, rows: list[Floats], replace: Floats, delete: Floats) -> list[Pair]:
    row, column, found = len(reference), len(draft), []
    while row or column:
        here = rows[row][column]
        if row and column and np.isclose(here, rows[row - 1][column - 1] + replace[row - 1, column - 1]):
            row, column = row - 1, column - 1
            found.append(Pair(int(reference[row]), int(draft[column])))
        elif row and np.isclose(here, rows[row - 1][column] + delete[row - 1]):
            row -= 1
            found.append(Pair(int(reference[row]), 0))
        else:
            column -= 1
            found.append(Pair(0, int(draft[column])))
    return found


def _odds(wrong: float, number: float) -> float:
    """Odds of an error, half an error and half a right one added."""
    return (wrong + 0.5) / (number - wrong + 0.5)


def _bursts(aligned: Sequence[Sequence[Pair]]) -> tuple[float, float]:
    numbers = np.zeros((2, 2))
    for row in aligned:
        wrong = [pair.unit != pair.draft for pair in row]
        for before, after in zip([False, *wrong[:-1]], wrong, strict=True):
            numbers[int(before), int(after)] += 1
    mean = _odds(numbers[:, 1].sum(), numbers.sum())
    after_right, after_wrong = (_odds(numbers[row, 1], numbers[row].sum()) / mean for row in (0, 1))
    return after_right, after_wrong


def _spread(aligned: Sequence[Sequence[Pair]]) -> tuple[float, ...]:
    wrong = np.array([sum(pair.unit != pair.draft for pair in row) for row in aligned], dtype=float)
    lens = np.array([len(row) for row in aligned], dtype=float)
    mean = wrong.sum() / lens.sum()
    # An utterance of few units says little of its rate: as many units again of the mean rate are added.
    own = np.array([_odds(one + mean * 10, number + 10) for one, number in zip(wrong, lens, strict=True)])
    return tuple((own / _odds(wrong.sum(), lens.sum())).tolist())


class Channel:
    """Writes drafts as a confusion model says.

    Args:
        model: The model.
        split: A text in its units.
        join: Units as a text.
        scale: What the odds of all errors are multiplied by; 1 gives those that were learned.
    """

    def __init__(
        self, model: ConfusionModel, split: Split, join: Callable[[Iterable[str]], str], scale: float = 1.0
    ) -> None:
        self.model, self.split, self.join, self.scale = model, split, join, scale
        counts = model.counts.astype(float)
        self._index = {unit: number for number, unit in enumerate(model.units)}
        right = np.diag(counts).copy()
        wrong = counts - np.diag(right)
        numbers = counts.sum(1)
        mean = _odds(wrong[1:].sum(), numbers[1:].sum())
        # Ten units of the mean rate are added to each unit's own.
        rates = mean / (1 + mean)
        own = (wrong.sum(1) + 10 * rates) / (numbers + 10)
        self._odds = (own / (1 - np.minimum(own, 0.99))).tolist()
        self._mean_odds = mean
        self._odds[0] = _odds(wrong[0].sum(), numbers[1:].sum() + wrong[0].sum())
        self._choices = _choices(wrong)

    def at(self, scale: float) -> "Channel":
        """The same with another scale."""
        return Channel(self.model, self.split, self.join, scale)

    def __call__(self, text: str, generator: np.random.Generator) -> str:
        """A draft of a text; units that the model does not know have its mean rate."""
        units = self.split(text)
        odds = self.scale * self.model.spread[int(generator.integers(len(self.model.spread)))]
        uniforms = generator.random((len(units) + 1, 4)).tolist()
        written: list[str] = []
        burst = self.model.bursts[0]
        for place, (inserts, which, errs, other) in enumerate(uniforms):
            if _happens(inserts, odds * burst * self._odds[0]):
                written.append(self._chosen(0, which))
                burst = self.model.bursts[1]
            if place == len(units):
                break
            unit = units[place]
            known = self._index.get(unit)
            is_wrong = _happens(errs, odds * burst * (self._mean_odds if known is None else self._odds[known]))
            written.append(self._chosen(known or 0, other) if is_wrong else unit)
            burst = self.model.bursts[int(is_wrong)]
        return self.join(written)

    def _chosen(self, unit: int, uniform: float) -> str:
        place = int(np.searchsorted(self._choices[unit], uniform, side="right"))
        return self.model.units[min(place, len(self.model.units) - 1)]


def _happens(uniform: float, odds: float) -> bool:
    return uniform < odds / (1.0 + odds)


def _choices(wrong: Floats) -> Floats:
    """Cumulative chances (U, U) of what a unit is written as where it is written wrong; none is never inserted."""
    overall = wrong.sum(0) + FLOOR
    overall /= overall.sum()
    seen = (wrong + FLOOR * overall) / (wrong.sum(1, keepdims=True) + FLOOR)
    # What is taken for what a unit is taken for sounds like it.
    alike = 0.5 * seen @ seen + 0.5 * overall
    chances = (wrong + UNSEEN * alike) / (wrong.sum(1, keepdims=True) + UNSEEN)
    chances[np.diag_indices_from(chances)] = 0.0
    cumulative: Floats = np.cumsum(chances / chances.sum(1, keepdims=True), axis=1)
    return cumulative


def splitter(bpemodel: str | None) -> Callable[[str], list[str]]:
    """A function from a text to its units.

    Args:
        bpemodel: A sentencepiece model; None for characters.

    Raises:
        FileNotFoundError: It is not there.
    """
    if bpemodel is None:
        return list
    if not Path(bpemodel).is_file():
        raise FileNotFoundError(f"--bpemodel {bpemodel} is missing; name the sentencepiece model of the CTC head.")
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=bpemodel)

    def split(text: str) -> list[str]:
        pieces: list[str] = processor.encode(text, out_type=str)
        return pieces

    return split


def join_units(units: Iterable[str]) -> str:
    """Characters or sentencepiece's pieces as a text with one space between words."""
    return " ".join("".join(units).replace(SPACE_PIECE, " ").split())


def word_error_percent(channel: Channel, texts: Sequence[str], seed: int) -> float:
    """Word errors per 100 words of drafts of texts; each text has a generator of its own."""
    drafts = [channel(text, np.random.default_rng([seed, number])) for number, text in enumerate(texts)]
    return add_counts([each.counts for each in align(texts, drafts, split_words)]).error_percent


def at_rate(channel: Channel, texts: Sequence[str], wer_percent: float, seed: int = 0) -> Channel:
    """The channel whose drafts of texts have a chosen word error rate.

    Args:
        channel: Any scale.
        texts: Texts that are tried, the first NUM_TRIED of them.
        wer_percent: Word errors per 100 words.
        seed: Seed of the drafts that are tried.

    Raises:
        ValueError: No scale has it.
    """
    tried = [text for text in texts[:NUM_TRIED] if text.split()]
    low, high = math.log(1e-4), math.log(1e4)
    least, most = (word_error_percent(channel.at(math.exp(each)), tried, seed) for each in (low, high))
    if not least < wer_percent < most:
        raise ValueError(
            f"--wer_percent is {wer_percent:g}; allowed: between {least:.1f} and {most:.1f}, which this model reaches."
        )
    for _ in range(18):
        middle = (low + high) / 2
        if word_error_percent(channel.at(math.exp(middle)), tried, seed) < wer_percent:
            low = middle
        else:
            high = middle
    return channel.at(math.exp((low + high) / 2))
