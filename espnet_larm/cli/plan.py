"""Says what a training takes before it begins: parameters, memory of a batch by part, FLOPs, steps and days.

Examples:
    espnet-larm plan --config conf/librispeech/train_larm_100h.yaml --gpu 40GB --hours 300 --vocab_size 500
    espnet-larm plan --config exp/asr_x/config.yaml --hours 960 --measure --device cuda

Parameters are exact. Memory and FLOPs are counted in steps of two and four utterances and carried on to the batch of
the configuration; tools/bench/planned.py compares them with resident memory. What the recipe gives the training beside
its YAML can be given here, too, as ESPnet's options: --token_list tokens.txt --decoder_conf llm=models/SmolLM2.
All utterances are taken to be --seconds long. --hours are those of an epoch, copies at other speeds included.
Days need a throughput: --measure takes it from training steps on this machine's device, --tflops from you.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.cli.device import add_device, device_of

if TYPE_CHECKING:
    from espnet_larm.train.planning.plan import Growth
    from espnet_larm.train.planning.step import Trained, Utterances

# Utterances of the batches that are counted.
COUNTED = (2, 4)
UNITS = {"GB": 10**9, "GIB": 2**30}
# Tokens a second of English speech: characters, and pieces of words.
CHARACTERS_A_SECOND, PIECES_A_SECOND = 14.0, 4.0
# Largest vocabularies that are taken for characters.
MOST_CHARACTERS = 100


def get_parser() -> argparse.ArgumentParser:
    """Options of this program; others are ESPnet's."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML of a training, or an experiment's config.yaml")
    memory_help = "memory of the GPU that is planned for: 80GB, 24GiB"
    parser.add_argument("--gpu", type=_read_size, metavar="SIZE", help=memory_help)
    parser.add_argument("--hours", type=_positive, default=100.0, help="hours of audio in an epoch (100)")
    parser.add_argument("--seconds", type=_positive, default=15.0, help="length of an utterance in seconds (15)")
    parser.add_argument(
        "--utterances", type=_count, help="utterances of a batch (as the configuration's sampler has it)"
    )
    vocab_help = "number of tokens, if there is no list of them yet"
    parser.add_argument("--vocab_size", type=_count, help=vocab_help)
    tokens_help = f"tokens of a transcript a second ({CHARACTERS_A_SECOND:g} for characters, {PIECES_A_SECOND:g} else)"
    parser.add_argument("--tokens_per_second", type=_positive, help=tokens_help)
    tflops_help = "reckon days from so many 10^12 FLOPs a second, which all GPUs reach together"
    parser.add_argument("--tflops", type=_positive, metavar="NUMBER", help=tflops_help)
    measure_help = "time some training steps here, of the batch or (on a CPU) of four utterances, and reckon days"
    parser.add_argument("--measure", action="store_true", help=measure_help)
    add_device(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Print the plan."""
    ours, others = get_parser().parse_known_args(cmd)
    device = device_of(ours.device)
    from espnet_larm.train.planning.plan import Growth, batch_of
    from espnet_larm.train.planning.step import build, count_step

    args = training_options(ours, others)
    trained = build(args, device)
    utterances = utterances_of(ours, args, trained.model)
    utterances = utterances._replace(number=ours.utterances or batch_of(args, utterances))
    # The larger batch last: what a first pass alone makes (caches, tables) is then there.
    count_step(trained, utterances._replace(number=1, seconds=min(1.0, utterances.seconds), text_len=1, ctc_text_len=1))
    small, large = (count_step(trained, utterances._replace(number=number), args.accum_grad) for number in COUNTED)
    for line in report(ours, args, trained, Growth(small, large), utterances):
        print(line)
    if ours.measure:
        print(measured(ours, args, trained, utterances))
    return 0


def training_options(ours: argparse.Namespace, others: list[str]) -> argparse.Namespace:
    """The options of the training, with a token list.

    Raises:
        ValueError: There is no token list, and neither a number of tokens nor an LM to take it from.
        FileNotFoundError: The configuration is missing.
    """
    from espnet_larm.train.task import LarmASRTask

    if not ours.config.is_file():
        raise FileNotFoundError(f"--config {ours.config} is missing; name the YAML of a training.")
    args = LarmASRTask.get_parser().parse_args(["--config", str(ours.config), *others])
    if ours.vocab_size is not None:
        args.token_list = ["<blank>", "<unk>", *(f"t{index}" for index in range(ours.vocab_size - 3)), "<sos/eos>"]
    elif args.token_list is None:
        args.token_list = _tokens_of_lm(args)
    elif isinstance(args.token_list, str):
        args.token_list = Path(args.token_list).read_text(encoding="utf-8").rstrip("\n").split("\n")
    return args


def _tokens_of_lm(args: argparse.Namespace) -> list[str]:
    llm = (args.decoder_conf or {}).get("llm") if args.decoder == "speech_llm" else None
    if llm is None:
        raise ValueError("the number of tokens is not known: give --vocab_size, or --token_list with a file.")
    from espnet_larm.llm.backbone import load_tokenizer, num_rows_of
    from espnet_larm.llm.tokens import token_list_of

    revision = args.decoder_conf.get("revision")
    return token_list_of(load_tokenizer(llm, revision), num_rows_of(llm, revision))


def utterances_of(ours: argparse.Namespace, args: argparse.Namespace, model: Any) -> "Utterances":
    """The utterances that are planned for; their number is not set yet."""
    from humanfriendly import parse_size  # type: ignore[import-untyped]

    from espnet_larm.train.planning.step import Utterances

    def length_of(tokens: Sequence[str]) -> int:
        per_second = CHARACTERS_A_SECOND if len(tokens) <= MOST_CHARACTERS else PIECES_A_SECOND
        return max(1, round(per_second * ours.seconds))

    own = getattr(model, "ctc_token_list", None)
    given = ours.tokens_per_second and max(1, round(ours.tokens_per_second * ours.seconds))
    rate = (args.frontend_conf or {}).get("fs", 16000)
    rate_hz = parse_size(rate) if isinstance(rate, str) else rate
    return Utterances(1, ours.seconds, given or length_of(args.token_list), rate_hz, own and length_of(own))


def report(
    ours: argparse.Namespace, args: argparse.Namespace, trained: "Trained", growth: "Growth", utterances: "Utterances"
) -> Iterator[str]:
    """The lines of a plan."""
    from espnet_larm.train.learning import format_parts, learning_parts
    from espnet_larm.train.planning.plan import GIB, SECONDS_A_DAY, USABLE, course_of, format_memory

    number = utterances.number
    yield f"{ours.config}: {len(args.token_list)} tokens"
    yield "Parameters:"
    yield format_parts(learning_parts(trained.model))
    kind = "float32" if trained.amp_dtype is None else "16 bits (bfloat16 on GPUs that have it)"
    yield (
        f"Memory of a step of {number} utterances of {utterances.seconds:g} s, {utterances.audio_s:.0f} s of audio, "
        f"{utterances.text_len} tokens each, computed in {kind}:"
    )
    yield from format_memory(growth.memory(number))
    if ours.gpu is not None:
        usable = USABLE * ours.gpu
        verdict = "fits into" if growth.peak(number) <= usable else "does not fit into"
        yield (
            f"    It {verdict} {usable / GIB:.1f} GiB, {USABLE:.0%} of {ours.gpu / GIB:.1f} GiB; the most "
            f"utterances that fit: {growth.most_within(usable)}"
        )
    forward, training = growth.flops(utterances.seconds)
    yield f"FLOPs of an hour of audio: forward {forward / 1e12:.2f} T, training {training / 1e12:.2f} T"
    course = course_of(args, utterances, ours.hours)
    yield (
        f"Course: {course.epochs} epochs of {course.batches} batches, {course.steps} steps of accum_grad "
        f"{args.accum_grad} on {max(1, args.ngpu)} process(es); {course.hours:.0f} hours of audio, "
        f"{course.hours * training / 1e18:.2f} EFLOP"
    )
    if ours.tflops is not None:
        seconds = course.hours * training / (ours.tflops * 1e12)
        yield (
            f"Days: {seconds / SECONDS_A_DAY:.2f} ({seconds / 3600.0:.1f} hours) at {ours.tflops:g} TFLOP a second on "
            "all processes together, which is assumed"
        )
    elif not ours.measure:
        yield "Days: not measured; --measure on the machine that trains, or --tflops to reckon with."


def measured(ours: argparse.Namespace, args: argparse.Namespace, trained: "Trained", utterances: "Utterances") -> str:
    """The line on days, from steps that are made now."""
    import torch

    from espnet_larm.origin import cpu_model
    from espnet_larm.train.planning.plan import GIB, course_of
    from espnet_larm.train.planning.step import time_steps

    device = next(trained.model.parameters()).device
    timed = utterances
    machine = f"{cpu_model()} with {torch.get_num_threads()} threads"
    if device.type == "cpu":
        timed = utterances._replace(number=min(utterances.number, max(COUNTED)))
    else:
        torch.cuda.reset_peak_memory_stats(device)
    throughput = timed.audio_s / time_steps(trained, timed)
    if device.type == "cuda":
        size = torch.cuda.max_memory_allocated(device) / GIB
        machine = f"{torch.cuda.get_device_name(device)}, whose peak was {size:.3f} GiB by torch's allocator"
    course = course_of(args, utterances, ours.hours)
    days = course.days(throughput * max(1, args.ngpu))
    return (
        f"Days: {days:.2f} at {throughput:.1f} s of audio a second and process, measured with {timed.number} "
        f"utterances a step on {machine}"
    )


def _read_size(word: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(GB|GIB)", word.upper())
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{word}; allowed: a size such as 80GB or 24GiB")
    return float(match[1]) * UNITS[match[2]]


def _positive(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{word}; allowed: above 0")
    return value


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word}; allowed: 1 or more")
    return int(word)
