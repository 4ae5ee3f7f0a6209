#!/usr/bin/env python3
"""Cost of added layers: time of a prompt and of a token beside the LM alone, and beside the ratio of FLOPs.

An LM of random weights reads prompts with speech in them, then texts, a token a row and call. Alone, with `standard`
and with `e_branchformer` layers it takes turns in each repetition; ratios are those of a repetition's times, so that
what else runs on the machine meets all three. FLOPs are those of products and convolutions, from shapes; torch's count
of them must agree. Attention counts all positions, also those that it may not see.

    python tools/bench/upscaling.py
    python tools/bench/upscaling.py --shape SmolLM2-360M --device cuda --dtype bfloat16
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from benching import (
    NOVELS_3M,
    SMOLLM2_360M,
    add_cpu_time,
    add_llm_shape,
    add_machine,
    add_repeats,
    new_parser,
    now,
    print_header,
    ratios,
    spread,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from espnet_larm.adaptation.depth_upscaling import LAYERS, PLACEMENTS, drop, put_back, wrap
from espnet_larm.calibrate.flops import by_layer, prefill_flops
from espnet_larm.llm.backbone import DTYPES, Backbone
from espnet_larm.llm.packed_linear import pack_linear_layers

SHAPES: dict[str, dict[str, Any]] = {
    "novels-3M": NOVELS_3M,
    "SmolLM2-135M": SMOLLM2_360M
    | {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "SmolLM2-360M": SMOLLM2_360M,
}
ALONE = "alone"
WAYS = (ALONE, *LAYERS)
# Torch also counts the angles of rotary embeddings.
COUNTS_AGREE = 0.01


class Load(NamedTuple):
    """A prompt and the tokens behind it.

    Attributes:
        rows: Utterances in a batch.
        speech: Positions of speech, in the middle of the prompt.
        text: Other positions of the prompt.
        tokens: Tokens that follow, each by a call.
    """

    rows: int
    speech: int
    text: int
    tokens: int

    @property
    def prompt(self) -> int:
        """Positions of a prompt."""
        return self.speech + self.text


class Spent(NamedTuple):
    """Seconds, or FLOPs, of a prompt and of a token, for all rows."""

    prompt: float
    token: float


def build(config: dict[str, Any], args: argparse.Namespace) -> tuple[Backbone, dict[str, torch.nn.ModuleDict]]:
    """An LM, and the layers that are added to it, by way."""
    torch.manual_seed(0)
    backbone = Backbone.from_config(config, args.dtype).eval().requires_grad_(False).to(args.device)
    added = {ALONE: torch.nn.ModuleDict()}
    for layer in LAYERS:
        wrap(backbone, {"layer": layer, "placement": args.placement, "num_layers": args.layers})
        added[layer] = drop(backbone)
    return backbone, added


@torch.no_grad()
def read(backbone: Backbone, load: Load, clock: Callable[[], float] = time.perf_counter) -> Spent:
    """Time a batch."""
    device = next(backbone.parameters()).device
    embeddings = torch.randn(load.rows, load.prompt, backbone.hidden_size, device=device)
    speech = torch.zeros(load.rows, load.prompt, dtype=torch.bool, device=device)
    speech[:, load.text // 2 : load.text // 2 + load.speech] = True
    positions = torch.arange(load.prompt + load.tokens, device=device).expand(load.rows, -1)
    lens, ones = torch.full((load.rows,), load.prompt), torch.ones(load.rows, dtype=torch.long)
    start, cache = now(device, clock), backbone.new_cache()
    hidden = backbone(embeddings, positions[:, : load.prompt], lens.to(device), speech, cache).hidden
    tokens = backbone.logits(hidden[:, -1:]).argmax(-1)
    cache.seal()
    middle = now(device, clock)
    for place in range(load.prompt, load.prompt + load.tokens):
        hidden = backbone(backbone.embed(tokens), positions[:, place : place + 1], ones, cache=cache).hidden
        tokens = backbone.logits(hidden).argmax(-1)
    return Spent(middle - start, (now(device, clock) - middle) / load.tokens)


def flops_of(backbone: Backbone, load: Load) -> Spent:
    """FLOPs from shapes."""
    config, size = backbone.config, backbone.hidden_size
    speech = torch.full((load.rows,), load.speech)
    prompt = prefill_flops(backbone, load.prompt - speech, *by_layer(len(backbone.layers), speech)).total
    head_size = getattr(config, "head_dim", None) or size // config.num_attention_heads
    heads = config.num_attention_heads * head_size
    weights = 2 * size * (heads + config.num_key_value_heads * head_size) + 3 * size * config.intermediate_size
    # Of the tokens, the middle one reads the mean number of keys; branches for speech are not run.
    keys = load.prompt + (load.tokens + 1) / 2
    layers = (2 * weights + 4 * keys * heads) * (len(backbone.layers) + len(backbone.added))
    return Spent(prompt, load.rows * (2 * size * backbone.vocab_size + layers))


def check_count(backbone: Backbone, load: Load) -> None:
    """Compare with torch's count of a batch."""
    expected = flops_of(backbone, load)
    # Attention in products that are counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        read(backbone, load)
    counted, shapes = counter.get_total_flops(), expected.prompt + load.tokens * expected.token
    if abs(counted / shapes - 1) > COUNTS_AGREE:
        raise SystemExit(f"torch counts {counted:.4g} FLOPs, and {shapes:.4g} are expected from shapes.")


