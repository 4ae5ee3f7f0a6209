"""Measures at which layers of a given LM speech may be pooled: words of the reference are reduced to R tokens there.

The CTC head finds the words of the reference; at one layer the tokens of each word become R means (uniform merge), R of
them at even distances (uniform drop) or at random (random drop), and the LM decodes greedily. Guards of decoding are
off, except the longest text, so that loops show. Results are kept: called again, it goes on where it was.

    python -m studies.pooling_oracle.run --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/dev --output_dir exp/asr_x/pooling_oracle

Writes `pooling_oracle.md` and `.json`, `pooling_oracle.png` (word error rates) and `similarity_profile.png`.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet_larm.data.text import fingerprint
from espnet_larm.errors import name_some
from espnet_larm.origin import commit, without_root
from espnet_larm.program import run_program
from espnet_larm.recipe.text_lm.options import HelpWithDefaults, check_gpu
from studies.options import add_model_options
from studies.reports import origin_lines, write_text

if TYPE_CHECKING:
    from espnet_larm.recognize.config import DecodeConfig
    from espnet_larm.recognize.recognizer import Recognizer
    from studies.pooling_oracle.oracle import Cell, Utterance

NAME, PROFILE = "pooling_oracle", "similarity_profile.png"
logger = logging.getLogger(__name__)


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    add_model_options(parser)
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the results and for stored frames")
    parser.add_argument("--tokens_per_word", type=int, nargs="+", default=[1, 2, 3], help="R: tokens left of a word")
    parser.add_argument(
        "--layers", type=int, nargs="+", help="layers, from 0 (the LM's input) to one less than the LM has; all if None"
    )
    parser.add_argument("--max_utterances", type=int, default=0, help="utterances, spread over text; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="seed of random drop and of random pairs")
    parser.add_argument("--guards", action="store_true", help="keep the guards of decoding on")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="0 computes on the CPU")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Align, decode what is not done yet, report."""
    args = get_parser().parse_args(cmd)
    _check(args)
    # torch and ESPnet take seconds to import.
    from espnet_larm.recognize.recognizer import Recognizer
    from studies.pooling_oracle.oracle import Cell, check_model, similarity_profile
    from studies.pooling_oracle.windows import METHODS

    device = "cuda" if args.ngpu else "cpu"
    recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, device, llm=args.llm)
    check_model(recognizer)
    layers = _layers(args.layers, len(recognizer.model.decoder.backbone.layers))
    config = _config(recognizer, args.guards)
    made_of = _made_of(args)
    state = _read_state(args.output_dir, made_of)
    utterances, left_out = _utterances(args, recognizer)
    cells = [
        Cell(layer, count, method)
        for layer in layers
        for count in sorted(set(args.tokens_per_word))
        for method in METHODS
    ]
    state.update(made_of=made_of, left_out=left_out, utterances=[one.name for one in utterances])
    for cell in (None, *cells):
        if _key(cell) not in state["errors"]:
            state["errors"][_key(cell)] = _errors(recognizer, utterances, cell, args.seed, config)
            state["commits"] = list(dict.fromkeys([*state["commits"], commit()]))
            write_text(args.output_dir / f"{NAME}.json", json.dumps(state, indent=1))
            logger.info("%s: %d errors", _key(cell), sum(state["errors"][_key(cell)]))
    state["profile"] = [row._asdict() for row in similarity_profile(recognizer, utterances, args.seed)]
    print(_report(args, recognizer, utterances, cells, state))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse wrong options before the model is loaded."""
    if low := [count for count in args.tokens_per_word if count < 1]:
        raise ValueError(f"--tokens_per_word {low[0]}; allowed: 1 or more tokens of each word.")
    if args.max_utterances < 0:
        raise ValueError(f"--max_utterances {args.max_utterances}; allowed: 0 (all) or more.")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}; allowed: 0 or more.")
    for name in ("wav.scp", "text"):
        if not (args.data_dir / name).is_file():
            raise FileNotFoundError(
                f"{args.data_dir / name} is missing; --data_dir is a folder of a recipe's dump/raw."
            )
    check_gpu(args.ngpu)


def _layers(given: list[int] | None, num_layers: int) -> list[int]:
    layers = list(range(num_layers)) if given is None else sorted(set(given))
    if wrong := [layer for layer in layers if not 0 <= layer < num_layers]:
        raise ValueError(
            f"--layers {wrong[0]}; allowed: 0 (the LM's input) to {num_layers - 1} (behind so many of its {num_layers} "
            "layers)."
        )
    return layers


def _config(recognizer: "Recognizer", has_guards: bool) -> "DecodeConfig":
    """Options for the LM alone, a token a call."""
    from espnet_larm.recognize.config import DecodeConfig

    if recognizer.model.decoder.pooling.options:
        logger.warning("decoder_conf: pooling of the model is off here")
    if has_guards:
        return DecodeConfig(drafts="none")
    return DecodeConfig(drafts="none", least_ctc_share=0.0, stops_loops=False)


def _made_of(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the figures of a cell depend on."""
    files = (args.asr_train_config, args.asr_model_file, args.data_dir / "wav.scp", args.data_dir / "text")
    options = {name: getattr(args, name) for name in ("max_utterances", "seed", "guards")}
    return {**options, "files": [fingerprint(path) for path in files]}


