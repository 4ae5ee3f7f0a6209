#!/usr/bin/env python3
"""Compares our greedy text with ESPnet's own, for every checkpoint loop of a trained model, over a whole set.

    cd egs/an4
    python ../../tools/compare_upstream.py --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.loss.ave.pth --wav_scp dump/raw/test/wav.scp --work_dir /tmp/x

ESPnet writes the greedy tokens of intermediate checkpoints to `encoder_interctc_layer<k>.txt`, and of the last one
none. Blocks are shared, so the same weights fit a configuration with one checkpoint period more: in it, the last loop
is an intermediate one, and one run of ESPnet's program gives them all. Exit status 1 if any utterance differs.
ESPnet's program takes about 4 times as long as ours: a minute for AN4's test set.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from espnet_larm.data.kaldi_dir import read_table

PROGRAM = "espnet2.bin.asr_inference"
NUM_SHOWN = 5


def main() -> int:
    """Decode twice, compare, print a line a loop."""
    args = parse_args()
    config = yaml.safe_load(args.asr_train_config.read_text(encoding="utf-8"))
    args.work_dir.mkdir(parents=True, exist_ok=True)
    longer = args.work_dir / "config_longer.yaml"
    longer.write_text(yaml.safe_dump(with_one_more_period(config)), encoding="utf-8")
    ours, theirs = args.work_dir / "ours", args.work_dir / "upstream"
    run([PROGRAM], args.asr_train_config, ours, args)
    run(["--upstream", PROGRAM], longer, theirs, args)
    return compare(ours, theirs / "1best_recog")


def parse_args() -> argparse.Namespace:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--asr_train_config", type=Path, required=True, help="config.yaml with encoder: larm")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="weights of the model")
    parser.add_argument("--wav_scp", type=Path, required=True, help="table of audio")
    parser.add_argument("--audio_type", default="sound", choices=("sound", "kaldi_ark"), help="type of audio (sound)")
    parser.add_argument("--work_dir", type=Path, required=True, help="folder for both outputs")
    return parser.parse_args()


def with_one_more_period(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration in which the last loop is an intermediate checkpoint.

    Raises:
        ValueError: It is not an encoder with shared blocks, or its last loop would not be a checkpoint any more.
    """
    conf = config.get("encoder_conf") or {}
    num_loops, period = conf.get("num_loops", 12), conf.get("checkpoint_period", 4)
    if config.get("encoder") != "larm" or not conf.get("share_blocks", True):
        raise ValueError("only encoder: larm with share_blocks: true can run one checkpoint period more.")
    if num_loops % period:
        raise ValueError(f"num_loops {num_loops} is no multiple of checkpoint_period {period}.")
    return {**config, "encoder_conf": {**conf, "num_loops": num_loops + period}}


def run(program: list[str], config: Path, output_dir: Path, args: argparse.Namespace) -> None:
    """Run one of the two programs, its log beside its output."""
    *launcher, module = program
    options = {
        "data_path_and_name_and_type": f"{args.wav_scp},speech,{args.audio_type}",
        "asr_train_config": config,
        "asr_model_file": args.asr_model_file,
        "output_dir": output_dir,
        "ctc_weight": 1.0,
        "beam_size": 1,
        "log_level": "WARNING",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    log = output_dir.with_suffix(".log")
    print(f"{' '.join([*launcher, module])} -> {output_dir} (log: {log})", flush=True)
    with log.open("w", encoding="utf-8") as stream:
        subprocess.run(
            [sys.executable, "-m", "espnet_larm", *launcher, "-m", module, *words],
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=True,
        )


def compare(ours: Path, theirs: Path) -> int:
    """Print how many utterances are equal, loop by loop; 1 if any differs."""
    status = 0
    loops = sorted(int(path.name.removeprefix("loop")) for path in ours.glob("loop*"))
    for loop in loops:
        found = read_table(ours / f"loop{loop}" / "token")
        expected = read_table(theirs / f"encoder_interctc_layer{loop}.txt")
        # ESPnet writes no line for an utterance that is too short; ours is empty.
        different = [key for key, tokens in found.items() if tokens != expected.get(key, "")]
        lacking = sorted(expected.keys() - found.keys())
        status |= bool(different or lacking)
        print(f"loop {loop}: {len(found) - len(different)} of {len(found)} utterances equal, {len(lacking)} lacking")
        for key in different[:NUM_SHOWN]:
            print(f"  {key}\n    ours:     {found[key]}\n    upstream: {expected.get(key, '')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
