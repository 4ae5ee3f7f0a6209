"""Stage 13: WER, CER and TER of hypotheses, with bootstrap intervals and alignments.

Examples:
    espnet-larm score --ref_dir dump/raw/test --hyp_dir exp/asr_x/decode_y/test

Reads `text` and `utt2spk` of the reference, and `text` of the hypotheses and of every read-out beside it (`loop4/`,
...). Writes `score_wer/`, `score_cer/` and `score_ter/`, each with `result.txt` (like sclite's) and `scores.json`, into
each of those folders, and prints a table. Token error rates need the experiment's `config.yaml`, which says what tokens
are, and their tokenizer; without one of them they are left out. Symbols of `--nlsyms` are no words and no characters.
"""

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.data.text import read_symbols
from espnet_larm.errors import name_some
from espnet_larm.files.atomic import write_text
from espnet_larm.files.reading import read_yaml
from espnet_larm.pack.llm import llm_conf
from espnet_larm.scoring.alignment import split_characters, split_words
from espnet_larm.scoring.bootstrap import MIN_SPEAKERS, Grouping, group_utterances
from espnet_larm.scoring.experiment import read_out_folders
from espnet_larm.scoring.sclite import format_result
from espnet_larm.scoring.scores import Difference, Scores, as_json, compare, score
from espnet_larm.scoring.silence import describe_silence, is_silent

WORDS = "wer"
UNITS = {WORDS: "word", "cer": "character", "ter": "token"}
# The folder itself, with the hypotheses of the last read-out.
LAST = "last"
Splitters = Mapping[str, Callable[[str], list[str]]]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ref_dir", type=Path, required=True, help="data folder with text and utt2spk")
    parser.add_argument("--hyp_dir", type=Path, required=True, help="folder with text, and with loop<k>/ if any")
    config_help = "config.yaml of the training; the experiment's by default"
    parser.add_argument("--asr_train_config", type=Path, help=config_help)
    parser.add_argument("--token_type", help="char, bpe, word or hugging_face; the config's by default")
    parser.add_argument("--bpemodel", help="sentencepiece model, or folder or hub id of an LM; the config's by default")
    symbols_help = "file of symbols that are no speech, one a line: no words and no characters"
    parser.add_argument("--nlsyms", type=Path, help=symbols_help)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Score all read-outs, write the files and print the tables."""
    args = get_parser().parse_args(cmd)
    symbols = read_symbols(args.nlsyms)
    references = read_table(args.ref_dir / "text")
    utt2spk = read_table(args.ref_dir / "utt2spk") if (args.ref_dir / "utt2spk").is_file() else {}
    folders = {**read_out_folders(args.hyp_dir), LAST: args.hyp_dir}
    hypotheses = {name: read_table(folder / "text") for name, folder in folders.items()}
    grouping = group_utterances(list(references), utt2spk)
    _warn_of_odd_sets(references, hypotheses, grouping)
    has_table = True
    for unit, split in _splitters(args).items():
        if not any(map(split, references.values())):
            raise ValueError(
                f"{args.ref_dir}/text: no reference holds a {UNITS[unit]}, so that there is no {unit.upper()}; score a "
                "set with transcripts."
            )
        scores = {name: score(references, hypotheses[name], split, grouping) for name in folders}
        differences = _compare_in_order(scores)
        speaker_of = {utterance: utt2spk.get(utterance, utterance) for utterance in references}
        records = {}
        for name, folder in folders.items():
            title = f"{folder.name}: {unit.upper()}{left_out(symbols, unit)}"
            missing = [utterance for utterance in references if utterance not in hypotheses[name]]
            record = {"left_out": list(symbols)} if left_out(symbols, unit) else {}
            record |= as_json(unit, scores[name], missing, differences if name == LAST else [])
            records[name] = record
            target = folder / f"score_{unit}"
            write_text(target / "result.txt", format_result(title, scores[name].alignments, speaker_of))
            write_text(target / "scores.json", json.dumps(record, indent=2) + "\n")
        if unit == WORDS and all(map(is_silent, records.values())):
            print(f"{args.hyp_dir}: {describe_silence(records[LAST])}")
            has_table = False
        if has_table:
            _print_table(unit, scores, differences)
    return 0


def left_out(symbols: Sequence[str], unit: str) -> str:
    """Say that symbols do not count; token error rates are of all that the model writes."""
    return f", without {' '.join(symbols)}" if symbols and unit != "ter" else ""


def _words_without(symbols: Sequence[str], text: str) -> list[str]:
    """Split a text into words, and leave out symbols."""
    return [word for word in split_words(text) if word not in symbols]


def _characters_without(symbols: Sequence[str], text: str) -> list[str]:
    """Split a text into characters, and leave out symbols, also beside letters."""
    return split_characters(functools.reduce(lambda rest, symbol: rest.replace(symbol, ""), symbols, text))


def _splitters(args: argparse.Namespace) -> Splitters:
    """Make functions from a text to its units, by unit; `ter` only where the model's tokens are known."""
    symbols = read_symbols(args.nlsyms)
    known: dict[str, Callable[[str], list[str]]] = {
        WORDS: functools.partial(_words_without, symbols),
        "cer": functools.partial(_characters_without, symbols),
    }
    path = args.asr_train_config or args.hyp_dir.resolve().parents[1] / "config.yaml"
    config: dict[str, Any] = {}
    if path.is_file():
        config = read_yaml(path)
    elif args.asr_train_config is not None:
        raise FileNotFoundError(f"--asr_train_config {path} is missing; leave it out to go without token error rates.")
    token_type = args.token_type or config.get("token_type")
    if token_type is None:
        print(f"No token error rates: {path} is missing and --token_type is not given.", file=sys.stderr)
        return known
    bpemodel = args.bpemodel or config.get("bpemodel")
    try:
        return {**known, "ter": split_tokens(token_type, bpemodel, llm_conf(config))}
    except FileNotFoundError:
        what = f"bpemodel {bpemodel} ({token_type}) cannot be loaded; name it with --bpemodel."
        print(f"No token error rates: {what}", file=sys.stderr)
        return known


