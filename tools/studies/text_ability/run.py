"""What an LM knows of text, and what is left of it in a trained `decoder: speech_llm` model.

Nats per token and next-token accuracy with 95 % intervals over resampled lines, and KL(base || model) in nats per
token, of the model and of the LM that it was made of; with added layers also with them dropped, and with LoRA also
without it.
Each line is read by itself, as `<s> line </s>`. The text must be spelled as the LM's was: in capitals, or not.

    python -m studies.text_ability.run --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --text data/test/text --output_dir exp/asr_x/text
"""

import argparse
import datetime as dt
import json
import logging
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_larm.data.text import fingerprint, read_sentences
from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults, add_ngpu, check_gpu

if TYPE_CHECKING:
    import torch

    from espnet_larm.llm.backbone import Backbone
    from espnet_larm.speech_llm.text_ability import Estimate

logger = logging.getLogger(__name__)

RESULTS = "text_eval.json"


class Subject(NamedTuple):
    """What is measured, and what it was made of, which is None where nothing says it."""

    backbone: "Backbone"
    tokenizer: Any
    base: "Backbone | None"
    base_name: str | None


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpWithDefaults)
    parser.add_argument("--asr_train_config", type=Path, help="of the experiment")
    parser.add_argument("--asr_model_file", type=Path, help="its weights")
    parser.add_argument("--llm", help="folder or hub id: an LM by itself, or where the model's LM is now")
    base_help = "folder or hub id of the LM that it was made of; by default what the configuration names"
    parser.add_argument("--base", help=base_help)
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="a sentence a line, plain, .gz or Kaldi's")
    parser.add_argument("--max_lines", type=int, default=0, help="first lines of the text alone; 0 for all")
    sample_help = "instead of --text, lines that are drawn from the base, where its text is not to be had"
    parser.add_argument("--sample_lines", type=int, default=0, help=sample_help)
    parser.add_argument("--sample_tokens", type=int, default=128, help="where such a line is cut")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--batch_size", type=int, default=16, help="lines at a time")
    task_help = "also run these of lm-eval, which is an extra and needs a network; `paper` for the eight of the paper"
    parser.add_argument("--lm_eval_tasks", nargs="+", default=[], help=task_help)
    parser.add_argument("--output_dir", type=Path, help=f"for {RESULTS}, and for the LMs of --lm_eval_tasks")
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Measure, print a table, write all figures."""
    args = get_parser().parse_args(cmd)
    _check(args)
    # transformers takes seconds to import.
    from espnet_larm.speech_llm.text_ability import lora_layers
    from studies.text_ability.lm_evaluation import check_installed

    if args.lm_eval_tasks:
        check_installed()
    subject = _load_experiment(args) if args.asr_train_config else _load_llm(args)
    if args.lm_eval_tasks and lora_layers(subject.backbone):
        raise ValueError("--lm_eval_tasks: an LM with LoRA cannot be saved for lm-eval; leave the option out.")
    for backbone in (subject.backbone, subject.base):
        if backbone is not None:
            backbone.to("cuda" if args.ngpu else "cpu")
    lines, described = _read_lines(args, subject)
    figures = _measure(subject, lines, args.batch_size)
    print(described["what"])
    print("\n".join(_table(figures)))
    scores = _run_tasks(args, subject) if args.lm_eval_tasks else None
    if args.output_dir is not None:
        _write(args, cmd, {"text": described, "base": subject.base_name, "figures": figures, "lm_eval": scores})
    return 0


def _check(args: argparse.Namespace) -> None:
    """Options that do not go together, before anything is loaded."""
    if (args.asr_train_config is None) != (args.asr_model_file is None):
        raise ValueError("--asr_train_config and --asr_model_file are given together.")
    if args.asr_train_config is None and args.llm is None:
        raise ValueError("no LM: give --asr_train_config and --asr_model_file, or --llm.")
    if bool(args.text) == bool(args.sample_lines):
        raise ValueError("no text, or two: give --text or --sample_lines, one of them.")
    for name, least in (("max_lines", 0), ("sample_lines", 0), ("batch_size", 1)):
        if vars(args)[name] < least:
            raise ValueError(f"--{name} {vars(args)[name]} must be at least {least}.")
    if args.lm_eval_tasks and args.output_dir is None:
        raise ValueError("--lm_eval_tasks needs --output_dir, where the LM is saved.")
    check_gpu(args.ngpu)


def _load_experiment(args: argparse.Namespace) -> Subject:
    """The LM of a trained model."""
    import torch

    from espnet_larm.llm.fingerprint import FINGERPRINT, difference, fingerprint_of
    from espnet_larm.recognize.model.loading import load_model
    from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

    model, options = load_model(args.asr_train_config, args.asr_model_file, "cpu", torch.float32, args.llm)
    decoder = model.decoder
    if not isinstance(decoder, SpeechLlmDecoder):
        raise ValueError(f"{args.asr_train_config}: decoder is {options.decoder}; only a speech_llm has an LM.")
    named, revision = options.decoder_conf.get("llm"), options.decoder_conf.get("revision")
    subject = _with_base(decoder.backbone, decoder.tokenizer, args.base or named, None if args.base else revision)
    if subject.base is not None and not args.base:
        # Weights that were all trained are in the checkpoint, so that loading takes any LM of their shape.
        reason = difference(fingerprint_of(subject.base), decoder.backbone.get_buffer(FINGERPRINT))
        if reason:
            raise ValueError(reason)
    return subject


def _load_llm(args: argparse.Namespace) -> Subject:
    """An LM by itself, or with the added layers beside it."""
    from espnet_larm.adaptation.export import load_upscaled
    from espnet_larm.llm.backbone import load_tokenizer

    backbone = load_upscaled(args.llm)
    named = args.base or (args.llm if len(backbone.added) else None)
    return _with_base(backbone, load_tokenizer(args.llm), named, None)


def _with_base(backbone: "Backbone", tokenizer: Any, name: str | None, revision: str | None) -> Subject:
    from espnet_larm.llm.backbone import Backbone, load_tokenizer

    if name is None:
        return Subject(backbone.eval(), tokenizer, None, None)
    if load_tokenizer(name, revision).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"--base {name} has other tokens than the LM; name the LM that the model was made of.")
    base = Backbone.from_pretrained(name, revision, str(backbone.dtype).removeprefix("torch."))
    return Subject(backbone.eval(), tokenizer, base.eval(), name)


def _read_lines(args: argparse.Namespace, subject: Subject) -> "tuple[list[torch.Tensor], dict[str, Any]]":
    """Tokens of each line, and what they are."""
    from espnet_larm.llm.packing import pack_sentences
    from espnet_larm.llm.tokens import special_tokens
    from espnet_larm.speech_llm.text_ability import check_case, lines_of, sample_lines

    if args.text:
        sentences = read_sentences(args.text)[: args.max_lines or None]
        check_case(subject.tokenizer, sentences)
        text = pack_sentences(subject.tokenizer, sentences)
        names = " ".join(str(path) for path in args.text)
        return lines_of(text), {"what": f"{names}: {text}", "files": [fingerprint(path) for path in args.text]}
    start, end = subject.tokenizer.bos_token_id, special_tokens(subject.tokenizer).eos
    source = subject.base or subject.backbone
    name = subject.base_name or args.llm or "the model"
    lines = sample_lines(source, start, end, args.sample_lines, args.sample_tokens, args.seed, args.batch_size)
    what = (
        f"SAMPLED from {name}, no text of people: {len(lines)} lines to {args.sample_tokens} tokens, seed {args.seed}"
    )
    return lines, {"what": what, "sampled_from": name, "seed": args.seed}


def _variants(subject: Subject) -> "dict[str, Callable[[], AbstractContextManager[None]]]":
    """The LM as it is, and without what was added to it."""
    from espnet_larm.adaptation.depth_upscaling import dropped
    from espnet_larm.speech_llm.text_ability import lora_layers, lora_off

    backbone = subject.backbone
    found: dict[str, Callable[[], AbstractContextManager[None]]] = {"model": nullcontext}
    if len(backbone.added):
        found["added layers dropped"] = lambda: dropped(backbone)
    if lora_layers(backbone):
        found["LoRA off"] = lambda: lora_off(backbone)
    return found


def _measure(subject: Subject, lines: "list[torch.Tensor]", batch_size: int) -> "dict[str, dict[str, int | Estimate]]":
    """Figures by variant, those of the base first."""
    from espnet_larm.speech_llm.text_ability import measure_lines, summarise

    base = None if subject.base is None else measure_lines(subject.base, lines, batch_size=batch_size)
    sums = {} if base is None else {"base": base}
    for name, variant in _variants(subject).items():
        with variant():
            sums[name] = measure_lines(subject.backbone, lines, subject.base, batch_size)
        logger.info("%s: measured", name)
    return {
        name: {"num_tokens": int(each.tokens.sum()), **summarise(each, None if name == "base" else base)}
        for name, each in sums.items()
    }


def _table(figures: "dict[str, dict[str, int | Estimate]]") -> list[str]:
    """Markdown: a row a variant, a column a figure."""
    names = ["nats_per_token", "accuracy", "kl_to_base", "nats_above_base"]
    rows = [["LM", *(name.replace("_", " ") for name in names), "tokens"]]
    rows.append(["---"] * len(rows[0]))
    for variant, found in figures.items():
        cells = [found.get(name) for name in names]
        shown = [
            f"{cell[0]:.4f} [{cell[1][0]:.4f}, {cell[1][1]:.4f}]" if isinstance(cell, tuple) else "" for cell in cells
        ]
        rows.append([variant, *shown, str(found["num_tokens"])])
    return [f"| {' | '.join(row)} |" for row in rows]


def _run_tasks(args: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """lm-eval's results by variant."""
    from studies.text_ability.lm_evaluation import PAPER_TASKS, run_tasks

    tasks = [name for task in args.lm_eval_tasks for name in (PAPER_TASKS if task == "paper" else (task,))]
    scores = {}
    for name, variant in _variants(subject).items():
        folder = args.output_dir / name.replace(" ", "_")
        with variant():
            place = "cuda" if args.ngpu else "cpu"
            scores[name] = run_tasks(subject.backbone, subject.tokenizer, folder, tasks, args.batch_size, place)
        print(f"{name}: {json.dumps(scores[name], default=str)}")
    return scores


def _write(args: argparse.Namespace, cmd: list[str] | None, found: dict[str, Any]) -> None:
    import torch

    from espnet_larm.origin import commit, describe_machine, versions

    figures = {
        variant: {name: each if isinstance(each, int) else each._asdict() for name, each in row.items()}
        for variant, row in found["figures"].items()
    }
    origin = {
        "command": shlex.join(["python", "-m", "studies.text_ability.run", *(sys.argv[1:] if cmd is None else cmd)]),
        "commit": commit(),
        "versions": versions(),
        "machine": describe_machine(torch.device("cuda" if args.ngpu else "cpu")),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    content = json.dumps({**found, "figures": figures, **origin}, indent=2, default=str)
    (args.output_dir / RESULTS).write_text(f"{content}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_program(main))
