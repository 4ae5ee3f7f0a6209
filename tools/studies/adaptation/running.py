"""Runs of a study in several processes; what is done is not done again, and what was interrupted goes on."""

import argparse
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_larm.adaptation.depth_upscaling import dropped
from espnet_larm.data.parallel import end_with_parent
from espnet_larm.data.text import fingerprint, read_sentences
from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.fingerprint import difference, fingerprint_of
from espnet_larm.llm.packing import pack_sentences
from espnet_larm.origin import commit, describe_machine
from espnet_larm.recognize.model.loading import read_config, read_weights
from espnet_larm.speech_llm.text_ability import check_case
from espnet_larm.train.learning import learning_parts
from espnet_larm.train.task import LarmASRTask
from studies.adaptation.fitting import BEST, CHECKPOINT, Fitting, build, options_of
from studies.adaptation.plan import Plan, Row, Run
from studies.frames import load
from studies.measuring import Measure, word_error_rate
from studies.reports import write_text
from studies.runs import work_through
from studies.text_ability.measures import lines_of, measure_lines, summarise

RESULT, TRAIN, DEV = "result.json", "train", "dev"
logger = logging.getLogger(__name__)


class Setting(NamedTuple):
    """Setting that all runs of a study share; picklable.

    Attributes:
        plan: The study.
        config_file: Configuration of the trained model whose encoder is used.
        model_file: Weights of the trained model.
        llm: Folder or hub id of its LM; None for the one in the configuration.
        frames: Files of `frames.store` by set: TRAIN, DEV and test sets.
        text: Held-out text, a sentence a line.
        max_lines: Number of first lines of the held-out text; 0 for all.
        text_kl_text: Text for rows with a KL penalty; None if there is none.
        exp_dir: Folder of the runs' folders.
        device: Device, `cpu` or `cuda`.
        num_threads: Threads of a process; 0 for torch's choice.
    """

    plan: Plan
    config_file: Path
    model_file: Path
    llm: str | None
    frames: dict[str, Path]
    text: Path
    max_lines: int
    text_kl_text: Path | None
    exp_dir: Path
    device: str
    num_threads: int


def run_all(setting: Setting, num_jobs: int) -> Iterator[dict[str, Any]]:
    """Do what is not done: first each row's first seed at all its learning rates, then the other seeds at the best.

    Args:
        setting: Setting of the study.
        num_jobs: Processes; 1 runs in this one.

    Yields:
        Each run's result as it ends, or at once where it is there.

    Raises:
        ValueError: A run cannot be begun. Errors of runs in several processes are raised after the other runs.
    """
    first = [Run(row.name, lr, row.seeds[0]) for row in setting.plan.rows for lr in row.lrs]
    yield from _run_some(setting, first, num_jobs)
    chosen = [Run(row.name, best_lr(setting, row), seed) for row in setting.plan.rows for seed in row.seeds]
    # All rows with one seed before any has a second: an unfinished study has all rows.
    chosen.sort(key=lambda run: setting.plan.row(run.row).seeds.index(run.seed))
    yield from _run_some(setting, [run for run in chosen if run not in first], num_jobs)


class _InPool:
    """A run in a process of a pool."""

    def __init__(self, future: "Future[dict[str, Any]]") -> None:
        self.future = future
        self.is_over, self.stop = future.done, future.cancel

    def finish(self) -> "Future[dict[str, Any]]":
        """Wait for the result or the error."""
        wait([self.future])
        return self.future


