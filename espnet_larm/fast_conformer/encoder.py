"""FastConformer: a conformer of frames of 80 ms, which with caches is the streaming system of NVIDIA's models.

Sources: Rekesh et al., arXiv:2305.05084; Noroozi et al., "Stateful Conformer with Cache-based Inference for Streaming
Automatic Speech Recognition", arXiv:2312.17279. Equal to transformers' `parakeet` without causality and to its
`nemotron_asr_streaming` with it (tests/fast_conformer/test_references.py). Departures: those of its blocks and of its
subsampling; a step draws its context from two lists, chunks to the left and frames a chunk, where the source has pairs
of frames to the left and to the right: [70, 13] is `left_chunks: [5], chunk_frames: [14]`.
Shapes: B utterances, T frames, F features, D model size.
"""

from typing import Annotated, Any

import torch
from typeguard import typechecked

from espnet2.asr.ctc import CTC

from espnet_larm.draws import forget_draws
from espnet_larm.fast_conformer.blocks import BATCH, LAYER, NORMS, Block, describe_stream, describe_utterances
from espnet_larm.fast_conformer.subsampling import FACTORS, FastConformerSubsampling
from espnet_larm.options import Option, check_parameters
from espnet_larm.streaming.consistency import give_lesson
from espnet_larm.streaming.context import Context, Contexts, current_context
from espnet_larm.streaming.encoder import StreamingEncoder
from espnet_larm.streaming.read_out import ReadOut, ReadOuts
from espnet_larm.streaming.stream import Chunk, Settings, Window

NEEDS_CAUSAL = "chunks need encoder_conf: causal: true, with which the encoder must be trained."


