"""A stock recipe of ESPnet's: its source archive, `egs2/larm/asr1` in it, and data. Nothing of ESPnet's is changed."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

# What every recipe of egs2 links to.
SHARED = ("asr.sh", "cmd.sh", "path.sh", "db.sh", "pyscripts", "scripts", "steps", "utils")
AN4 = Path(__file__).parents[3] / "shared/data/an4"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of no corpus, beside ESPnet's own, with data/{train,dev,test} of 200 utterances in all."""
    source = download_espnet(tmp_path_factory.mktemp("espnet"), "202611")
    folder = source / "egs2/larm/asr1"
    (folder / "local").mkdir(parents=True)
    (folder / "conf").mkdir()
    for part in SHARED:
        (folder / part).symlink_to(source / "egs2/TEMPLATE/asr1" / part)
    (folder / "local/path.sh").touch()
    script = folder / "local/data.sh"
    script.write_text("#!/usr/bin/env bash\n# data/ is there.\n")
    script.chmod(0o755)
    utterances = an4() if AN4.is_dir() else noise(folder / "audio")
    for name, part_of_all in {"train": slice(160), "dev": slice(160, 180), "test": slice(180, 200)}.items():
        write_folder(folder / "data" / name, utterances[part_of_all])
    return folder


def download_espnet(folder: Path, release: str) -> Path:
    """ESPnet's source archive from the package index, unpacked; the wheel has no egs2.

    Args:
        folder: Gets it.
        release: Release of ESPnet.
    """
    command = ["pip", "download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    subprocess.run([sys.executable, "-m", *command, "--dest", str(folder), f"espnet=={release}"], check=True)
    with tarfile.open(next(folder.glob("espnet-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"espnet-{release}"


def an4() -> list[tuple[str, str, str, str]]:
    """Utterances of AN4's training set by speaker: (id, speaker, path, text)."""
    paths = (AN4 / "etc/an4_train.fileids").read_text().split()
    lines = (AN4 / "etc/an4_train.transcription").read_text().splitlines()
    texts = [re.sub(r"</?s>|\(.*\)$", "", line).strip() for line in lines]
    return sorted(
        (
            f"{path.split('/')[1]}-{path.rpartition('/')[2]}",
            path.split("/")[1],
            str(AN4 / "flac" / f"{path}.flac"),
            text,
        )
        for path, text in zip(paths, texts, strict=True)
    )


def noise(folder: Path) -> list[tuple[str, str, str, str]]:
    """Make utterances of noise with texts where AN4 is not there: the stages run, and nothing is recognised."""
    print(f"{AN4} is not there: the recipe runs on noise.")
    folder.mkdir()
    generator = np.random.default_rng(0)
    found = []
    for index in range(200):
        path = folder / f"u{index:03d}.flac"
        soundfile.write(path, 0.1 * generator.standard_normal(generator.integers(24000, 48000)).clip(-3, 3), 16000)
        text = " ".join(generator.choice(["ONE", "TWO", "THREE", "RUBOUT", "A", "JULY", "QUIZ", "VEX"], 4))
        found.append((f"s{index // 20:02d}-u{index:03d}", f"s{index // 20:02d}", str(path), text))
    return found


def write_folder(folder: Path, utterances: list[tuple[str, str, str, str]]) -> None:
    """A data folder in Kaldi's form."""
    folder.mkdir(parents=True)
    keys: dict[str, list[str]] = {}
    for key, speaker, _, _ in utterances:
        keys.setdefault(speaker, []).append(key)
    tables = {
        "wav.scp": [f"{key} {path}" for key, _, path, _ in utterances],
        "text": [f"{key} {text}" for key, _, _, text in utterances],
        "utt2spk": [f"{key} {speaker}" for key, speaker, _, _ in utterances],
        "spk2utt": [" ".join([speaker, *listed]) for speaker, listed in keys.items()],
    }
    for name, rows in tables.items():
        (folder / name).write_text("".join(f"{row}\n" for row in rows))
