#!/usr/bin/env python3
"""Memory of a training step of an encoder with a causal LM, by part of the model and by adaptation of the LM.

One step of a YAML's model with an LM of random weights, a setting (adaptation, activation checkpointing of the LM's
layers and of a looped encoder's loops) after the other. Bytes are those of tensors that are alive: activations are what
the forward pass leaves for the backward pass, the peak is the most that is alive at once in a later step, optimiser
included. By default matrix products are left out, results of their sizes are made instead: bytes do not depend on
values. With `--compute` nothing is left out, and what the system saw stands beside the count: resident memory on a CPU,
torch's allocator on a GPU. Nothing is loaded from the network.

    python tools/bench/memory.py                                            SmolLM2-360M's shape, 4 x 15 s of audio
    python tools/bench/memory.py --config conf/an4/train_llm.yaml --batch 8 --seconds 7.5 --compute --device cuda
    python tools/bench/memory.py --llm_config my_llm/config.json --adaptation lora --markdown memory.md
"""

import argparse
import contextlib
import gc
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from benching import SAMPLE_RATE_HZ, SMOLLM2_360M, add_machine, new_parser, read_json, resident_mib

from espnet_larm.adaptation.llm_weights import METHODS
from espnet_larm.train.learning import part_of
from espnet_larm.train.planning.live import REST, LiveTensors
from espnet_larm.train.planning.shapes import ShapesOnly

ROOT = Path(__file__).parents[2]
aten = torch.ops.aten
CHARACTERS = ["<blank>", "<unk>", "<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'", "<sos/eos>"]
PARTS = ("encoder", "ctc", "projector", "LM", "LoRA", "added layers", REST)
Bytes = Mapping[str, int]


class Setting(NamedTuple):
    """Setting of a training."""

    adaptation: str
    checkpointing: bool


class Memory(NamedTuple):
    """Bytes of one training step.

    Attributes:
        weights: Weights and buffers, by part.
        gradients: Gradients after the backward pass, by part.
        state: State of the optimiser, by part.
        activations: Activations after the forward pass, by part; those of LoRA and added layers count as the LM's.
        peak: Most bytes that are alive at once, all of the above included.
        seen: Peak that the system saw, for comparison; None if not all was computed.
    """

    weights: Bytes
    gradients: Bytes
    state: Bytes
    activations: Bytes
    peak: int
    seen: int | None


class Unfilled(ShapesOnly):
    """Leaves out random numbers and steps, too; what they hold is arbitrary."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do as without it, or leave the numbers out."""
        operation = func.overloadpacket
        if operation in (aten.normal_, aten.uniform_, aten.lerp_, aten.addcmul_, aten.addcdiv_):
            return args[0]
        # Optimisers count their steps in tensors of no dimension, and divide by what comes of it.
        if operation in (aten.mul_, aten.add_) and args[0].is_floating_point() and args[0].dim():
            return args[0]
        if operation in (aten.sqrt, aten.zeros_like) and args[0].is_floating_point():
            return torch.empty_like(args[0], dtype=(kwargs or {}).get("dtype"))
        return super().__torch_dispatch__(func, types, args, kwargs)


