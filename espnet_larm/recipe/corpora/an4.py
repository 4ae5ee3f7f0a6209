"""CMU AN4 (census data: spelled names, numbers, dates): 948 training and 130 test utterances of 84 speakers.

Layout: `etc/an4_{train,test}.{fileids,transcription}`, audio at `flac/<fileid>.flac` or, as CMU packs it,
`wav/<fileid>.sph`.
The dev set is taken from the training part BY SPEAKER, so that training has none of its speakers.
"""

import re
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance

AUDIO_FORMS = ("flac/{}.flac", "wav/{}.sph", "wav/{}.wav")
TRANSCRIPT = re.compile(r"(?:<s> )?(?P<text>.*?)(?: </s>)? \((?P<name>\S+)\)")
DEV_SPEAKER_STRIDE = 10


def read_an4(root: Path) -> dict[str, list[Utterance]]:
    """Read the corpus as three sets.

    Args:
        root: The folder that holds `etc/`.

    Returns:
        `train_nodev`, `train_dev` (every tenth speaker of the training part), `test`; texts in upper case.

    Raises:
        FileNotFoundError: A list or an audio file is missing.
        ValueError: A line of a list cannot be read, or the lists disagree.
    """
    train, test = _read_part(root, "train"), _read_part(root, "test")
    speakers = sorted({utterance.speaker for utterance in train})
    held_out = set(speakers[DEV_SPEAKER_STRIDE - 1 :: DEV_SPEAKER_STRIDE])
    return {
        "train_nodev": [utterance for utterance in train if utterance.speaker not in held_out],
        "train_dev": [utterance for utterance in train if utterance.speaker in held_out],
        "test": test,
    }


def _read_part(root: Path, part: str) -> list[Utterance]:
    texts = _read_transcripts(root / "etc" / f"an4_{part}.transcription")
    list_path = root / "etc" / f"an4_{part}.fileids"
    utterances = []
    for number, line in enumerate(list_path.read_text(encoding="ascii").splitlines(), 1):
        fileid = line.strip()
        _, speaker, name = _split_fileid(f"{list_path}:{number}", fileid)
        if name not in texts:
            raise ValueError(f"{list_path}:{number}: {name} has no transcript in an4_{part}.transcription.")
        audio = _find_audio(root, f"{list_path}:{number}", fileid)
        utterances.append(Utterance(f"{speaker}-{name}", speaker, audio, texts[name]))
    return utterances


def _read_transcripts(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; --an4_root must name the folder that holds AN4's etc/.")
    texts = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), 1):
        match = TRANSCRIPT.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{path}:{number}: got {line!r}, expected `<s> WORDS </s> (name)`.")
        texts[match["name"]] = match["text"].strip().upper()
    return texts


def _split_fileid(where: str, fileid: str) -> list[str]:
    parts = fileid.split("/")
    if len(parts) != 3:
        raise ValueError(f"{where}: got {fileid!r}, expected `part/speaker/name`.")
    return parts


def _find_audio(root: Path, where: str, fileid: str) -> str:
    for form in AUDIO_FORMS:
        if (path := root / form.format(fileid)).is_file():
            return str(path)
    forms = ", ".join(form.format(fileid) for form in AUDIO_FORMS)
    raise FileNotFoundError(f"{where}: none of {forms} is in {root}; the copy of AN4 is incomplete.")
