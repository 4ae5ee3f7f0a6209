"""From a pack, of a file or of the hub, or an experiment's folder to a recogniser.

A pack may be a stranger's: its members are checked before anything is written, its texts are plain YAML, its classes
must be self-contained ones (`pack/options.py`) or installed plugins, and only tensors are unpickled.
"""

import math
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch

from espnet_larm.errors import is_stated
from espnet_larm.files.atomic import write_beside
from espnet_larm.files.reading import SAFETENSORS
from espnet_larm.pack import manifest as manifests
from espnet_larm.pack.archive import CHUNK_BYTES, digest
from espnet_larm.pack.hub import fetch, is_hub_name
from espnet_larm.pack.llm import TOKENIZER, check_tokenizer, has_llm, name_tokenizer
from espnet_larm.pack.manifest import Manifest, check_plugins, parse_manifest
from espnet_larm.pack.members import named_in, needed_by, open_members, read_config, read_manifest
from espnet_larm.pack.models import ModelPlaces, check_models, check_models_inside, name_models
from espnet_larm.pack.options import check_self_contained, dump_yaml, file_options, parse_yaml, with_option
from espnet_larm.recognize.model.loading import read_weights
from espnet_larm.recognize.recognizer import Recognizer

# Sums over frames of each feature take kilobytes.
MAX_STATISTICS_BYTES = 16 * 2**20
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load(
    source: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    asr_model_file: str | Path | None = None,
    llm: str | None = None,
    encoder: str | None = None,
) -> Recognizer:
    """The recogniser of a pack or of an experiment's folder.

    Args:
        source: A pack (a file, or `user/name` of the hub), or a folder with `config.yaml`.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `bfloat16`, `float16`, `float32` or `float64`.
        asr_model_file: Weights in the folder; its only `*.ave.pth` by default.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Raises:
        FileNotFoundError: There is no such pack, the folder lacks a file, or the LM or speech encoder is not there.
        ValueError: The pack is damaged or refused, or its weights are not those of its configuration.
    """
    source = Path(source)
    if source.is_dir():
        config, weights = files_of_folder(source, asr_model_file)
        return Recognizer.from_files(config, weights, device, dtype, llm=llm, encoder=encoder)
    if asr_model_file is not None:
        raise ValueError(f"asr_model_file is {asr_model_file}, but {source} is no folder; a pack names its weights.")
    return load_checked(_here_or_of_hub(source), str(source), device, dtype, ModelPlaces(llm, encoder))


def load_from_hub(
    name: str,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    llm: str | None = None,
    encoder: str | None = None,
) -> Recognizer:
    """The recogniser of a pack on the hub, which is fetched once; without a network, of the copy that was fetched last.

    Args:
        name: Name of the repository, `user/name`.
        revision: A branch, tag or commit of it; the newest by default.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `bfloat16`, `float16`, `float32` or `float64`.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Raises:
        FileNotFoundError: The repository or the revision is not there or not to be read; or nothing was fetched yet,
            and the hub does not answer; or the LM or speech encoder is not there.
        ValueError: It holds no pack, or one that is damaged or refused.
        OSError: The hub reports another error.
    """
    return load_checked(fetch(name, revision), name, device, dtype, ModelPlaces(llm, encoder))


