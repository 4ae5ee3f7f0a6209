"""Packs on the Hugging Face hub: a repository holds the members of a pack, with its weights in safetensors.

safetensors holds tensors alone, so that reading a stranger's weights unpickles nothing. `meta.yaml` has the SHA-256 of
what a recogniser is made of, not of the texts for people: those may be edited on the hub. huggingface_hub says where
the hub is (HF_ENDPOINT), who the user is (`hf auth login`, HF_TOKEN), and where fetched files stay (HF_HOME).
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from espnet_larm.files.reading import SAFETENSORS, read_tensors
from espnet_larm.pack.archive import digest, extract, open_archive, refusal_of_name
from espnet_larm.pack.card import CARD, card_on_hub
from espnet_larm.pack.manifest import META, Manifest
from espnet_larm.pack.members import (
    ArchiveMembers,
    FolderMembers,
    check_size,
    named_in,
    needed_by,
    read_config,
    read_manifest,
)
from espnet_larm.pack.named import HUB_ID
from espnet_larm.pack.options import dump_yaml

logger = logging.getLogger(__name__)

WEIGHTS = f"model{SAFETENSORS}"


def is_hub_name(name: str) -> bool:
    """Whether a text can be the name of a repository on the hub, `user/name`."""
    return "/" in name and HUB_ID.fullmatch(name) is not None


def fetch(name: str, revision: str | None = None) -> Path:
    """Fetch what a recogniser needs of a pack on the hub, unless it has been fetched before.

    Nothing is checked but names and sizes: whoever loads the pack checks it as any other of a stranger.

    Args:
        name: Name of the repository, `user/name`.
        revision: A branch, tag or commit of it; the newest by default, or without a network the last that was fetched.

    Returns:
        A folder with the members of the pack, in the cache of huggingface_hub; it is not to be changed.

    Raises:
        FileNotFoundError: The repository or the revision is not there or not to be read, or the hub does not answer
            and nothing was fetched yet.
        ValueError: The name is none, or the repository holds no pack.
        OSError: The hub reports another error.
    """
    if not is_hub_name(name):
        raise ValueError(f"{name} is no name of a repository on the hub; allowed: user/name.")
    meta = _fetch_member(name, META, revision, is_text=True)
    folder, commit = meta.parent, meta.parent.name
    manifest = read_manifest(FolderMembers(name, folder))
    _fetch_member(name, manifest.config, commit, is_text=True)
    config = read_config(FolderMembers(name, folder), manifest)
    for member in sorted({*needed_by(manifest, config), *manifest.digests}):
        _fetch_member(name, member, commit)
    return folder


def holds_pack(name: str) -> bool:
    """Whether a repository on the hub holds a pack, and not a model of transformers for example.

    Without a network the answer is whether a pack was fetched of it.

    Args:
        name: Name of the repository, `user/name`.

    Raises:
        FileNotFoundError: The repository is not there or not to be read.
        ValueError: The name is none.
        OSError: The hub reports another error.
    """
    from huggingface_hub.errors import EntryNotFoundError

    try:
        _fetch_member(name, META, None, is_text=True)
    except (FileNotFoundError, ValueError) as error:
        # One that is not in the cache, and that nobody could be asked for, is of this class, too.
        if isinstance(error.__cause__, EntryNotFoundError):
            return False
        raise
    return True


def write_hub_folder(pack: Path, name: str, folder: Path) -> Manifest:
    """Write the files that a repository on the hub holds of a pack.

    Args:
        pack: The pack, a zip file that has been loaded.
        name: Name of the repository, for the model card.
        folder: The folder to write into.

    Returns:
        The manifest that was written.

    Raises:
        FileNotFoundError: There is no such pack.
        ValueError: The pack is damaged or refused, or the name is none.
    """
    if not is_hub_name(name):
        raise ValueError(f"{name} is no name of a repository on the hub; allowed: user/name.")
    from safetensors.torch import save_file

    with open_archive(pack) as archive:
        members = ArchiveMembers(str(pack), archive)
        manifest = read_manifest(members)
        config = read_config(members, manifest)
        named = named_in(manifest, config) & set(members.sizes)
        extract(archive, folder, named)
    # The pack was loaded: these are plain tensors by name.
    weights = read_tensors(folder / manifest.weights)
    (folder / manifest.weights).unlink()
    # Tied weights share their memory, which files of safetensors cannot say.
    save_file({key: weights[key].clone().contiguous() for key in sorted(weights)}, folder / WEIGHTS)
    if (folder / CARD).is_file():
        card = (folder / CARD).read_text(encoding="utf-8")
        (folder / CARD).write_text(card_on_hub(card, name), encoding="utf-8")
    manifest = manifest._replace(weights=WEIGHTS)
    held = named_in(manifest._replace(digests={}), config) - {META}
    digests = {member: digest(folder / member) for member in sorted(held) if (folder / member).is_file()}
    manifest = manifest._replace(digests=digests)
    (folder / META).write_bytes(dump_yaml(manifest.as_mapping()))
    return manifest


def address_of(name: str) -> str:
    """Web address of a repository on the hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{name}"


