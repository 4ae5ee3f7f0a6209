"""Decoders of encoder frames with an LM, behind one interface: ours, Hugging Face's, ESPnet's.

Each begins with encoder frames and includes projector and prompt. All are greedy but for ESPnet's beam.
Shapes: B utterances, T frames, E encoder size, N prompt positions, D model size.
"""

import copy
import resource
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch

from espnet_larm.llm.packed_linear import unpack_linear_layers
from espnet_larm.recognize.machine import keep_memory_flat
from espnet_larm.search.drafts import Drafts
from espnet_larm.search.hypotheses import Bounds
from espnet_larm.search.multi_token import Found, greedy
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
from espnet_larm.upstream import BatchScorerInterface


class Frames(NamedTuple):
    """A batch of encoder output.

    Attributes:
        indices: Indices of the utterances.
        hs_pad: Frames (B, T, E).
        hlens: Valid frames (B,).
        most: Most tokens of each utterance.
    """

    indices: list[int]
    hs_pad: torch.Tensor
    hlens: torch.Tensor
    most: list[int]

    def singly(self) -> list["Frames"]:
        """Batches of one utterance each."""
        return [
            Frames([index], self.hs_pad[row : row + 1, : self.hlens[row]], self.hlens[row : row + 1], [self.most[row]])
            for row, index in enumerate(self.indices)
        ]


class Run(NamedTuple):
    """One repetition of a way over all utterances.

    Attributes:
        seconds: Seconds of the repetition.
        calls: Calls of the LM.
        mib: Peak of memory.
        token_ids: Tokens of each utterance.
        searches: Utterances of each call of the way and its search's result, if the way records them.
    """

    seconds: float
    calls: int
    mib: float
    token_ids: list[list[int]]
    searches: list[tuple[list[int], Found]]


class Way(Protocol):
    """One way to decode."""

    def __call__(self, frames: Frames, most: int | None = None) -> list[list[int]]:
        """Token ids of each utterance; `most` instead of the batch's own bounds."""
        ...


