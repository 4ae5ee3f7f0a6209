"""Recognises test sets with a Whisper of transformers, and scores it and other systems after its English normaliser.

    python -m studies.whisper.run --model openai/whisper-tiny.en --data_dirs dump/raw/test --output_dir exp/whisper

Writes `<set>/text`, as Whisper spells it, which a repeated call takes as it is, and `RESULTS.md`: word error rates with
95 % intervals over speakers.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from espnet_larm.data.audio import read_audio
from espnet_larm.data.kaldi_dir import read_sources, read_table, write_tables
from espnet_larm.program import run_program
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import group_utterances
from espnet_larm.scoring.scores import Scores, score
from studies.reports import RESULTS, command_of, origin_lines, table_of, write_text

logger = logging.getLogger(__name__)

WHISPER = "Whisper's own decoder"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or hub id of a Whisper")
    parser.add_argument("--data_dirs", type=Path, nargs="+", required=True, help="test sets: wav.scp, text, utt2spk")
    hypotheses_help = "further systems, NAME=FOLDER; the folder has a folder with `text` for each test set"
    parser.add_argument("--hypotheses", nargs="*", default=[], metavar="NAME=FOLDER", help=hypotheses_help)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for hypotheses and RESULTS.md")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Recognise, score, write the table and print it."""
    args = get_parser().parse_args(cmd)
    normalise = normaliser()
    recognise = _Lazy(args.model)
    rows = []
    for folder in args.data_dirs:
        target = args.output_dir / folder.name
        if not (target / "text").is_file():
            write_tables(target, {"text": dict(recognise(folder))})
        systems = {WHISPER: target / "text", **_others(args.hypotheses, folder.name)}
        for name, path in systems.items():
            found = scores_of(folder, read_table(path), normalise)
            low, high = found.interval
            rows.append([folder.name, name, f"{found.total.error_percent:.1f}", f"{low:.1f}", f"{high:.1f}"])
    lines = list(table_of(("set", "system", "WER %", "from", "to"), rows))
    facts = {"command": f"`{command_of('studies.whisper.run', cmd)}`", "model": args.model}
    write_text(args.output_dir / RESULTS, "\n".join([*lines, "", *origin_lines(facts)]) + "\n")
    print("\n".join(lines))
    return 0


def normaliser() -> Callable[[str], str]:
    """Whisper's English normaliser, without its table of British spellings."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def scores_of(folder: Path, hypotheses: Mapping[str, str], normalise: Callable[[str], str]) -> Scores:
    """Word errors of a set after normalisation."""
    references = {key: normalise(text) for key, text in read_table(folder / "text").items()}
    # A reference may have nothing that counts.
    kept = {key: text for key, text in references.items() if text}
    utt2spk = read_table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    normal = {key: normalise(text) for key, text in hypotheses.items() if key in kept}
    return score(kept, normal, split_words, group_utterances(list(kept), utt2spk))


def _others(hypotheses: list[str], name: str) -> dict[str, Path]:
    """Files of further systems by name.

    Raises:
        ValueError: An option is not NAME=FOLDER.
        FileNotFoundError: A system has no hypotheses of the set.
    """
    found = {}
    for option in hypotheses:
        system, _, folder = option.partition("=")
        if not folder:
            raise ValueError(f"--hypotheses {option} is not NAME=FOLDER.")
        found[system] = Path(folder) / name / "text"
        if not found[system].is_file():
            raise FileNotFoundError(f"{found[system]} is missing; decode {name} first.")
    return found


class _Lazy:
    """Loads the model when the first set needs it."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.loaded: tuple[Any, Any, Any] | None = None

    def __call__(self, folder: Path) -> Iterator[tuple[str, str]]:
        import torch
        from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration

        if self.loaded is None:
            model = WhisperForConditionalGeneration.from_pretrained(self.model, dtype=torch.float32).eval()
            self.loaded = model, *(kind.from_pretrained(self.model) for kind in (AutoFeatureExtractor, AutoTokenizer))
        model, extractor, tokenizer = self.loaded
        start, seconds = time.perf_counter(), 0.0
        for key, source in read_sources(folder / "wav.scp").items():
            header, samples = read_audio(source)
            seconds += len(samples) / header.sample_rate
            features = extractor(samples, sampling_rate=header.sample_rate, return_tensors="pt").input_features
            with torch.inference_mode():
                tokens = model.generate(features, num_beams=1, do_sample=False)
            yield key, " ".join(tokenizer.decode(tokens[0], skip_special_tokens=True).split())
        spent = time.perf_counter() - start
        logger.info("%s: %.1f s for %.1f s of audio, real-time factor %.3f", folder, spent, seconds, spent / seconds)


if __name__ == "__main__":
    raise SystemExit(run_program(main))
