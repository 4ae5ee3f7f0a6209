"""Files that may be damaged, or a stranger's: YAML, and what torch.save wrote."""

import lzma
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

# What zipfile, pickle and torch raise when they read damaged files.
DAMAGES = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, lzma.LZMAError, pickle.PickleError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

SAFETENSORS = ".safetensors"


def parse_yaml(text: str) -> Any:
    """What YAML says, by libyaml where PyYAML has it: 262,144 tokens in 4 s instead of 17.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    # The doctor imports this file where nothing is installed yet.
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # a safe one


def read_yaml(path: Path) -> dict[str, Any]:
    """Read options from a YAML file, without tags that make objects.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds something else than options.
    """
    import yaml

    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; name a YAML file of options.")
    try:
        options = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = "a folder" if path.is_dir() else " ".join(str(error).split())
        raise ValueError(
            f"{path} is no YAML of options in UTF-8: {why}. Write a line `name: value` each, indented with spaces."
        ) from error
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        found = "nothing" if options is None else f"a {type(options).__name__}"
        raise ValueError(
            f"{path} holds {found} where options should be; write a line `name: value` each, with a space behind the "
            "colon."
        )
    return options


def is_whole(path: Path) -> bool:
    """Whether a file of torch.save is undamaged, by the checksums in it (torch.load does not read them)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except DAMAGES:
        return False


def _is_compressed(path: Path) -> bool:
    """Whether a zip file is compressed, or says that it holds more bytes than it has."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    is_stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
    return not is_stored or sum(info.file_size for info in infos) > path.stat().st_size


def read_tensors(path: Path, mmap: bool = False) -> Any:
    """What torch.save wrote, tensors and plain values; nothing else is unpickled, so that a file cannot run code.

    Args:
        path: Path of the file, or of one of safetensors, which holds tensors alone.
        mmap: Leave the tensors on the disk, and their checksums unread: for files that `is_whole` was asked of.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is damaged, or holds other objects.
    """
    # Programs that write texts alone do without torch.
    import torch

    if path.suffix == SAFETENSORS:
        return _read_safetensors(path)
    if _is_compressed(path):
        raise ValueError(
            f"{path} is compressed, which torch's files are not: it may grow beyond any memory, and is refused."
        )
    if not mmap and zipfile.is_zipfile(path) and not is_whole(path):
        raise ValueError(f"{path} is damaged (its checksums are not those of its content); copy or make it again.")
    try:
        return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except FileNotFoundError:
        raise
    except DAMAGES as error:
        if is_whole(path):
            raise ValueError(
                f"{path} holds more than tensors and plain values, and may run code as it is loaded "
                f"({str(error).partition(chr(10))[0]})."
            ) from error
        raise ValueError(f"{path} is truncated or damaged, or no file of torch.save; copy or make it again.") from error


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or damaged, or no file of safetensors ({error}); copy or make it again."
        ) from error
