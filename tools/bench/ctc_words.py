#!/usr/bin/env python3
"""A word n-gram in CTC's prefix beam: word errors and cost beside greedy search, the beam without, and flashlight's.

`encode` keeps the posteriors of a data folder and the seconds that they took, once for all searches. `search` chooses
weights on the development set, one grid for all, and decodes the test sets with them: each way in turn on the same
posteriors, so that ways differ by their search alone. Real-time factors are of forward pass and search together.
flashlight's decoder is torchaudio's `ctc_decoder` with the same ARPA file and its words as lexicon, each in its one
spelling by sentencepiece (pip install flashlight-text; Python 3.12); without it the row is left out.

    python tools/bench/ctc_words.py encode --model whisper-frames --encoder <whisper-tiny.en> --data_dir dump/raw/dev
        --out dev.pt
    python tools/bench/ctc_words.py search --dev dev.pt --tests test_other.pt test_cv.pt test_clean.pt
        --ngram_file 3gram.arpa --bpemodel data/token_list/bpe_unigram200/bpe.model
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benching import SAMPLE_RATE_HZ, new_parser, print_header

from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ngrams import fuse, load_word_fusion, spell_tokens
from espnet_larm.scoring.alignment import add_counts, align, split_words
from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.fusion import Fusion, Weights
from espnet_larm.search.ctc.posteriors import greedy

# Utterances in a batch of a search.
BATCH = 16


class Posteriors(NamedTuple):
    """Posteriors of a set.

    Attributes:
        name: Name of the set.
        texts: Transcripts.
        log_probs: Log-probabilities (T, V) of each utterance.
        audio_s: Seconds of all audio.
        forward_s: CPU seconds of features and encoder.
        tokens: The CTC head's tokens.
        blank: Id of the blank.
        no_text: Ids that stand in no text.
    """

    name: str
    texts: list[str]
    log_probs: list[torch.Tensor]
    audio_s: float
    forward_s: float
    tokens: list[str]
    blank: int
    no_text: list[int]


class Found(NamedTuple):
    """Texts of a search and its CPU seconds."""

    texts: list[str]
    seconds: float


@torch.inference_mode()
def encode(args: argparse.Namespace) -> None:
    """Keep the posteriors of a data folder."""
    from ctc_decoding import samples_of

    from espnet_larm.data.kaldi_dir import read_dir
    from espnet_larm.recognize import packs
    from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
    from espnet_larm.recognize.model.read_outs import read_outs

    recognizer = packs.load(args.model, encoder=args.encoder)
    model: Any = recognizer.model
    utterances = read_dir(args.data_dir)
    waveforms = [samples_of(utterance, args.data_dir) for utterance in utterances]
    lengths = [len(waveform) for waveform in waveforms]
    start, rows = time.process_time(), {}
    for indices in batches_by_length(lengths, 60.0 * SAMPLE_RATE_HZ, None):
        features = [extract_features(model, torch.from_numpy(waveforms[index])) for index in indices]
        *_, (_, hs_pad, lens, _) = read_outs(model, *pad_features(features))
        log_probs = model.ctc.ctc_lo(hs_pad).log_softmax(-1)
        for row, index in enumerate(indices):
            seconds = lengths[index] / SAMPLE_RATE_HZ
            rows[utterances[index].id] = utterances[index].text, log_probs[row, : lens[row]].clone(), seconds
    kept = {"rows": rows, "cpu": time.process_time() - start, "tokens": list(model.token_list)}
    torch.save({**kept, "no_text": sorted({model.sos, model.eos}), "blank": model.blank_id}, args.out)
    print(f"{args.data_dir}: {len(rows)} utterances, {kept['cpu']:.1f} s -> {args.out}")


def read(path: Path) -> Posteriors:
    """Read what `encode` keeps."""
    kept = torch.load(path, weights_only=True)
    texts, log_probs, seconds = zip(*(kept["rows"][key] for key in sorted(kept["rows"])), strict=True)
    sums = sum(seconds), kept["cpu"]
    return Posteriors(path.stem, list(texts), list(log_probs), *sums, kept["tokens"], kept["blank"], kept["no_text"])


def batched(posteriors: Posteriors, find: Callable[[torch.Tensor, torch.Tensor], list[list[int]]]) -> Found:
    """Search in batches by length."""
    order = sorted(range(len(posteriors.texts)), key=lambda index: len(posteriors.log_probs[index]))
    found: list[list[int]] = [[] for _ in order]
    start = time.process_time()
    for indices in itertools.batched(order, BATCH):
        some = [posteriors.log_probs[index] for index in indices]
        lens = torch.tensor([len(each) for each in some])
        padded = torch.nn.utils.rnn.pad_sequence(some, batch_first=True)
        for index, tokens in zip(indices, find(padded, lens), strict=True):
            found[index] = tokens
    seconds = time.process_time() - start
    return Found([text_of(tokens, posteriors.tokens) for tokens in found], seconds)


def text_of(token_ids: Sequence[int], tokens: Sequence[str]) -> str:
    """The words that tokens spell."""
    spelled = spell_tokens(tokens)
    parts = [(" " if each.starts else "") + each.letters for index in token_ids if (each := spelled[index])]
    return " ".join("".join(parts).split())


def ours(posteriors: Posteriors, beam_size: int, fusion: Fusion | None) -> Found:
    """Our searches; a beam of one is greedy."""

    def find(log_probs: torch.Tensor, lens: torch.Tensor) -> list[list[int]]:
        if beam_size == 1:
            return greedy(log_probs, lens, posteriors.blank, posteriors.no_text).to_lists()
        log_probs[:, :, posteriors.no_text] = float("-inf")
        return [each[0] for each in prefix_beam(log_probs, lens, beam_size, posteriors.blank, fusion).to_lists()]

    return batched(posteriors, find)


def flashlight(args: argparse.Namespace, tokens: list[str], weight: float, bonus: float) -> Callable[..., Found] | None:
    """torchaudio's decoder; None where it or flashlight-text is not installed, or no spelling of words is given."""
    if args.bpemodel is None:
        return None
    try:
        from torchaudio.models.decoder import ctc_decoder
    except ImportError as error:
        print(f"flashlight: {error}", file=sys.stderr)
        return None
    import sentencepiece

    from espnet_larm.search.kenlm_ngram import words_of

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(args.bpemodel))
    words = [word for word in words_of(args.ngram_file) or [] if not word.startswith("<")]
    with tempfile.NamedTemporaryFile("w", suffix=".lexicon", encoding="utf-8") as lexicon:
        for word in words:
            spelled = pieces.encode(word, out_type=str)
            if set(spelled) <= set(tokens):
                lexicon.write(f"{word} {' '.join(spelled)}\n")
        lexicon.flush()
        decoder = ctc_decoder(
            lexicon=lexicon.name,
            tokens=tokens,
            lm=str(args.ngram_file),
            beam_size=args.library_beam,
            lm_weight=weight,
            word_score=bonus,
            blank_token=tokens[0],
            # A piece begins each word: there is no silence between them, and this token is never the best.
            sil_token=tokens[-1],
            unk_word="<unk>",
        )

    def find(posteriors: Posteriors) -> Found:
        start = time.process_time()
        found = [decoder(each.unsqueeze(0).contiguous())[0] for each in posteriors.log_probs]
        seconds = time.process_time() - start
        return Found([" ".join(some[0].words) if some else "" for some in found], seconds)

    return find


