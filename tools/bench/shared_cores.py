#!/usr/bin/env python3
"""Training beside another busy process: threads that wait by spinning, and threads that soon sleep.

Trains a looped encoder, conf/tiny's or conf/mini's, on random features for some seconds, in a process of its own:
with OpenMP as it is (threads spin) and as our programs set it in turn, alone and beside processes that compute without
end. Prints steps a minute and the median of the pairs' ratios. Three minutes a configuration at the default, on a quiet
machine.

    python tools/bench/shared_cores.py
    python tools/bench/shared_cores.py --config conf/mini/train_larm.yaml --busy 2 --repeats 5 --seconds 10
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benching import new_parser, print_header, ratios, spread

from espnet_larm.process import SPIN_COUNT

ROOT = Path(__file__).parents[2]
NUM_FEATURES, VOCAB_SIZE, NUM_TOKENS, NUM_FRAMES = 80, 30, 10, 200
ENDLESS = "while True:\n    pass\n"


def train(args: argparse.Namespace) -> None:
    """Print how many training steps a minute this process does."""
    import torch
    import yaml

    from espnet2.asr.ctc import CTC

    from espnet_larm.looped.encoder import LarmEncoder

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    options = yaml.safe_load((ROOT / args.config).read_text(encoding="utf-8"))["encoder_conf"]
    encoder = LarmEncoder(NUM_FEATURES, **options)
    ctc = CTC(VOCAB_SIZE, encoder.output_size())
    if encoder.interctc_use_conditioning:
        encoder.conditioning_layer = torch.nn.Linear(VOCAB_SIZE, encoder.output_size())
    parameters = [*encoder.parameters(), *ctc.parameters()]
    optimizer = torch.optim.Adam(parameters)
    features, lens = torch.randn(args.batch, NUM_FRAMES, NUM_FEATURES), torch.full((args.batch,), NUM_FRAMES)
    tokens, tokens_lens = torch.randint(1, VOCAB_SIZE, (args.batch, NUM_TOKENS)), torch.full((args.batch,), NUM_TOKENS)

    def step() -> None:
        result, hlens, _ = encoder(features, lens, ctc=ctc)
        outputs = [result] if torch.is_tensor(result) else [result[0], *(output for _, output in result[1])]
        sum(ctc(output, hlens, tokens, tokens_lens) for output in outputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    num_steps, begin = 0, time.perf_counter()
    # A step that was begun is finished: with few of them their number alone would be coarse.
    while (passed := time.perf_counter() - begin) < args.seconds:
        step()
        num_steps += 1
    print(60 * num_steps / passed)


def steps_a_minute(way: str) -> float:
    """Steps a minute of a new process with OpenMP as it is (`unset`) or as we set it (`ours`)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment.pop(name, None)
    if way == "ours":
        environment |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": SPIN_COUNT}
    command = [sys.executable, __file__, "--as_worker", *sys.argv[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the training ({way}) failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """Processes that compute without end while this is entered."""
    processes = [subprocess.Popen([sys.executable, "-c", ENDLESS]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def compare(num_busy: int, args: argparse.Namespace) -> None:
    """Print the row of trainings beside that many busy processes."""
    with busy(num_busy):
        pairs = [(steps_a_minute("unset"), steps_a_minute("ours")) for _ in range(args.repeats)]
    spinning, asleep = map(list, zip(*pairs, strict=True))
    cells = (str(num_busy or "none"), spread(spinning, 0), spread(asleep, 0), spread(ratios(asleep, spinning)))
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Parse the options and print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("--config", default="conf/tiny/train_larm.yaml", help="training YAML with encoder: larm")
    parser.add_argument("--threads", type=int, default=2, help="OpenMP threads of the training (2)")
    parser.add_argument("--busy", type=int, default=1, help="processes that compute beside it (1)")
    parser.add_argument("--batch", type=int, default=4, help="utterances of 2 s in a batch (4)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each training (8)")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of trainings (3)")
    parser.add_argument("--as_worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_worker:
        train(args)
        return
    load = os.getloadavg()[0]
    print(" ".join(sys.argv), f"| {os.cpu_count()} cores, load before {load:.1f}")
    print_header("busy processes", "steps a minute, unset", "ours", "ratio (range)")
    for number in (0, args.busy):
        compare(number, args)


if __name__ == "__main__":
    main()
