"""ESPnet's model, whose CTC error rates in validation do not depend on padding, and which adds an encoder's own loss.

ESPnet takes the most probable token of every frame of a padded batch, and counts tokens in the padding as insertions.
Zeros behind the lengths do not help: the CTC head's bias makes a token of a zero vector.
"""

from typing import Any

import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.streaming.consistency import lessons_collected

# ESPnet's ErrorCalculator ignores this index.
NOTHING = -1


class WithinLengthsModel(ESPnetASRModel):
    """The stock model in our training; everything else, its weights and its name in YAML are unchanged."""

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """ESPnet's; in steps in which whole utterances teach chunks, the CTC loss has that loss beside it."""
        with lessons_collected() as lessons:
            loss, stats, weight = super().forward(speech, speech_lengths, text, text_lengths, **kwargs)
        for lesson in lessons:
            more = lesson.loss(self.ctc.ctc_lo)
            loss = loss + self.ctc_weight * lesson.weight * more
            stats |= {"loss_consistency": more.detach().view(1), "loss": loss.detach()}
        return loss, stats, weight

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
