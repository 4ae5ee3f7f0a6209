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
Eager attention is Hugging Face's, whose scores are there as a whole; `sdpa` is what decoding takes. The eager one here
knows no windows, and is left out for LMs that have some.
`--flops_only` counts from shapes, of which no weights are made, and reads no prompt.

    python tools/bench/pooling.py
    python tools/bench/pooling.py --shape novels-3M --seconds 5 --input_retention 0.8 --deep_retention 0.19
    python tools/bench/pooling.py --repeats 0                                     FLOPs and memory alone, in minutes
    python tools/bench/pooling.py --flops_only --shape Gemma-3-270M --tokens_per_s 25 50 --seconds 10 30 60 120
    python tools/bench/pooling.py --device cuda --dtype bfloat16 --repeats 9
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from benching import (
    GEMMA_3_270M,
    NOVELS_3M,
    SMOLLM2_360M,
    add_cpu_time,
    add_llm_shape,
    add_machine,
    new_parser,
    print_header,
    spread,
)
from pooling_prompts import (
    ALONE,
    ATTENTIONS,
    INPUT_TAU,
    SDPA,
    WINDOWS,
    Clock,
    Way,
    attention_of,
    check_count,
    check_retention,
    flops_of,
    make_prompt,
    peak_of,
    pooling_of,
    read,
)

from espnet_larm.llm.backbone import DTYPES, Backbone
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.pooling.affinity import boundaries, cosines, merge
from espnet_larm.pooling.in_llm import SpeechPooling

SHAPES: dict[str, dict[str, Any]] = {
    "novels-3M": NOVELS_3M,
    "SmolLM2-360M": SMOLLM2_360M,
    "Gemma-3-270M": GEMMA_3_270M,
}
# The paper pools behind 29 of 32 layers.
DEEP_SHARE = 29 / 32
# Speech tokens of prompts whose FLOPs torch counts, too.
CHECKED = 50


def compare(backbone: Backbone, ways: Sequence[Way], num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table, for so many speech tokens."""
    clock = Clock(args.device, args.cpu_time)
    layer = deep_layer_of(backbone, args.deep_layer)
    prompts, poolings, peaks, spent = {}, {}, {}, {way: [] for way in ways}
    for way in ways:
        prompts[way] = make_prompt(num_tokens, args.text, way, backbone.hidden_size, args.device)
        poolings[way] = pooling_of(backbone, way, layer)
        peaks[way] = peak_of(backbone, poolings[way], prompts[way], clock)
    for repetition in range(args.repeats):
        first = repetition % len(ways)
        for way in (*ways[first:], *ways[:first]):
            found = read(backbone, poolings[way], prompts[way], clock)
            spent[way].append(found.spent)
            check_retention(found.kept, way, num_tokens)
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


def count(backbone: Backbone, ways: Sequence[Way], num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table of FLOPs alone, for so many speech tokens."""
    layer = deep_layer_of(backbone, args.deep_layer)
    alone = flops_of(backbone, num_tokens, args.text, ALONE, layer)
    for audio, way in itertools.product(audio_of(num_tokens, args), ways):
        flops = flops_of(backbone, num_tokens, args.text, way, layer)
        seconds = float(audio.partition(" ")[0])
        rates = " -> ".join(f"{each / seconds:.3g}" for each in (num_tokens, *way.lens(num_tokens)))
        yield f"| {audio} | {way.place} | {rates} | {flops / 1e9:.1f} | {100 * flops / alone:.2f} |"


def parts_of(backbone: Backbone, num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Rows of the table of affinity pooling by itself, for so many speech tokens."""
    clock = Clock(args.device, args.cpu_time)
    way = Way(0.8, 1)
    prompt = make_prompt(num_tokens, args.text, way, backbone.hidden_size, args.device)
    tokens, lens = prompt.speech, torch.tensor([num_tokens], device=args.device)
    prefill = read(backbone, SpeechPooling(), prompt, clock).spent.first_token
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
            found.append([after - before for before, after in itertools.pairwise(times)])
        by_part = list(zip(*found[1:], strict=True))
        cells = [spread([1000 * each for each in part], 2) for part in by_part]
        whole = statistics.median(by_part[1]) + statistics.median(by_part[2])
        yield f"| {num_tokens} | {window} | {' | '.join(cells)} | {100 * whole / prefill:.2f} |"


def deep_layer_of(backbone: Backbone, given: int | None) -> int:
    """Number of layers that read all speech: the given one, or the paper's fraction."""
    most = len(backbone.layers) - 1
    if given is None:
        return max(1, min(round(DEEP_SHARE * len(backbone.layers)), most))
    if not 1 <= given <= most:
        raise SystemExit(f"--deep_layer {given}; allowed: 1 to {most}; the LM's input is pooled by --input_retention.")
    return given


def retention_cell(way: Way) -> str:
    """Retentions of both sites, and their product."""
    return f"{way.at_input:g} x {way.deep:g} = {way.at_input * way.deep:.3g}"


def audio_of(num_tokens: int, args: argparse.Namespace) -> Iterator[str]:
    """Seconds and rates that give so many tokens."""
    for rate, seconds in itertools.product(args.tokens_per_s, args.seconds):
        if int(rate * seconds) == num_tokens:
            yield f"{seconds:g} ({rate:g}/s)"


def get_parser() -> argparse.ArgumentParser:
    """Options of this script."""
    parser = new_parser(__doc__)
    add_llm_shape(parser, list(SHAPES), "SmolLM2-360M")
    add_cpu_time(parser)
    add_machine(parser)
    parser.add_argument("--repeats", type=int, default=3, help="repetitions; 0 leaves times out (3)")
    parser.add_argument(
        "--attention", nargs="+", default=list(ATTENTIONS), choices=ATTENTIONS, help="kinds of attention (both)"
    )
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[5, 15, 30, 60], help="seconds of audio (5 15 30 60)"
    )
    parser.add_argument(
        "--tokens_per_s", type=float, nargs="+", default=[12.5, 25], help="speech tokens of a second (12.5 25)"
    )
    retention = "fractions of tokens to leave, above 0, up to 1, a number a way; 1 for no pooling there ({})"
    parser.add_argument(
        "--input_retention", type=float, nargs="+", default=[1, 0.8, 0.8, 0.6, 0.6], help=retention.format("1 .8 .8 ..")
    )
    parser.add_argument(
        "--deep_retention",
        type=float,
        nargs="+",
        default=[0.25, 1, 0.19, 1, 0.25],
        help=retention.format(".25 1 .19 ..") + "; of the tokens that the input leaves",
    )
    parser.add_argument("--deep_layer", type=int, help="number of layers that read all speech (29 of 32)")
    parser.add_argument("--text", type=int, default=10, help="other positions of a prompt (10)")
    parser.add_argument("--flops_only", action="store_true", help="count FLOPs from shapes, and read no prompt")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="dtype of the LM (float32)")
    return parser


