"""ESPnet's model, whose CTC errors in validation are those of the utterances alone.

ESPnet takes the most probable token of every frame of a padded batch, and counts what padding says as inserted. Zeros
behind the lengths do not help: of a zero vector, the CTC head's bias says a token.
"""

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

# ESPnet's ErrorCalculator passes over it.
NOTHING = -1


class WithinLengthsModel(ESPnetASRModel):
    """The stock model in our training; what it computes otherwise, its weights and its name in YAML are the same."""

    def _calc_ctc_loss(
        self,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
        ys_pad: torch.Tensor,
        ys_pad_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, float | None]:
        """The CTC loss of one read-out (B, T, D) with valid lengths (B,), and in validation its error rate."""
        loss_ctc = self.ctc(encoder_out, encoder_out_lens, ys_pad, ys_pad_lens)
        if self.training or self.error_calculator is None:
            return loss_ctc, None
        ys_hat = self.ctc.argmax(encoder_out)  # (B, T)
        places = torch.arange(ys_hat.size(1), device=ys_hat.device)
        behind = places >= encoder_out_lens.to(ys_hat.device).unsqueeze(1)
        ys_hat = ys_hat.masked_fill(behind, NOTHING)
        return loss_ctc, self.error_calculator(ys_hat.cpu(), ys_pad.cpu(), is_ctc=True)