class FastConformerEncoder(StreamingEncoder):
    """Conformer with 8 times fewer frames, offline or cache-aware streaming.

    A batch gives what each utterance gives alone, in eval mode with BatchNorm
    (test_a_batch_gives_what_each_utterance_gives_alone).

    Args:
        input_size: Features F a frame; ESPnet sets it.
        output_size: Model size D. The meaning and range of this and all other options stand at the parameters;
            `espnet-larm list --name fast_conformer` prints them.

    Raises:
        ValueError: An option is out of its range.
    """

    num_loops = 1
    # What `recognize` asks of encoders without loops.
    ignores_padding = True

    @typechecked
    def __init__(
        self,
        input_size: int,
        output_size: Annotated[int, Option("model size D, a multiple of attention_heads, even", least=2)] = 512,
        attention_heads: Annotated[int, Option("attention heads", least=1)] = 8,
        linear_units: Annotated[int, Option("hidden size of the feed-forward layers; 4 D", least=1)] = 2048,
        num_blocks: Annotated[int, Option("blocks", least=1, most=1000)] = 17,
        causal: Annotated[
            bool,
            Option(
                "subsampling and convolutions see nothing later, as streaming needs; false centres them, as models for "
                "whole utterances do"
            ),
        ] = True,
        cnn_module_kernel: Annotated[int, Option("width in frames of the convolution", least=1, is_odd=True)] = 9,
        cnn_norm: Annotated[
            str, Option("norm behind the convolution; batch has statistics of valid frames", choices=NORMS)
        ] = LAYER,
        subsampling_factor: Annotated[int, Option("input frames an output frame", choices=FACTORS)] = 8,
        subsampling_channels: Annotated[int, Option("channels of the subsampling's convolutions", least=2)] = 256,
        scale_input: Annotated[bool, Option("multiply the blocks' input by the root of D")] = True,
        bias: Annotated[bool, Option("biases in the blocks' linear layers and convolutions")] = True,
        dropout_rate: Annotated[
            float, Option("dropout after each part of a block and inside feed-forward layers", least=0.0, below=1.0)
        ] = 0.1,
        attention_dropout_rate: Annotated[float, Option("dropout of attention weights", least=0.0, below=1.0)] = 0.1,
        streaming: Annotated[
            dict[str, Any] | None,
            Option(
                "train for streaming, in chunks whose length and left context each step draws, such as "
                "`{chunk_frames: [14, 7, 2, 1], left_chunks: [5]}` (docs/options.md); null trains on whole utterances "
                "alone"
            ),
        ] = None,
    ) -> None:
        options = dict(locals())
        check_parameters(FastConformerEncoder.__init__, options, "encoder_conf")
        _check_together(output_size, attention_heads, causal, cnn_norm, streaming)
        super().__init__()
        self.input_size = input_size
        self.causal = causal
        self._output_size = output_size
        self.input_scale = output_size**0.5 if scale_input else 1.0
        self.subsampling = FastConformerSubsampling(
            input_size, output_size, subsampling_factor, subsampling_channels, causal
        )
        self.dropout = torch.nn.Dropout(dropout_rate)
        shape = (output_size, attention_heads, linear_units, cnn_module_kernel, causal, cnn_norm, bias)
        self.layers = torch.nn.ModuleList(
            Block(*shape, dropout_rate, attention_dropout_rate) for _ in range(num_blocks)
        )
        self.contexts = Contexts.of(streaming)
        self.register_load_state_dict_pre_hook(forget_draws)

    def output_size(self) -> int:
        """D."""
        return self._output_size

    @property
    def min_input_length(self) -> int:
        """Feature frames below which an utterance is too short."""
        return self.subsampling.min_length

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: None = None,  # noqa: ARG002  # AbsEncoder's signature
        ctc: CTC | None = None,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode a padded batch, in training with the context that the step draws.

        Args:
            xs_pad: Features (B, T, F).
            ilens: Valid frames (B,) of xs_pad.
            prev_states: Not used.
            ctc: Not used.

        Returns:
            Frames (B, T', D), zero behind the lengths; their valid lengths (B,); None.

        Raises:
            ValueError: A loss of consistency needs a model that adds it.
            TooShortUttError: An utterance has no frame.
        """
        if self.training:
            context = Context() if self.contexts is None else self.contexts.draw()
        else:
            context = current_context(self.contexts)
        hs_pad, hlens = self.encode(xs_pad, ilens, context)
        if self.training:
            give_lesson(self.contexts, context, [hs_pad], hlens, lambda other: [self.encode(xs_pad, ilens, other)[0]])
        return hs_pad, hlens, None

    def encode(self, xs_pad: torch.Tensor, ilens: torch.Tensor, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames (B, T', D) and their lengths (B,) in a context; what `forward` does, with its arguments.

        Raises:
            ValueError: The context has chunks, and convolutions that are not causal see beyond them.
            TooShortUttError: An utterance has no frame.
        """
        if not self.causal and not context.is_full:
            raise ValueError(NEEDS_CAUSAL)
        xs, hlens = self.subsampling(xs_pad, ilens)
        xs = self.dropout(self.input_scale * xs)
        frames = describe_utterances(hlens, xs, context)
        for layer in self.layers:
            xs = layer(xs, frames)
        return xs.masked_fill(~frames.mask.unsqueeze(-1), 0.0), hlens

    def encode_chunk(self, chunk: Chunk, ctc: CTC | None) -> ReadOuts:  # noqa: ARG002
        """What `stream` needs of this encoder."""
        xs = self.input_scale * self.subsampling.stream(chunk)
        frames = describe_stream(chunk.hlens, xs, chunk.settings.context, chunk.past)
        for layer in self.layers:
            xs = layer(xs, frames)
        yield ReadOut(1, xs.masked_fill(~frames.mask.unsqueeze(-1), 0.0), chunk.hlens)

    @property
    def window(self) -> Window:
        """How features become chunks: without look-ahead."""
        factor = self.subsampling.factor
        return Window(factor, 0, lambda num_features: -(-num_features // factor), self.subsampling.lead)

    def allowed_loops(self, limit: int) -> list[int]:  # noqa: ARG002
        """The one read-out, at the end."""
        return [1]

    def check_settings(self, settings: Settings) -> None:
        """Refuse loops and the skipping of blanks, which only `larm` has, and streams of what is not causal.

        Raises:
            ValueError: With what is allowed.
        """
        if not self.causal:
            raise ValueError(NEEDS_CAUSAL)
        for name in ("num_loops", "skip_blank"):
            if (value := getattr(settings, name)) != 1:
                raise ValueError(f"{name} is {value}; allowed: 1, since encoder: fast_conformer has no loops.")


def _check_together(
    output_size: int, attention_heads: int, causal: bool, cnn_norm: str, streaming: dict[str, Any] | None
) -> None:
    if output_size % attention_heads or output_size % 2:
        raise ValueError(
            f"encoder_conf: output_size is {output_size}; allowed: an even multiple of attention_heads, which is "
            f"{attention_heads}."
        )
    if streaming is not None and not causal:
        raise ValueError("encoder_conf: streaming needs causal: true; set it, or leave streaming out.")
    if streaming is not None and cnn_norm == BATCH:
        raise ValueError("encoder_conf: streaming needs cnn_norm: layer; set it, or leave streaming out.")