def upload(folder: Path, name: str, message: str, private: bool = False) -> str:
    """Put the files of a folder into a repository on the hub, which is made if it is not there, in one commit.

    Args:
        folder: The folder of `write_hub_folder`.
        name: Name of the repository, `user/name`.
        message: What the commit says.
        private: Whether a new repository is private.

    Returns:
        Web address of the commit.

    Raises:
        PermissionError: The hub does not know who uploads, or does not allow it.
        OSError: The hub does not answer, or reports another error.
    """
    from huggingface_hub import HfApi

    with _told(name, None):
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        try:
            return api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).commit_url
        except (RuntimeError, ValueError) as error:
            # A large file that could not be sent, or a model card that the hub refuses.
            cause = error if error.__cause__ is None else error.__cause__
            raise OSError(f"{address_of(name)}: {_said(error)} {_said(cause)}") from error


def _fetch_member(name: str, member: str, revision: str | None, is_text: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    if reason := refusal_of_name(member):
        raise ValueError(f"{name}: member {member!r} {reason}; it is refused.")
    with _told(name, revision, member):
        found = hf_hub_download(name, member, revision=revision, dry_run=True)
        if is_text and found.file_size is not None:
            check_size(name, member, found.file_size)
        if found.will_download:
            logger.info("%s: fetching %s (%.1f MB).", name, member, (found.file_size or 0) / 1e6)
        return Path(hf_hub_download(name, member, revision=revision))


@contextlib.contextmanager
def _told(name: str, revision: str | None, member: str = "") -> Iterator[None]:
    """Turn the errors of huggingface_hub, which have several lines, into a sentence."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP client that it uses

    hub = constants.ENDPOINT
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise PermissionError(_whom(hub)) from error
    except errors.HFValidationError as error:
        raise ValueError(f"{name} is no name of a repository on the hub: {_said(error)}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{hub}/{name} has no revision {revision}; name a branch, tag or commit.") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{hub}/{name} is not there, or is private or gated and not yours to read; check the name, or let the hub "
            "know who you are: `hf auth login`, or a token in HF_TOKEN."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{hub} does not answer (or HF_HUB_OFFLINE forbids to ask it), and {member} of {name} was not fetched "
            f"before; fetch it once with a network, or copy {constants.HF_HUB_CACHE} from a machine that has it."
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValueError(
            f"{hub}/{name} holds no {member}; it is no pack, or not a whole one. `python -m espnet_larm upload` puts "
            "one there."
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise PermissionError(f"{_whom(hub)} ({_said(error)})") from error
        raise OSError(f"{hub}/{name}: {_said(error)}") from error
    except (HTTPError, errors.OfflineModeIsEnabled) as error:
        raise ConnectionError(
            f"{hub} does not answer ({_said(error)}); the same command goes on with what is left to do."
        ) from error


def _whom(hub: str) -> str:
    return f"{hub} does not let you do that: `hf auth login`, or a token in HF_TOKEN that may, says who you are"


def _said(error: BaseException) -> str:
    """What the server says, or else the whole message, on one line."""
    return " ".join(str(getattr(error, "server_message", None) or error).split())
