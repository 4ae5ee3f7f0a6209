"""Property tests: the same examples in every run, of any duration on a machine that is busy."""

import pytest
from hypothesis import settings

from espnet2.asr.ctc import CTC

from tests.looped.test_encoder import talkative_head

settings.register_profile("streaming", deadline=None, derandomize=True, database=None, max_examples=12)
settings.load_profile("streaming")


@pytest.fixture(scope="module")
def ctc() -> CTC:
    """A CTC head that says blank of some frames and not of others."""
    return talkative_head()
