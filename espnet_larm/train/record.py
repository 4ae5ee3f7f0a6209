"""The folder of a training, which is its own, and its record there: whole at every instant, replaced by who trains.

ESPnet writes `config.yaml` in place before it knows whether there is something to train. So it writes in a folder below
the experiment's; a training records its options once the first epoch begins (`session.py`), a dry run at its end and
where no training was.
"""

import argparse
import contextlib
import importlib.util
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from espnet2.train.distributed_utils import get_node_rank
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

from espnet_larm.files.atomic import write_text
from espnet_larm.files.checkpoint import CHECKPOINT
from espnet_larm.files.locks import locked
from espnet_larm.train.staging import CONFIG, STAGING

# wandb's files go where ESPnet writes config.yaml, and must stay.
WANDB = "wandb"


def check_record(args: argparse.Namespace) -> None:
    """Refuse what would leave an experiment without its record, or a training without its observer.

    Raises:
        ValueError: Statistics would be collected in the folder of a training.
        ImportError: wandb, or the package of adapters, is asked for and not installed.
    """
    folder = Path(args.output_dir)
    if args.collect_stats and is_trained(folder):
        raise ValueError(
            f"--collect_stats true would overwrite config.yaml of the training in {folder}; name another --output_dir."
        )
    asked = {"use_wandb": args.use_wandb, "use_adapter": args.use_adapter and args.adapter == "lora"}
    for name, package in (("use_wandb", "wandb"), ("use_adapter", "loralib")):
        if asked[name] and importlib.util.find_spec(package) is None:
            raise ImportError(
                f"--{name} is true, but {package} is not installed; pip install {package}, or leave it out."
            )


def locked_folder(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Keep other trainings out of the output folder; of several nodes, the first one does.

    Raises:
        InUseError: Another program writes there.
    """
    if args.print_config or args.output_dir is None or get_node_rank(args.dist_rank, args.dist_launcher):
        return contextlib.nullcontext()
    return locked(Path(args.output_dir))


def is_trained(folder: Path) -> bool:
    """Whether a folder has weights of a training, published or not."""
    return any(folder.glob("*.pth")) or (folder / STAGING / CHECKPOINT).exists()


def put_config_aside(args: argparse.Namespace) -> None:
    """Have ESPnet write config.yaml in a folder below the experiment's, but for statistics, which have no record."""
    if getattr(args, "collect_stats", True):
        return
    has_wandb = args.use_wandb and not args.dry_run
    args.output_dir = str(Path(args.output_dir) / (WANDB if has_wandb else STAGING))


def take_config_back(args: argparse.Namespace) -> None:
    """Remove ESPnet's config.yaml, and name the experiment's folder again; nothing if `put_config_aside` did not."""
    aside = Path(args.output_dir)
    if aside.name not in (STAGING, WANDB):
        return
    args.output_dir = str(aside.parent)
    if _is_first_process():
        # It has written there; the others may be here before it does.
        (aside / CONFIG).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            aside.rmdir()


def record_dry_run(args: argparse.Namespace) -> None:
    """Record the options of a dry run, unless a training has its record in the folder."""
    take_config_back(args)
    if _is_first_process() and not is_trained(Path(args.output_dir)):
        write_text(Path(args.output_dir) / CONFIG, record_of(args))


def _is_first_process() -> bool:
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not is_distributed or torch.distributed.get_rank() == 0


def record_of(args: argparse.Namespace) -> str:
    """The text of config.yaml."""
    text: str = yaml_no_alias_safe_dump(vars(args), indent=4, sort_keys=False)
    return text
