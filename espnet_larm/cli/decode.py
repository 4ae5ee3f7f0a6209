r"""Stage 12: recognises a data folder in batches: by CTC, all checkpoint loops in one pass, or by the model's LM.

Examples:
    espnet-larm decode --data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound \
        --asr_train_config exp/asr_x/config.yaml --asr_model_file exp/asr_x/valid.loss.ave.pth --output_dir out

Takes ESPnet's arguments, and those that `--help` lists under espnet_larm. `--beam_size` 1, the default here, is greedy.
What our searches cannot do (an attention or transducer decoder, `--penalty`, features from archives, ...) is handed
over to ESPnet's own program, which is logged.
A model with an LM is decoded by the LM, or with `--ctc_weight 1.0` by its CTC head alone, at all loops. With a lower
weight CTC scores the LM's tokens too, and so does an n-gram over them with `--ngram_file` (`--ngram_weight`, 0.9).
Where CTC decodes alone, `--ngram_file` is one over words, which scores the prefix beam (`--beam_size 10`), and a text
LM of ESPnet's (`--lm_train_config`, `--lm_file`) rescores what the beam has found.
`--pooling` merges speech tokens that the LM reads.
`--num_loops auto` runs as many loops as each utterance needs, by a rule that `calibrate-loops` has set for the model.
Writes `1best_recog/` (up to `--nbest`), `loop<k>/` (or `auto/`) and `stats.json`.
Audio longer than `--long_seconds` is read in blocks, cut at silences, recognised in pieces and joined: memory does not
grow with it. Exit status 1 after a wrong option (nothing decoded) or if audio could not be read (the rest decoded).
Killed, or stopped by bad audio, the same command goes on behind the batches that it has finished.
"""

import argparse
import logging
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.cli.espnet_options import (
    check_values,
    espnets_lm,
    espnets_model,
    espnets_option,
    forget_defaults,
)
from espnet_larm.files.locks import locked
from espnet_larm.files.reading import read_yaml
from espnet_larm.options import add_option, add_options, given_options, help_of
from espnet_larm.origin import commit
from espnet_larm.pack.models import add_places
from espnet_larm.program import check_config_first, given, hand_over
from espnet_larm.recognize.config import NGRAM, Batching, DecodeConfig

if TYPE_CHECKING:
    from espnet_larm.recognize.plan import Plan

logger = logging.getLogger(__name__)

