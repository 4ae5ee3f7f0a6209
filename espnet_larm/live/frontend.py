"""Waveforms that come in pieces to features: what the front end gives of all samples at once, frame by frame.

ESPnet's STFT is centred: half a window of a frame lies behind its middle, and the waveform is mirrored at both ends. A
stream mirrors its beginning as soon as half a window is there, and its end when it is known. The features are those of
the whole waveform, whatever the pieces (test_pieces_give_the_features_of_the_whole_waveform).
Shapes: N samples, T frames, F features.
"""

import copy
from typing import NamedTuple

import torch

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.stft import Stft

from espnet_larm.recognize.model.features import feature_dtype, min_num_samples, weight_behind_features


class Unheard(NamedTuple):
    """Samples of a stream whose frames are to come. Its memory does not grow.

    Attributes:
        waiting: From the beginning of the next frame's window on (n,), the mirrored beginning included; before it, all
            that was heard.
        recent: The last samples (m,), which the end is mirrored in.
        is_begun: Whether the beginning was mirrored.
    """

    waiting: torch.Tensor
    recent: torch.Tensor
    is_begun: bool = False


class LiveFrontend:
    """Front end and normalisation of a model, for samples that come in pieces. It holds nothing of a stream.

    Args:
        model: In eval mode.

    Raises:
        ValueError: The front end or the normalisation reads what is to come.
    """

    def __init__(self, model: ESPnetASRModel) -> None:
        _check(model)
        self.normalize = model.normalize
        self.num_features: int = model.frontend.output_size()
        weight = weight_behind_features(model)
        self.dtype, self.device = weight.dtype, weight.device
        stft = model.frontend.stft
        self.size, self.hop = stft.n_fft, stft.hop_length
        # What is mirrored at both ends.
        self.margin = stft.n_fft // 2 if stft.center else 0
        self.least = min_num_samples(model)
        # The same modules and buffers, but for the STFT, which gets mirrored samples.
        self.frontend = copy.copy(model.frontend)
        self.frontend._modules = dict(model.frontend._modules)
        self.frontend.stft = Stft(
            stft.n_fft, stft.win_length, stft.hop_length, stft.window, False, stft.normalized, stft.onesided
        )

    def start(self) -> Unheard:
        """A stream that has heard nothing."""
        nothing = torch.zeros(0, dtype=feature_dtype(self.dtype), device=self.device)
        return Unheard(nothing, nothing, self.margin == 0)

    @torch.no_grad()
    def advance(self, unheard: Unheard, samples: torch.Tensor, is_last: bool = False) -> tuple[torch.Tensor, Unheard]:
        """The frames that new samples complete.

        Args:
            unheard: What the call before gave, or `start`; it stays as it is.
            samples: New samples (N,), any number of them.
            is_last: Whether the stream ends with them.

        Returns:
            Features (T, F) of the encoder's type; none of a stream that ends with too few samples for a frame. What is
            left.
        """
        samples = samples.to(unheard.waiting)
        waiting = torch.cat([unheard.waiting, samples])
        recent = torch.cat([unheard.recent, samples])[-self.margin - 1 :].clone()
        is_begun = unheard.is_begun
        if not is_begun and len(waiting) >= self.least:
            waiting = torch.cat([waiting[1 : self.margin + 1].flip(0), waiting])
            is_begun = True
        if is_last and is_begun:
            waiting = torch.cat([waiting, recent[: self.margin].flip(0)])
        num_frames = max(0, (len(waiting) - self.size) // self.hop + 1) if is_begun else 0
        if num_frames == 0:
            return waiting.new_zeros(0, self.num_features, dtype=self.dtype), Unheard(waiting, recent, is_begun)
        used = waiting[: self.size + (num_frames - 1) * self.hop].unsqueeze(0)
        xs, lens = self.frontend(used, torch.tensor([used.size(1)], device=used.device))
        if self.normalize is not None:
            xs, _ = self.normalize(xs, lens)
        # A copy: a view would keep all samples alive that came with it.
        return xs[0].to(self.dtype), Unheard(waiting[num_frames * self.hop :].clone(), recent, is_begun)


def _check(model: ESPnetASRModel) -> None:
    """Refuse what a stream cannot have before its encoder."""
    frontend, normalize = model.frontend, model.normalize
    if type(frontend) is not DefaultFrontend or frontend.stft is None:
        name = "null" if frontend is None else type(frontend).__name__
        raise ValueError(
            f"the model's front end is {name}, which cannot work piece by piece; allowed for live use: frontend: "
            "default, filter banks (Whisper, for example, reads 30 s at once)."
        )
    enhancement = frontend.frontend
    if enhancement is not None and (enhancement.use_wpe or enhancement.use_beamformer):
        raise ValueError("the model's front end enhances whole utterances (WPE or a beamformer); live use cannot.")
    if normalize is not None and type(normalize) is not GlobalMVN:
        raise ValueError(
            f"the model normalises by {type(normalize).__name__}, which needs the whole utterance; allowed for live "
            "use: normalize: global_mvn, or null. Train the model for it (docs/howto/streaming.md)."
        )
