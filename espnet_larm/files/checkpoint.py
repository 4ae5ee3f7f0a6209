"""Names of a training's checkpoints and epochs."""

import re
from pathlib import Path

CHECKPOINT = "checkpoint.pth"
PREVIOUS = "checkpoint.previous.pth"
INTERRUPTED = "checkpoint.interrupted.pth"
EPOCH_FILE = re.compile(r"(\d+)epoch\.pth")


def epoch_of(path: Path) -> int | None:
    """The N of `Nepoch.pth`; None for any other file."""
    match = EPOCH_FILE.fullmatch(path.name)
    return int(match[1]) if match else None
