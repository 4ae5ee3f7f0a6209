"""`result.txt` as NIST's sclite writes it: a table by speaker, then the alignment of every utterance.

Tools that look for the line `Sum/Avg`, ESPnet's among them, read it as they read sclite's. It is our own because sclite
(SCTK) is built from source, which pip does not bring.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from espnet_larm.scoring.alignment import Alignment, Counts, add_counts

HEADER = "# Snt  # Wrd |  Corr    Sub    Del    Ins    Err  S.Err"
MIN_NAME_WIDTH = 7


def format_result(title: str, alignments: Mapping[str, Alignment], speaker_of: Mapping[str, str]) -> str:
    """Make the whole file.

    Args:
        title: Shown above the table.
        alignments: Alignments by utterance.
        speaker_of: Speaker of each utterance.
    """
    by_speaker: dict[str, list[str]] = {}
    for utterance in alignments:
        by_speaker.setdefault(speaker_of[utterance], []).append(utterance)
    counts = {
        speaker: add_counts([alignments[utterance].counts for utterance in utterances])
        for speaker, utterances in by_speaker.items()
    }
    lines = [*_table(title, counts), ""]
    for speaker, utterances in by_speaker.items():
        lines += [f"Speaker sentences: {speaker}   #utts: {len(utterances)}", ""]
        for utterance in utterances:
            lines += [*_alignment(utterance, alignments[utterance]), ""]
    return "\n".join(lines)


def _table(title: str, counts: Mapping[str, Counts]) -> Iterator[str]:
    name_width = max(MIN_NAME_WIDTH, *map(len, counts)) if counts else MIN_NAME_WIDTH
    width = name_width + len(HEADER) + 5

    def row(name: str, text: str) -> str:
        return f"| {name:<{name_width}} |{text:<{len(HEADER) + 2}}|"

    yield "," + "-" * width + "."
    yield f"| {title:<{width - 1}}|"
    yield "|" + "-" * width + "|"
    yield row("SPKR", f" {HEADER} ")
    yield "|" + "-" * width + "|"
    for speaker, count in counts.items():
        yield row(speaker, _row(count.sentences, count.units, _percentages(count), 0))
    yield "|" + "=" * width + "|"
    total = add_counts(list(counts.values()))
    yield row("Sum/Avg", _row(total.sentences, total.units, _percentages(total), 0))
    yield "|" + "=" * width + "|"
    # A speaker without reference words has no rate.
    if rated := [count for count in counts.values() if count.units]:
        sizes = np.array([(count.sentences, count.units) for count in rated], dtype=float)
        rates = np.array([_percentages(count) for count in rated])
        for name, summary in (("Mean", np.mean), ("S.D.", _deviation), ("Median", np.median)):
            sentences, units = summary(sizes, axis=0)
            yield row(name, _row(sentences, units, summary(rates, axis=0), 1))
    yield "`" + "-" * width + "'"


def _deviation(values: np.ndarray, axis: int) -> np.ndarray:
    return np.std(values, axis=axis, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])


def _row(sentences: float, units: float, percentages: Sequence[float] | np.ndarray, digits: int) -> str:
    numbers = "".join(f"{value:7.1f}" for value in percentages)
    return f"{sentences:6.{digits}f} {units:6.{digits}f} |{numbers[1:]} "


def _percentages(count: Counts) -> tuple[float, ...]:
    parts = (count.correct, count.substitutions, count.deletions, count.insertions, count.errors)
    rates = [100 * part / count.units if count.units else float("nan") for part in parts]
    return (*rates, count.sentence_error_percent)


def _alignment(utterance: str, alignment: Alignment) -> Iterator[str]:
    """REF, HYP and Eval under each other; `*` fills what one side lacks."""
    counts = alignment.counts
    yield f"id: ({utterance})"
    yield f"Scores: (#C #S #D #I) {counts.correct} {counts.substitutions} {counts.deletions} {counts.insertions}"
    rows: list[list[str]] = [[], [], []]
    for ref, hyp in alignment.pairs:
        mark = "" if ref == hyp else "I" if ref is None else "D" if hyp is None else "S"
        width = max(len(ref or "*"), len(hyp or "*"))
        for cells, text in zip(rows, (ref or "*" * width, hyp or "*" * width, mark), strict=True):
            cells.append(f"{text:<{width}}")
    for name, cells in zip(("REF: ", "HYP: ", "Eval:"), rows, strict=True):
        yield f"{name} {' '.join(cells)}".rstrip()
