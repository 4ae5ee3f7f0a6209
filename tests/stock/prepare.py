"""A stock recipe of ESPnet's own: `egs2/<name>/asr1` in its source archive, with AN4 as data, and nothing changed."""

import re
from pathlib import Path

# What every recipe of egs2 links to.
SHARED = ("asr.sh", "cmd.sh", "path.sh", "db.sh", "pyscripts", "scripts", "steps", "utils")


def prepare_recipe(source: Path, name: str) -> Path:
    """A recipe's folder beside the others, with links to what they share.

    Args:
        source: ESPnet's unpacked source archive.
        name: Of the corpus.
    """
    folder = source / "egs2" / name / "asr1"
    (folder / "local").mkdir(parents=True)
    for part in SHARED:
        (folder / part).symlink_to(source / "egs2/TEMPLATE/asr1" / part)
    (folder / "local/path.sh").touch()
    script = folder / "local/data.sh"
    script.write_text("#!/usr/bin/env bash\n# The data is there.\n")
    script.chmod(0o755)
    return folder


def write_an4(corpus: Path, folder: Path, numbers: dict[str, int]) -> None:
    """Data folders in Kaldi's form, of the first utterances of AN4's training set, one set after the other.

    Args:
        corpus: Holds `etc/` and `flac/`.
        folder: The recipe's `data/`.
        numbers: Utterances by set.
    """
    paths = (corpus / "etc/an4_train.fileids").read_text().split()
    lines = (corpus / "etc/an4_train.transcription").read_text().splitlines()
    texts = [re.sub(r"</?s>|\(.*\)$", "", line).strip() for line in lines]
    start = 0
    for name, number in numbers.items():
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "spk2utt": []}
        # Every second one is of a speaker of its own set mostly; recipes want sorted tables.
        for path, text in sorted(zip(paths, texts, strict=True))[start : start + number]:
            speaker, stem = path.split("/")[1], path.rpartition("/")[2]
            key = f"{speaker}-{stem}"
            tables["wav.scp"].append(f"{key} {corpus / 'flac' / path}.flac")
            tables["text"].append(f"{key} {text}")
            tables["utt2spk"].append(f"{key} {speaker}")
        start += number
        speakers = dict.fromkeys(line.split()[1] for line in tables["utt2spk"])
        tables["spk2utt"] = [
            " ".join([speaker, *(line.split()[0] for line in tables["utt2spk"] if line.split()[1] == speaker)])
            for speaker in speakers
        ]
        (folder / name).mkdir(parents=True)
        for table, rows in tables.items():
            (folder / name / table).write_text("".join(f"{row}\n" for row in rows))
