"""LARM: one stack of blocks run K times, each loop told its depth and what the loop before took each frame for.

Source: Kaloga et al., "Test-Time Compute Scaling for ASR with Depth-Conditioned Looped Transformers",
arXiv:2606.04678. Departures: only its abstract, introduction and outline were available; block, positions, initial
values, the front-end and the checkpoint period are ours, and no equivalence is claimed.
Neighbours by switches: `share_blocks: false` with all loop parts off is a plain deep stack with intermediate CTC;
with `feedback: true, feedback_shift: 0` it is self-conditioned CTC; all parts off with shared blocks is naive looping.
`prelude_blocks` and `coda_blocks` are unshared blocks around the loop (Rolland et al., arXiv:2606.09357). The feedback
stays inside the loop: it is what the CTC head says of the loop's own state, without the coda.
Shapes: B utterances, T frames, F features, D model size. Masks are True where valid.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch.utils.checkpoint import checkpoint
from typeguard import typechecked

from espnet2.asr.ctc import CTC

from espnet_larm.draws import forget_draws
from espnet_larm.looped.blocks import (
    ConformerBlock,
    Frames,
    FrameSharedDropout,
    Stack,
    TransformerBlock,
    describe_chunks,
    describe_frames,
    describe_stream,
)
from espnet_larm.looped.loop import Clock, Depth, DepthFilm, LoopState
from espnet_larm.looped.loop_numbers import LoopNumbers
from espnet_larm.looped.running import Running
from espnet_larm.looped.sampling import SAMPLINGS, UNIFORM, LoopSampling
from espnet_larm.looped.subsampling import CONV, FACTORS, KINDS, LINEAR, ConvSubsampling, LinearSubsampling
from espnet_larm.looped.together import NO_SAMPLING, check_together
from espnet_larm.options import Option, check_parameters
from espnet_larm.streaming.consistency import give_lesson
from espnet_larm.streaming.context import Context, Contexts, current_context
from espnet_larm.streaming.encoder import StreamingEncoder
from espnet_larm.streaming.read_out import ReadOut, ReadOuts, next_read_out
from espnet_larm.streaming.stream import Chunk, Settings, Window

# Parts whose modules keep frames of a stream, beside the prelude.
STACK, FEEDBACK, CODA = "stack", "feedback", "coda"


class LarmEncoder(LoopNumbers, StreamingEncoder):
    """Looped encoder whose number of loops is a dial at inference.

    The stock `espnet` model trains it: checkpoint loops before the last go through its intermediate-CTC slots, so
    `model_conf: interctc_weight` must be (n - 1) / n with n checkpoint loops. A batch gives what each utterance
    gives alone (test_batch_gives_what_each_utterance_gives_alone).
    With `loop_sampling` each training step runs another number of loops, and the checkpoints among them have a loss.
    ESPnet weighs the last one that was run by 1 - interctc_weight, and divides interctc_weight among those before it;
    a step of one checkpoint has no intermediate loss, and the last one's weight is 1. Validation runs all loops.
    With `streaming` frames see chunks of a length that each training step draws, in every block, the prelude's and the
    coda's too, and `stream` gives the same from features that come in piece by piece. Its look-ahead is what is left
    of the chunk, and that of the subsampling (`latency`).

    Args:
        input_size: Features F a frame; ESPnet sets it.
        output_size: Model size D. The meaning and range of this and all other options stand at the parameters;
            `espnet-larm list --name larm` prints them.

    Raises:
        ValueError: An option is out of its range.
    """

    # What a YAML with these defaults needs beside them; `python -m espnet_larm list --yaml` prints it.
    yaml_beside = """\
model_conf:
    ctc_weight: 1.0  # CTC alone: no decoder is named
    # (n - 1) / n weighs n checkpoint loops alike; there are 3 in 12 loops with a checkpoint_period of 4.
    interctc_weight: 0.6667