def split_tokens(token_type: str, bpemodel: str | None, llm: Mapping[str, Any]) -> Callable[[str], list[str]]:
    """Make a function from a text to the tokens that a model was trained on.

    ESPnet's tokenizers do the same; importing them takes 10 s.

    Args:
        token_type: `char`, `word`, `bpe` or `hugging_face`.
        bpemodel: Path of the sentencepiece model, or folder or hub id of an LM.
        llm: decoder_conf of a model with an LM, whose revision is taken if the tokenizer is its own.

    Raises:
        ValueError: The type is not known here, or has no tokenizer.
        FileNotFoundError: The tokenizer is not there.
    """
    plain = {"char": split_characters, "word": split_words}
    if token_type in plain:
        return plain[token_type]
    if token_type not in {"bpe", "hugging_face"}:
        raise ValueError(f"token_type is {token_type}; allowed for token error rates: char, bpe, word, hugging_face.")
    if bpemodel is None:
        what = "a sentencepiece model" if token_type == "bpe" else "a tokenizer, a folder or hub id"  # noqa: S105
        raise ValueError(f"token_type {token_type} needs {what}; give it as --bpemodel.")
    if token_type == "hugging_face":  # noqa: S105  # no password
        # transformers takes seconds to import.
        from espnet_larm.llm.backbone import load_tokenizer

        revision = llm.get("revision") if bpemodel == llm.get("llm") else None
        split: Callable[[str], list[str]] = load_tokenizer(bpemodel, revision).tokenize
        return split
    if not Path(bpemodel).is_file():
        raise FileNotFoundError(f"bpemodel {bpemodel} is missing; run stage tokens, or name it with --bpemodel.")
    import sentencepiece

    pieces: Callable[[str], list[str]] = sentencepiece.SentencePieceProcessor(model_file=bpemodel).encode_as_pieces
    return pieces


def _warn_of_odd_sets(
    references: Mapping[str, str], hypotheses: Mapping[str, Mapping[str, str]], grouping: Grouping
) -> None:
    """Print to stderr what the table hides: missing hypotheses, empty references, too few speakers."""
    for name, table in hypotheses.items():
        if name == LAST and len(hypotheses) > 1:
            continue  # the last of the others
        if missing := [utterance for utterance in references if utterance not in table]:
            print(
                f"WARNING: {name}: {len(missing)} of {len(references)} utterances have no hypothesis and count as "
                f"deletions: {name_some(missing)}",
                file=sys.stderr,
            )
    if empty := [utterance for utterance, text in references.items() if not text]:
        print(
            f"WARNING: {len(empty)} references are empty, so that every word recognised there is an insertion: "
            f"{name_some(empty)}",
            file=sys.stderr,
        )
    if grouping.unit == "utterance":
        print(
            f"Intervals are over utterances, since there are fewer than {MIN_SPEAKERS} speakers.",
            file=sys.stderr,
        )


def _compare_in_order(scores: Mapping[str, Scores]) -> list[Difference]:
    """Compare each read-out with the next."""
    names = [name for name in scores if name != LAST]
    return [compare(before, after, scores) for before, after in itertools.pairwise(names)]


def _print_table(unit: str, scores: Mapping[str, Scores], differences: list[Difference]) -> None:
    """Print the rates of all read-outs, and the changes from each to the next."""
    print(f"{unit.upper()} %      Snt    Wrd   Corr    Sub    Del    Ins    Err  S.Err   95 % interval of Err")
    shown = [name for name in scores if name != LAST] or [LAST]
    for name in shown:
        total, (low, high) = scores[name].total, scores[name].interval
        parts = (total.correct, total.substitutions, total.deletions, total.insertions, total.errors)
        rates = [100 * part / total.units if total.units else float("nan") for part in parts]
        cells = "".join(f"{rate:7.2f}" for rate in [*rates, total.sentence_error_percent])
        print(f"{name:8} {total.sentences:6} {total.units:6}{cells}   {low:.2f} to {high:.2f}")
    for difference in differences:
        low, high = difference.interval
        print(
            f"  {difference.before} -> {difference.after}: {difference.points:+.2f} points "
            f"({low:+.2f} to {high:+.2f}): {difference.verdict}"
        )
