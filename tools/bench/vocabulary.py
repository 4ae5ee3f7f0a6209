#!/usr/bin/env python3
"""What an LM's vocabulary costs: the head's part of a decoding step, and of a training step's memory.

Random speech and texts, a frozen LM. Times are medians; a search's choice is log-softmax and argmax, and for a beam the
8 best of each row. Memory is the peak of a forked process above what it held before: the loss of texts and its gradient
at their hidden states, with the logits of all tokens at once or in chunks (llm/chunks.py).

    python tools/bench/vocabulary.py --llm ~/.cache/speech-models/gemma-3-270m
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from unittest import mock

import torch
from benching import add_machine, new_parser, now, print_header, resident_mib
from torch.nn import functional

from espnet_larm.llm import chunks
from espnet_larm.llm.backbone import DTYPES, num_rows_of
from espnet_larm.llm.packed_linear import pack_linear_layers, unpack_linear_layers
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

ENCODER_SIZE, NUM_FRAMES = 384, 200
ROWS, BEST, NUM_HEADS = (1, 4, 16), 8, 4
TOKENS = (120, 240, 480)


def median_ms(timed: Callable[[], object], repeats: int, device: str) -> float:
    """Median time of a call, after one that does not count."""
    found = []
    for _ in range(repeats + 1):
        start = now(device)
        timed()
        found.append(now(device) - start)
    return 1000 * statistics.median(found[1:])


def speech(rows: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of utterances, and their lengths."""
    return torch.randn(rows, NUM_FRAMES, ENCODER_SIZE, device=device), torch.full((rows,), NUM_FRAMES, device=device)


@torch.no_grad()
def time_steps(decoder: SpeechLlmDecoder, repeats: int, device: str) -> None:
    """Print the times of a step's parts for numbers of rows."""
    print_header(
        "rows", "layers, ms", "head, ms", "choice, ms", "8 best, ms", f"{NUM_HEADS - 1} drafts, ms", "head, share"
    )
    for rows in ROWS:
        texts = decoder.start(*speech(rows, device))
        tokens, num_new = torch.full((rows, 1), 5, device=device), torch.ones(rows, dtype=torch.long)
        layers = median_ms(lambda: texts.read(tokens, num_new), repeats, device)  # noqa: B023
        logits = texts.logits
        head = median_ms(lambda: texts.logits, repeats, device)  # noqa: B023
        choice = median_ms(lambda: logits.log_softmax(-1).argmax(-1), repeats, device)  # noqa: B023
        best = median_ms(lambda: logits.topk(BEST), repeats, device)  # noqa: B023
        drafts = median_ms(lambda: decoder.draft_logits(texts.hidden, NUM_HEADS), repeats, device)  # noqa: B023
        share = (head + choice) / (layers + head + choice)
        print(
            f"| {rows} | {layers:.1f} | {head:.1f} | {choice:.1f} | {best:.1f} | {drafts:.1f} | {share:.0%} |",
            flush=True,
        )


def step(decoder: SpeechLlmDecoder, num_tokens: int, device: str) -> None:
    """The loss of tokens, and its gradient at the states that predict them."""
    states = torch.randn(num_tokens, decoder.backbone.hidden_size, device=device, dtype=decoder.backbone.dtype)
    tokens = torch.randint(5, decoder.backbone.vocab_size, (num_tokens,), device=device)

    def losses(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor]:
        return (functional.cross_entropy(decoder.logits_of(1, states), tokens, reduction="none"),)

    (found,) = chunks.by_chunks(losses, decoder.backbone.vocab_size, states.requires_grad_(), tokens)
    found.sum().backward()


def measure(decoder: SpeechLlmDecoder, num_tokens: int, at_once: float, device: str) -> tuple[float, float]:
    """MiB that a loss takes, and its seconds."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    else:
        before = resident_mib("VmRSS")
    start = now(device)
    with mock.patch.object(chunks, "LOGITS_AT_ONCE", at_once):
        step(decoder, num_tokens, device)
    seconds = now(device) - start
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident_mib("VmHWM")
    return peak - before, seconds


def in_fork(*given: object) -> tuple[float, float]:
    """The same in a process of its own, whose peak begins anew."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(measure, given)


def print_memory(decoder: SpeechLlmDecoder, device: str) -> None:
    """Print memory and time of losses."""
    print_header("tokens", "logits at once", "MiB", "s")
    for num_tokens in TOKENS:
        for name, at_once in (("all", 2**40), ("chunks", chunks.LOGITS_AT_ONCE)):
            found = (measure if device == "cuda" else in_fork)(decoder, num_tokens, at_once, device)
            print(f"| {num_tokens} | {name} | {found[0]:.0f} | {found[1]:.1f} |", flush=True)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    parser.add_argument("--llm", required=True, help="folder or hub id of the LM")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="type of the LM's weights (float32)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each call (5)")
    add_machine(parser, threads=1)
    return parser


def main() -> None:
    """Print the tables."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    options = {"llm": args.llm, "dtype": args.dtype, "num_heads": NUM_HEADS}
    decoder = SpeechLlmDecoder(num_rows_of(args.llm), ENCODER_SIZE, **options).to(args.device).eval()
    print(f"{args.dtype}, {args.device}, {args.threads} threads, torch {torch.__version__}")
    print_memory(decoder, args.device)
    if args.device == "cpu" and args.dtype == "float32":
        pack_linear_layers(decoder)
        time_steps(decoder, args.repeats, args.device)
        unpack_linear_layers(decoder)
    else:
        time_steps(decoder, args.repeats, args.device)


if __name__ == "__main__":
    main()