def _run_some(setting: Setting, runs: Sequence[Run], num_jobs: int) -> Iterator[dict[str, Any]]:
    if num_jobs == 1:
        yield from (run_one(setting, run) for run in runs)
        return
    threads = setting.num_threads or max(1, (os.cpu_count() or 1) // num_jobs)
    shared = setting._replace(num_threads=threads)
    errors = []
    with ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"), initializer=_begin) as pool:
        for future in work_through(runs, lambda run: _InPool(pool.submit(run_one, shared, run)), num_jobs):
            # A run that fails does not stop the others.
            if (error := future.exception()) is None:
                yield future.result()
            else:
                logger.error("a run has failed, the others go on: %s", error)
                errors.append(error)
    if errors:
        raise errors[0]


def _begin() -> None:
    """Set up a process of a pool."""
    end_with_parent()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s: %(message)s")


def check_rows(setting: Setting) -> None:
    """Build the model of each row once, so that a row that cannot be built is reported before any training.

    Raises:
        ValueError: A row cannot be built: see `options_of` and `build`.
    """
    weights = read_weights(setting.model_file)
    for row in setting.plan.rows:
        run = Run(row.name, 0.0, row.seeds[0])
        args = options_of(read_config(setting.config_file, setting.llm), setting.plan, run, setting.text_kl_text)
        build(args, weights, setting.plan.begin_with, run.seed)


def record_of(setting: Setting, folders: Mapping[str, Path], plan_text: str) -> dict[str, Any]:
    """Everything that the figures of a study depend on, except code and machine; kept beside its runs.

    Args:
        setting: Setting of the study.
        folders: Data folders by set.
        plan_text: Content of the plan's file.
    """
    texts = [path for path in (setting.text, setting.text_kl_text) if path is not None]
    return {
        "plan": plan_text,
        "encoder": [fingerprint(setting.config_file), fingerprint(setting.model_file)],
        "texts": [fingerprint(path) for path in texts],
        "max_lines": setting.max_lines,
        "sets": {
            name: [fingerprint(folder / table) for table in ("wav.scp", "text")] for name, folder in folders.items()
        },
    }


def best_lr(setting: Setting, row: Row) -> float:
    """Learning rate at which the first seed gets the fewest words of the development set wrong.

    Raises:
        FileNotFoundError: A run that decides it is not done.
    """
    owner = setting.plan.row(row.lr_of) if row.lr_of else row
    results = [read_result(setting, Run(owner.name, lr, owner.seeds[0])) for lr in owner.lrs]
    return float(min(results, key=lambda found: (found["best"]["dev_wer"], found["best"]["nats"]))["lr"])


def read_result(setting: Setting, run: Run) -> dict[str, Any]:
    """Result of a run that is done.

    Raises:
        FileNotFoundError: The run is not done.
    """
    path = setting.exp_dir / run.name / RESULT
    if not path.is_file():
        raise FileNotFoundError(f"{run.name} is not done; call the study again without --report_only.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_one(setting: Setting, run: Run) -> dict[str, Any]:
    """Train, measure and write a run, unless its result is there; the result."""
    folder = setting.exp_dir / run.name
    if (folder / RESULT).is_file():
        return read_result(setting, run)
    folder.mkdir(parents=True, exist_ok=True)
    if setting.num_threads:
        torch.set_num_threads(setting.num_threads)
    plan = setting.plan
    args = options_of(read_config(setting.config_file, setting.llm), plan, run, setting.text_kl_text)
    preprocess = LarmASRTask.build_preprocess_fn(args, False)
    model = build(args, read_weights(setting.model_file), plan.begin_with, run.seed).to(setting.device)
    lines = read_lines(setting, model.decoder.tokenizer)
    dev = load(setting.frames[DEV])
    measure = Measure(model, args, preprocess, lines)

    def tokenize(text: str) -> torch.Tensor:
        return torch.as_tensor(preprocess("", {"text": text})["text"])

    fitting = Fitting(model, run, plan.schedule, load(setting.frames[TRAIN]), tokenize, folder)
    fitting.fit(lambda: (word_error_rate(dev, measure.texts(dev)), measure.nats()))
    wers = {}
    for name, path in setting.frames.items():
        if name != TRAIN:
            spoken = load(path)
            texts = measure.texts(spoken)
            write_text(folder / name / "text", "".join(f"{key} {text}\n" for key, text in sorted(texts.items())))
            wers[name] = word_error_rate(spoken, texts)
    result = {
        **run._asdict(),
        "best": fitting.best._asdict(),
        "points": [point._asdict() for point in fitting.points],
        "wer": wers,
        "text": _text_of(args, model.decoder.backbone, lines),
        "shares": [share._asdict() for share in learning_parts(model)],
        "seconds": round(fitting.seconds, 1),
        "commit": commit(),
        "machine": describe_machine(torch.device(setting.device)),
    }
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    # What going on would take, three times what learns; the best weights stay.
    (folder / CHECKPOINT).unlink(missing_ok=True)
    logger.info("%s: dev %.2f %%, %s", run.name, wers[DEV], folder / BEST)
    return result


def read_lines(setting: Setting, tokenizer: Any) -> list[torch.Tensor]:
    """Tokens of each line of the held-out text."""
    sentences = read_sentences([setting.text])[: setting.max_lines or None]
    check_case(tokenizer, sentences)
    return lines_of(pack_sentences(tokenizer, sentences))


def _text_of(args: argparse.Namespace, backbone: Backbone, lines: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Loss of text of the LM; with added layers, also whether the LM without them is its base bit for bit."""
    names = (args.decoder_conf["llm"], args.decoder_conf.get("revision"))
    base = Backbone.from_pretrained(*names, str(backbone.dtype).removeprefix("torch."))
    base = base.to(next(backbone.parameters()).device).eval()
    sums = measure_lines(base, lines)
    found = {name: each._asdict() for name, each in summarise(measure_lines(backbone, lines, base), sums).items()}
    base_nats = float(sums.nats.sum() / sums.tokens.sum())
    result: dict[str, Any] = {"num_tokens": int(sums.tokens.sum()), "base_nats": base_nats, **found}
    if len(backbone.added):
        with dropped(backbone):
            result["is_base_when_dropped"] = difference(fingerprint_of(backbone), fingerprint_of(base)) is None
    return result
