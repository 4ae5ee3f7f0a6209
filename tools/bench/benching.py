"""Helpers of the benchmarks: options, a clock, cells of tables, memory of the process, word errors, shapes of LMs."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_larm.scoring.alignment import add_counts, align, split_words

SAMPLE_RATE_HZ = 16000
SMOLLM2_360M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
# Five layers of six see a window of 512 positions.
GEMMA_3_270M = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
# The LM of ../shared/data/llm/novels-3M, which recipes and results name.
NOVELS_3M = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with a program's docstring, as it is."""
    return argparse.ArgumentParser(
        description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model(parser: argparse.ArgumentParser, kind: str = "encoder and CTC head", *, required: bool = True) -> None:
    """Add the options that name a trained model."""
    parser.add_argument("--asr_train_config", type=Path, required=required, help=f"config.yaml of a model with {kind}")
    parser.add_argument("--asr_model_file", type=Path, required=required, help="weights of the model")


def add_data(parser: argparse.ArgumentParser, batch_seconds: float, *, required: bool = True) -> None:
    """Add the options of the test set and of its batches."""
    parser.add_argument("--data_dir", type=Path, required=required, help="data folder: wav.scp, text, utt2spk")
    batch_help = f"seconds of padded audio in a batch ({batch_seconds:g})"
    parser.add_argument("--batch_seconds", type=float, default=batch_seconds, help=batch_help)


def add_llm(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the LM of a trained model."""
    parser.add_argument("--llm", help="folder or hub id of the model's LM, if it is not where the configuration says")


def add_machine(parser: argparse.ArgumentParser, threads: int = 2) -> None:
    """Add the options of the device."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="device that computes (cpu)")
    parser.add_argument("--threads", type=int, default=threads, help=f"CPU threads ({threads})")


def add_repeats(parser: argparse.ArgumentParser, repeats: int) -> None:
    """Add the number of repetitions."""
    repeats_help = f"repetitions that count, after one that does not ({repeats})"
    parser.add_argument("--repeats", type=int, default=repeats, help=repeats_help)


def add_cpu_time(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the clock."""
    cpu_help = "measure the process's CPU time instead of wall time, for a busy machine and one thread"
    parser.add_argument("--cpu_time", action="store_true", help=cpu_help)


def add_llm_shape(parser: argparse.ArgumentParser, shapes: Sequence[str], default: str) -> None:
    """Add the options of an LM with random weights."""
    parser.add_argument("--shape", default=default, choices=shapes, help=f"shape of the LM ({default})")
    parser.add_argument("--llm_config", type=read_json, help="config.json of another LM, instead of --shape")


def read_json(path: str) -> dict[str, Any]:
    """Read a configuration in Hugging Face's form."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def now(device: torch.device | str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a clock when the device has done everything that it was asked for."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return clock()


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median and range; `-` for no values."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Ratios of the values of each pair."""
    return [left / right for left, right in zip(first, second, strict=True)]


def print_header(*columns: str) -> None:
    """Print the first two lines of a table in Markdown."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def resident_mib(field: str) -> float:
    """MiB of this process: `VmRSS` now, `VmHWM` at its peak. Unlike getrusage's, a child does not inherit them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def words_wrong(references: Sequence[str], hypotheses: Sequence[str]) -> str:
    """Word errors, reference words and the error rate."""
    counts = add_counts([one.counts for one in align(references, hypotheses, split_words)])
    return f"{counts.errors} of {counts.units} ({counts.error_percent:.2f} %)"