def errors(posteriors: Posteriors, found: Found) -> tuple[int, int]:
    """Word errors, and words of the transcripts."""
    counts = add_counts([one.counts for one in align(posteriors.texts, found.texts, split_words)])
    return counts.errors, counts.units


def load(args: argparse.Namespace, tokens: list[str]) -> Fusion:
    """Read the n-gram, once for all weights."""
    config = DecodeConfig(beam_size=args.beam_size, ngram_file=str(args.ngram_file), lexicon=args.lexicon)
    loaded = load_word_fusion(config, tokens)
    assert loaded is not None
    return loaded.fusion


def with_weights(fusion: Fusion, tokens: list[str], weights: Sequence[float]) -> Fusion:
    """The same with ngram_weight, word_bonus and oov_penalty."""
    words, spelled = fusion.lexicon.words, spell_tokens(tokens)
    unknown = frozenset(fusion.unknown_words)
    return fuse(words, spelled, fusion.ngram, Weights(*weights), frozenset(), unknown, is_open=fusion.is_open)


@torch.inference_mode()
def search(args: argparse.Namespace) -> None:
    """Choose on the development set, decode the test sets, print the table."""
    torch.set_num_threads(1)
    dev, tests = read(args.dev), [read(path) for path in args.tests]
    loaded = load(args, dev.tokens)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, CPU, 1 thread, CPU seconds")
    print_header("ngram_weight", "word_bonus", "oov_penalty", "word errors of dev")
    chosen, least = (0.0, 0.0, 0.0), errors(dev, ours(dev, args.beam_size, None))[0]
    print(f"| 0 | 0 | 0 | {least} |", flush=True)
    for weights in itertools.product(args.ngram_weights, args.word_bonuses, args.oov_penalties):
        wrong, _ = errors(dev, ours(dev, args.beam_size, with_weights(loaded, dev.tokens, weights)))
        print(f"| {' | '.join(f'{each:g}' for each in weights)} | {wrong} |", flush=True)
        if wrong < least:
            chosen, least = weights, wrong
    fusion = with_weights(loaded, dev.tokens, chosen)
    ways: dict[str, Callable[[Posteriors], Found]] = {
        "greedy": lambda one: ours(one, 1, None),
        f"prefix beam {args.beam_size}": lambda one: ours(one, args.beam_size, None),
        f"prefix beam {args.beam_size}, n-gram": lambda one: ours(one, args.beam_size, fusion),
    }
    if (other := flashlight(args, dev.tokens, chosen[0], chosen[1])) is not None:
        ways[f"flashlight, beam {args.library_beam}, lexicon and n-gram"] = other
    print(f"\nchosen on dev: ngram_weight {chosen[0]:g}, word_bonus {chosen[1]:g}, oov_penalty {chosen[2]:g}\n")
    print_header("set", "search", "words wrong", "WER %", "beside greedy %", "real-time factor", "of the search alone")
    for posteriors in (dev, *tests):
        base = 0
        for name, way in ways.items():
            found = way(posteriors)
            wrong, words = errors(posteriors, found)
            base = base or wrong
            factor = (posteriors.forward_s + found.seconds) / posteriors.audio_s
            print(
                f"| {posteriors.name} | {name} | {wrong} of {words} | {100 * wrong / words:.2f} "
                f"| {100 * (wrong - base) / base:+.1f} | {factor:.4f} | {found.seconds / posteriors.audio_s:.4f} |",
                flush=True,
            )


