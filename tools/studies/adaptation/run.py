"""Compares ways of adapting an LM to speech: word error rates, and the loss of text ability.

The encoder of a trained model is frozen and its outputs are computed once; LM and projector then learn anew, in each
way of a plan (plan.py), at the best of its learning rates. Called again, it goes on where it was.

    python -m studies.adaptation.run --plan conf/an4/adaptation_study.yaml
        --asr_train_config exp/asr_x/config.yaml --asr_model_file exp/asr_x/latest.pth
        --train_dir dump/raw/train --dev_dir dump/raw/dev --test_dirs dump/raw/test
        --text held_out.txt --text_kl_text other.txt --exp_dir exp/adaptation_study --ngpu 0 --num_jobs 2

Writes a folder a run, `RESULTS.md` and `adaptation_study.png`.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.data.text import fingerprint
from espnet_larm.origin import without_root
from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults, add_ngpu, check_gpu
from studies.options import add_model_options, add_study_options, check_study_options
from studies.reports import RESULTS, different, origin_lines, write_text
from studies.runs import takes_lock

if TYPE_CHECKING:
    from studies.adaptation.reporting import Done, TestSet
    from studies.adaptation.running import Setting

PICTURE, RECORD, LOCK = "adaptation_study.png", "study.json", ".lock"
logger = logging.getLogger(__name__)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    add_study_options(parser)
    add_model_options(parser)
    parser.add_argument("--train_dir", type=Path, required=True, help="data folder of the training set: wav.scp, text")
    parser.add_argument("--dev_dir", type=Path, required=True, help="data folder that learning rates are chosen on")
    parser.add_argument("--test_dirs", type=Path, nargs="+", required=True, help="data folders of the test sets")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, a sentence a line, plain or .gz")
    parser.add_argument("--max_lines", type=int, default=1000, help="first lines of --text to read; 0 reads all")
    parser.add_argument(
        "--text_kl_text", type=Path, help="text that rows with text_kl_weight train on, a sentence a line"
    )
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Store frames, do all runs, and report after each run."""
    args = get_parser().parse_args(cmd)
    _check(args)
    # torch and ESPnet take seconds to import.
    from studies.adaptation.plan import read_plan
    from studies.adaptation.running import DEV, TRAIN, Setting, check_rows, run_all

    folders = {TRAIN: args.train_dir, DEV: args.dev_dir, **{folder.name: folder for folder in args.test_dirs}}
    setting = Setting(
        plan=read_plan(args.plan),
        config_file=args.asr_train_config,
        model_file=args.asr_model_file,
        llm=args.llm,
        frames={name: args.exp_dir / "frames" / f"{name}.pth" for name in folders},
        text=args.text,
        max_lines=args.max_lines,
        text_kl_text=args.text_kl_text,
        exp_dir=args.exp_dir,
        device="cuda" if args.ngpu else "cpu",
        num_threads=0,
    )
    args.exp_dir.mkdir(parents=True, exist_ok=True)
    with (args.exp_dir / LOCK).open("ab") as lock:
        if not takes_lock(lock):
            raise ValueError(f"--exp_dir {args.exp_dir}: a study is at work there; wait for it, or end it.")
        _check_record(args, setting, folders)
        if not args.report_only:
            check_rows(setting)
            _store(setting, folders)
            for found in run_all(setting, args.num_jobs):
                logger.info("%s, lr %g, seed %d: done", found["row"], found["lr"], found["seed"])
                _report(args, setting)
        print(_report(args, setting))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that would fail only after hours, before anything is loaded."""
    check_study_options(args)
    names = [folder.name for folder in args.test_dirs]
    if len({*names, "train", "dev"}) < len(names) + 2:
        raise ValueError(f"--test_dirs {' '.join(names)}: names of sets must differ, and none be train or dev.")
    for path in (args.text, args.text_kl_text):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{path} is missing; name a text of one sentence a line.")
    check_gpu(args.ngpu)


def _store(setting: "Setting", folders: dict[str, Path]) -> None:
    """Store the encoder outputs of all sets."""
    import torch

    from espnet_larm.recognize.model.loading import load_model, sample_rate_of
    from espnet_larm.train.task import LarmASRTask
    from studies.adaptation.running import TRAIN
    from studies.frames import store

    model, options = load_model(setting.config_file, setting.model_file, setting.device, torch.float32, setting.llm)
    preprocess = LarmASRTask.build_preprocess_fn(options, False)
    origin = {"encoder_of": fingerprint(setting.model_file)}
    for name, folder in folders.items():
        augments = setting.plan.augment and name == TRAIN
        store(model, preprocess, sample_rate_of(options), folder, setting.frames[name], origin, augments)


def _check_record(args: argparse.Namespace, setting: "Setting", folders: dict[str, Path]) -> None:
    """Keep beside the runs everything that their figures depend on, so that one table never mixes two studies.

    Raises:
        FileNotFoundError: A data folder lacks a table.
        ValueError: The runs were begun with something else.
    """
    from studies.adaptation.running import record_of

    for folder in folders.values():
        for name in ("wav.scp", "text"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing; run the recipe's stages of data preparation.")
    kept, made = args.exp_dir / RECORD, record_of(setting, folders, args.plan.read_text(encoding="utf-8"))
    if not kept.is_file():
        write_text(kept, json.dumps(made, indent=2) + "\n")
    found = json.loads(kept.read_text(encoding="utf-8"))
    if changed := [name for name in made if found.get(name) != made[name]]:
        raise ValueError(
            f"--exp_dir {args.exp_dir} was begun with something else ({', '.join(changed)}: {kept}); name another "
            "folder, or remove that one."
        )


def _done(setting: "Setting") -> "list[Done]":
    """Runs of each row that are done; a row whose learning rate is not chosen yet is left out."""
    from studies.adaptation.plan import Run
    from studies.adaptation.reporting import Done
    from studies.adaptation.running import RESULT, best_lr, read_result

    found = []
    for row in setting.plan.rows:
        try:
            lr = best_lr(setting, row)
        except FileNotFoundError:
            continue
        runs = [Run(row.name, lr, seed) for seed in row.seeds]
        tried = [Run(row.name, each, row.seeds[0]) for each in row.lrs]
        done = [read_result(setting, run) for run in runs if (setting.exp_dir / run.name / RESULT).is_file()]
        if done:
            found.append(Done(row, lr, done, [read_result(setting, run) for run in tried]))
    return found


def _report(args: argparse.Namespace, setting: "Setting") -> str:
    """Write the report so far; its text."""
    from studies.adaptation.reporting import draw, format_table

    done = _done(setting)
    if not done:
        return f"{args.exp_dir}: no row is done yet, so there is nothing to report."
    draw(done, args.exp_dir / PICTURE)
    lines = [
        *(f"# {without_root(str(args.plan.resolve()))}", ""),
        *format_table(done, setting.plan.reference, args.exp_dir, _test_sets(args)),
        *("", f"![Error rate and loss of text]({PICTURE})", ""),
        *origin_lines(_facts(args, setting, done)),
    ]
    text = "\n".join(lines) + "\n"
    write_text(args.exp_dir / RESULTS, text)
    return text


def _test_sets(args: argparse.Namespace) -> "list[TestSet]":
    from espnet_larm.data.kaldi_dir import read_table
    from studies.adaptation.reporting import TestSet
    from studies.measuring import grouping_of

    sets = []
    for folder in args.test_dirs:
        references = read_table(folder / "text")
        sets.append(TestSet(folder.name, references, grouping_of(folder, list(references))))
    return sets


def _facts(args: argparse.Namespace, setting: "Setting", done: "list[Done]") -> dict[str, str]:
    """What the numbers depend on, for the end of the report."""
    every = [found for each in done for found in (*each.results, *each.tried)]
    results = list({(found["row"], found["lr"], found["seed"]): found for found in every}.values())
    schedule = setting.plan.schedule
    unlike = [found for found in results if found["text"].get("is_base_when_dropped") is False]
    tried = [
        f"{each.row.title} " + ", ".join(f"{found['lr']:g}: {found['best']['dev_wer']:.1f}" for found in each.tried)
        for each in done
        if each.tried
    ]
    text = results[0]["text"]
    machines = [", ".join(f"{name} {value}" for name, value in found["machine"].items()) for found in results]
    return {
        "learning rates tried, dev WER %": "; ".join(tried),
        "a run": f"{schedule.num_steps} steps of {schedule.batch_size} utterances, measured {schedule.num_points} "
        "times; what is given is of its best point by dev WER",
        "nats lost a token": f"above the LM before, on {text['num_tokens']} tokens of {args.text.name} "
        f"({text['base_nats']:.4f} nats)",
        "at equal dev WER": "nats lost, the row beside the reference: of each run at the chosen learning rate, the "
        "least of all points that get no more words wrong than the worst run of both rows does at best; and the least "
        "of all points of the rows at any of the learning rates tried",
        "runs with added layers whose LM is not its base when they are dropped": str(len(unlike)),
        "commits": different(found["commit"] for found in results),
        "machines": different(machines),
    }


if __name__ == "__main__":
    sys.exit(run_program(main))
