"""Recordings of noise with their transcripts, as a user has them."""

from pathlib import Path

import numpy as np
import soundfile

SENTENCES = (
    "YES PLEASE",
    "NO THANK YOU",
    "PERHAPS TOMORROW",
    "SEVEN GREEN APPLES",
    "THE WATER IS COLD",
    "OPEN THE DOOR",
)


def write_tables(folder: Path) -> None:
    """Make a folder of twelve recordings of a second each, with tables of three sets."""
    (folder / "audio").mkdir(parents=True)
    lines = ["audio\ttext\tspeaker"]
    for number in range(12):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 16000)
        soundfile.write(folder / f"audio/{number}.wav", samples, 16000)
        lines.append(f"audio/{number}.wav\t{SENTENCES[number % 6]}\tspeaker{number % 3}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    (folder / "dev.tsv").write_text("\n".join(lines[:3]) + "\n")
    (folder / "test.jsonl").write_text('{"audio": "audio/3.wav", "text": "seven green apples"}\n')
