"""The report: by kind, errors first, with a limit that costs no memory."""

from pathlib import Path

import pytest

from espnet_larm.recipe.validation.report import Report


def report_of(*kinds: str, **options: object) -> Report:
    report = Report(**options)
    for number, kind in enumerate(kinds, 1):
        report.add(kind, "what", Path("set/text"), number)
    return report


def test_problems_stand_under_their_kind_with_errors_first() -> None:
    report = report_of("clipped", "unsorted", "clipped")
    assert list(report.lines()) == [
        "error unsorted (1): sort the file by code point: LC_ALL=C sort -o FILE FILE",
        "  set/text:2: what",
        "warning clipped (2): see whether a recording with a lower level exists",
        "  set/text:1: what",
        "  set/text:3: what",
    ]
    assert (report.num_errors, report.num_warnings) == (1, 2)


def test_only_what_will_be_shown_is_kept_and_the_rest_counted() -> None:
    report = report_of(*["clipped"] * 9, max_shown=2)
    assert len(report.kept["clipped"]) == 2 and report.num_warnings == 9
    assert list(report.lines())[-1] == "  ... and 7 more (--show 0 lists all)"


def test_allowed_kinds_are_warnings() -> None:
    report = report_of("unsorted", allowed=["unsorted"])
    assert (report.num_errors, report.num_warnings) == (0, 1)


def test_strict_makes_warnings_errors_unless_they_are_allowed() -> None:
    assert report_of("clipped", "odd-duration", strict=True, allowed=["clipped"]).num_errors == 1


def test_an_unknown_kind_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="--allow silense: there is no such kind of problem; nearest: silence"):
        Report(allowed=["silense"])
