"""Options that name a model and a set of speech; the calibrating commands share them."""

import argparse
from pathlib import Path


def add_inputs(parser: argparse.ArgumentParser, data_help: str = "development set: wav.scp, text, utt2spk") -> None:
    """Add them.

    Args:
        parser: The command's parser.
        data_help: What the set should be.
    """
    parser.add_argument("--asr_train_config", type=Path, required=True, help="the experiment's config.yaml")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="the experiment's weights")
    parser.add_argument("--data_dir", type=Path, required=True, help=data_help)
    parser.add_argument("--audio_type", default="sound", help="type of wav.scp: sound or kaldi_ark (default: sound)")
