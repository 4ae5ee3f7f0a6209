"""Prompts of pooling.py: a causal LM reads speech that affinity pooling shortens to a given length.

Shapes: S speech positions, N positions of a text, L all, D model size, V tokens.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from benching import now
from memory import LiveTensors
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

from espnet_larm.calibrate.flops import by_layer, prefill_flops
from espnet_larm.llm.attention import ATTENTION, attention
from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.stream import Step, Stream
from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.in_llm import SpeechPooling, speech_pooling_of
from espnet_larm.speech_llm.prompt import pack

aten = torch.ops.aten
EAGER, SDPA = ATTENTIONS = ("eager", "sdpa")
INPUT_WINDOW, DEEP_WINDOW = WINDOWS = (1, 3)
# Between the cosines of embeddings that shall be merged and of those that shall not.
INPUT_TAU, DEEP_TAU = 0.9, 0.5
SHARED = 0.7
NOISE = 0.1
# Scale of an embedding's numbers: a layer of random weights adds numbers of about 1, Gemma's by its norms behind it.
SCALE = 128.0


class ZeroProducts(TorchDispatchMode):
    """Makes zeros of what products would give, in their size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do as without it, or leave the numbers out."""
        if func.overloadpacket in (aten.mm, aten.bmm):
            return args[0].new_zeros((*args[0].shape[:-1], args[1].size(-1)))
        if str(func.overloadpacket) == "mkldnn._linear_pointwise":
            # The weights are laid out for oneDNN, and keep their shape.
            return args[0].new_zeros((*args[0].shape[:-1], args[1].size(0)))
        return func(*args, **(kwargs or {}))


class Way(NamedTuple):
    """Retentions: at the input, and of what it leaves behind the deep layer; 1 for no pooling there."""

    at_input: float
    deep: float

    @property
    def place(self) -> str:
        """Sites that pool, for the table."""
        places = [place for place, retention in zip(("input", "deep"), self, strict=True) if retention < 1]
        return " and ".join(places) or "none"

    def lens(self, num_tokens: int) -> tuple[int, int]:
        """Speech positions of the first layers, and of the last."""
        first = max(1, round(self.at_input * num_tokens))
        return first, max(1, round(self.deep * first))


ALONE = Way(1, 1)


class Prompt(NamedTuple):
    """A prompt: speech (1, S, D) between two texts (1, N, D)."""

    before: torch.Tensor
    speech: torch.Tensor
    behind: torch.Tensor


class Spent(NamedTuple):
    """Seconds to the first token, and those of them that pooling takes by itself."""

    first_token: float
    pooling: float


class Clock:
    """A clock that waits for the device.

    Args:
        device: Device of the LM.
        cpu_time: Whether CPU time of the process is measured instead of wall time.

    Attributes:
        spent: Seconds in functions that are `timed`.
    """

    def __init__(self, device: str, cpu_time: bool = False) -> None:
        self.device, self.is_cuda = device, device == "cuda"
        self.clock = time.process_time if cpu_time else time.perf_counter
        self.spent = 0.0

    def now(self) -> float:
        """Seconds."""
        return now(self.device, self.clock)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time is added to `spent`."""

        def called(*args: Any) -> Any:
            start = self.now()
            result = function(*args)
            self.spent += self.now() - start
            return result

        return called


