"""Members of a pack by name, in a zip file or in a folder that was fetched from a model hub, and which are used."""

import shutil
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from espnet_larm.files.atomic import write_beside
from espnet_larm.pack.archive import extract, open_archive
from espnet_larm.pack.llm import TOKENIZER, TOKENIZER_FILES, has_llm
from espnet_larm.pack.manifest import META, Manifest, parse_manifest
from espnet_larm.pack.options import Config, file_options, parse_yaml

MAX_TEXT_BYTES = 64 * 2**20


class Members(Protocol):
    """Members of a pack.

    Attributes:
        label: Name of the pack for messages.
        sizes: Number of bytes by name.
    """

    label: str
    sizes: dict[str, int]

    def read(self, name: str) -> bytes:
        """The content of a member."""

    def copy(self, folder: Path, names: Collection[str]) -> None:
        """Write members below a folder, each atomically."""


class ArchiveMembers:
    """Members of a zip file whose names are checked.

    Args:
        label: Name of the pack for messages.
        archive: The open file.
    """

    def __init__(self, label: str, archive: zipfile.ZipFile) -> None:
        self.label = label
        self.sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        self._archive = archive

    def read(self, name: str) -> bytes:
        """The content of a member."""
        return self._archive.read(name)

    def copy(self, folder: Path, names: Collection[str]) -> None:
        """Write members below a folder, each atomically."""
        extract(self._archive, folder, names)


class FolderMembers:
    """Files of a folder.

    Args:
        label: Name of the pack for messages.
        folder: The folder; its files may be links, as in the cache of the hub's client.
    """

    def __init__(self, label: str, folder: Path) -> None:
        self.label = label
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self.sizes = {name: path.stat().st_size for name, path in files.items()}
        self._files = files

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return self._files[name].read_bytes()

    def copy(self, folder: Path, names: Collection[str]) -> None:
        """Copy files below another folder, each atomically."""
        for name in sorted(self._files.keys() & set(names)):
            with write_beside(folder / name) as part:
                shutil.copyfile(self._files[name], part)


@contextmanager
def open_members(pack: Path, label: str) -> Iterator[Members]:
    """Open a pack.

    Args:
        pack: A zip file, or a folder that `hub.fetch` returned.
        label: Name of the pack for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, refused, or no zip file.
    """
    if pack.is_dir():
        yield FolderMembers(label, pack)
        return
    with open_archive(pack) as archive:
        yield ArchiveMembers(label, archive)


def read_manifest(members: Members) -> Manifest:
    """The manifest of a pack.

    Raises:
        ValueError: There is none, or it is not that of a pack.
    """
    return parse_manifest(parse_yaml(f"{members.label}: {META}", _read_text(members, META)))


def read_config(members: Members, manifest: Manifest) -> Config:
    """The configuration of a pack, which is not checked.

    Raises:
        ValueError: There is none, or it is no plain YAML.
    """
    return parse_yaml(f"{members.label}: {manifest.config}", _read_text(members, manifest.config))


def needed_by(manifest: Manifest, config: Config) -> list[str]:
    """Members that a pack must hold: those that its configuration names, and the weights."""
    return [manifest.weights, *(value for _, value in file_options(config))]


def named_in(manifest: Manifest, config: Config) -> set[str]:
    """Members that the manifest or the configuration names."""
    tokenizer = {f"{TOKENIZER}/{name}" for name in TOKENIZER_FILES} if has_llm(config) else set()
    return {META, manifest.config, *needed_by(manifest, config), *manifest.digests, *tokenizer}


def check_size(label: str, name: str, size: int) -> None:
    """Refuse a text that is none by its size.

    Raises:
        ValueError: It is larger than MAX_TEXT_BYTES.
    """
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{label}: {name} has {size} bytes; allowed: {MAX_TEXT_BYTES}.")


def _read_text(members: Members, name: str) -> bytes:
    if name not in members.sizes:
        raise ValueError(f"{members.label} has no {name}; it is no pack. python -m espnet_larm pack makes one.")
    check_size(members.label, name, members.sizes[name])
    return members.read(name)
