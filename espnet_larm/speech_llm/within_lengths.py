"""ESPnet's model, whose CTC error rates in validation do not depend on padding.

ESPnet takes the most probable token of every frame of a padded batch, and counts tokens in the padding as insertions.
Zeros behind the lengths do not help: the CTC head's bias makes a token of a zero vector.
"""

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

# ESPnet's ErrorCalculator ignores this index.
NOTHING = -1


class WithinLengthsModel(ESPnetASRModel):
    """The stock model in our training; everything else, its weights and its name in YAML are unchanged."""

    def _calc_ctc_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, float | None]:
        """Loss of a read-out (B, T, D) with valid lengths (B,), and its error rate in validation."""
        loss_ctc = self.ctc(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)
        if self.training or self.error_calculator is None:
            return loss_ctc, None
        ys_hat = self.ctc.argmax(encoder_out)  # (B, T)
        frames = torch.arange(ys_hat.size(1), device=ys_hat.device)
        padding = frames >= encoder_out_lens.to(ys_hat.device).unsqueeze(1)
        ys_hat = ys_hat.masked_fill(padding, NOTHING)
        return loss_ctc, self.error_calculator(ys_hat.cpu(), ys_pad.cpu(), is_ctc=True)
