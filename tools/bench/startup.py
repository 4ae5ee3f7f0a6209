#!/usr/bin/env python3
"""How long programs take to start: ours beside ESPnet's of the same name, and those that need no ESPnet.

Both of a pair run in turn (A B A B ...), each in a process of its own, after one of each that is not counted; a ratio
is the median of the pairs' ratios. A minute and a half a pair of programs on a quiet machine.

    python tools/bench/startup.py
    python tools/bench/startup.py --repeats 9 --programs asr_train
    python tools/bench/startup.py --cpu_time        on a machine that others use, too
"""

import importlib.metadata
import resource
import subprocess
import sys
import time
from pathlib import Path

from benching import new_parser, print_header, ratios, spread

from espnet_larm.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
LAUNCHER = ["-m", "espnet_larm"]
QUICK = {
    "import espnet_larm": ["-c", "import espnet_larm"],
    "espnet_larm --help": [*LAUNCHER, "--help"],
    "espnet_larm list --help": [*LAUNCHER, "list", "--help"],
    "espnet_larm doctor --help": [*LAUNCHER, "doctor", "--help"],
}
WITH_ESPNETS_PARSER = ("asr_train", "asr_inference")


def seconds(words: list[str], cpu_time: bool) -> float:
    """Wall time or processor time of Python with these arguments."""
    begin = clock(cpu_time)
    # ESPnet 202611's own `asr_inference --help` fails when it has imported everything and built its parser.
    subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=False)
    return clock(cpu_time) - begin


def clock(cpu_time: bool) -> float:
    """Now; or the processor time of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime if cpu_time else time.perf_counter()


def compare(program: str, repeats: int, cpu_time: bool) -> None:
    """Print the row of a program that ESPnet has, too."""
    theirs = ["-m", f"espnet2.bin.{program}", "--help"]
    ours = [*LAUNCHER, *theirs]
    seconds(ours, cpu_time), seconds(theirs, cpu_time)
    pairs = [(seconds(ours, cpu_time), seconds(theirs, cpu_time)) for _ in range(repeats)]
    mine, espnets = map(list, zip(*pairs, strict=True))
    print(f"| {program} | {spread(mine)} | {spread(espnets)} | {spread(ratios(mine, espnets), 3)} |", flush=True)


def main() -> None:
    """Parse the options and print both tables."""
    parser = new_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="pairs, and starts of each quick program (5)")
    parser.add_argument(
        "--programs",
        nargs="*",
        default=WITH_ESPNETS_PARSER,
        help="ESPnet's programs to compare with (asr_train asr_inference)",
    )
    parser.add_argument("--cpu_time", action="store_true", help="processor time instead of wall time")
    parser.add_argument("--no_quick", action="store_true", help="leave out the programs that need no ESPnet")
    args = parser.parse_args()
    print(" ".join(sys.argv), f"| espnet {importlib.metadata.version('espnet')}, Python {sys.version.split()[0]}")
    if args.programs:
        print_header("--help of", "ours, s (range)", "ESPnet's, s (range)", "ratio (range)")
    for program in args.programs:
        compare(program, args.repeats, args.cpu_time)
    if args.no_quick:
        return
    print_header("start of", "s (range)")
    others = [
        name for name in COMMANDS if COMMANDS[name].module not in ("espnet_larm.cli.decode", "espnet_larm.cli.train")
    ]
    for name, words in {
        **QUICK,
        **{f"{each} --help": ["-m", "espnet_larm", each, "--help"] for each in others},
    }.items():
        seconds(words, args.cpu_time)
        print(f"| {name} | {spread([seconds(words, args.cpu_time) for _ in range(args.repeats)])} |", flush=True)


if __name__ == "__main__":
    main()
