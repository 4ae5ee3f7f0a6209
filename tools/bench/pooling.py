#!/usr/bin/env python3
"""What pooling of speech spares a causal LM: FLOPs, time to the first token and memory of the prompt, at a retention.

An LM of random weights reads prompts, from the projector's embeddings to the first token's logits, pooling included.
Not pooled and in each way of pooling it takes turns in each repetition; ratios are those of a repetition's times, so
that what else runs on the machine meets all. Nothing here knows of words: retentions are given, and come from what was
measured on trained models.

Embeddings are made so that affinity pooling itself, not a stand-in, leaves just those retentions: tokens of an input
group are nearly equal (cosine 0.99), input groups of a deep group have cosines of 0.7, others of 0. They are so much
larger than what layers of random weights add that hidden states in front of the deep layer still point there; all
layers normalise what they read, so that nothing is spared by it. A run whose retention is another one ends.

FLOPs are those of products, from shapes; torch's count must agree. Memory is the most that is alive at once while a
prompt is read, keys and values included, weights and embeddings not: on a GPU by torch's allocator; on a CPU counted
in a pass whose linear layers give zeros, so that hidden states stay what the embeddings are.
Eager attention is Hugging Face's, whose scores are there as a whole; `sdpa` is what decoding takes.

    python tools/bench/pooling.py
    python tools/bench/pooling.py --shape novels-3M --seconds 5 --input_retention 0.8 --deep_retention 0.19
    python tools/bench/pooling.py --repeats 0                                     FLOPs and memory alone, in a minute
    python tools/bench/pooling.py --device cuda --dtype bfloat16 --repeats 9
"""

import argparse
import contextlib
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from memory import SMOLLM2_360M, LiveTensors, read_json
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

from espnet_larm.llm.attention import ATTENTION, attention
from espnet_larm.llm.backbone import DTYPES, Backbone
from espnet_larm.llm.flops import by_layer, prefill_flops
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.llm.prompt import pack
from espnet_larm.llm.speech_pooling import SpeechPooling
from espnet_larm.llm.stream import Step, Stream
from espnet_larm.pooling.affinity import boundaries, cosines, merge

