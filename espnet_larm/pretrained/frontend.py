"""A pre-trained speech encoder as front end: its hidden states are what ESPnet's encoder reads.

Shapes: B utterances, N samples, T frames, D size of a hidden state, L layers that are read, F features.
"""

from typing import Annotated, Any

import humanfriendly  # type: ignore[import-untyped]
import torch
from typeguard import typechecked

from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet_larm.options import Option, check_parameters
from espnet_larm.pretrained.inputs import valid
from espnet_larm.pretrained.loading import (
    DEFAULT_LAST_N,
    DTYPES,
    FROZEN,
    TRAIN,
    WHERE,
    adapt,
    load_encoder,
    make_encoder,
    set_modes,
)
from espnet_larm.upstream import TooShortUttError

LAST, MIX = "last", "mix"


class PretrainedFrontend(AbsFrontend):
    """Whisper, wav2vec 2.0, HuBERT, WavLM, UniSpeech or Parakeet of transformers, by folder or hub id.

    An utterance has the same frames alone and in a batch. Weights that do not learn stay out of checkpoints: those hold
    a fingerprint in their place.

    Args:
        model: Meaning and range of this and all other options stand at the parameters; `espnet-larm list
            --name pretrained` prints them.

    Raises:
        FileNotFoundError: The model is neither a folder nor to be had from the hub.
        ValueError: An option is out of its range, or the model is no speech encoder, or reads another sample rate.
        ImportError: peft is missing, for `train: lora`.
    """

    @typechecked
    def __init__(
        self,
        model: Annotated[
            str | None, Option("folder or hub id of an encoder of transformers, or of a recogniser that has one")
        ] = None,
        revision: Annotated[str | None, Option("revision on the hub", unset="the newest")] = None,
        fs: Annotated[int | str, Option("sample rate in Hz, which recipes set; the model's, 16000 or 16k")] = 16000,
        layers: Annotated[
            str | list[int],
            Option(
                "hidden states that are read: last, a list of layers side by side (0 is what the first layer reads), "
                "or mix, a learned weighted sum of all, each normalised before"
            ),
        ] = LAST,
        stack: Annotated[int, Option("frames side by side: 2 halves the rate and doubles the features", least=1)] = 1,
        train: Annotated[
            str,
            Option(
                "what learns: nothing (frozen), the last layers (last_n), all, or low-rank additions (lora)",
                choices=TRAIN,
            ),
        ] = FROZEN,
        last_n: Annotated[int, Option("layers that learn with train: last_n", least=1)] = DEFAULT_LAST_N,
        lora_conf: Annotated[dict[str, Any] | None, Option("options of peft's LoraConfig, for train: lora")] = None,
        dtype: Annotated[
            str, Option("type of the model's weights; those that learn need float32", choices=DTYPES)
        ] = "float32",
        activation_checkpointing: Annotated[
            bool, Option("compute the layers that learn again in the backward pass, for less memory")
        ] = False,
        model_config: Annotated[
            dict[str, Any] | None, Option("config.json of a model whose weights are all in the checkpoint, in packs")
        ] = None,
        preprocessor_config: Annotated[
            dict[str, Any] | None, Option("its preprocessor_config.json, beside model_config")
        ] = None,
    ) -> None:
        check_parameters(PretrainedFrontend.__init__, locals(), WHERE)
        super().__init__()
        if (model is None) == (model_config is None):
            raise ValueError(f"{WHERE}: model and model_config: one of them must be given, and not the other.")
        if model is not None:
            self.encoder = load_encoder(model, revision, dtype)
        else:
            self.encoder = make_encoder(model_config or {}, preprocessor_config or {}, dtype)
        _check_rate(fs, self.encoder.rate_hz)
        self.layers = _numbers(layers, self.encoder.num_layers)
        self.mix = LayerMix(len(self.layers)) if layers == MIX else None
        self.stack = stack
        self.learns = train != FROZEN
        adapt(self.encoder, train, last_n, lora_conf, model is not None, activation_checkpointing)
        self.train(self.training)

    @property
    def hop_length(self) -> int:
        """Samples between frames."""
        return self.encoder.hop * self.stack

    @property
    def first_sample(self) -> float:
        """Sample in whose middle the first frame lies."""
        return self.encoder.first_sample + self.encoder.hop * (self.stack - 1) / 2

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame."""
        return self.encoder.min_samples

    def fewest_samples(self, num_frames: int) -> int:
        """Fewest samples that give so many frames."""
        samples = max((num_frames - 1) * self.hop_length, 0) + 1
        while int(self._stacked_lens(self.encoder.frame_lens(torch.tensor(samples)))) < num_frames:
            samples += 1
        return max(samples, self.min_samples)

    def fewest_stored(self, num_frames: int) -> int:
        """Fewest frames of a store that give so many frames."""
        return (num_frames - 1) * self.stack + 1

    @property
    def stored_size(self) -> int:
        """Numbers of a frame before layers are mixed and frames stacked: L times D."""
        return len(self.layers) * self.encoder.hidden_size

    def output_size(self) -> int:
        """F."""
        return self.stack * (self.encoder.hidden_size if self.mix is not None else self.stored_size)

    def espnet_initialization_fn(self) -> None:
        """Refuse ESPnet's option `init`, which calls this behind setting all weights of a model anew.

        Raises:
            ValueError: Always.
        """
        raise ValueError("init would overwrite the weights of frontend: pretrained; allowed with it: null.")

    def train(self, mode: bool = True) -> "PretrainedFrontend":
        """Set the mode of what learns; frozen parts stay in eval mode."""
        super().train(mode)
        if mode:
            set_modes(self.encoder)
        return self

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: A002
        """Frames of a padded batch.

        Args:
            input: Samples (B, N), or what `hidden` gave and a store kept (B, T, L * D).
            input_lengths: Valid samples, or frames (B,).

        Returns:
            (B, T', F), zero behind the valid frames, and how many are valid (B,).

        Raises:
            TooShortUttError: An utterance gives no frame.
        """
        frames, lens = (input, input_lengths) if input.dim() == 3 else self.hidden(input, input_lengths)
        frames = frames.to(torch.float32 if self.mix is None else self.mix.weights.dtype)
        if self.mix is not None:
            frames = self.mix(frames.unflatten(-1, (len(self.layers), -1)))
        frames = frames.masked_fill(~valid(lens, frames.size(1)).unsqueeze(-1), 0.0)
        return self._stacked(frames), self._stacked_lens(lens)

    def hidden(self, waveforms: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layers that are read, side by side (B, T, L * D), and their valid frames (B,).

        Args:
            waveforms: Samples (B, N).
            lens: Valid samples (B,).

        Raises:
            TooShortUttError: An utterance gives no frame.
        """
        if (shortest := int(lens.min())) < (limit := self.min_samples):
            raise TooShortUttError(f"has {shortest} samples, the front end needs {limit}", shortest, limit)
        masked = waveforms.float().masked_fill(~valid(lens, waveforms.size(1)), 0.0)
        learns = self.learns and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            found = self.encoder(masked, lens, self.layers)
        return torch.cat(found.layers, dim=-1), found.lens

    def _stacked(self, frames: torch.Tensor) -> torch.Tensor:
        if self.stack == 1:
            return frames
        missing = -frames.size(1) % self.stack
        return torch.nn.functional.pad(frames, (0, 0, 0, missing)).unflatten(1, (-1, self.stack)).flatten(2)

    def _stacked_lens(self, lens: torch.Tensor) -> torch.Tensor:
        return -torch.div(-lens, self.stack, rounding_mode="floor")


class LayerMix(torch.nn.Module):
    """A learned weighted sum of layers, each normalised over its features before, so that none is louder.

    Args:
        num_layers: L.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(num_layers))

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        """(..., L, D) to (..., D)."""
        normal = torch.nn.functional.layer_norm(layers, layers.shape[-1:])
        return torch.einsum("...ld,l->...d", normal, self.weights.softmax(0).to(normal.dtype))


def _numbers(layers: str | list[int], last: int) -> list[int]:
    if layers == LAST:
        return [last]
    if layers == MIX:
        return list(range(last + 1))
    # In Python true is a number, too.
    numbers = [] if isinstance(layers, str) else [each for each in layers if type(each) is int and 0 <= each <= last]
    if not numbers or len({*numbers}) < len(layers):
        raise ValueError(
            f"{WHERE}: layers is {layers}; allowed: {LAST}, {MIX}, or a list of different numbers of 0 to {last}."
        )
    return numbers


def _check_rate(fs: int | str, rate_hz: int) -> None:
    try:
        given = int(humanfriendly.parse_size(fs) if isinstance(fs, str) else fs)
    except humanfriendly.InvalidSize as error:
        raise ValueError(f"{WHERE}: fs is {fs}; allowed: a sample rate in Hz, such as 16000 or 16k.") from error
    if given != rate_hz:
        raise ValueError(
            f"{WHERE}: fs is {given} Hz, but the model reads {rate_hz} Hz; give the data that rate (--fs of the "
            "recipes)."
        )