def load_checked(pack: Path, label: str, device: str, dtype: str, places: ModelPlaces) -> Recognizer:
    """The recogniser of a pack that may be a stranger's.

    Args:
        pack: A zip file, or a folder in which nothing is trusted.
        label: Name of the pack for messages.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `bfloat16`, `float16`, `float32` or `float64`.
        places: Where the pre-trained models of the model are.

    Raises:
        FileNotFoundError: The pack, or a model that it needs, is not there.
        ValueError: The pack is damaged or refused, or its weights are not those of its configuration.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = _unpack(pack, label, Path(folder), places)
        try:
            return Recognizer.from_files(files[manifests.CONFIG], files[manifests.WEIGHTS], device, dtype)
        except (ValueError, FileNotFoundError) as error:
            if f"{folder}/" not in str(error) or not is_stated(error):
                raise
            # The user knows the pack, not where it was unpacked.
            raise ValueError(str(error).replace(f"{folder}/", f"{label}: ")) from error


def unpack(pack: str | Path, folder: str | Path, llm: str | None = None, encoder: str | None = None) -> dict[str, str]:
    """Unpack a pack that has been checked as `load` checks it, so that ESPnet can be trusted with the files.

    Args:
        pack: The file, or the name of a repository on the hub.
        folder: Made if it is not there; files of the same names are replaced.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Returns:
        Arguments of ESPnet's `Speech2Text`: `asr_train_config` and `asr_model_file`.

    Raises:
        FileNotFoundError: There is no such pack, or its LM or speech encoder is not there.
        ValueError: It is damaged or refused.
    """
    files = _unpack(_here_or_of_hub(Path(pack)), str(pack), Path(folder).resolve(), ModelPlaces(llm, encoder))
    path = Path(files[manifests.WEIGHTS])
    # ESPnet unpickles anything. What the restricted unpickler accepts holds nothing to run.
    weights = read_weights(path)
    if path.suffix == SAFETENSORS:
        # ESPnet reads files of torch.save alone.
        converted = path.with_suffix(".pth")
        with write_beside(converted) as part:
            torch.save(weights, part)
        files[manifests.WEIGHTS] = str(converted)
    return files


def _here_or_of_hub(source: Path) -> Path:
    """The path, or the folder that was fetched if it can only be the name of a repository on the hub."""
    name = str(source)
    if source.exists() or source.suffix == ".zip" or not is_hub_name(name):
        return source
    try:
        return fetch(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is no file or folder here, and on the hub: {error}") from error


def files_of_folder(folder: Path, asr_model_file: str | Path | None = None) -> tuple[Path, Path]:
    """Configuration and weights of an experiment's folder, or of a pack that was unzipped.

    Args:
        folder: With `config.yaml`, or with `meta.yaml`, which names the files.
        asr_model_file: A name in the folder or a path.

    Raises:
        FileNotFoundError: One of the files is missing.
        ValueError: There are several averages to choose from.
    """
    meta = folder / manifests.META
    if meta.is_file():
        manifest = parse_manifest(parse_yaml(str(meta), meta.read_bytes()))
        check_plugins(manifest.plugins)
        return folder / manifest.config, _model_file(folder, asr_model_file or manifest.weights)
    return folder / "config.yaml", _model_file(folder, asr_model_file or _only_average(folder))


def _model_file(folder: Path, name: str | Path) -> Path:
    return Path(name) if not (folder / name).is_file() and Path(name).is_file() else folder / name


def _only_average(folder: Path) -> str:
    names = sorted(path.name for path in folder.glob("*.ave.pth"))
    if len(names) == 1:
        return names[0]
    others = sorted(path.name for path in folder.glob("*.pth") if path.name not in ("checkpoint.pth", *names))
    if not names:
        raise FileNotFoundError(
            f"{folder} has no *.ave.pth (the end of a training writes it); name one with asr_model_file: "
            f"{', '.join(others) or 'there are no weights at all'}."
        )
    raise ValueError(f"{folder} has several averages; name one with asr_model_file: {', '.join(names)}.")


def _unpack(pack: Path, label: str, folder: Path, places: ModelPlaces) -> dict[str, str]:
    with open_members(pack, label) as members:
        manifest = read_manifest(members)
        check_plugins(manifest.plugins)
        config = read_config(members, manifest)
        check_self_contained(config)
        check_models(config)
        names = set(members.sizes)
        if lacking := [name for name in needed_by(manifest, config) if name not in names]:
            raise ValueError(
                f"{label}: {manifest.config}: {', '.join(lacking)} is not in the pack; a pack holds all files that it "
                "names."
            )
        check_models_inside(config, names)
        # Before anything is written: a model may not be here.
        name_models(config, places, (Path.cwd(),), manifest.models)
        members.copy(folder, names & named_in(manifest, config))
    _check_digests(label, manifest, folder)
    for option, value in list(file_options(config)):
        if option[-1] == "stats_file":
            _check_statistics(label, folder / value)
        config = with_option(config, option, str(folder / value))
    if has_llm(config):
        check_tokenizer(folder / TOKENIZER)
        name_tokenizer(config, (folder,))
    (folder / manifest.config).write_bytes(dump_yaml(config))
    return {manifests.CONFIG: str(folder / manifest.config), manifests.WEIGHTS: str(folder / manifest.weights)}


def _check_statistics(label: str, path: Path) -> None:
    """Refuse statistics that are more than numbers, whatever ESPnet's own reading of them allows."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as array:
                _check_array(array, path.stat().st_size)
            return
        with zipfile.ZipFile(path) as arrays:
            for info in arrays.infolist():
                with arrays.open(info) as member:
                    _check_array(member, info.file_size)
    except (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{label}: {path.name} holds more than numbers of features, or is damaged; it is refused."
        ) from error


def _check_array(array: IO[bytes], size: int) -> None:
    """Refuse an array whose header tells of objects, or of more than the file holds, before any of it is read."""
    if size > MAX_STATISTICS_BYTES:
        raise ValueError("it is too large")
    version = np.lib.format.read_magic(array)
    if version not in HEADERS:
        raise ValueError("it is of a later version")
    shape, _, dtype = HEADERS[version](array)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
        raise ValueError("its header does not fit")
    while array.read(CHUNK_BYTES):
        # The checksum is compared at the end.
        pass


def _check_digests(label: str, manifest: Manifest, folder: Path) -> None:
    for name, wanted in manifest.digests.items():
        path = folder / name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()) or digest(path) != wanted:
            raise ValueError(f"{label}: {name} is not what {manifests.META} says; copy or download the pack again.")
