#!/usr/bin/env python3
"""What `espnet-larm plan` foretells beside what a training takes: the memory of its steps, or their number and time.

A row is a configuration; options of plan and of the training that a YAML leaves out follow it after a comma.

Memory: the plan counts steps of two and four utterances and carries them on; then steps of the whole batch are made in
a process of their own, whose peak above what it had before the model is the measure: resident memory on a CPU, torch's
on a GPU.

    python tools/bench/planned.py --case conf/an4/train_larm.yaml,--utterances,16,--vocab_size,30
        --case conf/librispeech/train_larm_100h.yaml,--utterances,6,--vocab_size,500

Time, with --data_dir: the plan is told the hours, the mean length and the tokens a second of these utterances, and
takes its throughput as --measure does; then a training of --steps steps reads them. Seconds are of the CPU, which are
the same beside other work; those of the training hold reading and SpecAugment, but neither validation nor saving.

    python tools/bench/planned.py --data_dir data/an4_train --case conf/an4/train_larm.yaml,--batch_bins,100000
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from benching import add_machine, new_parser, print_header
from memory import peak_seen, reset_peak, seen_now

from espnet_larm.cli.plan import COUNTED, get_parser, training_options, utterances_of
from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recipe.make_tokens import character_tokens

MIB = 2**20
# Utterances of the development set, which is validated once.
NUM_VALID = 4


class Row(NamedTuple):
    """Bytes of a step: planned, counted, and seen by the system."""

    parameters: int
    audio_s: float
    planned: int
    seen: int


class Pace(NamedTuple):
    """Batches of an epoch, and seconds of a step."""

    batches: int
    step_s: float


def prepare(words: list[str], device: str):  # noqa: ANN201  # a model, its options and utterances
    """Build what a case names."""
    from espnet_larm.train.planning.step import build

    ours, others = get_parser().parse_known_args(["--config", *words])
    args = training_options(ours, others)
    trained = build(args, device)
    return args, trained, utterances_of(ours, args, trained.model)._replace(number=ours.utterances)


def plan(words: list[str], device: str, threads: int) -> tuple[int, float, int]:
    """Numbers of parameters, seconds of audio, and the planned peak."""
    from espnet_larm.train.planning.plan import Growth
    from espnet_larm.train.planning.step import count_step

    torch.set_num_threads(threads)
    args, trained, utterances = prepare(words, device)
    count_step(trained, utterances._replace(number=1, seconds=min(1.0, utterances.seconds), text_len=1, ctc_text_len=1))
    steps = [count_step(trained, utterances._replace(number=number), args.accum_grad) for number in COUNTED]
    parameters = sum(each.numel() for each in trained.model.parameters())
    return parameters, utterances.audio_s, Growth(*steps).peak(utterances.number)


def see(words: list[str], device: str, threads: int) -> int:
    """Bytes that steps of the whole batch took, the model included."""
    from espnet_larm.train.planning.step import time_steps

    torch.set_num_threads(threads)
    before = seen_now(device)
    _, trained, utterances = prepare(words, device)
    reset_peak(device)
    time_steps(trained, utterances, 1)
    return peak_seen(device) - before


def plan_pace(words: list[str], hours: float, threads: int) -> Pace:
    """What --measure says on a CPU, whose steps have four utterances at most."""
    from espnet_larm.train.planning.plan import batch_of, course_of
    from espnet_larm.train.planning.step import time_steps

    torch.set_num_threads(threads)
    args, trained, utterances = prepare(words, "cpu")
    utterances = utterances._replace(number=utterances.number or batch_of(args, utterances))
    timed = utterances._replace(number=min(utterances.number, max(COUNTED)))
    throughput = timed.audio_s / time_steps(trained, timed, clock=time.process_time)
    return Pace(course_of(args, utterances, hours).batches, args.accum_grad * utterances.audio_s / throughput)


def train_pace(words: list[str], num_steps: int, threads: int) -> Pace:
    """What a training has and takes."""
    from espnet_larm.train.task import LarmASRTask
    from espnet_larm.train.trainer import LarmTrainer

    torch.set_num_threads(threads)
    found: list[float] = []

    class Clocked(LarmTrainer):
        @classmethod
        def run(cls, *given: Any, train_iter_factory: Any, **others: Any) -> None:
            found.append(len(train_iter_factory.sampler))
            super().run(*given, train_iter_factory=train_iter_factory, **others)

        @classmethod
        def train_one_epoch(cls, *given: Any, **others: Any) -> bool:
            start = time.process_time()
            ended = super().train_one_epoch(*given, **others)
            found.append((time.process_time() - start) / num_steps)
            return ended

    class ClockedTask(LarmASRTask):
        trainer = Clocked

    args = ClockedTask.get_parser().parse_args(words)
    args.num_iters_per_epoch = num_steps * args.accum_grad
    try:
        ClockedTask.main(args=args)
    except SystemExit as end:
        # A pool would wait for ever for a process that exits.
        raise SystemError(f"the training ended early: {end.code}") from None
    return Pace(int(found[0]), found[1])


class Data:
    """A folder of utterances, and below another folder what a training of their characters wants beside it.

    Args:
        data_dir: Has wav.scp, whose files are read as they are, and text.
        folder: An empty one.
    """

    def __init__(self, data_dir: Path, folder: Path) -> None:
        self.folder = folder
        paths, texts = (read_table(data_dir / name) for name in ("wav.scp", "text"))
        infos = {key: soundfile.info(path) for key, path in paths.items()}
        seconds = sum(info.duration for info in infos.values())
        num_tokens = {key: max(1, len(texts[key])) for key in paths}
        tokens = character_tokens(texts.values())
        self.hours, self.mean_s = seconds / 3600.0, seconds / len(paths)
        self.tokens_per_second = sum(num_tokens.values()) / seconds
        (folder / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
        files = {
            "wav.scp": paths,
            "text": texts,
            "speech_shape": {key: info.frames for key, info in infos.items()},
            "text_shape": {key: f"{number},{len(tokens)}" for key, number in num_tokens.items()},
        }
        for part, keys in (("train", list(paths)), ("valid", list(paths)[:NUM_VALID])):
            (folder / part).mkdir()
            for name, values in files.items():
                (folder / part / name).write_text("".join(f"{key} {values[key]}\n" for key in keys))

    def planned(self) -> list[str]:
        """Options of espnet-larm plan."""
        told = (("--seconds", self.mean_s), ("--tokens_per_second", self.tokens_per_second))
        return [word for name, value in told for word in (name, f"{value:.4f}")]

    def trained(self, number: int) -> list[str]:
        """Options of a training."""
        words = ["--output_dir", str(self.folder / f"exp{number}"), "--ngpu", "0", "--num_workers", "0"]
        words += ["--max_epoch", "1", "--use_tensorboard", "false", "--use_matplotlib", "false", "--num_att_plot", "0"]
        for part in ("train", "valid"):
            for named in ("wav.scp,speech,sound", "text,text,text"):
                words += [f"--{part}_data_path_and_name_and_type", f"{self.folder / part}/{named}"]
            for named in ("speech_shape", "text_shape"):
                words += [f"--{part}_shape_file", f"{self.folder / part}/{named}"]
        return words

    def both(self) -> list[str]:
        """Options of both."""
        return ["--token_list", str(self.folder / "tokens.txt"), "--token_type", "char"]


def main(cmd: list[str] | None = None) -> None:
    """Print a row a case."""
    parser = new_parser(__doc__)
    add_machine(parser, threads=1)
    parser.add_argument("--case", nargs="+", required=True, help="YAML,--option,value,...: options of espnet-larm plan")
    parser.add_argument("--data_dir", type=Path, help="compare time, of a training on this folder: wav.scp, text")
    parser.add_argument("--steps", type=int, default=100, help="steps of the training (100)")
    args = parser.parse_args(cmd)
    print(" ".join(["tools/bench/planned.py", *(sys.argv[1:] if cmd is None else cmd)]))
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads")
    if args.data_dir is not None:
        print_paces(args)
        return
    print_header("configuration", "parameters", "audio, s", "planned, MiB", "measured, MiB", "planned / measured")
    for case in args.case:
        row = measure(case.split(","), args)
        print(
            f"| {case.replace(',', ' ')} | {row.parameters:,} | {row.audio_s:.0f} | {row.planned / MIB:,.0f} "
            f"| {row.seen / MIB:,.0f} | {row.planned / row.seen:.2f} |",
            flush=True,
        )


def measure(words: list[str], args: argparse.Namespace) -> Row:
    """Plan, then measure, each in a process of its own."""
    # Freed blocks go back to the system at once, so that resident memory is what is alive.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    planned = _alone(plan, words, args.device, args.threads)
    return Row(*planned, _alone(see, words, args.device, args.threads))


def print_paces(args: argparse.Namespace) -> None:
    """Print a row a case: batches of an epoch, CPU seconds of a step, and of an epoch."""
    columns = "configuration; batches planned; had; planned / had; step planned, CPU s; took; planned / took"
    print_header(*columns.split("; "), "epoch, planned / taken")
    with tempfile.TemporaryDirectory() as name:
        data = Data(args.data_dir, Path(name))
        print(f"{data.hours:.2f} hours, {data.mean_s:.2f} s an utterance", file=sys.stderr)
        for number, case in enumerate(args.case):
            config, *words = case.split(",")
            given = [*words, *data.both()]
            planned = _alone(plan_pace, [config, *data.planned(), *given], data.hours, args.threads)
            had = _alone(train_pace, ["--config", config, *data.trained(number), *given], args.steps, args.threads)
            batches, step = planned.batches / had.batches, planned.step_s / had.step_s
            print(
                f"| {case.replace(',', ' ')} | {planned.batches} | {had.batches} | {batches:.2f} "
                f"| {planned.step_s:.3f} | {had.step_s:.3f} | {step:.2f} | {batches * step:.2f} |",
                flush=True,
            )


def _alone(function: Any, *given: Any) -> Any:
    """What a function returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, given)


if __name__ == "__main__":
    main()