class Calls:
    """Counts calls of modules."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.count = 0
        for module in modules:
            module.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


class Ours:
    """Batched greedy search with our cache; no guard but the bound, which all ways have.

    Args:
        decoder: Decoder with the LM.
        eos: Token that ends a hypothesis.
        make_drafts: Makes a batch's drafts, which are verified; None for no drafts.

    Attributes:
        searches: Utterances of each call, and its search's result.
    """

    def __init__(
        self, decoder: SpeechLlmDecoder, eos: int, make_drafts: Callable[[Frames], Drafts] | None = None
    ) -> None:
        self.decoder = decoder
        self.eos = eos
        self.make_drafts = make_drafts
        self.searches: list[tuple[list[int], Found]] = []

    def __call__(self, frames: Frames, most: int | None = None) -> list[list[int]]:
        """Decode a batch; see `Way`."""
        # The call after the last token only tells whether the text ends there.
        bounds = [Bounds(limit if most is None else most - 1) for limit in frames.most]
        drafts = self.make_drafts(frames) if self.make_drafts else None
        texts = self.decoder.start(frames.hs_pad, frames.hlens)
        found = greedy(texts, bounds, self.eos, drafts, guards_loops=False)
        self.searches.append((frames.indices, found))
        return [text.token_ids for text in found.hypotheses]


class HuggingFace:
    """`generate` with `inputs_embeds`, SDPA attention, its own cache; a batch is padded on the left.

    Args:
        decoder: Decoder with the prompt and the LM, LoRA included.
        eos: Token that ends a hypothesis.
    """

    def __init__(self, decoder: SpeechLlmDecoder, eos: int) -> None:
        self.decoder = decoder
        self.eos = eos
        self.model = copy.deepcopy(decoder.backbone.model).eval()
        # As HF has them.
        unpack_linear_layers(self.model)
        self.model.set_attn_implementation("sdpa")

    def __call__(self, frames: Frames, most: int | None = None) -> list[list[int]]:
        """Decode a batch; see `Way`."""
        prompt = self.decoder.read_prompt(frames.hs_pad, frames.hlens)
        embeddings, mask = _left_padded(prompt.embeddings, prompt.lens)
        limits = frames.most if most is None else [most] * len(frames.most)
        # One more, so that a text of the longest length can end.
        output = self.model.generate(
            inputs_embeds=embeddings,
            attention_mask=mask,
            max_new_tokens=max(limits) + 1 if most is None else most,
            do_sample=False,
            eos_token_id=self.eos,
            pad_token_id=self.eos,
        )
        rows = (row[: row.index(self.eos)] if self.eos in row else row for row in output.tolist())
        return [row[:limit] for row, limit in zip(rows, limits, strict=True)]


def _left_padded(embeddings: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    num_positions = embeddings.size(1)
    columns = torch.arange(num_positions, device=lens.device) - (num_positions - lens).unsqueeze(1)
    mask = columns >= 0
    columns = columns.clamp(min=0).unsqueeze(-1).expand_as(embeddings)
    return embeddings.gather(1, columns) * mask.unsqueeze(-1), mask.long()


class Espnet:
    """ESPnet's BatchBeamSearch, an utterance at a time.

    Args:
        decoder: The scorer.
        eos: Token that ends a hypothesis.
        beam_size: Width of the beam.
        is_cached: False scores whole prompts and texts at every step, as ESPnet's own decoder of HF models does.
    """

    def __init__(self, decoder: SpeechLlmDecoder, eos: int, beam_size: int, is_cached: bool) -> None:
        vocab_size = decoder.backbone.vocab_size
        self.search = BatchBeamSearch(
            scorers={"decoder": decoder if is_cached else Uncached(decoder)},
            weights={"decoder": 1.0},
            beam_size=beam_size,
            vocab_size=vocab_size,
            sos=eos,
            eos=eos,
            token_list=[str(token) for token in range(vocab_size)],
        ).to(next(decoder.parameters()).device)

    def __call__(self, frames: Frames, most: int | None = None) -> list[list[int]]:
        """Decode one utterance; see `Way`."""
        # A negative ratio is a number of tokens.
        ratio = -float(max(frames.most) if most is None else most)
        best = self.search(frames.hs_pad[0, : frames.hlens[0]], maxlenratio=ratio)[0]
        return [best.yseq.tolist()[1:-1]]


class Uncached(BatchScorerInterface):
    """A decoder without memory."""

    def __init__(self, decoder: SpeechLlmDecoder) -> None:
        self.decoder = decoder

    def batch_score(self, ys: torch.Tensor, states: list[Any], xs: torch.Tensor) -> tuple[torch.Tensor, list[Any]]:
        """Log-probabilities of the next tokens, from the first position on."""
        hlens, ys_lens = (torch.full((len(ys),), part.size(1), device=ys.device) for part in (xs, ys))
        logits, _ = self.decoder(xs, hlens, ys, ys_lens)
        return logits[:, -1].log_softmax(-1), states


class Peak:
    """Peak of memory while a way runs, in MiB above the memory before."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
            return
        # Linux: the peak since now, after free pages have been given back. Elsewhere, of the process so far.
        keep_memory_flat()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.before = self._status("VmRSS")

    def mib(self) -> float:
        """MiB of the peak so far."""
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.is_cuda else self._status("VmHWM")
        return max(0.0, peak - self.before)

    @staticmethod
    def _status(field: str) -> float:
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def margins_where_parted(
    decoder: SpeechLlmDecoder,
    frames: Frames,
    expected: Sequence[list[int]],
    found: Sequence[list[int]],
    eos: int,
    may_end: bool = True,
) -> list[float]:
    """Nats between the best two tokens where two hypotheses part; `may_end` lets the end be one of them."""
    margins = []
    for one, wanted, got in zip(frames.singly(), expected, found, strict=True):
        if wanted == got:
            continue
        left, right = [*wanted, eos], [*got, eos]
        place = next(index for index, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1])
        ys_in = torch.tensor([[eos, *left[:place]]], device=frames.hs_pad.device)
        logits, _ = decoder(one.hs_pad, one.hlens, ys_in, torch.tensor([place + 1], device=ys_in.device))
        if not may_end:
            logits[..., eos] = float("-inf")
        best, second = logits[0, -1].topk(2).values.tolist()
        margins.append(best - second)
    return margins
