"""Stage 12: decoding in batches: by CTC, every checkpoint loop read out in one pass, or by the model's LM.

    python -m espnet_larm -m espnet2.bin.asr_inference --data_path_and_name_and_type dump/raw/test/wav.scp,speech,sound
        --asr_train_config exp/asr_x/config.yaml --asr_model_file exp/asr_x/valid.loss.ave.pth --output_dir out

Takes ESPnet's arguments, and those that `--help` lists under espnet_larm. `--beam_size` 1, the default here, is greedy.
What our searches cannot do (an attention or transducer decoder, `--lm_file`, features from archives, ...) is handed
over to ESPnet's own program, which is said.
A model with an LM is decoded by the LM, or with `--ctc_weight 1.0` by its CTC head alone, at all loops. The LM's search
hears CTC with a lower weight, and an n-gram over its tokens with `--ngram_file` (`--ngram_weight`, 0.9). `--pooling`
merges speech tokens that the LM reads.
Writes `1best_recog/` (up to `--nbest`), `loop<k>/` and `stats.json`.
Audio longer than `--long_seconds` is read in blocks, cut at silences, recognised in pieces and joined: memory does not
grow with it. Exit status 1 after a wrong option (nothing decoded) or if audio could not be read (the rest decoded).
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from espnet_larm.program import given, hand_over
from espnet_larm.recognize.options import check_search, espnets_model, espnets_option, forget_defaults
from espnet_larm.recognize.transcripts import ORDINARY, Search

logger = logging.getLogger(__name__)

NUM_NAMED = 10
# Title of the options that ESPnet's program does not have.
OURS = "espnet_larm"
# Options of the LM's prompt, named as in decoder_conf.
PROMPT = ("prefix", "suffix", "instruction")
# What the LM's texts are held to, named as in inference.llm_searching.Guards.
GUARDS = ("max_tokens_per_second", "least_ctc_share", "stops_loops")
# How a call of the LM may yield several tokens, named as in inference.drafting.resolve.
DRAFTING = ("drafts", "tokens_per_call", "accept", "tau", "tau_of")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Prints options of ESPnet's with a bare percent sign, `3.19% CER`, as they are written: its own --help fails."""

    def _expand_help(self, action: argparse.Action) -> str:
        try:
            return super()._expand_help(action)
        except ValueError:
            return action.help or ""


