"""Says at the end of an epoch which share of the frames a pooling front end has left."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def retention_logged(model: torch.nn.Module) -> Iterator[None]:
    """Average the front end's attribute `retention`, if it has one, over the batches of this process.

    Args:
        model: An ASR model, or what holds it for several processes.
    """
    frontend = getattr(getattr(model, "module", model), "frontend", None)
    if frontend is None or not hasattr(frontend, "retention"):
        yield
        return
    shares: list[torch.Tensor] = []

    def note(module: torch.nn.Module, *rest: Any) -> None:  # noqa: ARG001
        assert isinstance(module.retention, torch.Tensor)
        shares.append(module.retention)

    handle = frontend.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()
    if shares:
        logger.info(
            "The front end left %.1f %% of the frames, on average of %d batches.",
            100 * float(torch.stack(shares).mean()),
            len(shares),
        )
