"""Measures how well an LM predicts text, and how much of that a trained `decoder: speech_llm` model keeps.

Nats per token and next-token accuracy with 95 % intervals over resampled lines, and KL(base || model) in nats per
token, of the model and of the LM that it was made of; also with added layers dropped, and with LoRA off.
Each line is read by itself, as `<s> line </s>`. The text must be spelled as the LM's was: in capitals, or not.

    python -m studies.text_ability.run --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/valid.loss.ave.pth --text data/test/text --output_dir exp/asr_x/text
"""

import argparse
import datetime as dt
import importlib.util
import json
import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_larm.data.text import fingerprint, read_sentences
from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults, add_ngpu, check_gpu
from studies.options import add_model_options
from studies.reports import command_of, table_of, write_text

if TYPE_CHECKING:
    import torch

    from espnet_larm.llm.backbone import Backbone
    from studies.text_ability.measures import Estimate

logger = logging.getLogger(__name__)

RESULTS = "text_eval.json"
# Tasks of Yano et al., arXiv:2604.00489.
PAPER_TASKS = ("arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "mmlu")


class Subject(NamedTuple):
    """The LM to measure, and the LM that it was made of; None if that is not known."""

    backbone: "Backbone"
    tokenizer: Any
    base: "Backbone | None"
    base_name: str | None


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    add_model_options(parser, required=False)
    base_help = "folder or hub id of the LM that it was made of; by default the one that the configuration names"
    parser.add_argument("--base", help=base_help)
    text_help = "files of text, a sentence a line, plain, .gz or Kaldi's"
    parser.add_argument("--text", type=Path, nargs="+", default=[], help=text_help)
    parser.add_argument("--max_lines", type=int, default=0, help="first lines of the text to read; 0 reads all")
    sample_help = "instead of --text, number of lines to draw from the base, where its text cannot be had"
    parser.add_argument("--sample_lines", type=int, default=0, help=sample_help)
    parser.add_argument("--sample_tokens", type=int, default=128, help="tokens after which a drawn line is cut")
    parser.add_argument("--seed", type=int, default=0, help="seed of drawn lines")
    parser.add_argument("--batch_size", type=int, default=16, help="lines at a time")
    task_help = "tasks of lm-eval to run, which is an extra and needs a network; `paper` for the eight of the paper"
    parser.add_argument("--lm_eval_tasks", nargs="+", default=[], help=task_help)
    parser.add_argument("--output_dir", type=Path, help=f"folder for {RESULTS} and for the LMs of --lm_eval_tasks")
    add_ngpu(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Measure, print a table, write all figures."""
    args = get_parser().parse_args(cmd)
    _check(args)
    # transformers takes seconds to import.
    from espnet_larm.speech_llm.text_ability import lora_layers

    if args.lm_eval_tasks and importlib.util.find_spec("lm_eval") is None:
        raise ImportError('--lm_eval_tasks needs lm-eval: pip install "espnet-larm[lm-eval]"')
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
    """Refuse options that do not go together, before anything is loaded."""
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
    """Tokens of each line, and a description of the text."""
    from espnet_larm.llm.packing import pack_sentences
    from espnet_larm.llm.tokens import special_tokens
    from espnet_larm.speech_llm.text_ability import check_case
    from studies.text_ability.measures import lines_of, sample_lines

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
    """The LM as it is, and without the parts that were added to it."""
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
    """Figures by variant; the base comes first."""
    from studies.text_ability.measures import measure_lines, summarise

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
    """Lines of a table in Markdown: a row a variant, a column a figure."""
    names = ["nats_per_token", "accuracy", "kl_to_base", "nats_above_base"]
    rows = []
    for variant, found in figures.items():
        cells = [found.get(name) for name in names]
        shown = [
            f"{cell[0]:.4f} [{cell[1][0]:.4f}, {cell[1][1]:.4f}]" if isinstance(cell, tuple) else "" for cell in cells
        ]
        rows.append([variant, *shown, str(found["num_tokens"])])
    return list(table_of(["LM", *(name.replace("_", " ") for name in names), "tokens"], rows))


def _run_tasks(args: argparse.Namespace, subject: Subject) -> dict[str, Any]:
    """lm-eval's results by variant; each variant is saved as Hugging Face loads it."""
    import lm_eval

    from espnet_larm.adaptation.export import save_for_text

    tasks = [name for task in args.lm_eval_tasks for name in (PAPER_TASKS if task == "paper" else (task,))]
    scores = {}
    for name, variant in _variants(subject).items():
        folder = args.output_dir / name.replace(" ", "_")
        with variant():
            save_for_text(subject.backbone, folder)
        subject.tokenizer.save_pretrained(folder)
        options = {"pretrained": str(folder), "dtype": str(subject.backbone.dtype).removeprefix("torch.")}
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=options,
            tasks=tasks,
            batch_size=args.batch_size,
            device="cuda" if args.ngpu else "cpu",
        )
        scores[name] = dict(found["results"])
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
        "command": command_of("studies.text_ability.run", cmd),
        "commit": commit(),
        "versions": versions(),
        "machine": describe_machine(torch.device("cuda" if args.ngpu else "cpu")),
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    content = json.dumps({**found, "figures": figures, **origin}, indent=2, default=str)
    write_text(args.output_dir / RESULTS, f"{content}\n")


if __name__ == "__main__":
    sys.exit(run_program(main))
