"""The tokens that an edit may hold: a file of their ids, made of the training text.

Shapes: C tokens.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_larm.files.atomic import write_text
from espnet_larm.speech_llm.editing.options import WHERE


def read_token_ids(path: Path, vocab_size: int) -> torch.Tensor:
    """Ids (C,), ascending.

    Args:
        path: An id in the first column of each line.
        vocab_size: Number of the LM's tokens.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line does not begin with the id of a token, or there is no line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{WHERE}: tokens {path} is missing; training writes it into its folder.")
    ids = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word = line.partition(" ")[0]
        if not word.isdecimal() or int(word) >= vocab_size:
            raise ValueError(f"{path}:{number} begins with {word!r}; allowed: ids of tokens, 0 to {vocab_size - 1}.")
        ids.add(int(word))
    if not ids:
        raise ValueError(f"{WHERE}: tokens {path} holds no id; allowed: one a line.")
    return torch.tensor(sorted(ids))


def write_token_ids(path: Path, ids: Iterable[int], tokenizer: Any) -> None:
    """Write the file, each id with its token for people."""
    ids = sorted(ids)
    names = tokenizer.convert_ids_to_tokens(ids)
    write_text(path, "".join(f"{one} {name!r}\n" for one, name in zip(ids, names, strict=True)))


def coverage(texts: Sequence[Sequence[int]], ids: Iterable[int]) -> float:
    """The fraction of the tokens of texts that are among ids; 1 for no tokens."""
    known = set(ids)
    found = [token in known for text in texts for token in text]
    return sum(found) / len(found) if found else 1.0
