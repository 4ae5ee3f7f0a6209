"""A mode in which a run gives the same bits again, on the same machine and with the same versions."""

import logging
import os

import torch

logger = logging.getLogger(__name__)


class CTCLossOnCPU(torch.nn.CTCLoss):
    """torch's CTC loss, computed on the CPU: its gradient on CUDA adds up in an order that changes."""

    def forward(
        self,
        log_probs: torch.Tensor,
        targets: torch.Tensor,
        input_lengths: torch.Tensor,
        target_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """torch's, with the loss on the device of `log_probs` (T, B, V)."""
        loss = super().forward(log_probs.cpu(), targets.cpu(), input_lengths.cpu(), target_lengths.cpu())
        return loss.to(log_probs.device)


def switch_on() -> None:
    """Let torch refuse operations that are not deterministic. To be called before CUDA is used."""
    # cuBLAS reads it when it starts; torch refuses matrix products without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def use_deterministic_losses(model: torch.nn.Module) -> None:
    """Replace torch's CTC losses inside a model by those on the CPU, and say what the mode means."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is torch.nn.CTCLoss:
                setattr(module, name, CTCLossOnCPU(child.blank, child.reduction, child.zero_infinity))
    logger.info(
        "Deterministic mode: torch refuses operations that are not (torch.use_deterministic_algorithms), the CTC loss "
        "is computed on the CPU. The same command gives the same bits on the same machine, at the price of speed."
    )
