"""What stages 2 and 3 say about audio: the words of validate_data, with file and line."""

from collections.abc import Sequence
from pathlib import Path

from espnet_larm.recipe.formatting import UnusableAudioError
from espnet_larm.recipe.validation.report import Finding, Problem, Report
from espnet_larm.recipe.validation.table import find_lines

NUM_SHOWN = 20


def add_findings(report: Report, wav_scp: Path, findings: Sequence[tuple[str, Finding]]) -> None:
    """Add findings at the lines of their utterances.

    Args:
        report: Takes them.
        wav_scp: Names the audio.
        findings: Utterance id and what is wrong.
    """
    lines = find_lines(wav_scp, (key for key, _ in findings)) if findings else {}
    for key, finding in findings:
        report.add(Problem(*finding, str(wav_scp), lines.get(key, 0)))


def explain(error: UnusableAudioError, report: Report, wav_scp: Path) -> ValueError:
    """The error to end a program with: everything that was found, by kind, with file and line."""
    add_findings(report, wav_scp, error.findings)
    lines = "\n".join(report.lines())
    return ValueError(f"some audio cannot be used; nothing was written:\n{lines}")
