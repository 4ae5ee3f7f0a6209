"""Word error rates by loops of a stock recipe of ESPnet's, after its stage 12 with `--python "python3 -m espnet_larm"`.

Examples:
    espnet-larm score-loops --exp_dir exp/asr_x --data_dir dump/raw

ESPnet's stages join and score the last loop alone. This program joins what all decoding jobs wrote at every checkpoint
loop, scores it and prints the tables. Everything goes to `<exp_dir>/by_loops/`, RESULTS.md and its picture included:
ESPnet's own results stay as they are.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from espnet_larm.recipe import join_outputs, results, score
from espnet_larm.train.journal import JOURNAL

FOLDER = "by_loops"
# Files of the experiment that its RESULTS.md draws on.
DESCRIBED = ("config.yaml", "run.sh", JOURNAL)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exp_dir", type=Path, required=True, help="experiment, with <inference tag>/<set>/logdir/")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the sets, with text: dump/raw")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Join and score the outputs, and print the tables."""
    args = get_parser().parse_args(cmd)
    found = list(_decoded_sets(args.exp_dir))
    if not found:
        raise FileNotFoundError(
            f"{args.exp_dir}/*/*/logdir/output.*/stats.json: there is none; decode with our program (stage 12 with "
            "--python 'python3 -m espnet_larm'). What was handed over to ESPnet's has no loops."
        )
    folder = args.exp_dir / FOLDER
    folder.mkdir(exist_ok=True)
    for name in DESCRIBED:
        if (args.exp_dir / name).is_file() and not (folder / name).exists():
            (folder / name).symlink_to(f"../{name}")
    for path in found:
        tag, *names = path.relative_to(args.exp_dir).parts
        target = folder.joinpath(tag, *names)
        outputs = sorted(map(str, path.glob("logdir/output.*")))
        join_outputs.main(["--input_dirs", *outputs, "--output_dir", str(target)])
        config = str(args.exp_dir / "config.yaml")
        reference = str(args.data_dir.joinpath(*names))
        score.main(["--ref_dir", reference, "--hyp_dir", str(target), "--asr_train_config", config])
    return results.main(["--exp_dir", str(folder)])


def _decoded_sets(exp_dir: Path) -> Iterator[Path]:
    """Find the folders of sets that our program decoded: `<inference tag>/<set>`, or `<inference tag>/org/<set>`."""
    for pattern in ("*/*", "*/org/*"):
        for path in sorted(exp_dir.glob(pattern)):
            if path.parts[len(exp_dir.parts)] != FOLDER and any(path.glob("logdir/output.*/stats.json")):
                yield path
