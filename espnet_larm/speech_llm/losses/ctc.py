"""CTC losses of log-probabilities, also where these are of some classes alone, and what CTC takes positions for.

Shapes: B utterances, T positions, L tokens, C classes, of which 0 is the blank.
"""

import torch
from torch.nn import functional


def ctc_losses(
    log_probs: torch.Tensor, targets: torch.Tensor, lens: torch.Tensor, target_lens: torch.Tensor
) -> torch.Tensor:
    """CTC losses (B,); 0 for utterances without room. The gradient takes it that all classes are there.

    Args:
        log_probs: (B, T, C).
        targets: Classes of tokens (B, L).
        lens: Valid positions (B,).
        target_lens: Valid tokens (B,).
    """
    given = log_probs.transpose(0, 1), targets, lens, target_lens
    return functional.ctc_loss(*given, reduction="none", zero_infinity=True)


def occupancies(
    log_probs: torch.Tensor, targets: torch.Tensor, lens: torch.Tensor, target_lens: torch.Tensor
) -> torch.Tensor:
    """What CTC takes each position for: shares of the classes (B, T, C) over all alignments, without gradient."""
    leaf = log_probs.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(ctc_losses(leaf, targets, lens, target_lens).sum(), leaf)
    # torch's CTC gives the gradient of the logits below a softmax: probability less occupancy.
    return (leaf.detach().exp() - gradient).clamp(min=0.0)


def ctc_losses_of_some(
    log_probs: torch.Tensor, targets: torch.Tensor, lens: torch.Tensor, target_lens: torch.Tensor
) -> torch.Tensor:
    """CTC losses (B,) of log-probabilities of the blank and the targets' classes alone; all utterances have room.

    Their gradient is that of the losses over all classes (test_some_classes_give_the_loss_of_all).
    """
    shares = occupancies(log_probs, targets, lens, target_lens)
    valid = torch.arange(log_probs.size(1), device=lens.device) < lens.unsqueeze(1)  # (B, T)
    expected = -(shares.masked_fill(~valid.unsqueeze(-1), 0.0) * log_probs).sum((1, 2))
    return ctc_losses(log_probs.detach(), targets, lens, target_lens) + expected - expected.detach()
