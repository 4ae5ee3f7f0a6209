"""A toy LM and its utterances, as the tests of searches have them, and a GPU: a real one, or one that is not there."""

from collections.abc import Iterator

import pytest
import torch

from tests.gpu.pretend import PretendGpu, RealGpu, pretend_gpu
from tests.speech_llm.conftest import frames, kind, toy

__all__ = ["frames", "gpu", "kind", "toy"]


@pytest.fixture(params=["pretended", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> Iterator[PretendGpu | RealGpu]:
    """What `put` puts tensors and modules on, and what counts waits, if it is not there."""
    if request.param == "real":
        # Convolutions may otherwise round their inputs to 10 bits.
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield RealGpu()
        return
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which the tests marked gpu use")
    with pretend_gpu() as gpu:
        yield gpu
