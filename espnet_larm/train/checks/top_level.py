"""Ranges of ESPnet's own training options, and the files that they name: ESPnet takes what a YAML says as it is."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_larm import registry
from espnet_larm.errors import name_some
from espnet_larm.options import SEED, Option, check_parsed, check_range

NUMBER = r"-?\d+(\.\d*)?"


def _each(*names: str, **bounds: Any) -> dict[str, Option]:
    """The same bounds for several options."""
    return dict.fromkeys(names, Option("an option of ESPnet's training; its --help says what it does", **bounds))


RANGES = {
    "seed": SEED,
    **_each("num_workers", least=0, most=1024),
    **_each("max_epoch", least=1, most=1_000_000),
    **_each("num_iters_per_epoch", most=10**9),
    **_each("dist_master_port", least=1, most=65535),
    **_each("rir_apply_prob", "noise_apply_prob", least=0, most=1),
    **_each("grad_clip", above=0, note="inf does not clip", may_be_infinite=True),
    **_each("grad_clip_type", above=0, note="inf is the largest of them", may_be_infinite=True),
    **_each("dataset_scaling_factor", "chunk_shift_ratio", "speech_volume_normalize", above=0),
    **_each(
        *("keep_nbest_models", "log_interval", "input_size", "dist_world_size", "fold_length", "category_sample_size"),
        *("batch_size", "valid_batch_size", "batch_bins", "valid_batch_bins", "min_batch_size", "max_batch_size"),
        *("chunk_length", "num_cache_chunks", "chunk_default_fs", "chunk_max_abs_length"),
        least=1,
    ),
    **_each(
        *("patience", "nbest_averaging_interval", "num_att_plot", "short_noise_thres", "dist_rank", "local_rank"),
        *("max_cache_size", "valid_max_cache_size", "max_cache_fd"),
        *("upsampling_factor", "dataset_upsampling_factor", "category_upsampling_factor"),
        least=0,
    ),
}
# Where no class of ESPnet's checks.
SECTION_RANGES = {("ctc_conf", "dropout_rate"): Option("share of numbers that are zeros in training", least=0, most=1)}
FORMS = {
    "chunk_length": (r"[1-9]\d*(-[1-9]\d*|(,[1-9]\d*)*)", "500, 300-400 or 300,400,500 for example"),
    "noise_db_range": (rf"{NUMBER}(_{NUMBER})?", "13 or 13_15 for example"),
}
FILES = ("non_linguistic_symbols", "rir_scp", "noise_scp", "deepspeed_config", "train_shape_file", "valid_shape_file")
TABLES = ("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type")


def check_top_level(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse values of a training's own options that ESPnet fails at, or takes without effect.

    Args:
        args: Options of the training.
        parser: The task's parser, whose defaults no YAML has changed.

    Raises:
        ValueError: A value is of another type, out of its range, or of another form.
        FileNotFoundError: A file that an option names is missing.
    """
    # `registry` says what is near to an unknown class; a list of tokens is as good as its file.
    apart = {*registry.checked_kinds(), *registry.TABLES, "init", "token_list"}
    check_parsed(parser._actions, args, RANGES, apart)
    for (section, key), said in SECTION_RANGES.items():
        conf = getattr(args, section, None)
        if isinstance(conf, dict) and conf.get(key) is not None:
            check_range(f"{section}: {key}", conf[key], said)
    for name, (form, words) in FORMS.items():
        value = getattr(args, name, None)
        if value is not None and not re.fullmatch(form, str(value)):
            raise ValueError(f"{name} is {value!r:.200}; allowed: {words}.")
    _check_fold_lengths(args)
    if missing := [f"{name}: {path}" for name, path in _files(args) if not Path(path).exists()]:
        raise FileNotFoundError(f"{name_some(missing)}: no such file; correct the path, or leave the option out.")


def _check_fold_lengths(args: argparse.Namespace) -> None:
    """A length belongs to each shape file, where batches are made by them; not for statistics."""
    given, wanted = args.fold_length, len(args.train_shape_file)
    if args.batch_type == "folded" and not args.collect_stats and wanted and len(given) != wanted:
        raise ValueError(
            f"fold_length has {len(given)} numbers {given} (of the YAML and the command line together), but there are "
            f"{wanted} train_shape_file; give one of each."
        )


def _files(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    for name in FILES:
        value = getattr(args, name, None)
        for path in value if isinstance(value, list) else [value]:
            if path is not None:
                yield name, path
    for name in TABLES:
        for path, *_ in getattr(args, name, None) or []:
            yield name, path
