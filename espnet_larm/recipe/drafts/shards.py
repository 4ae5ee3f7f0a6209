"""Pairs of texts and drafts in shards, as ESPnet reads them one after the other (`multiple_iterator: true`).

A shard is a file `split.<k>` in each of the folders TEXT, DRAFT and SHAPE, where `num_splits` says how many there are.
A shard that is there is not made again: a program that was killed goes on behind the last whole one, and what a shard
holds depends on its number alone. SHAPE, which is written last, has the characters of each text, by which ESPnet makes
batches of like length.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet_larm.files.atomic import write_text
from espnet_larm.files.locks import locked

logger = logging.getLogger(__name__)

TEXT, DRAFT, SHAPE = PARTS = ("text", "draft", "shape")
RECORD, NUM_SPLITS = "shards.json", "num_splits"


class Drafted(NamedTuple):
    """An id, a text and its draft, which may be empty."""

    id: str
    text: str
    draft: str


class Shards:
    """A folder of shards.

    Args:
        folder: The folder, made if it is not there.
        num_shards: How many there will be.
        options: All that the drafts depend on: another program's shards are not mixed with these.

    Raises:
        ValueError: The folder holds shards of other options.
    """

    def __init__(self, folder: Path, num_shards: int, options: Mapping[str, Any]) -> None:
        self.folder, self.num_shards = folder, num_shards
        record = folder / RECORD
        content = json.dumps({"num_shards": num_shards, **options}, indent=2, sort_keys=True) + "\n"
        if record.is_file() and record.read_text(encoding="utf-8") != content:
            raise ValueError(
                f"--output_dir {folder} holds shards of other options or texts ({RECORD}); name another folder, or "
                "remove this one."
            )
        write_text(record, content)

    def path(self, part: str, number: int) -> Path:
        """The file of a part of a shard."""
        return self.folder / part / f"split.{number}"

    def missing(self) -> list[int]:
        """Numbers of shards that are not there yet."""
        return [number for number in range(self.num_shards) if not self.path(SHAPE, number).is_file()]

    def write(self, number: int, pairs: Sequence[Drafted]) -> None:
        """Write a shard, its SHAPE last."""
        for part, values in zip(
            PARTS, ([each.text for each in pairs], [each.draft for each in pairs], _shapes(pairs)), strict=True
        ):
            lines = (f"{pair.id} {value}".rstrip() + "\n" for pair, value in zip(pairs, values, strict=True))
            write_text(self.path(part, number), "".join(lines))

    def finish(self) -> None:
        """Say how many shards there are, which ESPnet asks before it reads any."""
        for part in PARTS:
            write_text(self.folder / part / NUM_SPLITS, f"{self.num_shards}\n")

    def make(self, pairs_of: Any) -> None:
        """Make all that are missing.

        Args:
            pairs_of: The pairs of a shard by its number.
        """
        with locked(self.folder):
            missing = self.missing()
            for number in missing:
                self.write(number, pairs_of(number))
                logger.info("%s: shard %d of %d", self.folder, number + 1, self.num_shards)
            self.finish()


def _shapes(pairs: Iterable[Drafted]) -> list[str]:
    # ESPnet cannot make batches of length 0.
    return [str(max(1, len(pair.text))) for pair in pairs]


def mixed(simulated: Sequence[Drafted], real: Sequence[Drafted], real_fraction: float, number: int) -> list[Drafted]:
    """A shard's simulated pairs with so many real ones that these are a fraction of all, in turn through the shards.

    Args:
        simulated: Pairs.
        real: All real pairs; a pair that comes again has another id.
        real_fraction: From 0 to below 1.
        number: The shard's number.
    """
    wanted = round(len(simulated) * real_fraction / (1.0 - real_fraction)) if real else 0
    start = number * wanted
    chosen = [(real[place % len(real)], place // len(real)) for place in range(start, start + wanted)]
    return [*simulated, *(pair._replace(id=f"{pair.id}-real{turn}") for pair, turn in chosen)]