SHAPES: dict[str, dict[str, Any]] = {
    "novels-3M": {
        "model_type": "llama",
        "vocab_size": 1000,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "SmolLM2-360M": SMOLLM2_360M,
}
aten = torch.ops.aten
EAGER, SDPA = ATTENTIONS = ("eager", "sdpa")
INPUT_WINDOW, DEEP_WINDOW = WINDOWS = (1, 3)
# Between the cosines of embeddings that shall be merged and of those that shall not.
INPUT_TAU, DEEP_TAU = 0.9, 0.5
SHARED = 0.7
NOISE = 0.1
# Of an embedding's numbers: a layer of random weights adds numbers below 1.
SCALE = 16.0
# The paper pools behind 29 of 32 layers.
DEEP_SHARE = 29 / 32
# Torch also counts the angles of rotary embeddings.
COUNTS_AGREE = 0.01


class ZeroProducts(TorchDispatchMode):
    """Makes zeros of what products would give, in their size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do as without it, or leave the numbers out."""
        if func.overloadpacket in (aten.mm, aten.bmm):
            return args[0].new_zeros((*args[0].shape[:-1], args[1].size(-1)))
        if func.overloadpacket == torch.ops.mkldnn._linear_pointwise:
            # The weights are laid out for oneDNN, and keep their shape.
            return args[0].new_zeros((*args[0].shape[:-1], args[1].size(0)))
        return func(*args, **(kwargs or {}))


class Way(NamedTuple):
    """Retentions: at the input, and of what it leaves behind the deep layer; 1 for no pooling there."""

    at_input: float
    deep: float

    @property
    def place(self) -> str:
        """For the table."""
        places = [place for place, retention in zip(("input", "deep"), self, strict=True) if retention < 1]
        return " and ".join(places) or "none"

    def lens(self, num_tokens: int) -> tuple[int, int]:
        """Speech positions of the first layers, and of the last."""
        first = max(1, round(self.at_input * num_tokens))
        return first, max(1, round(self.deep * first))


ALONE = Way(1, 1)


class Prompt(NamedTuple):
    """What is read: speech (1, S, D) between two texts (1, N, D)."""

    before: torch.Tensor
    speech: torch.Tensor
    behind: torch.Tensor


class Spent(NamedTuple):
    """Seconds to the first token, and those of them that pooling takes by itself."""

    first_token: float
    pooling: float


class Clock:
    """Time when all that was asked of a device is done.

    Args:
        device: The LM's.
        cpu_time: The process's alone.

    Attributes:
        spent: Seconds in functions that are `timed`.
    """

    def __init__(self, device: str, cpu_time: bool = False) -> None:
        self.is_cuda = device == "cuda"
        self.clock = time.process_time if cpu_time else time.perf_counter
        self.spent = 0.0

    def now(self) -> float:
        """Seconds."""
        if self.is_cuda:
            torch.cuda.synchronize()
        return self.clock()

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


def set_way(pooling: SpeechPooling, way: Way, layer: int, clock: Clock) -> None:
    """Pool as a decoder does, with a clock around the deep place."""
    conf: dict[str, Any] = {}
    if way.at_input < 1:
        conf["input"] = {"tau": INPUT_TAU, "window": INPUT_WINDOW}
    if way.deep < 1:
        conf["deep"] = {"tau": DEEP_TAU, "window": DEEP_WINDOW, "layer": layer}
    pooling.set(conf)
    after_layer = pooling.backbone.after_layer
    after_layer.update({index: clock.timed(function) for index, function in after_layer.items()})


@torch.no_grad()
def read(pooling: SpeechPooling, prompt: Prompt, clock: Clock) -> tuple[Spent, torch.Tensor]:
    """Read a prompt as decoding does; the time, and the first token's logits (1, V)."""
    backbone, device = pooling.backbone, prompt.speech.device
    lens = [torch.tensor([part.size(1)], device=device) for part in prompt]
    causal_mask.cache_clear()
    clock.spent, start = 0.0, clock.now()
    speech, lens[1] = clock.timed(pooling.pool_input)(prompt.speech, lens[1])
    parts = zip((prompt.before, speech, prompt.behind), lens, (False, True, False), strict=True)
    packed, cache = pack(list(parts)), backbone.new_cache()
    positions = torch.arange(packed.embeddings.size(1), device=device).unsqueeze(0)
    stream: Stream = backbone(packed.embeddings, positions, packed.lens, packed.speech, cache)
    cache.seal()
    logits = backbone.logits(stream.hidden[:, int(stream.lens) - 1])
    logits.argmax(-1).tolist()
    return Spent(clock.now() - start, clock.spent), logits


def check_retention(pooling: SpeechPooling, way: Way, num_tokens: int) -> None:
    """End unless the last prompt was pooled as it should be."""
    left = num_tokens, num_tokens
    if found := [int(kept.after) for kept in pooling.kept.values()]:
        left = (found[0] if way.at_input < 1 else num_tokens), found[-1]
    if left != way.lens(num_tokens):
        raise SystemExit(f"Of {num_tokens} tokens {left} are left by {way}, not {way.lens(num_tokens)}.")


def flops_of(backbone: Backbone, num_tokens: int, num_text: int, way: Way, layer: int) -> int:
    """From shapes."""
    first, last = (torch.tensor([each]) for each in way.lens(num_tokens))
    lens = by_layer(len(backbone.layers), first, layer, last)
    return prefill_flops(backbone, torch.tensor([num_text]), *lens).total


def check_count(pooling: SpeechPooling, prompt: Prompt, expected: int, clock: Clock) -> None:
    """Compare with torch's count."""
    # Attention in products that are counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        read(pooling, prompt, clock)
    if abs((counted := counter.get_total_flops()) / expected - 1) > COUNTS_AGREE:
        raise SystemExit(f"torch counts {counted:.4g} FLOPs, and {expected:.4g} are expected from shapes.")


def peak_of(pooling: SpeechPooling, prompt: Prompt, clock: Clock, computes: bool = False) -> int:
    """Most bytes that are alive at once while a prompt is read, beside weights and the prompt."""
    if clock.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        read(pooling, prompt, clock)
        return torch.cuda.max_memory_allocated() - before
    skipping = contextlib.nullcontext() if computes else ZeroProducts()
    with LiveTensors([*pooling.backbone.parameters(), *pooling.backbone.buffers(), *prompt]) as live, skipping:
        read(pooling, prompt, clock)
    return live.peak


@functools.lru_cache(maxsize=1)
def causal_mask(num_positions: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What is added to scores (L, L); as Hugging Face's, made once for layers that read as many positions."""
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
    """Let all LMs take it."""
    AttentionInterface.register(ATTENTION, eager_attention if kind == EAGER else attention)
    try:
        yield
    finally:
        AttentionInterface.register(ATTENTION, attention)


def compare(pooling: SpeechPooling, ways: Sequence[Way], num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table, for so many speech tokens."""
    backbone, clock = pooling.backbone, Clock(args.device, args.cpu_time)
    layer = args.deep_layer or deep_layer_of(backbone)
    prompts, peaks, spent = {}, {}, {way: [] for way in ways}
    for way in ways:
        prompts[way] = make_prompt(num_tokens, args.text, way, backbone.hidden_size, args.device)
        set_way(pooling, way, layer, clock)
        peaks[way] = peak_of(pooling, prompts[way], clock)
        check_retention(pooling, way, num_tokens)
    for repetition in range(args.repeats):
        first = repetition % len(ways)
        for way in (*ways[first:], *ways[:first]):
            set_way(pooling, way, layer, clock)
            spent[way].append(read(pooling, prompts[way], clock)[0])
    flops = {way: flops_of(backbone, num_tokens, args.text, way, layer) for way in ways}
    audio = ", ".join(audio_of(num_tokens, args))
    for way in ways:
        cells = [audio, str(num_tokens), way.place, retention_cell(way), f"{100 * flops[way] / flops[ALONE]:.2f}"]
        pairs = list(zip(spent[ALONE], spent[way], strict=True))
        cells += [spread([1000 * each.first_token for each in spent[way]], 0)]
        cells += [spread([alone.first_token / each.first_token for alone, each in pairs], 2)]
        cells += [f"{peaks[way] / 2**20:.1f}", f"{peaks[ALONE] / peaks[way]:.2f}"]
        cells += [spread([100 * each.pooling / each.first_token for each in spent[way]], 2)]
        yield f"| {' | '.join(cells)} |"


def parts_of(pooling: SpeechPooling, num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table of affinity pooling by itself, for so many speech tokens."""
    clock = Clock(args.device, args.cpu_time)
    set_way(pooling, ALONE, 0, clock)
    way = Way(0.8, 1)
    prompt = make_prompt(num_tokens, args.text, way, pooling.backbone.hidden_size, args.device)
    tokens, lens = prompt.speech, torch.tensor([num_tokens], device=args.device)
    prefill = read(pooling, prompt, clock)[0].first_token
    for window in WINDOWS:
        found: list[list[float]] = []
        for _ in range(args.repeats + 1):
            times = [clock.now()]
            for shift in range(1, min(window, num_tokens - 1) + 1):
                cosines(tokens, shift)
            times.append(clock.now())
            starts = boundaries(tokens, lens, INPUT_TAU, window)
            times.append(clock.now())
            merge(tokens, lens, starts)
            times.append(clock.now())
            found.append([after - before for before, after in zip(times, times[1:], strict=False)])
        by_part = list(zip(*found[1:], strict=True))
        cells = [spread([1000 * each for each in part], 2) for part in by_part]
        whole = statistics.median(by_part[1]) + statistics.median(by_part[2])
        yield f"| {num_tokens} | {window} | {' | '.join(cells)} | {100 * whole / prefill:.2f} |"


def deep_layer_of(backbone: Backbone) -> int:
    """How many layers read all speech: as deep as the paper's."""
    return max(1, min(round(DEEP_SHARE * len(backbone.layers)), len(backbone.layers) - 1))


def retention_cell(way: Way) -> str:
    """By place, and of both."""
    return f"{way.at_input:g} x {way.deep:g} = {way.at_input * way.deep:.3g}"


def audio_of(num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Seconds and rates that give so many tokens."""
    for rate, seconds in itertools.product(args.tokens_per_s, args.seconds):
        if int(rate * seconds) == num_tokens:
            yield f"{seconds:g} ({rate:g}/s)"


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range; of none `-`."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def get_parser() -> argparse.ArgumentParser:
    """Options of this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="SmolLM2-360M", choices=SHAPES, help="of the LM (SmolLM2-360M)")
    parser.add_argument("--llm_config", type=read_json, help="a config.json instead")
    parser.add_argument("--attention", nargs="+", default=list(ATTENTIONS), choices=ATTENTIONS)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 15, 30, 60], help="of audio (5 15 30 60)")
    parser.add_argument("--tokens_per_s", type=float, nargs="+", default=[12.5, 25], help="of speech (12.5 25)")
    retention = "share of the tokens left, over 0 to 1, a number a way; 1 for no pooling there ({})"
    parser.add_argument(
        "--input_retention", type=float, nargs="+", default=[1, 0.8, 0.8, 0.6, 0.6], help=retention.format("1 .8 .8 ..")
    )
    parser.add_argument(
        "--deep_retention",
        type=float,
        nargs="+",
        default=[0.25, 1, 0.19, 1, 0.25],
        help=retention.format(".25 1 .19 ..") + "; of what the input leaves",
    )
    parser.add_argument("--deep_layer", type=int, help="so many layers read all speech (29 of 32)")
    parser.add_argument("--text", type=int, default=10, help="other positions of a prompt (10)")
    parser.add_argument("--repeats", type=int, default=3, help="of each way (3); 0 for no times")
    parser.add_argument("--cpu_time", action="store_true", help="the process's alone, for a busy machine and 1 thread")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    return parser


def ways_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Way]:
    """No pooling first."""
    given = args.input_retention, args.deep_retention
    if len(given[0]) != len(given[1]):
        parser.error(f"--input_retention has {len(given[0])} numbers, --deep_retention {len(given[1])}; give pairs.")
    if wrong := [each for each in (*given[0], *given[1]) if not 0 < each <= 1]:
        parser.error(f"a retention is {wrong[0]}; allowed: over 0, up to 1.")
    return [ALONE, *(Way(*pair) for pair in zip(*given, strict=True) if pair != ALONE)]