def _read_state(output_dir: Path, made_of: dict[str, Any]) -> dict[str, Any]:
    """Results so far.

    Raises:
        ValueError: They were made of something else.
    """
    path = output_dir / f"{NAME}.json"
    if not path.is_file():
        output_dir.mkdir(parents=True, exist_ok=True)
        return {"errors": {}, "commits": []}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state["made_of"] != made_of:
        raise ValueError(
            f"{path} was begun with another model, other data, --max_utterances, --seed or --guards; name another "
            "--output_dir."
        )
    return state


def _utterances(args: argparse.Namespace, recognizer: "Recognizer") -> "tuple[list[Utterance], dict[str, str]]":
    """Encode and align; utterances that can be measured, and why others are left out."""
    from espnet_larm.data.kaldi_dir import read_table
    from studies.frames import load, store
    from studies.pooling_oracle.oracle import find_windows, left_out_of

    path = args.output_dir / "frames.pth"
    origin = {"encoder_of": fingerprint(args.asr_model_file)}
    store(recognizer.model, recognizer.preprocess, recognizer.sample_rate_hz, args.data_dir, path, origin)
    spoken = load(path)
    utterances, left_out = find_windows(recognizer, spoken)
    left_out.update(left_out_of(read_table(args.data_dir / "text"), spoken))
    for name, reason in left_out.items():
        logger.warning("%s is left out: %s", name, reason)
    if not utterances:
        raise ValueError(f"{args.data_dir}: no utterance can be measured; above it says why of each.")
    if 0 < args.max_utterances < len(utterances):
        places = range(args.max_utterances)
        utterances = [utterances[place * len(utterances) // args.max_utterances] for place in places]
    return utterances, left_out


def _errors(
    recognizer: "Recognizer", utterances: "list[Utterance]", cell: "Cell | None", seed: int, config: "DecodeConfig"
) -> list[int]:
    """Word errors of each utterance."""
    from espnet_larm.scoring.alignment import align, split_words
    from studies.pooling_oracle.oracle import decode

    texts = decode(recognizer, utterances, cell, seed, config)
    found = align([one.text for one in utterances], [texts[one.name] for one in utterances], split_words)
    return [alignment.counts.errors for alignment in found]


def _key(cell: "Cell | None") -> str:
    return "no pooling" if cell is None else f"layer {cell.layer}, {cell.tokens_per_word} a word, {cell.method}"


def _report(
    args: argparse.Namespace,
    recognizer: "Recognizer",
    utterances: "list[Utterance]",
    cells: "list[Cell]",
    state: dict[str, Any],
) -> str:
    """Write the report; its text."""
    from studies.measuring import grouping_of
    from studies.pooling_oracle import report
    from studies.pooling_oracle.oracle import Similarity, num_kept

    words = [len(one.text.split()) for one in utterances]
    errors = {cell: state["errors"][_key(cell)] for cell in cells}
    base = state["errors"][_key(None)]
    grouping = grouping_of(args.data_dir, [one.name for one in utterances])
    bounds = report.error_interval(base, words, grouping)
    rates = {cell: report.error_percent(found, words) for cell, found in errors.items()}
    clamped = {cell: report.clamped_percent(found, words) for cell, found in errors.items()}
    num_tokens = sum(one.num_tokens for one in utterances)
    kept = {cell: 100.0 * num_kept(utterances, cell, args.seed) / num_tokens for cell in cells}
    profile = [Similarity(**row) for row in state["profile"]]
    losses = {cell: report.loss_interval(found, base, words, grouping) for cell, found in errors.items()}
    sentence = report.conclude(losses, len(recognizer.model.decoder.backbone.layers))
    wer, wer_clamped = report.error_percent(base, words), report.clamped_percent(base, words)
    report.draw_rates(rates, clamped, wer, args.output_dir / f"{NAME}.png")
    report.draw_profile(profile, args.output_dir / PROFILE)
    legend = (
        f"No pooling: WER {wer:.2f} %, {bounds.low:.2f} to {bounds.high:.2f} (clamped {wer_clamped:.2f}). Tables: WER "
        "(clamped WER) in percent; bold: no loss is shown, 95 % of the difference to no pooling on the same resampled "
        f"{grouping.unit}s reach 0 or below."
    )
    lines = [
        *(f"# Pooling words of {args.data_dir} at one layer", "", sentence, "", legend, ""),
        *report.format_tables(rates, clamped, {cell.tokens_per_word: share for cell, share in kept.items()}, losses),
        *(f"![Word error rates]({NAME}.png)", "", "### Mean cosines of speech tokens", ""),
        *report.format_profile(profile),
        *("", f"![Similarity]({PROFILE})", ""),
        *origin_lines(_facts(args, recognizer, utterances, state)),
    ]
    state["results"] = [
        {**cell._asdict(), "wer": rates[cell], "clamped_wer": clamped[cell], "kept_percent": kept[cell],
         "interval": list(report.error_interval(errors[cell], words, grouping)), "loss_interval": list(losses[cell])}
        for cell in cells
    ]  # fmt: skip
    state.update(words=words, no_pooling={"wer": wer, "clamped_wer": wer_clamped, "interval": list(bounds)})
    write_text(args.output_dir / f"{NAME}.json", json.dumps({**state, "conclusion": sentence}, indent=1))
    text = "\n".join(lines) + "\n"
    write_text(args.output_dir / f"{NAME}.md", text)
    return f"{text}\n{sentence}"


def _facts(
    args: argparse.Namespace, recognizer: "Recognizer", utterances: "list[Utterance]", state: dict[str, Any]
) -> dict[str, str]:
    """What the numbers depend on, for the end of the report."""
    projector = recognizer.model.decoder.projector
    num_words = sum(len(one.text.split()) for one in utterances)
    num_tokens, num_windows = (
        sum(counts) for counts in zip(*((one.num_tokens, len(one.starts)) for one in utterances), strict=True)
    )
    seconds = sum(one.seconds for one in utterances)
    left_out = state["left_out"]
    return {
        "utterances": f"{len(utterances)}; left out {len(left_out)}{': ' * bool(left_out)}{name_some(list(left_out))}",
        "speech": f"{num_words} words, {num_tokens} tokens ({num_tokens / seconds:.1f} a second, "
        f"{num_tokens / num_words:.1f} a word; projector {projector.kind}, {projector.frames} frames a token); "
        f"{num_windows} windows: where words share a token, they share a window",
        "decoding": f"greedy, by the LM alone; guards {'on' if args.guards else 'off'}; seed {args.seed}",
        "model": without_root(str(args.asr_model_file)),
        "commits": ", ".join(state["commits"]),
    }


if __name__ == "__main__":
    sys.exit(run_program(main))
