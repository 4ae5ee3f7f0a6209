r"""Makes drafts of speech by a model's CTC head, with dropout and SpecAugment on: what an LM learns to edit.

A model recognises the speech that it has learned too well. So its drafts are made with dropout and SpecAugment, several
times with other ones (--copies), or by models that have not learned it: `split-folds` cuts a training set into folds by
speaker, a model is trained without each, and this program drafts each fold with its model (--plain then).
Writes `text<copy>` in Kaldi's form, resumed behind the last utterance written, and prints how wrong the drafts are.

Examples:
    espnet-larm draft-speech --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.loss.ave.pth --data_dir dump/raw/train --copies 3 --output_dir exp/drafts/train
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from espnet_larm.options import Option, number, seed
from espnet_larm.pack.models import add_places
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

logger = logging.getLogger(__name__)

COUNT = Option("a number", least=1)
RECORD = "drafts.json"


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--asr_train_config", type=Path, required=True, help="the recogniser's config.yaml")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="its weights")
    parser.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    parser.add_argument("--audio_type", default="sound", help="sound or kaldi_ark, as ESPnet names it")
    parser.add_argument("--copies", type=number(int, COUNT), default=1, help="drafts of each utterance")
    parser.add_argument("--plain", action="store_true", help="recognise without dropout and SpecAugment")
    parser.add_argument("--batch_size", type=number(int, COUNT), default=8, help="utterances recognised together")
    parser.add_argument("--seed", type=seed, default=0, help="seed of dropout and SpecAugment")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="1 computes on a GPU")
    add_places(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of text1, text2, ...")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Draft, and say how wrong the drafts are."""
    args = get_parser().parse_args(cmd)
    if args.plain and args.copies > 1:
        raise ValueError(f"--copies is {args.copies}: with --plain all would be the same; leave one of them out.")
    from espnet_larm.data.kaldi_dir import read_dir, read_table
    from espnet_larm.files.locks import locked
    from espnet_larm.recipe.drafts.recognised import load_recogniser
    from espnet_larm.recognize.audio import AudioTable
    from espnet_larm.scoring.alignment import add_counts, align, split_words

    texts = {each.id: each.text for each in read_dir(args.data_dir)}
    with locked(args.output_dir):
        _check_record(args)
        recogniser = load_recogniser(args)
        table = AudioTable(args.data_dir / "wav.scp", args.audio_type, recogniser.sample_rate_hz, recogniser.preprocess)
        for copy in range(1, args.copies + 1):
            _draft(recogniser, table, args, copy)
            drafts = read_table(args.output_dir / f"text{copy}")
            aligned = align([texts[key] for key in drafts], [*drafts.values()], split_words)
            counts = add_counts([each.counts for each in aligned])
            print(f"{args.output_dir / f'text{copy}'}: {len(drafts)} drafts of {counts.error_percent:.1f} % WER")
    return 0


def _check_record(args: argparse.Namespace) -> None:
    """Refuse to go on with drafts of another model or other options."""
    from espnet_larm.data.text import fingerprint
    from espnet_larm.files.atomic import write_text

    content = {
        **{name: getattr(args, name) for name in ("plain", "batch_size", "seed")},
        "data_dir": str(args.data_dir),
        "weights": fingerprint(args.asr_model_file),
    }
    record, line = args.output_dir / RECORD, json.dumps(content, sort_keys=True) + "\n"
    if record.is_file() and record.read_text(encoding="utf-8") != line:
        raise ValueError(f"--output_dir {args.output_dir} has drafts of another model or other options; name another.")
    write_text(record, line)


def _draft(recogniser: Any, table: Any, args: argparse.Namespace, copy: int) -> None:
    """Write one draft of each utterance; those of whole batches that are there stay."""
    import numpy as np
    import torch

    from espnet_larm.recipe.drafts.recognised import drafts_of

    path = args.output_dir / f"text{copy}"
    keys = table.keys(None)
    batches = [keys[start : start + args.batch_size] for start in range(0, len(keys), args.batch_size)]
    done = _whole_lines(path)
    with path.open("a", encoding="utf-8") as file:
        for place, batch in enumerate(batches):
            if set(batch) <= done:
                continue
            loaded = table.load(batch)
            for key, reason in loaded.failed.items():
                raise ValueError(f"{key} cannot be read: {reason}")
            with torch.random.fork_rng():
                # A batch's drafts do not depend on where the program was killed.
                torch.manual_seed(int(np.random.default_rng([args.seed, copy, place]).integers(2**31)))
                found = drafts_of(recogniser, loaded.waveforms, errs=not args.plain)
            file.writelines(f"{key} {text}".rstrip() + "\n" for key, text in found.items() if key not in done)
            file.flush()
            logger.info("%s: %d of %d batches", path, place + 1, len(batches))


def _whole_lines(path: Path) -> set[str]:
    """Utterances of a file that another call has begun, whose last line may be torn and is then cut off."""
    if not path.is_file():
        return set()
    content = path.read_text(encoding="utf-8")
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        path.write_text(whole, encoding="utf-8")
    return {line.split()[0] for line in whole.splitlines()}