def get_parser() -> argparse.ArgumentParser:
    """ESPnet's options and ours. 10 s of imports."""
    from espnet2.bin.asr_inference import get_parser as get_espnet_parser
    from espnet2.utils.nested_dict_action import NestedDictAction
    from espnet2.utils.types import str2bool

    parser = get_espnet_parser()
    parser.description = __doc__
    parser.formatter_class = _Help
    forget_defaults(parser)
    group = parser.add_argument_group(OURS)
    group.add_argument("--batch_seconds", type=float, default=60.0, help="padded audio in a batch, in seconds")
    group.add_argument("--num_loops", type=int, help="the last loop; as trained by default")
    group.add_argument("--write_ctm", type=str2bool, default=False, help="times of words into ctm, beside text")
    group.add_argument("--llm", help="folder or hub id of the model's LM, where it is another than in training")
    group.add_argument("--prefix", help="text before the speech; any of these three replaces the prompt of training")
    group.add_argument("--suffix", help="text after the speech; by default the token that begins a text")
    group.add_argument("--instruction", help="what a chat model is asked, instead of prefix and suffix")
    group.add_argument(
        "--pooling",
        action=NestedDictAction,
        metavar="PLACE.OPTION=VALUE",
        help="of the speech that an LM reads, instead of training's decoder_conf: pooling, all of it: input.tau=0.9, "
        "again with deep.layer=6, deep.tau=0.8; in --config nested, {input: {tau: 0.9}}; input=null for none",
    )
    group.add_argument("--max_tokens_per_second", type=float, help="of speech in an LM's text, and 8 always (24)")
    group.add_argument("--least_ctc_share", type=float, help="of CTC's tokens, before an LM may end its text (0.5)")
    group.add_argument("--stops_loops", type=str2bool, help="cut an LM's loops back to their first copy (true)")
    group.add_argument(
        "--beam_type",
        help="of an LM's beam_size: ordinary (a token a call; with --drafts heads several, and the same words), or "
        "prefix (hypotheses of different lengths, several tokens a call)",
    )
    group.add_argument("--drafts", help="of an LM's next tokens: heads (if it has some), ctc, longer (of both) or none")
    group.add_argument("--tokens_per_call", type=int, help="that a call of the LM may yield; as many as it has heads")
    group.add_argument(
        "--accept", help="verified (same texts, the default) or threshold (drafts as sure as tau; lossy)"
    )
    group.add_argument("--tau", type=float, help="least probability of what heads draft (0; with drafts longer 0.5)")
    group.add_argument("--tau_of", help="each head's probability (head, the default) or the draft's (product)")
    group.add_argument("--long_seconds", type=float, default=40.0, help="longer audio is cut at silences, and joined")
    group.add_argument("--longest_piece", type=float, default=30.0, help="of cut audio, in seconds")
    group.add_argument("--shortest_piece", type=float, default=1.0, help="of cut audio, in seconds")
    group.add_argument("--overlap", type=float, default=4.0, help="of pieces without silence between, in seconds")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Decode; print the real-time factor of each loop."""
    args = get_parser().parse_args(cmd)
    logging.getLogger().setLevel(args.log_level)
    logger.info("%s", shlex.join(sys.argv))
    if reason := why_espnet(args):
        # A parser of its own: what --config says has become the other's defaults.
        return hand_over("asr_inference", cmd, reason, given(args, options_of_ours(get_parser())))
    check_search(args)
    from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

    from espnet_larm.recognize.decoding import Settings, decode_table, unit_of
    from espnet_larm.recognize.long.cutting import Cutting
    from espnet_larm.recognize.writer import HypothesisWriter, write_stats

    set_all_random_seed(args.seed)
    if args.batch_size == 1:
        logger.debug("batch_size 1 is ESPnet's only value: batches are bounded by batch_seconds alone.")
    recognizer, table = load(args)
    keys = table.keys(None if args.key_file is None else Path(args.key_file))
    cutting = Cutting(args.long_seconds, args.longest_piece, args.shortest_piece, args.overlap)
    cutting.check()
    settings = Settings(
        batch_seconds=args.batch_seconds,
        batch_size=None if args.batch_size == 1 else args.batch_size,
        num_loops=args.num_loops,
        num_workers=args.num_workers,
        search=search_of(args),
        with_words=args.write_ctm,
        cutting=cutting,
    )
    output_dir, numbers = Path(args.output_dir), recognizer.read_out_numbers(args.num_loops)
    with HypothesisWriter(output_dir, unit_of(recognizer), numbers, args.nbest, args.write_ctm) as writer:
        stats = decode_table(recognizer, table, keys, settings, writer)
    write_stats(output_dir, stats)
    print_costs(stats)
    return report_failures(stats["failed"], len(keys), output_dir)


def options_of_ours(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Those that ESPnet's program does not have."""
    return next(group._group_actions for group in parser._action_groups if group.title == OURS)


def why_espnet(args: argparse.Namespace) -> str:
    """Why ESPnet's own program must decode; empty if ours does."""
    if reason := espnets_option(args):
        return reason
    config_file = Path(args.asr_train_config or "")
    config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    return espnets_model(config, args) if isinstance(config, dict) else ""


