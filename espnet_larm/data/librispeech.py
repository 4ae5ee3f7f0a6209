"""LibriSpeech's layout: `<split>/<speaker>/<chapter>/` holds `<speaker>-<chapter>-<number>.flac` and one `.trans.txt`.

Also what `data/synthesis.py` writes. Other toolkits may take a chapter for a speaker; here a speaker is a reader.
"""

from collections.abc import Iterable
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance


def read_librispeech(root: Path, splits: Iterable[str]) -> list[Utterance]:
    """Read the splits of a corpus as one set.

    Args:
        root: The folder that holds the splits.
        splits: Names of folders in it.

    Returns:
        Utterances in sorted order.

    Raises:
        FileNotFoundError: A split or an utterance's audio is missing.
        ValueError: A line of a transcript cannot be read.
    """
    utterances: list[Utterance] = []
    for split in splits:
        transcripts = sorted((root / split).glob("*/*/*.trans.txt"))
        if not transcripts:
            raise FileNotFoundError(f"{root / split} holds no <speaker>/<chapter>/*.trans.txt; is the split there?")
        for path in transcripts:
            utterances += _read_chapter(path)
    return sorted(utterances)


def _read_chapter(path: Path) -> list[Utterance]:
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, text = line.strip().partition(" ")
        speaker, _, rest = name.partition("-")
        if not rest:
            raise ValueError(f"{path}:{number}: got {line!r}, expected `speaker-chapter-number WORDS`.")
        audio = path.with_name(f"{name}.flac")
        if not audio.is_file():
            raise FileNotFoundError(f"{path}:{number}: {audio} is missing; the copy of the corpus is incomplete.")
        utterances.append(Utterance(name, speaker, str(audio), text.strip()))
    return utterances