def make_prompt(num_tokens: int, num_text: int, way: Way, size: int, device: str) -> Prompt:
    """Embeddings that affinity pooling shortens to `way.lens`."""
    torch.manual_seed(0)
    basis, half = directions(size), size // 2
    num_groups, num_runs = way.lens(num_tokens)
    groups = torch.arange(num_tokens) * num_groups // num_tokens
    runs = groups * num_runs // num_groups
    own = (1 - SHARED) ** 0.5 * basis[half + groups % half]
    tokens = SHARED**0.5 * basis[runs % half] + own + NOISE * torch.randn(num_tokens, size) / size**0.5
    texts = torch.randn(num_text, size)
    before, behind = texts.tensor_split([num_text // 2])
    parts = (before, tokens * size**0.5 * SCALE, behind)
    return Prompt(*(part.unsqueeze(0).to(device) for part in parts))


@functools.cache
def directions(size: int) -> torch.Tensor:
    """Vectors at right angles (D, D)."""
    return torch.linalg.qr(torch.randn(size, size)).Q


def pooling_of(backbone: Backbone, way: Way, layer: int) -> SpeechPooling:
    """The pooling of one way, as a decoder has it."""
    conf: dict[str, Any] = {}
    if way.at_input < 1:
        conf["input"] = {"tau": INPUT_TAU, "window": INPUT_WINDOW}
    if way.deep < 1:
        conf["deep"] = {"tau": DEEP_TAU, "window": DEEP_WINDOW, "layer": layer}
    return speech_pooling_of(conf, backbone)


class Read(NamedTuple):
    """A prompt that was read.

    Attributes:
        spent: Seconds of it.
        logits: Logits of the first token (1, V).
        kept: What pooling left of the speech, by site.
    """

    spent: Spent
    logits: torch.Tensor
    kept: dict[str, Kept]


@torch.no_grad()
def read(backbone: Backbone, pooling: SpeechPooling, prompt: Prompt, clock: Clock) -> Read:
    """Read a prompt as decoding does, with a clock around both sites of pooling."""
    device = prompt.speech.device
    lens = [torch.tensor([part.size(1)], device=device) for part in prompt]
    causal_mask.cache_clear()
    clock.spent, start = 0.0, clock.now()
    speech, lens[1], at_input, path = clock.timed(pooling.pool_input)(prompt.speech, lens[1])
    parts = zip((prompt.before, speech, prompt.behind), lens, (False, True, False), strict=True)
    packed, cache = pack(list(parts)), backbone.new_cache()
    positions = torch.arange(packed.embeddings.size(1), device=device).unsqueeze(0)
    after_layer = {index: clock.timed(function) for index, function in pooling.after_layer(path).items()}
    stream: Stream = backbone(packed.embeddings, positions, packed.lens, packed.speech, cache, after_layer)
    cache.seal()
    logits = backbone.logits(stream.hidden[:, int(stream.lens) - 1])
    logits.argmax(-1).tolist()
    kept = pooling.kept(at_input, packed.speech, stream.speech)
    return Read(Spent(clock.now() - start, clock.spent), logits, kept)


def check_retention(kept: Mapping[str, Kept], way: Way, num_tokens: int) -> None:
    """End unless a prompt was pooled as it should be."""
    left = num_tokens, num_tokens
    if found := [int(each.after) for each in kept.values()]:
        left = (found[0] if way.at_input < 1 else num_tokens), found[-1]
    if left != way.lens(num_tokens):
        raise SystemExit(f"Of {num_tokens} tokens {left} are left by {way}, not {way.lens(num_tokens)}.")


def flops_of(backbone: Backbone, num_tokens: int, num_text: int, way: Way, layer: int) -> int:
    """FLOPs of a prompt from shapes."""
    first, last = (torch.tensor([each]) for each in way.lens(num_tokens))
    lens = by_layer(len(backbone.layers), first, layer, last)
    return prefill_flops(backbone, torch.tensor([num_text]), *lens).total


def check_count(backbone: Backbone, pooling: SpeechPooling, prompt: Prompt, expected: int, clock: Clock) -> None:
    """Compare with torch's count."""
    # Attention in products that are counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        read(backbone, pooling, prompt, clock)
    by_module = counter.get_flop_counts()
    # Angles are no products of the layers.
    angles = sum(sum(counts.values()) for name, counts in by_module.items() if name.endswith("RotaryEmbedding"))
    if (counted := counter.get_total_flops() - angles) != expected:
        raise SystemExit(f"torch counts {counted} FLOPs, and {expected} are expected from shapes.")


def peak_of(backbone: Backbone, pooling: SpeechPooling, prompt: Prompt, clock: Clock, computes: bool = False) -> int:
    """Most bytes that are alive at once while a prompt is read, beside weights and the prompt."""
    if clock.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        read(backbone, pooling, prompt, clock)
        return torch.cuda.max_memory_allocated() - before
    skipping = contextlib.nullcontext() if computes else ZeroProducts()
    with LiveTensors([*backbone.parameters(), *backbone.buffers(), *prompt]) as live, skipping:
        read(backbone, pooling, prompt, clock)
    return live.peak


@functools.lru_cache(maxsize=1)
def causal_mask(num_positions: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Mask that is added to scores (L, L); as in Hugging Face, made once for all layers of one length."""
    return torch.full((num_positions, num_positions), float("-inf"), dtype=dtype, device=device).triu(1)


def eager_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  # ours is causal
    scaling: float,
    step: Step,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hugging Face's, for prompts without padding; keys and values go into our cache."""
    step.cache.append(step.layer, key, value, step.num_new)
    mask = causal_mask(query.size(2), query.dtype, query.device)
    mixed, weights = eager_attention_forward(module, query, key, value, mask, scaling=scaling)
    return mixed, weights


@contextlib.contextmanager
def attention_of(kind: str) -> Iterator[None]:
    """Let all LMs use a kind of attention."""
    AttentionInterface.register(ATTENTION, eager_attention if kind == EAGER else attention)
    try:
        yield
    finally:
        AttentionInterface.register(ATTENTION, attention)
