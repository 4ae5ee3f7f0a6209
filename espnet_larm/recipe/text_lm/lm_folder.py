"""A folder in which an LM is trained: what was begun there is gone on with by the same options only.

Layout: `tokenizer/` (with the LM's config.json, so that its tokens are known before its weights), `checkpoints/` while
it is trained, and at the end the LM beside them, as Hugging Face's programs load it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OPTIONS = "options.json"
RECORD = "training.json"
# In this order; nothing loads a folder without config.json, and with a record it is complete.
LAST_FILES = ("config.json", RECORD)


def trained_options(folder: Path) -> dict[str, Any] | None:
    """Those of the LM that is there; None if there is none."""
    path = folder / RECORD
    return json.loads(path.read_text(encoding="utf-8"))["options"] if path.is_file() else None


def begun_options(folder: Path, products: str) -> dict[str, Any] | None:
    """Those of the tokenizer or the checkpoints in a folder; None if it has no `products` (a pattern) yet."""
    path = folder / OPTIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() and any(folder.glob(products)) else None


def check_same(out_dir: Path, kept: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
    """Compare options with those that something was made with.

    Raises:
        ValueError: They differ; with their names and values.
    """
    if kept is None:
        return
    # Through JSON, as the others came.
    wanted = json.loads(json.dumps(options))
    names = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
    if names:
        changes = ", ".join(f"{name} {_brief(kept.get(name))} (now {_brief(wanted.get(name))})" for name in names)
        raise ValueError(
            f"--out_dir {out_dir} was begun with other options: {changes}; take the same ones, or another --out_dir."
        )


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside, then move it to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def move_in(part: Path, folder: Path) -> None:
    """Move the files of an LM or tokenizer to their folder, LAST_FILES at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    order = {name: rank for rank, name in enumerate(LAST_FILES, 1)}
    for path in sorted(part.iterdir(), key=lambda path: (order.get(path.name, 0), path.name)):
        path.replace(folder / path.name)


def _brief(value: Any) -> str:
    """Texts by name and size: no one reads digests."""
    if isinstance(value, list):
        return " + ".join(f"{file['name']} of {file['bytes']} bytes" for file in value) or "none"
    return str(value)
