"""Speech encoders of transformers behind one interface: waveforms in, hidden states of all layers out.

What each was trained on is kept: Whisper reads 30 s, zeros behind the speech included; encoders whose first
convolution is normalised over time (`feat_extract_norm: group`) read utterances one by one, since zeros behind one
would change it; the others are masked. So an utterance has the same frames alone and in a batch.
Shapes: B utterances, N samples, T frames, D hidden size.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.by_name import KeepsTypes
from espnet_larm.pretrained.inputs import WHISPER_SECONDS, ParakeetMel, WhisperMel, unit_variance, valid

SETTINGS = "frontend_conf: model: its preprocessor_config.json"
# Whisper's frames beyond 30 s: windows overlap by so many seconds, and each gives up half of it at a seam.
OVERLAP_SECONDS = 4
# Windows that go through Whisper together, so that memory does not grow with the audio's length.
MOST_WINDOWS = 16


class Hidden(NamedTuple):
    """Hidden states of an encoder.

    Attributes:
        layers: (B, T, D) each, of the layers that were asked for, in their order.
        lens: Valid frames (B,).
    """

    layers: list[torch.Tensor]
    lens: torch.Tensor


class Family(KeepsTypes):
    """An encoder of one family; subclasses say what it reads.

    Layers are numbered as transformers' hidden states: 0 is what the first layer reads, the last is the output.

    Args:
        model: The encoder, of transformers.
        settings: What its preprocessor_config.json says; the family's defaults stand for what it leaves out.

    Raises:
        ValueError: A setting is of another type than its default.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self.model = model
        self.settings = {name: settings.get(name, default) for name, default in self.defaults.items()}
        for name, value in self.settings.items():
            _check_setting(name, value, self.defaults[name])
        self.rate_hz = self.settings["sampling_rate"]

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of the preprocessor that are read, as most models of the family have them."""
        return {"sampling_rate": 16000}

    @property
    def unusual_settings(self) -> dict[str, Any]:
        """Settings that are not the defaults, with which the same weights give other frames."""
        return {name: value for name, value in self.settings.items() if value != self.defaults[name]}

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.config

    @property
    def num_layers(self) -> int:
        """The number of the last layer."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.config.hidden_size)

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The layers as modules, and what stands behind them goes with the last."""
        raise NotImplementedError

    @property
    def hop(self) -> int:
        """Samples between frames."""
        raise NotImplementedError

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame."""
        return 1

    @property
    def first_sample(self) -> float:
        """Sample in whose middle the first frame lies."""
        return 0.0

    def frame_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) of utterances with so many samples (B,)."""
        raise NotImplementedError

    def forward(self, waveforms: torch.Tensor, lens: torch.Tensor, layers: Sequence[int]) -> Hidden:
        """Encode.

        Args:
            waveforms: Samples (B, N) in [-1, 1], zero behind the lengths.
            lens: Valid samples (B,), at least `min_samples` each.
            layers: Numbers of the layers to return.
        """
        raise NotImplementedError

    def _call(
        self, inputs: torch.Tensor, layers: Sequence[int], mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """The layers' hidden states (B, T, D) for the encoder's own inputs."""
        options = {} if mask is None else {"attention_mask": mask}
        needs_all = any(layer != self.num_layers for layer in layers)
        output = self.model(inputs.to(self.model.dtype), output_hidden_states=needs_all, **options)
        # Where a norm stands behind the last layer, transformers lists what is before it.
        found = [*output.hidden_states[: self.num_layers], output.last_hidden_state] if needs_all else []
        return [found[layer] if needs_all else output.last_hidden_state for layer in layers]


class Whisper(Family):
    """Whisper's encoder. Longer audio is read in windows that overlap."""

    def __init__(self, model: Any, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(model, settings)
        self.window = self.settings["chunk_length"] * self.rate_hz
        if (num_frames := self.window // self.hop) != self.config.max_source_positions:
            raise ValueError(
                f"{SETTINGS}: windows of {self.settings['chunk_length']} s (chunk_length) at {self.rate_hz} Hz are "
                f"{num_frames} frames, but the model reads {self.config.max_source_positions}; copy the model again."
            )
        self.mel = WhisperMel(self.config.num_mel_bins, self.rate_hz)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of the preprocessor that are read."""
        return {**super().defaults, "chunk_length": WHISPER_SECONDS}

    @property
    def num_layers(self) -> int:
        """The number of the last layer."""
        return int(self.config.encoder_layers)

    @property
    def hidden_size(self) -> int:
        """D."""
        return int(self.config.d_model)

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The layers as modules; the norm behind goes with the last."""
        *first, last = self.model.layers
        return [*first, torch.nn.ModuleList([last, self.model.layer_norm])]

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return 2 * WhisperMel.HOP

    def frame_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) of utterances with so many samples (B,); one that holds any sample counts."""
        return -torch.div(-lens, self.hop, rounding_mode="floor")

    def forward(self, waveforms: torch.Tensor, lens: torch.Tensor, layers: Sequence[int]) -> Hidden:
        """Encode; arguments and result are those of `Family.forward`."""
        starts = [self._starts(int(length)) for length in lens]
        windows = [self._cut(row, start) for row, each in zip(waveforms, starts, strict=True) for start in each]
        parts = [self._call(self.mel(part), layers) for part in torch.stack(windows).split(MOST_WINDOWS)]
        of_windows = [torch.cat(each) for each in zip(*parts, strict=True)]
        frame_lens = self.frame_lens(lens)
        return Hidden([self._joined(each, starts, frame_lens) for each in of_windows], frame_lens)

    def _starts(self, num_samples: int) -> list[int]:
        """Where windows begin, so that the last one reaches the end."""
        step = self.window - OVERLAP_SECONDS * self.rate_hz
        return [0, *range(step, max(num_samples - self.window, 0) + step, step)]

    def _cut(self, row: torch.Tensor, start: int) -> torch.Tensor:
        window = row[start : start + self.window]
        return torch.nn.functional.pad(window, (0, self.window - window.size(0)))

    def _joined(self, windows: torch.Tensor, starts: Sequence[Sequence[int]], lens: torch.Tensor) -> torch.Tensor:
        """(B', T, D) of all windows to (B, T', D): half of an overlap is from the one before, half from the next."""
        half = OVERLAP_SECONDS * self.rate_hz // self.hop // 2
        rows, first = [], 0
        for each in starts:
            pieces = windows[first : first + len(each)]
            last = len(each) - 1
            kept = [
                piece[half if index else 0 : piece.size(0) - (half if index < last else 0)]
                for index, piece in enumerate(pieces)
            ]
            rows.append(torch.cat(kept))
            first += len(each)
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded[:, : int(lens.max())]


class Wav2Vec2(Family):
    """wav2vec 2.0, HuBERT, WavLM, UniSpeech and UniSpeech-SAT, which read the waveform."""

    def __init__(self, model: Any, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(model, settings)
        self.is_masked = model.config.feat_extract_norm == "layer"
        self.is_normalised = self.settings["do_normalize"]

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of the preprocessor that are read."""
        # As transformers' own do: those with a group norm were trained on waveforms as they are.
        return {**super().defaults, "do_normalize": self.config.feat_extract_norm == "layer"}

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The layers as modules; a norm behind goes with the last."""
        layers = list(self.model.encoder.layers)
        if self.config.do_stable_layer_norm:
            layers[-1] = torch.nn.ModuleList([layers[-1], self.model.encoder.layer_norm])
        return layers

    @property
    def hop(self) -> int:
        """Samples between frames."""
        product = 1
        for stride in self.config.conv_stride:
            product *= stride
        return product

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame."""
        samples = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    @property
    def first_sample(self) -> float:
        """Sample in whose middle the first frame lies: its convolutions are not padded."""
        return (self.min_samples - 1) / 2

    def frame_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) of utterances with so many samples (B,)."""
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            lens = torch.div(lens - kernel, stride, rounding_mode="floor") + 1
        return lens

    def forward(self, waveforms: torch.Tensor, lens: torch.Tensor, layers: Sequence[int]) -> Hidden:
        """Encode; arguments and result are those of `Family.forward`."""
        if self.is_normalised:
            waveforms = unit_variance(waveforms, lens)
        frame_lens = self.frame_lens(lens)
        if self.is_masked:
            return Hidden(self._call(waveforms, layers, valid(lens, waveforms.size(1)).long()), frame_lens)
        alone = [self._call(row[None, :length], layers) for row, length in zip(waveforms, lens.tolist(), strict=True)]
        return Hidden([_padded([each[index][0] for each in alone]) for index in range(len(layers))], frame_lens)


class Parakeet(Family):
    """The FastConformer of Parakeet."""

    def __init__(self, model: Any, settings: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__(model, settings)
        rate_hz, bins, win, hop, preemphasis = self.settings.values()
        self.mel = ParakeetMel(self.config.num_mel_bins, rate_hz, bins, win, hop, preemphasis)

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of the preprocessor that are read."""
        return {**super().defaults, "n_fft": 512, "win_length": 400, "hop_length": 160, "preemphasis": 0.97}

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The layers as modules."""
        return list(self.model.layers)

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return self.mel.hop * int(self.config.subsampling_factor)

    @property
    def min_samples(self) -> int:
        """Two mel frames, or their variance is no number."""
        return 2 * self.mel.hop

    def frame_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B,) of utterances with so many samples (B,)."""
        mel_lens = torch.div(lens, self.mel.hop, rounding_mode="floor")
        return self.model._get_subsampling_output_length(mel_lens).to(lens)

    def forward(self, waveforms: torch.Tensor, lens: torch.Tensor, layers: Sequence[int]) -> Hidden:
        """Encode; arguments and result are those of `Family.forward`."""
        frames, mel_lens = self.mel(waveforms, lens)
        found = self._call(frames, layers, valid(mel_lens, frames.size(1)).long())
        frame_lens = self.frame_lens(lens)
        return Hidden([each[:, : int(frame_lens.max())] for each in found], frame_lens)


def _check_setting(name: str, value: Any, default: Any) -> None:
    """Refuse a value that is not of the default's type; pre-emphasis may be left out."""
    if isinstance(default, bool):
        is_right, allowed = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        is_right, allowed = type(value) is int and value > 0, "a whole number above 0"
    else:
        is_right, allowed = value is None or type(value) in (int, float), "a number or null"
    if not is_right:
        raise ValueError(f"{SETTINGS}: {name} is {value!r}; allowed: {allowed}.")


def _padded(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


FAMILIES: dict[str, type[Family]] = {
    "whisper": Whisper,
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"), Wav2Vec2),
    **dict.fromkeys(("parakeet_encoder", "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"), Parakeet),
}
