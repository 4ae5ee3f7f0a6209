"""Tiny random speech encoders of each family, saved as folders."""

import pytest
import torch

from tests.pretrained.models import save_encoder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Gives the folder of a tiny model by its kind."""
    folders = {}

    def get(kind):
        if kind not in folders:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                folders[kind] = str(save_encoder(kind, tmp_path_factory.mktemp(kind.replace(" ", "_"))))
        return folders[kind]

    return get