def load(args: argparse.Namespace) -> Any:
    """The recogniser and the audio that the options name.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The options do not fit the model.
    """
    from espnet_larm.pooling.in_llm import places_of
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.recognize.recognizer import Recognizer

    prompt, guards, drafting = (
        {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        for names in (PROMPT, GUARDS, DRAFTING)
    )
    for name in ("asr_train_config", "asr_model_file"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing; it is a file of the experiment.")
    wav_scp, audio_type = speech_of(args.data_path_and_name_and_type)
    recognizer = Recognizer.from_files(
        args.asr_train_config,
        args.asr_model_file,
        "cuda" if args.ngpu else "cpu",
        args.dtype,
        args.token_type,
        args.bpemodel,
        args.llm,
    )
    recognizer.check_loops(args.num_loops)
    if args.ctc_weight is not None:
        recognizer.set_ctc_weight(args.ctc_weight)
    if guards:
        recognizer.set_guards(**guards)
    if drafting:
        recognizer.set_drafting(**drafting)
    set_beam(recognizer, args)
    if args.ngram_file is not None:
        ngram = {} if args.ngram_weight is None else {"weight": args.ngram_weight}
        recognizer.set_ngram(args.ngram_file, **ngram)
    if prompt:
        recognizer.set_prompt(**prompt)
    if args.pooling is not None:
        recognizer.set_pooling(**places_of(args.pooling))
    return recognizer, AudioTable(wav_scp, audio_type, recognizer.sample_rate_hz, recognizer.preprocess)


def set_beam(recognizer: Any, args: argparse.Namespace) -> None:
    """Make drafts and beam fit together.

    Raises:
        ValueError: They cannot, or there is no LM that is searched.
    """
    search = search_of(args)
    if recognizer.llm_searcher is None:
        if args.beam_type is not None:
            raise ValueError(
                f"beam_type is {args.beam_type}: of an LM's search, but this model is decoded by CTC; leave it out."
            )
        return
    names_drafts = any(getattr(args, name) is not None for name in DRAFTING)
    if search.is_beam and search.beam_type == ORDINARY and not names_drafts:
        # The same words as with heads, sooner unless calls cost much more than tokens: tools/bench/RESULTS.md.
        recognizer.set_drafting(drafts="none")
    recognizer.llm_searcher.check_search(search)


def search_of(args: argparse.Namespace) -> Search:
    """What the options say of it."""
    return Search(args.beam_size, args.nbest, args.beam_type or ORDINARY)


def speech_of(triples: list[tuple[str, str, str]]) -> tuple[Path, str]:
    """Path and type of the audio.

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


def print_costs(stats: dict[str, Any]) -> None:
    """Seconds and real-time factor by read-out, and the memory."""
    from espnet_larm.recognize.effort import describe_frames, describe_search

    audio = stats["audio_seconds"]
    print(f"{stats['num_utts']} utterances, {audio:.1f} s of audio, {len(stats['skipped'])} not decoded")
    print(f"{stats['unit']:>8}  compute s  real-time factor")
    for number, cost in stats["loops"].items():
        factor = f"{cost['seconds'] / audio:.5f}" if audio else "-"
        print(f"{number:>8}  {cost['seconds']:9.2f}  {factor:>16}")
    wall = f"{stats['wall_seconds']:.2f} s with reading and writing"
    print(f"features: {stats['feature_seconds']:.2f} s; everything: {wall}")
    if "frames" in stats:
        print(describe_frames(stats["frames"]))
    if "decoder_calls" in stats:
        guarded = ", ".join(f"{guard} {len(keys)}" for guard, keys in stats["guarded"].items())
        print(f"decoder calls: {stats['decoder_calls']}; texts that met a guard: {guarded}")
        print(describe_search(stats))
    if stats["few_hypotheses"]:
        print(
            f"{len(stats['few_hypotheses'])} utterances have fewer hypotheses than nbest, which is "
            f"{stats['search']['nbest']}: a larger beam_size finds more"
        )
    if stats["num_halved_batches"]:
        print(f"batches halved for want of memory: {stats['num_halved_batches']}")
    print(f"peak memory: {stats['peak_memory_bytes'] / 2**20:.0f} MiB")


def report_failures(failed: dict[str, str], num_keys: int, output_dir: Path) -> int:
    """Name what could not be read, last, where it is seen; the exit status."""
    if not failed:
        return 0
    names = "".join(f"\n  {key}: {reason}" for key, reason in list(failed.items())[:NUM_NAMED])
    more = f"\n  ... all in {output_dir}/stats.json" if len(failed) > NUM_NAMED else ""
    head = f"{len(failed)} of {num_keys} utterances could not be read; the others are in {output_dir}:"
    logger.error("%s%s%s", head, names, more)
    return 1
