"""Logs at the end of an epoch the fraction of the frames that a pooling front end has left."""

import contextlib
import logging
from collections.abc import Iterator

import torch

from espnet_larm.pooling.frontend import AffinityPoolingFrontend, collect_merges

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def retention_logged(model: torch.nn.Module) -> Iterator[None]:
    """Average the retention of a pooling front end over the batches of this process, if the model has one.

    Args:
        model: An ASR model, or what holds it for several processes.
    """
    if not isinstance(getattr(getattr(model, "module", model), "frontend", None), AffinityPoolingFrontend):
        yield
        return
    with collect_merges() as merges:
        yield
    if merges:
        mean = torch.stack([each.retention for each in merges]).mean()
        logger.info(
            "The front end left %.1f %% of the frames, on average of %d batches.", 100 * float(mean), len(merges)
        )
