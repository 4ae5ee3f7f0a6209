"""Markdown tables of results, in the form of ESPnet's RESULTS.md with loops, intervals and real-time factors.

The columns `from` and `to` bound 95 % of the resamples, in percent, or in points of a change.
"""

from collections.abc import Iterator, Sequence

from espnet_larm.scoring.experiment import AUTO, AUTO_NUMBER, MEASURES, ReadOutResult, SetResult
from espnet_larm.scoring.silence import describe_silence, is_silent

COLUMNS = ("dataset", "loops", "Snt", "Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err", "from", "to", "RTF")
CHANGES = ("dataset", "measure", "loops", "points", "from", "to", "")
SUMMARY = ("dataset", "loops", "WER %", "from", "to", "CER %", "RTF")


def format_summary(results: Sequence[SetResult]) -> Iterator[str]:
    """Yield lines: one table to begin with, a row for each read-out that has a word error rate."""
    rows = []
    for result in results:
        for read_out in result.read_outs:
            if "wer" not in read_out.scores:
                continue
            words, letters = read_out.scores["wer"], read_out.scores.get("cer", {})
            factor = real_time_factor(result, read_out)
            rows.append(
                [
                    *(f"{result.tag}/{result.name}", _read_out_name(result.unit, read_out.number)),
                    *map(_percent, (words["error_percent"], *words["interval_percent"], letters.get("error_percent"))),
                    "-" if factor is None else f"{factor:.4f}",
                ]
            )
    if rows:
        yield from (*_table(SUMMARY, rows), "", "`from` and `to` bound 95 % of the resamples.", "")


def format_tables(results: Sequence[SetResult]) -> Iterator[str]:
    """Yield lines: a table for each measure, then the changes from each loop to the next."""
    for measure in MEASURES:
        rows = [
            _row(result, read_out, measure)
            for result in results
            for read_out in result.read_outs
            if measure in read_out.scores
        ]
        if rows:
            yield from (f"### {measure.upper()}", "", *_table(COLUMNS, rows), "")
    changes = [row for result in results for row in _changes(result)]
    if changes:
        yield from ("### From loop to loop, on the same resamples", "", *_table(CHANGES, changes), "")


def apart_from_silence(results: Sequence[SetResult]) -> tuple[list[SetResult], list[str]]:
    """Sets in which something was recognised, and lines on the others, for which a table would have 100 % alone."""
    spoken, lines = [], []
    for result in results:
        words = [read_out.scores["wer"] for read_out in result.read_outs if "wer" in read_out.scores]
        if words and all(map(is_silent, words)):
            lines += [f"{result.tag}/{result.name}: {describe_silence(words[-1])}", ""]
        else:
            spoken.append(result)
    return spoken, lines


def format_curve(results: Sequence[SetResult], measure: str = "wer") -> Iterator[str]:
    """Yield lines: one table of error rates, a row for each set and a column for each read-out."""
    numbers = {(result.unit, read_out.number) for result in results for read_out in result.read_outs}
    named = sorted(numbers, key=lambda each: (each[0], each[1] is None, each[1]))
    rows = []
    for result in results:
        found = {
            (result.unit, read_out.number): _percent(read_out.scores[measure]["error_percent"])
            for read_out in result.read_outs
            if measure in read_out.scores
        }
        if found:
            rows.append([f"{result.tag}/{result.name}", *(found.get(each, "-") for each in named)])
    if rows:
        columns = ("dataset", *(_read_out_name(*each) for each in named))
        yield from (f"### {measure.upper()} % by loops", "", *_table(columns, rows), "")


def real_time_factor(result: SetResult, read_out: ReadOutResult) -> float | None:
    """Real-time factor: seconds of compute a second of audio; None where it was not measured."""
    if read_out.seconds is None or not result.audio_seconds:
        return None
    return read_out.seconds / result.audio_seconds


def _read_out_name(unit: str, number: int | None) -> str:
    """Name of a read-out: `2`, `layer 2`, `auto`, or `last` where the number is not known."""
    if number is None:
        return "last"
    if number == AUTO_NUMBER:
        return AUTO
    return str(number) if unit == "loop" else f"{unit} {number}"


def _row(result: SetResult, read_out: ReadOutResult, measure: str) -> list[str]:
    scores = read_out.scores[measure]
    units = scores["units"]
    parts = [scores[name] for name in ("correct", "substitutions", "deletions", "insertions")]
    rates = [f"{100 * part / units:.1f}" if units else "-" for part in parts]
    factor = real_time_factor(result, read_out)
    loops = _read_out_name(result.unit, read_out.number)
    if read_out.number == AUTO_NUMBER and result.mean_loops is not None:
        loops += f", mean {result.mean_loops:.2f}"
    return [
        f"{result.tag}/{result.name}",
        loops,
        str(scores["sentences"]),
        str(units),
        *rates,
        _percent(scores["error_percent"]),
        _percent(scores["sentence_error_percent"]),
        *map(_percent, scores["interval_percent"]),
        "-" if factor is None else f"{factor:.4f}",
    ]


def _changes(result: SetResult) -> Iterator[list[str]]:
    for measure, differences in result.differences.items():
        for change in differences:
            low, high = change["interval_points"]
            steps = f"{change['from']} to {change['to']}".replace("loop", "")
            yield [
                f"{result.tag}/{result.name}",
                measure.upper(),
                steps,
                _signed(change["points"]),
                _signed(low),
                _signed(high),
                change["verdict"],
            ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"|{'|'.join(columns)}|"
    yield f"|{'---|' * len(columns)}"
    yield from (f"|{'|'.join(row)}|" for row in rows)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
