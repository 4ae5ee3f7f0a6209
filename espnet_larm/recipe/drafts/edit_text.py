r"""Edits drafts that stand in a file, without speech: those of any recogniser, by a model that is `text_only`.

Examples:
    espnet-larm edit-text --asr_train_config exp/asr_edit/config.yaml \
        --asr_model_file exp/asr_edit/latest.pth --drafts exp/other/decode/test/loop4/text --outpath exp/edited/text
"""

import argparse
from pathlib import Path

from espnet_larm.options import Option, number
from espnet_larm.pack.models import add_places
from espnet_larm.recipe.text_lm.options import HelpWithDefaults

COUNT = Option("a number", least=1)
MOST_PASSES = 3


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=HelpWithDefaults)
    parser.add_argument("--asr_train_config", type=Path, required=True, help="the editor's config.yaml")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="its weights")
    parser.add_argument("--drafts", type=Path, required=True, help="drafts, Kaldi's form")
    passes = number(int, Option("a number", least=1, most=MOST_PASSES))
    parser.add_argument("--edit_passes", type=passes, default=1, help="calls; each edits what the one before gave")
    parser.add_argument("--batch_size", type=number(int, COUNT), default=32, help="drafts that are edited together")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="1 computes on a GPU")
    add_places(parser)
    parser.add_argument("--outpath", type=Path, required=True, help="file to write, in the same form")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Edit, and write."""
    args = get_parser().parse_args(cmd)
    from espnet_larm.data.kaldi_dir import read_table, write_tables
    from espnet_larm.data.text import on_one_line
    from espnet_larm.recipe.drafts.recognised import load_recogniser
    from espnet_larm.speech_llm.editing.editor import edit

    drafts = read_table(args.drafts)
    decoder = load_recogniser(args).model.decoder
    editor = getattr(decoder, "editor", None)
    if editor is None or not editor.options.text_only:
        raise ValueError(
            f"{args.asr_train_config} does not edit text alone; train a model with decoder_conf: editing: {{text_only: "
            "true}}, or edit speech with decode --search edit."
        )
    edited: dict[str, str] = {}
    # Drafts of like length together.
    keys = sorted(drafts, key=lambda key: len(drafts[key]))
    for start in range(0, len(keys), args.batch_size):
        part = keys[start : start + args.batch_size]
        tokens = [decoder.tokenizer.encode(drafts[key], add_special_tokens=False) for key in part]
        found = edit(decoder, None, tokens, args.edit_passes)
        texts = (decoder.tokenizer.decode(each, skip_special_tokens=True) for each in found.token_ids)
        edited.update(zip(part, map(on_one_line, texts), strict=True))
    write_tables(args.outpath.parent, {args.outpath.name: edited})
    num_changed = sum(edited[key] != " ".join(drafts[key].split()) for key in drafts)
    print(f"{len(edited)} drafts, {num_changed} of them changed -> {args.outpath}")
    return 0