def main(cmd: list[str] | None = None) -> None:
    """Print the tables."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    ways = ways_of(parser, args)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    backbone = Backbone.from_config(args.llm_config or SHAPES[args.shape], args.dtype).eval().requires_grad_(False)
    pooling, clock = SpeechPooling(backbone.to(args.device)), Clock(args.device)
    layer = args.deep_layer or deep_layer_of(backbone)
    # Durations with as many tokens at another rate are one.
    sizes = sorted({int(rate * seconds) for rate in args.tokens_per_s for seconds in args.seconds})
    for way in ways:
        set_way(pooling, way, layer, clock)
        prompt = make_prompt(sizes[0], args.text, way, backbone.hidden_size, args.device)
        check_count(pooling, prompt, flops_of(backbone, sizes[0], args.text, way, layer), clock)
    if args.device == "cpu":
        # As a recogniser does.
        pack_linear_layers(backbone.model)
    read(pooling, prompt, clock)
    command = " ".join(["tools/bench/pooling.py", *(sys.argv[1:] if cmd is None else cmd)])
    print(f"`{command}`; torch {torch.__version__}, {args.device}, {args.dtype}, {args.threads} threads; deep pooling")
    print(f"behind layer {layer} of {len(backbone.layers)}; torch's count of FLOPs agrees\n")
    for kind in args.attention:
        print(
            f"{kind} attention:\n\n| s of audio | speech tokens | pooled | retention (input x deep) | FLOPs % | "
            "first token ms (range) | times faster (range) | peak MiB | times less | pooling's own % (range) |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        with attention_of(kind):
            for size in sizes:
                for row in compare(pooling, ways, size, args):
                    print(row, flush=True)
        print()
    print(
        "affinity pooling alone:\n\n| speech tokens | window | cosines ms | boundaries, cosines included, ms | merge ms | % of the prompt |"
    )
    print("|---|---|---|---|---|---|")
    for size in sizes if args.repeats else ():
        for row in parts_of(pooling, size, args):
            print(row, flush=True)


if __name__ == "__main__":
    main()
