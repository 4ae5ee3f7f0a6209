#!/usr/bin/env python3
"""Our beam search beside ESPnet's BatchBeamSearch over a whole test set: N-best, scores and seconds.

Both begin with the same encoder output, float32, and have the same weights: the LM alone, with CTC, with an n-gram, and
with both. Both score every token with every scorer, rule none out and have no guard: the N-best must be the same.
A second run of ours, with the candidates and special tokens of decoding, shows what scoring fewer tokens changes.
ESPnet's search goes to the longest length, since its own end detection may leave an N-best short.

    cd egs/an4 && python ../../tools/bench/beams_upstream.py --asr_train_config exp/asr_x/config.yaml
        --asr_model_file exp/asr_x/latest.pth --data_dir dump/raw/test --ngram_file exp/ngram_x/4gram.arpa
"""

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benching import add_data, add_llm, add_model, new_parser, print_header
from decoding_inputs import Inputs, of_recognizer
from llm_ways import Frames

from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.search.beam import beam
from espnet_larm.search.ctc.prefix import CtcPrefixScores
from espnet_larm.search.ctc_scorer import CtcScorer, same_tokens
from espnet_larm.search.hypotheses import Bounds, Ending
from espnet_larm.search.kenlm_ngram import KenlmNgram
from espnet_larm.search.multi_token import Scorer
from espnet_larm.search.ngram_scorer import NgramScorer, chain

CTC, NGRAM = "CTC", "n-gram"
# Log-probabilities of float32 texts that differ by less are equal but for rounding.
ROUNDING = 2e-3
# As in decoding.
NUM_CANDIDATES = 20


class Found(NamedTuple):
    """A hypothesis that ended by itself before the longest length.

    Attributes:
        token_ids: Tokens without the end.
        score: Score with the end.
    """

    token_ids: list[int]
    score: float


class Searches:
    """Our search and ESPnet's, with one model.

    Args:
        recognizer: Recogniser of the model.
        args: Options of this program.
    """

    def __init__(self, recognizer: Recognizer, args: argparse.Namespace) -> None:
        self.model = recognizer.model
        self.eos, self.vocab_size = self.model.eos, len(self.model.token_list)
        self.weights = {CTC: args.ctc_weight, NGRAM: args.ngram_weight}
        self.ngram_file = args.ngram_file
        self.ngram = args.ngram_file and KenlmNgram(args.ngram_file, self.model.token_list, self.eos)
        self.has_ctc = self.model.ctc is not None and not getattr(self.model, "has_own_ctc_tokens", False)

    def settings(self) -> Iterator[tuple[str, ...]]:
        """Combinations of scorers beside the LM that both searches can use with this model."""
        ctc, ngram = [(CTC,)] * self.has_ctc, [(NGRAM,)] * bool(self.ngram)
        yield from [(), *ctc, *ngram, *((CTC, NGRAM) for _ in ctc for _ in ngram)]

    def ours(self, frames: Frames, scorers_used: Sequence[str], width: int, is_whole: bool) -> list[list[Found]]:
        """N-best of a batch; with `is_whole` every token is scored."""
        most = most_of(frames)
        scorer = self._scorer(frames, scorers_used, is_whole)
        begun = self.model.decoder.start(frames.hs_pad, frames.hlens)
        found = beam(begun, list(map(Bounds, most)), self.eos, width, width, guards_loops=False, scorer=scorer)
        return [
            [
                Found(text.token_ids, text.score)
                for text in texts
                if text.ending is Ending.BY_ITSELF and len(text.token_ids) + 1 < limit
            ]
            for texts, limit in zip(found.hypotheses, most, strict=True)
        ]

    def _scorer(self, frames: Frames, scorers_used: Sequence[str], is_whole: bool) -> Scorer | None:
        special = () if is_whole else self.model.decoder.tokenizer.all_special_ids
        options: dict[str, Any] = {"silent": special, "num_candidates": self.vocab_size if is_whole else NUM_CANDIDATES}
        scorers: list[Scorer] = []
        if CTC in scorers_used:
            scorer = CtcPrefixScores(self.model.ctc.log_softmax(frames.hs_pad), frames.hlens, self.model.blank_id)
            scorers.append(CtcScorer(scorer, same_tokens, self.eos, self.weights[CTC], **options))
        if NGRAM in scorers_used:
            scorers.append(NgramScorer(self.ngram, len(frames.hlens), self.eos, self.weights[NGRAM], **options))
        return chain(scorers)

    def espnets(self, scorers_used: Sequence[str], width: int) -> BatchBeamSearch:
        """ESPnet's search."""
        scorers, weights = {"decoder": self.model.decoder}, {"decoder": 1.0}
        if CTC in scorers_used:
            scorers["ctc"], weights["ctc"] = CTCPrefixScorer(self.model.ctc, self.eos), self.weights[CTC]
            weights["decoder"] -= self.weights[CTC]
        if NGRAM in scorers_used:
            from espnet2.legacy.nets.scorers.ngram import NgramFullScorer

            scorers["ngram"] = NgramFullScorer(str(self.ngram_file), self.model.token_list)
            weights["ngram"] = self.weights[NGRAM]
        return BatchBeamSearch(
            scorers=scorers,
            weights=weights,
            beam_size=width,
            vocab_size=self.vocab_size,
            sos=self.eos,
            eos=self.eos,
            token_list=self.model.token_list,
        )