def compare(config: dict[str, Any], loads: Sequence[Load], args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table."""
    backbone, added = build(config, args)
    flops: dict[tuple[str, Load], Spent] = {}
    for way, layers in added.items():
        put_back(backbone, layers)
        for load in loads:
            flops[way, load] = flops_of(backbone, load)
        check_count(backbone, loads[0])
    if args.device == "cpu":
        # As a recogniser does.
        for module in (backbone.model, *added.values()):
            pack_linear_layers(module)
    for load in loads:
        found: dict[str, list[Spent]] = {way: [] for way in WAYS}
        for repetition in range(args.repeats + 1):
            for way in (*WAYS[repetition % 3 :], *WAYS[: repetition % 3]):
                put_back(backbone, added[way])
                spent = read(backbone, load, time.process_time if args.cpu_time else time.perf_counter)
                # The first one lays weights out and finds its kernels.
                if repetition:
                    found[way].append(spent)
        for field in Spent._fields:
            yield from rows_of(field, load, found, {way: getattr(flops[way, load], field) for way in WAYS})


def rows_of(field: str, load: Load, found: dict[str, list[Spent]], flops: dict[str, float]) -> Iterator[str]:
    """Rows of a prompt, or of a token."""
    times = {way: [getattr(spent, field) for spent in spents] for way, spents in found.items()}
    for way in WAYS:
        cells = [field, str(load.rows), way, spread([1000 * each for each in times[way]], 1)]
        if way != ALONE:
            found_ratios = ratios(times[way], times[ALONE])
            ratio = flops[way] / flops[ALONE]
            cells += [spread(found_ratios), f"{ratio:.2f}", f"{statistics.median(found_ratios) / ratio:.2f}"]
        yield f"| {' | '.join([*cells, *[''] * (7 - len(cells))])} |"


def get_parser() -> argparse.ArgumentParser:
    """Options of this script."""
    parser = new_parser(__doc__)
    add_llm_shape(parser, list(SHAPES), "SmolLM2-135M")
    add_repeats(parser, 9)
    add_cpu_time(parser)
    add_machine(parser)
    parser.add_argument("--layers", type=int, help="number of added layers (a quarter of the LM's)")
    parser.add_argument(
        "--placement", default=PLACEMENTS[0], choices=PLACEMENTS, help="placement of added layers (the first)"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="utterances in a batch (1 8)")
    parser.add_argument("--speech", type=int, default=90, help="positions of speech in a prompt (90, which are 15 s)")
    parser.add_argument("--text", type=int, default=10, help="other positions of a prompt (10)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens that follow the prompt (16)")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="dtype of the LM; added layers are float32 (float32)"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Print the table."""
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(args.threads)
    command = " ".join(["tools/bench/upscaling.py", *(sys.argv[1:] if cmd is None else cmd)])
    print(f"`{command}`; torch {torch.__version__}, {args.device}, {args.threads} threads\n")
    print_header(
        "", *["rows", "layers added", "ms (range)", "times alone (range)", "FLOPs times alone", "time / FLOPs"]
    )
    loads = [Load(rows, args.speech, args.text, args.tokens) for rows in args.rows]
    for row in compare(args.llm_config or SHAPES[args.shape], loads, args):
        print(row, flush=True)


if __name__ == "__main__":
    main()
