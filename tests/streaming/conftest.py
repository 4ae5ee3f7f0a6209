"""Property tests: the same examples in every run, of any duration on a machine that is busy."""

import pytest
import torch
from hypothesis import settings

from espnet2.asr.ctc import CTC

from tests.looped.test_encoder import SIZE, VOCAB

settings.register_profile("streaming", deadline=None, derandomize=True, database=None, max_examples=12)
settings.load_profile("streaming")


@pytest.fixture(scope="module")
def ctc() -> CTC:
    """A CTC head with random weights."""
    torch.manual_seed(3)
    head = CTC(VOCAB, SIZE)
    # It says blank of some frames and not of others.
    torch.nn.init.normal_(head.ctc_lo.weight, std=2.0)
    return head.eval()
