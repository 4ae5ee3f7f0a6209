#!/usr/bin/env python3
"""A training step by word errors (MWER) beside one by cross-entropy: seconds by turns on the same batches.

Forward and backward pass of the same weights in the same process; reading, features' files and the optimiser are left
out. Ratios are medians of the ratios within a batch.

    cd egs/an4 && python ../../tools/bench/mwer_step.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --batch_size 4
"""

import argparse
import dataclasses
import logging
import statistics
from typing import Any

import torch
from benching import add_llm, add_machine, add_model, new_parser, now, ratios, spread

from espnet_larm.recognize.model.loading import load_model
from espnet_larm.train.task import LarmASRTask

# The first ones lay out memory.
NUM_WARM = 2
# Batches between two that are taken: the training set is read in order, speaker by speaker.
STRIDE = 7


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser, "mwer_weight")
    add_llm(parser)
    add_machine(parser, threads=1)
    parser.add_argument("--batch_size", type=int, default=4, help="utterances in a batch (4)")
    parser.add_argument("--steps", type=int, default=12, help="batches that count (12)")
    return parser


def step(model: Any, weight: float, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Seconds of a step, and of its parts as the model counts them."""
    model.mwer = dataclasses.replace(model.mwer, weight=weight, in_validation=True)
    model.zero_grad()
    start = now(device := next(model.parameters()).device)
    loss, stats, _ = model(**batch)
    loss.backward()
    seconds = {"step": now(device) - start}
    return seconds | {name: float(value) for name, value in stats.items() if name.endswith("_time")}


def main() -> None:
    """Measure and print."""
    args = get_parser().parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model, conf = load_model(args.asr_train_config, args.asr_model_file, args.device, torch.float32, args.llm)
    model.train()
    batches = LarmASRTask.build_streaming_iterator(
        conf.train_data_path_and_name_and_type,
        preprocess_fn=LarmASRTask.build_preprocess_fn(conf, True),
        collate_fn=LarmASRTask.build_collate_fn(conf, True),
        batch_size=args.batch_size,
        num_workers=0,
        dtype="float32",
    )
    found: list[tuple[dict[str, float], dict[str, float]]] = []
    for number, (_, batch) in enumerate(batches):
        if number % STRIDE:
            continue
        moved = {name: each.to(args.device) for name, each in batch.items()}
        found.append((step(model, 0.0, moved), step(model, 1.0, moved)))
        if len(found) == NUM_WARM + args.steps:
            break
    counted = found[NUM_WARM:]
    for name, place in (("cross-entropy", 0), ("MWER", 1)):
        parts = counted[0][place]
        medians = {part: statistics.median(each[place][part] for each in counted) for part in parts}
        print(f"{name}: " + ", ".join(f"{part} {seconds:.3f} s" for part, seconds in medians.items()))
    steps = [[each[place]["step"] for each in counted] for place in (1, 0)]
    print(f"MWER / cross-entropy: {spread(ratios(*steps))}, {len(counted)} batches of {args.batch_size}")


if __name__ == "__main__":
    main()
