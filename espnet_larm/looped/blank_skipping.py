"""Frames that a loop's CTC head says are blank skip the feed-forward layers of later loops.

Source: arXiv:2401.02046, where such frames skip the last layers. Departures: they skip feed-forward layers alone, and
keep what attention, convolution and the loop's state give them, so that their neighbours still find them; they are
chosen anew at each checkpoint loop.
Shapes: B utterances, T frames, V tokens. Masks are True where valid.
"""

import torch

# ESPnet's CTC head has it there.
BLANK = 0


def frames_to_feed(posteriors: torch.Tensor, mask: torch.Tensor, skip_blank: float) -> torch.Tensor:
    """Places among the (B T) frames that go through feed-forward layers; padding does not.

    Args:
        posteriors: The CTC head's (B, T, V).
        mask: Valid frames (B, T).
        skip_blank: Frames whose blank is more probable are skipped; what is no number never decides.
    """
    is_blank = posteriors[..., BLANK] > skip_blank
    return (mask & ~is_blank).flatten().nonzero().squeeze(1)