def most_of(frames: Frames) -> list[int]:
    """Tokens of each text at most: ESPnet's CTC scores fail on texts of more tokens than frames."""
    return [min(pair) for pair in zip(frames.most, frames.hlens.tolist(), strict=True)]


def get_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    parser = new_parser(__doc__)
    add_model(parser, "decoder: speech_llm")
    add_llm(parser)
    add_data(parser, 20.0)
    parser.add_argument("--ngram_file", type=Path, help="n-gram of the model's tokens; none leaves it out")
    parser.add_argument("--ctc_weight", type=float, default=0.3, help="weight of the CTC scorer (0.3)")
    parser.add_argument("--ngram_weight", type=float, default=0.9, help="weight of the n-gram scorer (0.9)")
    parser.add_argument("--widths", type=int, nargs="+", default=[4], help="widths of the beams (4)")
    parser.add_argument("--utterances", type=int, help="utterances to decode, spread over the set (all)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    return parser


@torch.no_grad()
def main() -> None:
    """Print a row a setting, then the utterances that differ."""
    args = get_parser().parse_args()
    torch.set_num_threads(args.threads)
    # What ESPnet's search says at every utterance and step.
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", message="NgramFullScorer batch score")
    recognizer = Recognizer.from_files(args.asr_train_config, args.asr_model_file, llm=args.llm)
    inputs, searches = of_recognizer(recognizer, args), Searches(recognizer, args)
    print(" ".join(sys.argv), f"| torch {torch.__version__}, cpu, {args.threads} threads")
    print(f"{inputs.num_utts} utterances, {inputs.audio_seconds:.0f} s, in {len(inputs.batches)} batches of ours")
    print_header(
        *(
            "beside the LM",
            "width",
            "N-best the same",
            "hypotheses compared",
            "largest difference of scores",
            "ESPnet s",
        ),
        *("ours s", "ratio", f"ours of {NUM_CANDIDATES}: s", "best the same"),
    )
    notes: list[str] = []
    for width in args.widths:
        for scorers_used in searches.settings():
            notes += report(searches, inputs, scorers_used, width)
    print("\n".join(notes))


def report(searches: Searches, inputs: Inputs, scorers_used: Sequence[str], width: int) -> list[str]:
    """Run both searches and print a row; a line for each utterance whose N-best differs."""
    ours, seconds = run_ours(searches, inputs, scorers_used, width, is_whole=True)
    usual, usual_seconds = run_ours(searches, inputs, scorers_used, width, is_whole=False)
    search, theirs, start = searches.espnets(scorers_used, width), {}, time.perf_counter()
    for frames in inputs.batches:
        for one in frames.singly():
            (most,) = most_of(one)
            found = search(one.hs_pad[0], maxlenratio=-float(most))
            pairs = [Found(each.yseq.tolist()[1:-1], float(each.score)) for each in found]
            # An end is put behind all that have the longest length, without its score.
            theirs[one.indices[0]] = [each for each in pairs if len(each.token_ids) + 1 < most][:width]
    espnet_seconds = time.perf_counter() - start
    name = " + ".join(scorers_used) or "nothing"
    notes, largest, num_same, num_compared = [], 0.0, 0, 0
    for index, expected in sorted(theirs.items()):
        found = ours[index]
        is_same = [one.token_ids for one in found] == [one.token_ids for one in expected[: len(found)]]
        num_same, num_compared = num_same + is_same, num_compared + len(found)
        if is_same:
            both = zip(found, expected[: len(found)], strict=True)
            largest = max([largest, *(abs(left.score - right.score) for left, right in both)])
        else:
            notes.append(f"{name}, width {width}, utterance {index}: {difference(found, expected)}")
    bests = [(ours[index][0], *usual[index][:1]) for index in ours if ours[index]]
    num_best = sum(len(pair) == 2 and pair[0].token_ids == pair[1].token_ids for pair in bests)
    print(
        f"| {name} | {width} | {num_same} of {inputs.num_utts} | {num_compared} of {width * inputs.num_utts} "
        f"| {largest:.1e} | {espnet_seconds:.1f} | {seconds:.1f} | {espnet_seconds / seconds:.1f} "
        f"| {usual_seconds:.1f} | {num_best} of {len(bests)} |",
        flush=True,
    )
    return notes


def run_ours(
    searches: Searches, inputs: Inputs, scorers_used: Sequence[str], width: int, is_whole: bool
) -> tuple[dict[int, list[Found]], float]:
    """N-best of each utterance, and seconds."""
    start, found = time.perf_counter(), {}
    for frames in inputs.batches:
        found |= dict(zip(frames.indices, searches.ours(frames, scorers_used, width, is_whole), strict=True))
    return found, time.perf_counter() - start


def difference(found: Sequence[Found], expected: Sequence[Found]) -> str:
    """Where two lists part, and whether rounding can explain it."""
    if len(expected) < len(found):
        return f"ESPnet has {len(expected)} hypotheses, ours {len(found)}"
    rank = next(rank for rank, pair in enumerate(zip(found, expected, strict=False)) if pair[0][0] != pair[1][0])
    left, right = found[rank], expected[rank]
    kind = "a tie within rounding" if abs(left.score - right.score) < ROUNDING else "NOT a tie"
    listed = f"ours {left.score:.4f} {left.token_ids}, ESPnet {right.score:.4f} {right.token_ids}"
    return f"at rank {rank + 1} {kind}: {listed}"


if __name__ == "__main__":
    main()