def build(args: argparse.Namespace, setting: Setting, folder: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The YAML's model with the LM of `--llm_config`, and its optimiser, as a training makes them."""
    from espnet_larm.train.task import LarmASRTask

    tokens = write_tokenizer(folder / "llm", args.llm_config["vocab_size"])
    for name, names in (("tokens.txt", tokens), ("ctc_tokens.txt", CHARACTERS)):
        (folder / name).write_text("".join(f"{each}\n" for each in names), encoding="utf-8")
    command = ["--config", str(args.config), "--token_list", str(folder / "tokens.txt"), "--output_dir", str(folder)]
    options = LarmASRTask.get_parser().parse_args([*command, "--token_type", "char"])
    confs = {method: options.decoder_conf.pop(f"{method}_conf", None) for method in ("lora", "depth_upscaling")}
    options.decoder_conf |= {
        "llm": None,
        "llm_config": args.llm_config,
        "tokenizer": str(folder / "llm"),
        "adaptation": setting.adaptation,
        "activation_checkpointing": setting.checkpointing,
        **{f"{method}_conf": conf for method, conf in confs.items() if method == setting.adaptation},
    }
    if args.encoder_of:
        other = yaml.safe_load(args.encoder_of.read_text(encoding="utf-8"))
        options.encoder, options.encoder_conf = other["encoder"], other["encoder_conf"]
        options.model_conf["interctc_weight"] = other["model_conf"]["interctc_weight"]
    if options.encoder == "larm":
        options.encoder_conf["activation_checkpointing"] = setting.checkpointing
    options.model_conf["ctc_token_list"] = str(folder / "ctc_tokens.txt")
    model = LarmASRTask.build_model(options).to(args.device).train()
    (optimizer,) = LarmASRTask.build_optimizers(options, model)
    return model, optimizer


def write_tokenizer(folder: Path, num_tokens: int) -> list[str]:
    """Write a tokenizer of so many made-up words, for an LM that has none; the words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<unk>", "<s>", "</s>", *(f"w{index}" for index in range(num_tokens - 3))]
    special = {"unk_token": names[0], "bos_token": names[1], "eos_token": names[2]}
    ids = {name: index for index, name in enumerate(names)}
    made = Tokenizer(models.WordLevel(ids, unk_token=names[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    return names


def new_batch(args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Noise and random texts, all utterances of one length."""
    torch.manual_seed(0)
    sizes = {"text": (args.tokens_per_s, args.llm_config["vocab_size"]), "ctc_text": (14.0, len(CHARACTERS) - 1)}
    batch = {"speech": torch.randn(args.batch, round(args.seconds * SAMPLE_RATE_HZ))}
    for name, (per_s, num_tokens) in sizes.items():
        batch[name] = torch.randint(3, num_tokens, (args.batch, max(1, round(per_s * args.seconds))))
    lengths = {f"{name}_lengths": torch.full((args.batch,), each.size(1)) for name, each in batch.items()}
    return {name: each.to(args.device) for name, each in {**batch, **lengths}.items()}


def measure(args: argparse.Namespace, setting: Setting) -> Memory:
    """Make one step and count."""
    torch.set_num_threads(args.threads)
    start = seen_now(args.device)
    computing = contextlib.nullcontext if args.compute else Unfilled
    with tempfile.TemporaryDirectory() as folder, computing():
        model, optimizer = build(args, setting, Path(folder))
    batch = new_batch(args)
    named = dict(model.named_parameters())
    live = LiveTensors([*named.values(), *model.buffers(), *batch.values()])
    live.watch_model(model)
    reset_peak(args.device)
    with computing(), live:  # what is left out counts, and how it is left out does not
        loss, *_ = model(**batch)
        activations = dict(live.live)
        loss.backward()
        peak = live.peak
        del loss
        optimizer.step()
    gradients = {name: each.grad.nbytes for name, each in named.items() if each.grad is not None}
    state = {name: sum(each.nbytes for each in tensors_of(optimizer.state.get(named[name]))) for name in named}
    weights = {name: each.nbytes for name, each in (*named.items(), *model.named_buffers())}
    totals = sum(weights.values()), sum(gradients.values()), sum(state.values())
    # A later step finds the optimiser's state there, and no gradients yet.
    peak = max(totals[0] + totals[2] + peak, totals[0] + live.peak)
    by_part = [sum_by_part(model, sizes) for sizes in (weights, gradients, state)]
    return Memory(*by_part, activations, peak, peak_seen(args.device) - start if args.compute else None)


def tensors_of(state: Mapping[str, Any] | None) -> list[torch.Tensor]:
    """Tensors in the optimiser's state of one weight."""
    return [each for each in (state or {}).values() if isinstance(each, torch.Tensor)]


def sum_by_part(model: torch.nn.Module, sizes: Bytes) -> Bytes:
    """Sum the bytes of named tensors by part."""
    found: Counter[str] = Counter()
    for name, size in sizes.items():
        part = part_of(model, name)
        found[part if part in PARTS else REST] += size
    return dict(found)


def seen_now(device: str) -> int:
    """Bytes that this process has now."""
    return torch.cuda.memory_allocated() if device == "cuda" else round(2**20 * resident_mib("VmRSS"))


def reset_peak(device: str) -> None:
    """Forget the peak so far, that of building the model."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_seen(device: str) -> int:
    """Most bytes since then."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else round(2**20 * resident_mib("VmHWM"))


def format_tables(found: Mapping[Setting, Memory], device: str) -> Iterator[str]:
    """Markdown: a row a setting, then a row a part and adaptation."""
    seen = "torch's peak" if device == "cuda" else "resident peak"
    yield f"| adaptation | checkpointing | weights | gradients | optimiser | activations | sum | peak | {seen} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for setting, memory in found.items():
        sums = [sum(each.values()) for each in memory[:4]]
        cells = [*map(mib, (*sums, sum(sums), memory.peak)), "-" if memory.seen is None else mib(memory.seen)]
        yield f"| {setting.adaptation} | {'on' if setting.checkpointing else 'off'} | {' | '.join(cells)} |"
    yield ""
    yield "| adaptation | part | weights | gradients | optimiser | activations | with checkpointing |"
    yield "|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(setting.adaptation for setting in found):
        plain, checkpointed = (found.get(Setting(method, on)) for on in (False, True))
        memory = plain or checkpointed
        for part in PARTS:
            columns = [each.get(part, 0) for each in memory[:3]] if memory else []
            columns += [each.activations.get(part, 0) if each else 0 for each in (plain, checkpointed)]
            if any(columns):
                yield f"| {method} | {part} | {' | '.join(map(mib, columns))} |"


def mib(size: int) -> str:
    """`1,380`, or `0.4` where that is little."""
    return f"{size / 2**20:,.0f}" if size >= 10 * 2**20 or not size else f"{size / 2**20:.1f}"


def get_parser() -> argparse.ArgumentParser:
    """Options of this script."""
    parser = new_parser(__doc__)
    add_machine(parser, threads=1)
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "conf/librispeech/train_llm_mini.yaml",
        help="training YAML (conf/librispeech/train_llm_mini.yaml)",
    )
    parser.add_argument("--encoder_of", type=Path, help="training YAML whose encoder to take instead")
    parser.add_argument(
        "--llm_config", type=read_json, default=SMOLLM2_360M, help="config.json of the LM (SmolLM2-360M's)"
    )
    parser.add_argument(
        "--adaptation", nargs="+", default=list(METHODS), choices=METHODS, help="adaptations of the LM to compare (all)"
    )
    parser.add_argument(
        "--checkpointing",
        nargs="+",
        default=["off", "on"],
        choices=["off", "on"],
        help="activation checkpointing (both)",
    )
    parser.add_argument("--batch", type=int, default=4, help="utterances in a batch (4)")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of an utterance (15)")
    parser.add_argument("--tokens_per_s", type=float, default=4.0, help="tokens of the LM for a second of speech (4)")
    parser.add_argument("--compute", action="store_true", help="compute everything; takes minutes a setting on a CPU")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to, beside printing them")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Measure each setting and print the tables."""
    args = get_parser().parse_args(cmd)
    found = {}
    for setting in (Setting(method, on == "on") for method in args.adaptation for on in args.checkpointing):
        if args.compute:
            # A process of its own: its resident memory holds nothing of another setting.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[setting] = pool.apply(measure, (args, setting))
        else:
            found[setting] = measure(args, setting)
            gc.collect()
        print(f"{setting.adaptation}, checkpointing {setting.checkpointing}: done", file=sys.stderr)
    command = " ".join(["tools/bench/memory.py", *(sys.argv[1:] if cmd is None else cmd)])
    lines = [f"`{command}`; MiB; torch {torch.__version__}, {args.device}", "", *format_tables(found, args.device)]
    print("\n".join(lines))
    if args.markdown:
        args.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
