"""What encoders that stream have in common.

Shapes: B streams, T features, F their size, D model size.
"""

import abc

import torch

from espnet2.asr.ctc import CTC
from espnet2.asr.encoder.abs_encoder import AbsEncoder

from espnet_larm.streaming.context import Context, Contexts
from espnet_larm.streaming.read_out import ReadOuts
from espnet_larm.streaming.stream import Chunk, Reader, Settings, StreamOutputs, StreamState, Window, advance


class StreamingEncoder(AbsEncoder):
    """An encoder that can take its features piece by piece.

    Attributes:
        input_size: F.
        num_loops: The number of loops that is trained; 1 of an encoder without loops.
        contexts: What its training draws; None if it sees whole utterances alone.
    """

    input_size: int
    num_loops: int
    contexts: Contexts | None

    @property
    @abc.abstractmethod
    def window(self) -> Window:
        """How features become chunks."""

    @abc.abstractmethod
    def encode_chunk(self, chunk: Chunk, ctc: CTC | None) -> ReadOuts:
        """Yield read-outs of a chunk of streams as they are computed."""

    @abc.abstractmethod
    def allowed_loops(self, limit: int) -> list[int]:
        """Read-outs of a stream up to the loop `limit`."""

    @abc.abstractmethod
    def check_settings(self, settings: Settings) -> None:
        """Refuse what a stream of this encoder cannot have, beyond its context.

        Raises:
            ValueError: With what is allowed.
        """

    @torch.no_grad()
    def stream(
        self,
        state: StreamState,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        ctc: CTC | None,
        is_last: torch.Tensor | None = None,
        reader: Reader | None = None,
    ) -> tuple[StreamOutputs, StreamState]:
        """Encode the chunks of streams that new features make whole, through all loops unless `reader` lets them leave.

        Partial results read an early checkpoint loop, final ones the last, of the same call; `reader` has what an early
        loop says before the deeper loops of the chunk run, and may let the chunk leave there. Each loop attends to what
        the same loop made of the chunks before. A chunk that has left stands in the deeper loops with its keys, values,
        frames of convolutions and posteriors of the loop at which it left, and says there what it said at that loop.

        Args:
            state: The state of `start_streams` or of the call before; it stays as it is.
            xs_pad: New features of B streams (B, T, F), any number of them.
            ilens: How many of them are a stream's (B,), 0 where nothing new was heard.
            ctc: The model's CTC head, for the feedback and for `skip_blank`.
            is_last: Streams that end with them (B,), True where one does: what is left is a shorter chunk. None for no
                stream. Features that are too few for a frame give none.
            reader: Called at each checkpoint loop of each chunk with its number and what it says of the chunk, in the
                form of the call's outputs, which have the same again; it has no frames of streams without a chunk, or
                whose chunk has left. It may answer which chunks go on (B,), True where one does. What it raises ends
                the call.

        Returns:
            What all checkpoint loops say of the new chunks: for the same context the frames that `read_outs` gives of
            all features at once (test_a_stream_gives_what_the_masked_offline_forward_gives). The next state.

        Raises:
            ValueError: Feedback needs `ctc`; shapes do not fit the state; a stream has ended; the encoder trains; or
                chunks leave, but loops have blocks of their own.
            TypeError: `reader` answers something else than a mask.
        """
        if self.training:
            raise ValueError("a stream needs the encoder in eval mode; call its eval() first.")

        def encode(chunk: Chunk) -> ReadOuts:
            return self.encode_chunk(chunk, ctc)

        loops = self.allowed_loops(state.settings.num_loops)
        outputs, state = advance(state, xs_pad, ilens, is_last, self.window, encode, loops, reader)
        if not outputs.hs_pad:
            nothing = xs_pad.new_zeros(len(xs_pad), 0, self.output_size())
            outputs = outputs._replace(hs_pad=dict.fromkeys(loops, nothing))
        return outputs, state

    def start_streams(
        self, context: Context, num_streams: int = 1, num_loops: int | None = None, skip_blank: float = 1.0
    ) -> StreamState:
        """The state of streams that have heard nothing.

        Args:
            context: What a frame sees, bounded on both sides.
            num_streams: B.
            num_loops: The loop at which chunks that have not left leave; None for the number that was trained.
            skip_blank: Frames that a checkpoint loop says are blank with more than this probability skip feed-forward
                layers up to the next one; 1 skips none.

        Raises:
            ValueError: The context is not bounded, or the loop cannot be read out.
        """
        context.check_bounded()
        if self.contexts is not None:
            self.contexts.check(context)
        num_loops = self.num_loops if num_loops is None else num_loops
        if not isinstance(num_loops, int):
            raise ValueError(f"num_loops is {num_loops}; give a number, and a reader that says which chunks leave.")
        settings = Settings(context, num_loops, skip_blank)
        self.check_settings(settings)
        lead = next(self.parameters()).new_zeros(self.window.lead, self.input_size)
        return StreamState.start(settings, lead, num_streams)

    def latency(self, context: Context) -> int:
        """Feature frames from the first one of a chunk to the last one that its encoder frames need.

        The front end adds its own look-ahead, half a window with ESPnet's; the time of computing stands apart.

        Raises:
            ValueError: The context is not bounded.
        """
        context.check_bounded()
        return self.window.factor * context.chunk_frames + self.window.overlap  # type: ignore[operator]
