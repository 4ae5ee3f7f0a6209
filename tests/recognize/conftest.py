"""Packing an experiment, for tests of what packs hold."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """Packs an experiment's folder; gives the pack."""

    def pack(folder: Path, *options: str) -> Path:
        from espnet_larm.cli.pack import main

        assert main(["asr", "--exp_dir", str(folder), "--outpath", str(tmp_path / "model.zip"), *options]) == 0
        return tmp_path / "model.zip"

    return pack
