"""What tests look for in packs."""

import zipfile
from pathlib import Path


def read(path: Path) -> dict[str, bytes]:
    """The members of a pack by name."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}
