#!/usr/bin/env python3
"""Cost of a call of a 30 M LM on a CPU, by rows and by positions that each row reads, and cost of its layers.

Random weights, 85 prompt positions, texts that grow with each call; milliseconds, medians; with weights laid out for
oneDNN (llm/packed_linear.py) and with torch's own linear layers. Of each shape there are as many layers as
do not fit into the processor's cache.

    python tools/bench/llm_calls.py
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from benching import new_parser, now, print_header
from decoding_inputs import random_inputs

from espnet_larm.llm.packed_linear import pack_linear_layers, unpack_linear_layers
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

# Output and input sizes: those of the 30 M LM (key, query, feed-forward, head), and larger and smaller ones.
LAYERS = ((192, 192), (512, 192), (256, 512), (512, 512), (1408, 512), (2048, 2048), (8000, 512))
WEIGHTS_OF_A_SHAPE = 30e6
POSITIONS = (1, 2, 4, 8, 16, 32)


def median_ms(timed: Callable[[], object], repeats: int) -> float:
    """Median time of a call."""
    found = []
    for _ in range(repeats):
        start = now("cpu")
        timed()
        found.append(now("cpu") - start)
    return 1000 * statistics.median(found)


def time_layers(repeats: int) -> None:
    """Print ratios of the times of torch's own layers to those laid out."""
    print_header("layer", *(f"{number} positions" for number in POSITIONS))
    for rows, columns in LAYERS:
        number = max(3, int(WEIGHTS_OF_A_SHAPE / (rows * columns)))
        plain = torch.nn.ModuleList(torch.nn.Linear(columns, rows, bias=False) for _ in range(number))
        packed = copy.deepcopy(plain)
        pack_linear_layers(packed, least_weights=1)
        ratios = []
        for positions in POSITIONS:
            given = torch.randn(positions, columns)
            both = [median_ms(lambda: [one(given) for one in each], repeats) for each in (plain, packed)]  # noqa: B023
            ratios.append(f"{both[0] / both[1]:.2f}")
        print(f"| {rows} x {columns} | {' | '.join(ratios)} |")


def time_calls(decoder: SpeechLlmDecoder, hs_pad: torch.Tensor, hlens: torch.Tensor, repeats: int) -> None:
    """Print times of reading positions, of their logits, and of drafting the next tokens."""
    for rows in (1, 16):
        for positions in (1, 4, 8):
            texts = decoder.start(hs_pad[:rows], hlens[:rows])
            tokens, num_new = torch.full((rows, positions), 5), torch.full((rows,), positions)

            def read() -> torch.Tensor:
                return texts.read(tokens, num_new)  # noqa: B023

            hidden = read()
            costs = (
                median_ms(read, repeats),
                median_ms(lambda: decoder.backbone.logits(hidden).log_softmax(-1), repeats),  # noqa: B023
                median_ms(lambda: decoder.draft_logits(hidden[:, 0], 8).argmax(-1), repeats),  # noqa: B023
            )
            print(f"| {rows} | {positions} | {' | '.join(f'{cost:.1f}' for cost in costs)} |")


@torch.no_grad()
def main() -> None:
    """Print both tables for each number of threads."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="numbers of CPU threads, a table each (1 2)"
    )
    parser.add_argument("--repeats", type=int, default=9, help="repetitions of each call (9)")
    args = parser.parse_args()
    options = {"device": "cpu", "utterances": 16, "tokens": 50, "batch_seconds": 160.0}
    inputs = random_inputs(argparse.Namespace(**options, drafts=True, tokens_per_call=[8]))
    for threads in args.threads:
        torch.set_num_threads(threads)
        print(f"{threads} threads, torch {torch.__version__}: torch's own layers / laid out")
        time_layers(args.repeats)
        for name, change in (("laid out", pack_linear_layers), ("torch's own", unpack_linear_layers)):
            change(inputs.decoder)
            print(f"weights {name}")
            print_header("rows", "positions a row", "read, ms", "logits, ms", "7 drafts, ms")
            time_calls(inputs.decoder, inputs.batches[0].hs_pad, inputs.batches[0].hlens, args.repeats)


if __name__ == "__main__":
    main()