"""

    @typechecked
    def __init__(
        self,
        input_size: int,
        output_size: Annotated[
            int, Option("model size D, a multiple of 2 x attention_heads; 384, and 96 to 256 on a CPU", least=1)
        ] = 384,
        attention_heads: Annotated[int, Option("attention heads", least=1)] = 6,
        linear_units: Annotated[
            int, Option("hidden size of the feed-forward layers; 4 D, or 2 D in conformer blocks", least=1)
        ] = 1536,
        num_blocks: Annotated[int, Option("blocks in the stack", least=1, most=1000)] = 4,
        num_loops: Annotated[
            int, Option("times that the stack is run; 1 is a plain stack without any loop part", least=1, most=1000)
        ] = 12,
        checkpoint_period: Annotated[
            int, Option("m, at most num_loops: loops m, 2m, ... and the last have a loss and can be read out", least=1)
        ] = 4,
        block: Annotated[str, Option("kind of the blocks", choices=("transformer", "conformer"))] = "transformer",
        share_blocks: Annotated[
            bool, Option("one stack for all loops; false gives each loop its own, the unshared baseline")
        ] = True,
        clock: Annotated[bool, Option("tell the stack where a loop stands between two checkpoints")] = True,
        film: Annotated[bool, Option("condition the stack's input on the loop's number")] = True,
        feedback: Annotated[
            bool, Option("feed the CTC posteriors of a loop to the next one, through the model's `conditioning_layer`")
        ] = True,
        feedback_shift: Annotated[
            int, Option("delay of the feedback in frames; 1 is the paper's", least=0, note="frames")
        ] = 1,
        feedback_top_k: Annotated[
            int | None,
            Option(
                "tokens a frame in the feedback, null for all; 8 trains a tenth faster at V = 5000 on a CPU and "
                "decodes slower (tools/bench/looped.py), since the largest must be found",
                least=1,
            ),
        ] = None,
        skip: Annotated[bool, Option("add the front end's output to the state of every loop")] = True,
        prelude_blocks: Annotated[int, Option("blocks of their own before the loop, run once", least=0, most=1000)] = 0,
        coda_blocks: Annotated[
            int,
            Option(
                "blocks of their own behind the loop, run at each read-out, before the CTC head", least=0, most=1000
            ),
        ] = 0,
        subsampling: Annotated[
            str,
            Option(
                "how frames become fewer: convolutions over time and frequency (conv) for filter banks, or frames side "
                "by side through a linear layer (linear) for learned features",
                choices=KINDS,
            ),
        ] = CONV,
        subsampling_factor: Annotated[
            int,
            Option("input frames an output frame; 1 with subsampling: linear alone", choices=(1, *FACTORS)),
        ] = 4,
        subsampling_channels: Annotated[int, Option("channels of the front-end's convolutions", least=1)] = 64,
        dropout_rate: Annotated[
            float, Option("dropout after each part of a block and inside feed-forward layers", least=0.0, below=1.0)
        ] = 0.1,
        frame_shared_dropout: Annotated[
            bool, Option("one dropout mask for all frames of an utterance: a fifth less time a step on a CPU")
        ] = False,
        attention_dropout_rate: Annotated[
            float,
            Option(
                "dropout of attention weights; above 0 it rules fast attention kernels out on a CPU",
                least=0.0,
                below=1.0,
            ),
        ] = 0.0,
        cnn_module_kernel: Annotated[
            int,
            Option("width in frames of the conformer's convolution, odd; without effect on `transformer`", least=1),
        ] = 15,
        activation_checkpointing: Annotated[
            bool, Option("recompute each loop in the backward pass: memory of one loop, a third more time")
        ] = False,
        loop_sampling: Annotated[
            str,
            Option(
                "draw the number of loops of each training step: none trains num_loops alone, uniform any of the "
                "checkpoint loops, poisson around a mean and beyond num_loops, so that more loops than trained do less "
                "harm",
                choices=(NO_SAMPLING, *SAMPLINGS),
            ),
        ] = NO_SAMPLING,
        loop_mean: Annotated[
            float | None,
            Option(
                "mean number of loops with loop_sampling: poisson, rounded to checkpoint loops up to 2 x num_loops",
                above=1.0,
                most=1000.0,
                unset="num_loops",
            ),
        ] = None,
        streaming: Annotated[
            dict[str, Any] | None,
            Option(
                "train for streaming, in chunks whose length and left context each step draws, such as "
                "`{chunk_frames: [full, 8, 16, 32], left_chunks: [4, 16]}` (docs/options.md); null trains on whole "
                "utterances alone"
            ),
        ] = None,
    ) -> None:
        options = dict(locals())
        check_parameters(LarmEncoder.__init__, options, "encoder_conf")
        check_together(options)
        super().__init__()
        self.num_loops = num_loops
        self.checkpoint_period = checkpoint_period
        self.share_blocks = share_blocks
        self.activation_checkpointing = activation_checkpointing
        self.head_size = output_size // attention_heads
        self.input_size = input_size
        self._output_size = output_size
        self.subsampling = (
            LinearSubsampling(input_size, output_size, subsampling_factor)
            if subsampling == LINEAR
            else ConvSubsampling(input_size, output_size, subsampling_factor, subsampling_channels)
        )
        self.subsampling_norm = torch.nn.LayerNorm(output_size)
        self.dropout = (FrameSharedDropout if frame_shared_dropout else torch.nn.Dropout)(dropout_rate)

        def new_block() -> torch.nn.Module:
            shape = (output_size, attention_heads, linear_units, self.dropout, attention_dropout_rate)
            return ConformerBlock(*shape, cnn_module_kernel) if block == "conformer" else TransformerBlock(*shape)

        def new_stack(num_blocks: int) -> Stack:
            return Stack([new_block() for _ in range(num_blocks)], output_size)

        num_stacks = 1 if share_blocks else num_loops
        self.prelude = new_stack(prelude_blocks) if prelude_blocks else None
        self.stacks = torch.nn.ModuleList(new_stack(num_blocks) for _ in range(num_stacks))
        self.coda = new_stack(coda_blocks) if coda_blocks else None
        # One loop hands no state on: any loop part would be a parameter without a gradient, an error under DDP.
        loops = num_loops > 1
        self.clock = Clock(checkpoint_period, output_size) if clock and loops else None
        self.film = DepthFilm(output_size) if film and loops else None
        self.state = LoopState(skip, feedback, feedback_shift, feedback_top_k) if loops else None
        self.sampling: LoopSampling | None = None
        if loop_sampling != NO_SAMPLING:
            loops_drawn = self.allowed_loops(num_loops if loop_sampling == UNIFORM else 2 * num_loops)
            self.sampling = LoopSampling(loop_sampling, loops_drawn, loop_mean or num_loops)
        self.contexts = Contexts.of(streaming)
        # ESPnet's model reads the flag, makes the layer (V to D) and then passes its CTC head to forward.
        self.interctc_use_conditioning = feedback and loops
        self.conditioning_layer: torch.nn.Linear | None = None
        self.register_load_state_dict_pre_hook(forget_draws)

    def output_size(self) -> int:
        """D."""
        return self._output_size

    @property
    def min_input_length(self) -> int:
        """Feature frames below which an utterance is too short."""
        return self.subsampling.min_length

    def input_lens(self, olens: torch.Tensor) -> torch.Tensor:
        """Fewest feature frames (B,) that give (B,) output frames."""
        return self.subsampling.input_lens(olens)

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: None = None,  # noqa: ARG002  # AbsEncoder's signature
        ctc: CTC | None = None,
    ) -> tuple[torch.Tensor | tuple[torch.Tensor, list[tuple[int, torch.Tensor]]], torch.Tensor, None]:
        """Run all loops.

        Args:
            xs_pad: Features (B, T, F).
            ilens: Valid frames (B,) of xs_pad.
            prev_states: Not used.
            ctc: The model's CTC head; ESPnet passes it when `interctc_use_conditioning` is set.

        Returns:
            The last loop's output (B, T', D), with a list of (loop, output) of the other checkpoints if there are any,
            all zero behind the lengths; its valid lengths (B,); None.

        Raises:
            ValueError: Feedback needs `ctc`, or a loss of consistency a model that adds it.
            TooShortUttError: An utterance is shorter than the subsampling needs.
        """
        num_loops = context = None
        if self.training:
            num_loops = self.num_loops if self.sampling is None else self.sampling.draw()
            context = Context() if self.contexts is None else self.contexts.draw()
        *others, last = reads = list(self.read_outs(xs_pad, ilens, ctc, num_loops, context=context))

        def encode(context: Context) -> list[torch.Tensor]:
            return [read.hs_pad for read in self.read_outs(xs_pad, ilens, ctc, num_loops, context=context)]

        if context is not None:
            give_lesson(self.contexts, context, [read.hs_pad for read in reads], last.hlens, encode)
        if num_loops == 1 and self.state is not None:
            last = last._replace(hs_pad=last.hs_pad + self._nothing_of_what_loops_share())
        if not others:
            return last.hs_pad, last.hlens, None
        return (last.hs_pad, [(other.number, other.hs_pad) for other in others]), last.hlens, None

    def read_outs(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        ctc: CTC | None,
        num_loops: int | None = None,
        skip_blank: float = 1.0,
        context: Context | None = None,
        by_chunk: bool = False,
    ) -> ReadOuts:
        """Yield each checkpoint loop as soon as it is computed: a reader that stops has paid for no further loop.

        A reader that sends a mask (B,) back keeps those utterances alone: the others leave the batch, which is cut to
        the longest that is left, and no further loop is run once all have left. Who stays gets what a batch without
        leaving gives, to rounding (test_who_stays_gets_what_a_whole_batch_gives).

        With `by_chunk` it sends (B, N) back, True where a chunk goes on: all loops run, and chunks that have left stand
        in them as in a stream (`stream`), which this is the offline form of.

        Args:
            xs_pad: Features (B, T, F).
            ilens: Valid frames (B,) of xs_pad.
            ctc: The model's CTC head, for the feedback.
            num_loops: The last loop, one that `check_loops` accepts; None for the number that was trained, or that
                `looped` gives.
            skip_blank: Frames that a checkpoint loop says are blank with more than this probability skip the
                feed-forward layers of the loops up to the next; 1 skips none. Needs `ctc`, and eval mode.
            context: What a frame sees. None for the one that `in_context` gives, or the widest that was trained.
            by_chunk: Whether chunks of the context leave, not utterances.

        Raises:
            ValueError: Feedback needs `ctc`, chunks that leave need a context with chunks, and loops that share blocks;
                or a mask has another shape.
            TypeError: What is sent back is no mask.
            TooShortUttError: An utterance is shorter than the subsampling needs.
        """
        self._check_head(ctc)
        start, hlens = self.subsampling(xs_pad, ilens)
        start = self.dropout(self.subsampling_norm(start))
        seen = current_context(self.contexts) if context is None else context

        def describe(lens: torch.Tensor, num_frames: int) -> Frames:
            if seen.is_full:
                return describe_frames(lens, num_frames, self.head_size, start)
            return describe_chunks(lens, num_frames, self.head_size, start, seen)

        last = num_loops or self.current_loops
        if by_chunk:
            if seen.chunk_frames is None:
                raise ValueError("chunks leave, but the context is of whole utterances; give one with chunk_frames.")
            self.check_chunks_can_leave()
        yield from self._run(start, hlens, describe, ctc, last, skip_blank, seen.chunk_frames if by_chunk else None)

    def encode_chunk(self, chunk: Chunk, ctc: CTC | None) -> ReadOuts:
        """What `stream` needs of this encoder."""
        self._check_head(ctc)
        start, hlens = self.subsampling(chunk.xs_pad, chunk.ilens)
        start = self.subsampling_norm(start)
        context, num_loops, skip_blank = chunk.settings

        def describe(lens: torch.Tensor, num_frames: int) -> Frames:
            return describe_stream(lens, num_frames, self.head_size, start, context, chunk.starts, chunk.past)

        read_outs, stays = self._run(start, hlens, describe, ctc, num_loops, skip_blank), None
        while (read := next_read_out(read_outs, stays)) is not None:
            stays = yield read
        loops = range(1, num_loops + 1)
        for part, of in ((STACK, loops), (FEEDBACK, loops[1:]), (CODA, self.allowed_loops(num_loops))):
            chunk.past.fill(part, of)

    def check_chunks_can_leave(self) -> None:
        """Refuse blocks of whose keys and values other loops know nothing.

        Raises:
            ValueError: Loops do not share their blocks.
        """
        if not self.share_blocks:
            raise ValueError(
                "a chunk that leaves early stands in deeper loops with its keys and values of an earlier one, but the "
                "model was trained with encoder_conf: share_blocks: false; set a number of loops."
            )

    def check_settings(self, settings: Settings) -> None:
        """Refuse a number of loops that cannot be read out.

        Raises:
            ValueError: With the allowed numbers.
        """
        self.check_loops(settings.num_loops)

    @property
    def window(self) -> Window:
        """How features become chunks."""

        def num_outputs(num_features: int) -> int:
            return int(self.subsampling.output_lens(torch.tensor(num_features)))

        return Window(self.subsampling.factor, self.subsampling.look_ahead, num_outputs)

    def _check_head(self, ctc: CTC | None) -> None:
        if self.interctc_use_conditioning and (ctc is None or self.conditioning_layer is None):
            raise ValueError(
                "encoder_conf: feedback needs the model's CTC head and its conditioning_layer: train with ctc_weight "
                "above 0, or set encoder_conf: feedback: false (models of speech translation never hand them over)."
            )

    def _run(
        self,
        start: torch.Tensor,
        hlens: torch.Tensor,
        describe: Callable[[torch.Tensor, int], Frames],
        ctc: CTC | None,
        last: int,
        skip_blank: float,
        chunk_frames: int | None = None,
    ) -> ReadOuts:
        """Run prelude and loops on the front end's output (B, T, D) with its lengths (B,), which `describe` takes.

        With `chunk_frames` chunks of so many frames leave, and what has left is held.
        """
        batch = Running(describe, hlens, start.size(1), chunk_frames)
        if self.prelude is not None:
            batch.frames.enter("prelude")
            start = self._checkpointed(self.prelude, start, batch.frames)
        output = hidden = None
        for loop in range(1, last + 1):
            stack = self.stacks[0 if self.share_blocks else loop - 1]
            ran = self._checkpointed(self._step, stack, loop, output, start, batch.frames, ctc)
            output = batch.hold(output, ran)
            if self._is_checkpoint(loop):
                hidden = batch.hold(hidden, self._end(loop, output, batch.frames))
                stays = yield ReadOut(loop, hidden, batch.hlens, batch.rows)
                if stays is not None:
                    batch.check(stays)
                    if loop < last and batch.runs_streams and not stays.all():
                        self.check_chunks_can_leave()
                        # Later chunks that run the next loop read what those say that leave.
                        gone = batch.frames.only(~stays, batch.places(~stays))
                        self._enter(loop + 1, output[~stays], start[~stays], gone, ctc)
                    if not stays.any():
                        return
                    start, output, hidden = batch.keep(stays, start, output, hidden)
                if skip_blank < 1.0 and loop < last and ctc is not None:
                    batch.skip(ctc.softmax(hidden), skip_blank)

    def _end(self, loop: int, output: torch.Tensor, frames: Frames) -> torch.Tensor:
        """What the CTC head reads of a loop's output, zero behind the lengths."""
        if self.coda is not None:
            frames.enter(CODA, loop)
            output = self._checkpointed(self.coda, output, frames._replace(fed=None))
        return output.masked_fill(~frames.mask.unsqueeze(-1), 0.0)

    def _nothing_of_what_loops_share(self) -> torch.Tensor:
        """Zero, with a gradient of zero for weights that one loop does not use: DDP waits for one of every weight."""
        layers = (self.state, self.conditioning_layer)
        weights = [weight for layer in layers if layer is not None for weight in layer.parameters()]
        return sum((0.0 * weight.sum() for weight in weights), torch.zeros((), device=weights[0].device))

    def _checkpointed(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        if self.activation_checkpointing and self.training:
            # Non-reentrant: the shared stack runs several times, which the reentrant form cannot do under DDP.
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _step(
        self,
        stack: torch.nn.Module,
        loop: int,
        previous: torch.Tensor | None,
        start: torch.Tensor,
        frames: Frames,
        ctc: CTC | None,
    ) -> torch.Tensor:
        """The stack's output at a loop, from that of the loop before (None at the first)."""
        state = self._enter(loop, previous, start, frames, ctc)
        frames.enter(STACK, loop)
        hidden: torch.Tensor = stack(state, frames)
        return hidden

    def _enter(
        self, loop: int, previous: torch.Tensor | None, start: torch.Tensor, frames: Frames, ctc: CTC | None
    ) -> torch.Tensor:
        """The state that enters a loop."""
        depth = Depth.of(loop, self.clock, self.film)
        if previous is None:
            return start if depth is None else depth(start)
        assert self.state is not None
        feedback = None
        if self.conditioning_layer is not None and ctc is not None:
            feedback = (ctc.softmax(previous), self.conditioning_layer)
        frames.enter(FEEDBACK, loop)
        state: torch.Tensor = self.state(previous, start, depth, feedback, frames.mask, frames.past)
        return state
