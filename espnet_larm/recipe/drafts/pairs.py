"""References and their drafts from Kaldi files, and whether speakers of one set are in another."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.errors import name_some


class Drafts(NamedTuple):
    """Utterances with what was said and what was recognised.

    Attributes:
        ids: Ids, sorted.
        references: Transcripts.
        drafts: Hypotheses, perhaps empty.
    """

    ids: list[str]
    references: list[str]
    drafts: list[str]


def read_pairs(references: Sequence[Path], drafts: Sequence[Path]) -> Drafts:
    """Read files of references and of drafts, one of each for the other.

    Args:
        references: Kaldi's `text`, as many as there are files of drafts.
        drafts: The same with hypotheses; one that is missing is an empty one.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The numbers of files differ, a draft has no reference, or there is none.
    """
    if len(references) != len(drafts):
        raise ValueError(f"{len(references)} files of references and {len(drafts)} of drafts; give one for each other.")
    found = Drafts([], [], [])
    for one, other in zip(references, drafts, strict=True):
        texts, heard = read_table(one), read_table(other)
        if lost := sorted(heard.keys() - texts.keys()):
            raise ValueError(f"{other} has {len(lost)} utterances that {one} lacks: {name_some(lost)}.")
        for key in sorted(texts):
            found.ids.append(key)
            found.references.append(" ".join(texts[key].split()))
            found.drafts.append(" ".join(heard.get(key, "").split()))
    if not found.ids:
        raise ValueError(f"{references[0]} is empty; give a file of transcripts.")
    return found


def _speakers_of(folders: Sequence[Path]) -> set[str]:
    """Speakers of data folders."""
    return {speaker for folder in folders for speaker in read_table(folder / "utt2spk").values()}


def check_speakers(learned: Sequence[Path], tests: Sequence[Path]) -> str:
    """Refuse to learn from speakers that a test set has.

    Args:
        learned: Data folders that are learned from.
        tests: Data folders of tests.

    Returns:
        A sentence with the numbers of speakers.

    Raises:
        ValueError: A speaker is in both.
    """
    ours, theirs = _speakers_of(learned), _speakers_of(tests)
    if shared := sorted(ours & theirs):
        raise ValueError(
            f"{len(shared)} speakers of --held_out_dirs are in --data_dirs: {name_some(shared)}; learn from other ones."
        )
    return f"{len(ours)} speakers learned from, {len(theirs)} tested on, none in both"