NUM_NAMED = 10
# Title of the options that ESPnet's program does not have.
OURS = "espnet_larm"
# ESPnet's and bfloat16, in which many LMs are trained, and which newer CPUs multiply several times faster than float32.
DTYPES = ("float16", "float32", "float64", "bfloat16")
HELP_ALL = "--help_all"
# What --help says of ESPnet's options.
ESPNETS = {
    "data_path_and_name_and_type": "PATH/wav.scp,speech,sound: what to recognise",
    "asr_train_config": "the experiment's config.yaml",
    "asr_model_file": "the experiment's weights",
    "output_dir": "folder of the hypotheses",
    "key_file": "table whose first column names the utterances to recognise (default: all)",
    "config": "YAML file with options",
    "ngpu": "1 computes on a GPU (default: 0)",
    "dtype": "type of the weights (default: float32)",
    "beam_size": "hypotheses in the beam (default: 1, which is greedy)",
    "nbest": "hypotheses to keep (default: 1)",
    "ctc_weight": "weight of CTC beside the LM",
    "ngram_file": "n-gram over the LM's tokens, or over words for CTC alone",
    "ngram_weight": "its weight (default: 0.9)",
    "lm_train_config": "config.yaml of a text LM of ESPnet's that rescores CTC's beam",
    "lm_file": "its weights",
    "lm_weight": "weight of its logarithms (default: 1.0)",
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """Prints options of ESPnet's with a bare percent sign, `3.19% CER`, as they are written: its own --help fails."""

    def _expand_help(self, action: argparse.Action) -> str:
        try:
            return super()._expand_help(action)
        except ValueError:
            return action.help or ""


def get_parser() -> argparse.ArgumentParser:
    """A parser of ESPnet's options and ours. It takes 10 s of imports."""
    from espnet2.bin.asr_inference import get_parser as get_espnet_parser

    parser = get_espnet_parser()
    parser.description = __doc__
    parser.formatter_class = _Help
    # A misspelt option must not set another one.
    parser.allow_abbrev = False
    check_config_first(parser)
    forget_defaults(parser)
    next(action for action in parser._actions if action.dest == "dtype").choices = DTYPES
    _add_ours(parser)
    return parser


def _add_ours(parser: argparse.ArgumentParser) -> None:
    from espnet2.utils.nested_dict_action import NestedDictAction
    from espnet2.utils.types import str2bool

    group = add_options(parser, DecodeConfig, OURS)
    group.add_argument(
        "--pooling", action=NestedDictAction, metavar="SITE.OPTION=VALUE", help=help_of(DecodeConfig, "pooling")
    )
    group.add_argument("--write_ctm", type=str2bool, default=False, help="write times of words into ctm, beside text")
    add_option(group, Batching, "batch_seconds")
    add_places(group)


def _get_help_parser() -> argparse.ArgumentParser:
    """A parser for --help alone, without the imports that ESPnet's options take."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("espnet, the most usual; --help_all has the others")
    group.add_argument("--help_all", action="store_true", help="show all options, which takes some seconds")
    for name, words in ESPNETS.items():
        group.add_argument(f"--{name}", help=words)
    _add_ours(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode; print the real-time factor of each loop."""
    words = sys.argv[1:] if cmd is None else cmd
    if {"-h", "--help"}.intersection(words):
        _get_help_parser().print_help()
        return 0
    if HELP_ALL in words:
        get_parser().print_help()
        return 0
    args = get_parser().parse_args(cmd)
    logging.getLogger().setLevel(args.log_level)
    logger.info("%s", shlex.join(sys.argv))
    parser = get_parser()
    ours = options_of_ours(parser)
    check_values(args, [action for action in parser._actions if action not in ours])
    if reason := why_espnet(args):
        # A parser of its own: what --config says has become the other's defaults.
        return hand_over("asr_inference", cmd, reason, given(args, ours))
    batching, config = batching_of(args), config_of(args)
    from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.decoding import decode_table, unit_of
    from espnet_larm.recognize.output.finished import NAME as FINISHED
    from espnet_larm.recognize.output.finished import FinishedBatches
    from espnet_larm.recognize.output.writer import HypothesisWriter, write_stats

    set_all_random_seed(args.seed)
    wav_scp, audio_type = speech_of(args.data_path_and_name_and_type)
    recognizer = load(args)
    plan = recognizer.plan(config)
    table = AudioTable(wav_scp, audio_type, recognizer.sample_rate_hz, recognizer.preprocess)
    keys = table.keys(None if args.key_file is None else Path(args.key_file))
    output_dir = Path(args.output_dir)
    results = HypothesisWriter(output_dir, unit_of(recognizer), plan.numbers, config.nbest, config.with_words)
    with locked(output_dir):
        finished = FinishedBatches(output_dir / FINISHED, depends_on(args, plan))
        if len(finished):
            logger.info("%s: %d utterances were decoded before; going on behind them.", output_dir, len(finished))
        with results as writer:
            stats = decode_table(recognizer, table, keys, plan, batching, writer, finished)
        write_stats(output_dir, stats)
        if not stats["failed"]:
            finished.forget()
    _print_costs(stats)
    return _report_failures(stats["failed"], len(keys), output_dir)


def options_of_ours(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options that ESPnet's program does not have."""
    return next(group._group_actions for group in parser._action_groups if group.title == OURS)


def why_espnet(args: argparse.Namespace) -> str:
    """Why ESPnet's own program must decode; empty if ours does."""
    if reason := espnets_option(args):
        return reason
    config_file, lm_config = Path(args.asr_train_config or ""), Path(args.lm_train_config or "")
    if config_file.is_file() and (reason := espnets_model(read_yaml(config_file), args)):
        return reason
    return espnets_lm(read_yaml(lm_config)) if lm_config.is_file() else ""


def batching_of(args: argparse.Namespace) -> Batching:
    """The options of the program itself, checked.

    Raises:
        ValueError: One is out of its range; with what is allowed.
    """
    if args.ngpu not in (0, 1):
        raise ValueError(f"ngpu is {args.ngpu}; allowed: 0 or 1. Split the key file among several jobs instead.")
    for name in ("asr_train_config", "asr_model_file"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing; it is a file of the experiment.")
    return Batching(**given_options(Batching, args))


def config_of(args: argparse.Namespace) -> DecodeConfig:
    """The options of decoding that a command line and its --config give.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An option is of another type, from a YAML.
    """
    return DecodeConfig(**given_options(DecodeConfig, args), with_words=args.write_ctm)


def load(args: argparse.Namespace) -> Any:
    """The recogniser that the options name.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The options do not fit the model, or there is no GPU.
    """
    import torch

    from espnet_larm.recognize.recognizer import Recognizer

    if args.ngpu and not torch.cuda.is_available():
        raise ValueError("ngpu is 1, but torch sees no GPU here; set ngpu: 0.")
    return Recognizer.from_files(
        args.asr_train_config,
        args.asr_model_file,
        "cuda" if args.ngpu else "cpu",
        args.dtype,
        args.token_type,
        args.bpemodel,
        args.llm,
        args.encoder,
    )


def depends_on(args: argparse.Namespace, plan: "Plan") -> dict[str, Any]:
    """What hypotheses depend on: options, code, and the state of the files that are read."""
    wav_scp, audio_type = speech_of(args.data_path_and_name_and_type)
    config = plan.config
    lexicon = None if config.lexicon == NGRAM else config.lexicon
    options = [args.asr_train_config, args.asr_model_file, args.bpemodel, config.ngram_file, lexicon, wav_scp]
    options += [config.lm_train_config, config.lm_file]
    files = {str(path): (Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in options if path}
    names = ("ngpu", "dtype", "seed", "token_type", "llm", "encoder")
    return {
        "code": commit(),
        "files": files,
        "audio_type": audio_type,
        "options": {name: getattr(args, name) for name in names},
        "config": asdict(config),
        # A calibration beside the model may have changed.
        "leaving": plan.leaving and (plan.leaving.name, plan.leaving.threshold),
        "drafting": plan.llm and plan.llm.drafting.stats(),
    }


def speech_of(triples: list[tuple[str, str, str]]) -> tuple[Path, str]:
    """Path and type of the audio that --data_path_and_name_and_type names.

    Raises:
        ValueError: Not exactly one entry, named speech.
    """
    if [name for _, name, _ in triples] != ["speech"]:
        raise ValueError(
            f"data_path_and_name_and_type names {', '.join(name for _, name, _ in triples)}; allowed: speech alone, "
            "as PATH/wav.scp,speech,sound."
        )
    path, _, audio_type = triples[0]
    return Path(path), audio_type


def _print_costs(stats: dict[str, Any]) -> None:
    """Print seconds and real-time factor by read-out, and the memory."""
    from espnet_larm.recognize.output.effort import describe_frames, describe_leaving, describe_search

    audio = stats["audio_seconds"]
    print(f"{stats['num_utts']} utterances, {audio:.1f} s of audio, {len(stats['skipped'])} not decoded")
    print(f"{stats['unit']:>8}  compute s  real-time factor")
    for number, cost in stats["loops"].items():
        factor = f"{cost['seconds'] / audio:.5f}" if audio else "-"
        print(f"{number:>8}  {cost['seconds']:9.2f}  {factor:>16}")
    wall = f"{stats['wall_seconds']:.2f} s with reading and writing"
    if "leaving" in stats:
        print(describe_leaving(stats))
    print(f"features: {stats['feature_seconds']:.2f} s; everything: {wall}")
    if "frames" in stats:
        print(describe_frames(stats["frames"]))
    if "decoder_calls" in stats:
        guarded = ", ".join(f"{guard} {len(keys)}" for guard, keys in stats["guarded"].items())
        print(f"decoder calls: {stats['decoder_calls']}; hypotheses that met a guard: {guarded}")
        print(describe_search(stats))
    if stats["few_hypotheses"]:
        print(
            f"{len(stats['few_hypotheses'])} utterances have fewer hypotheses than nbest, which is "
            f"{stats['search']['nbest']}: a larger beam_size finds more"
        )
    if stats["num_halved_batches"]:
        print(f"batches halved for want of memory: {stats['num_halved_batches']}")
    print(f"peak memory: {stats['peak_memory_bytes'] / 2**20:.0f} MiB")


def _report_failures(failed: dict[str, str], num_keys: int, output_dir: Path) -> int:
    """Log what could not be read, last, where it is seen; return the exit status."""
    if not failed:
        return 0
    names = "".join(f"\n  {key}: {reason}" for key, reason in list(failed.items())[:NUM_NAMED])
    more = f"\n  ... all in {output_dir}/stats.json" if len(failed) > NUM_NAMED else ""
    head = f"{len(failed)} of {num_keys} utterances could not be read; the others are in {output_dir}:"
    logger.error("%s%s%s", head, names, more)
    return 1
