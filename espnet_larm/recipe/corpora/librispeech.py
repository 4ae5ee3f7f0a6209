"""LibriSpeech's layout: `<split>/<speaker>/<chapter>/` holds `<speaker>-<chapter>-<number>.flac` and one `.trans.txt`.

`corpora/synthesise.py` writes it, too. Other toolkits may take a chapter for a speaker; here a speaker is a reader.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.kaldi_dir import Utterance

# Utterances of the official corpus (openslr.org/12).
NUM_UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}


class Count(NamedTuple):
    """Number of utterances of a split.

    Attributes:
        split: Name of the split.
        found: Number of utterances that are here.
        official: Number of utterances in LibriSpeech; None for a split that is not of it.
    """

    split: str
    found: int
    official: int | None

    def __str__(self) -> str:
        if self.official is None:
            return f"{self.split}: {self.found} utterances"
        return f"{self.split}: {self.found} of LibriSpeech's {self.official} utterances"


def check_counts(root: Path, counts: Iterable[Count]) -> None:
    """Refuse a copy of LibriSpeech that is not whole.

    Raises:
        ValueError: Splits have another number of utterances than LibriSpeech's; names all of them.
    """
    if wrong := [str(count) for count in counts if count.official not in {None, count.found}]:
        raise ValueError(
            f"{root} is not the whole corpus: {'; '.join(wrong)}. Copy or download these splits again; where a part "
            "is meant, say so (prepare-data --partial; egs/librispeech/run.sh --subset mini)."
        )


def count_utterances(root: Path, split: str) -> Count:
    """Count the lines of a split's transcripts."""
    found = 0
    for path in (root / split).glob("*/*/*.trans.txt"):
        with path.open("rb") as lines:
            found += sum(1 for _ in lines)
    return Count(split, found, NUM_UTTERANCES.get(split))


def read_librispeech(root: Path, splits: Iterable[str]) -> list[Utterance]:
    """Read the splits of a corpus as one set.

    Args:
        root: Folder that holds the splits.
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