def ways_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Way]:
    """No pooling first."""
    given = args.input_retention, args.deep_retention
    if len(given[0]) != len(given[1]):
        parser.error(f"--input_retention has {len(given[0])} numbers, --deep_retention {len(given[1])}; give pairs.")
    if wrong := [each for each in (*given[0], *given[1]) if not 0 < each <= 1]:
        parser.error(f"a retention is {wrong[0]}; allowed: over 0, up to 1.")
    return [ALONE, *(Way(*pair) for pair in zip(*given, strict=True) if pair != ALONE)]


def print_counts(ways: Sequence[Way], sizes: Sequence[int], args: argparse.Namespace) -> None:
    """Print the table of FLOPs alone."""
    with torch.device("meta"):
        backbone = Backbone.from_config(args.llm_config or SHAPES[args.shape])
    layer = deep_layer_of(backbone, args.deep_layer)
    print(f"{args.shape}, deep pooling behind layer {layer} of {len(backbone.layers)}, {args.text} positions of text\n")
    print_header(
        "s of audio", "pooled", "speech tokens a second: before, at the input, behind the layer", "prefill GFLOPs", "%"
    )
    for size in sizes:
        for row in count(backbone, ways, size, args):
            print(row)


def main(cmd: list[str] | None = None) -> None:
    """Print the tables."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    ways = ways_of(parser, args)
    # Durations with as many tokens at another rate are one.
    sizes = sorted({int(rate * seconds) for rate in args.tokens_per_s for seconds in args.seconds})
    if args.flops_only:
        print_counts(ways, sizes, args)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    backbone = Backbone.from_config(args.llm_config or SHAPES[args.shape], args.dtype).eval().requires_grad_(False)
    backbone, clock = backbone.to(args.device), Clock(args.device)
    layer = deep_layer_of(backbone, args.deep_layer)
    for way in ways:
        pooling = pooling_of(backbone, way, layer)
        prompt = make_prompt(CHECKED, args.text, way, backbone.hidden_size, args.device)
        check_count(backbone, pooling, prompt, flops_of(backbone, CHECKED, args.text, way, layer), clock)
    if args.device == "cpu":
        # As a recogniser does.
        pack_linear_layers(backbone.model)
    read(backbone, pooling, prompt, clock)
    command = " ".join(["tools/bench/pooling.py", *(sys.argv[1:] if cmd is None else cmd)])
    print(f"`{command}`; torch {torch.__version__}, {args.device}, {args.dtype}, {args.threads} threads; deep pooling")
    print(f"behind layer {layer} of {len(backbone.layers)}; torch's count of FLOPs agrees\n", flush=True)
    has_windows = any(kind.window is not None for kind in backbone.kinds)
    for kind in [SDPA] if has_windows else args.attention:
        print(f"{kind} attention:\n")
        print_header(
            *("s of audio", "speech tokens", "pooled", "retention (input x deep)", "FLOPs %", "first token ms (range)"),
            *("times faster (range)", "peak MiB", "times less", "pooling's own % (range)"),
        )
        with attention_of(kind):
            for size in sizes:
                for row in compare(backbone, ways, size, args):
                    print(row, flush=True)
        print()
    if args.repeats:
        print("affinity pooling alone:\n")
        columns = "speech tokens, window, cosines ms, boundaries (cosines included) ms, merge ms, % of the prompt"
        print_header(*columns.split(", "))
        for size in sizes:
            for row in parts_of(backbone, size, args):
                print(row, flush=True)


if __name__ == "__main__":
    main()
