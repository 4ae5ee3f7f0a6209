"""Options that the programs of several studies share."""

import argparse
from pathlib import Path


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of programs that train the rows of a plan."""
    parser.add_argument("--plan", type=Path, required=True, help="YAML file of the plan")
    parser.add_argument("--exp_dir", type=Path, required=True, help="folder for the results, and for a folder a run")
    parser.add_argument("--num_jobs", type=int, default=1, help="runs at once, each with an equal part of the cores")
    parser.add_argument("--report_only", action="store_true", help="train nothing, report what is done")


def check_study_options(args: argparse.Namespace) -> None:
    """Refuse a number of jobs below 1.

    Raises:
        ValueError: The number is too low.
    """
    if args.num_jobs < 1:
        raise ValueError(f"--num_jobs {args.num_jobs} must be at least 1.")


def add_model_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that name a trained model."""
    parser.add_argument(
        "--asr_train_config", type=Path, required=required, help="config.yaml of a model with decoder: speech_llm"
    )
    parser.add_argument("--asr_model_file", type=Path, required=required, help="weights of the model")
    parser.add_argument("--llm", help="folder or hub id of its LM, if it is not where the configuration says")