def main(cmd: list[str] | None = None) -> None:
    """Encode or search."""
    parser = new_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("encode", allow_abbrev=False)
    first.add_argument("--model", required=True, help="pack, or name of a model that comes with the package")
    first.add_argument("--encoder", help="folder of its pre-trained encoder")
    first.add_argument("--data_dir", type=Path, required=True, help="data folder: wav.scp, text, utt2spk")
    first.add_argument("--out", type=Path, required=True, help="file to write")
    then = commands.add_parser("search", allow_abbrev=False)
    then.add_argument("--dev", type=Path, required=True, help="posteriors to choose weights on")
    then.add_argument("--tests", type=Path, nargs="+", required=True, help="posteriors to decode with them")
    then.add_argument("--ngram_file", type=Path, required=True, help="word n-gram, ARPA")
    then.add_argument(
        "--lexicon", help="words that may be found: a file, or ngram for those of --ngram_file (any words)"
    )
    then.add_argument("--bpemodel", type=Path, help="sentencepiece model of the tokens, for flashlight's lexicon")
    then.add_argument("--beam_size", type=int, default=10, help="hypotheses in our beam (10)")
    then.add_argument("--library_beam", type=int, default=50, help="hypotheses in flashlight's (50, its default)")
    for name, values in (("ngram_weights", (0.5, 1.0, 1.5)), ("word_bonuses", (0.0, 1.0)), ("oov_penalties", (3.0,))):
        words = " ".join(f"{value:g}" for value in values)
        then.add_argument(f"--{name}", type=float, nargs="+", default=values, help=f"grid on dev ({words})")
    args = parser.parse_args(cmd)
    encode(args) if args.command == "encode" else search(args)


if __name__ == "__main__":
    main()
