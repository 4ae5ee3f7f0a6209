"""A model's CTC head: encoder output to hypotheses, tokens to text, times of words.

Shapes: B utterances, T frames, D model size.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_larm.data.text import on_one_line
from espnet_larm.recognize.model.features import feature_dtype
from espnet_larm.recognize.model.text_lm import Rescorer
from espnet_larm.recognize.output.results import Hypothesis
from espnet_larm.recognize.output.words import FrameTimes, Word, has_words, make_words
from espnet_larm.search.ctc.align import NO_PATH, align
from espnet_larm.search.ctc.beam import prefix_beam
from espnet_larm.search.ctc.fusion import Fusion
from espnet_larm.search.ctc.posteriors import greedy, most_entropy
from espnet_larm.search.ctc_scorer import Spell
from espnet_larm.speech_llm.spelling import Spelling

SOS_EOS = "<sos/eos>"


class CtcSearcher:
    """A model's CTC head and its tokens, which beside an LM may be others than the LM's.

    Args:
        model: In eval mode, with a CTC head.
        tokens_to_text: Joins tokens of the CTC head to a text.
    """

    def __init__(self, model: ESPnetASRModel, tokens_to_text: Callable[[list[str]], str]) -> None:
        self.model = model
        self.tokens_to_text = tokens_to_text
        self.token_list: list[str] = getattr(model, "ctc_token_list", model.token_list)
        # An LM's end may be token 0, which is CTC's blank.
        self.no_text = sorted({model.sos, model.eos} - {model.blank_id})
        if getattr(model, "has_own_ctc_tokens", False):
            self.no_text = [index for index, token in enumerate(self.token_list) if token == SOS_EOS]

    def find(
        self,
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        beam_size: int = 1,
        nbest: int = 1,
        fusion: Fusion | None = None,
        rescorer: Rescorer | None = None,
    ) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance, at least one.

        Args:
            hs_pad: Encoder output (B, T, D).
            hlens: Valid frames (B,).
            beam_size: Hypotheses in the prefix beam; 1 is greedy search.
            nbest: Hypotheses to keep, at most beam_size.
            fusion: What scores words in the prefix beam.
            rescorer: The text LM that scores what the beam has found, before nbest are chosen.
        """
        model, no_text = self.model, self.no_text
        log_probs = self.log_probs(hs_pad)
        if beam_size == 1:
            best = greedy(log_probs, hlens, model.blank_id, no_text)
            rows = zip(best.to_lists(), best.scores.tolist(), strict=True)
            return [[self._hypothesis(token_ids, score)] for token_ids, score in rows]
        log_probs[:, :, no_text] = float("-inf")
        found = prefix_beam(log_probs, hlens, beam_size, model.blank_id, fusion)
        kept = nbest if rescorer is None else beam_size
        hypotheses = [
            [self._hypothesis(*pair) for pair in list(zip(texts, scores, strict=False))[:kept]]
            for texts, scores in zip(found.to_lists(), found.scores.tolist(), strict=True)
        ]
        if rescorer is None:
            return hypotheses
        return [rescored[:nbest] for rescored in rescorer.rescore(hypotheses)]

    def log_probs(self, hs_pad: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, V), in float32 at least: sums over frames would lose half precision's three digits."""
        logits = self.model.ctc.ctc_lo(hs_pad)
        return logits.to(feature_dtype(logits.dtype)).log_softmax(dim=2)

    def most_entropy(self, hs_pad: torch.Tensor, hlens: torch.Tensor) -> torch.Tensor:
        """The entropy in nats of each utterance's least certain frame (B,), with the arguments of `find`."""
        return most_entropy(self.log_probs(hs_pad), hlens)

    def _hypothesis(self, token_ids: list[int], score: float) -> Hypothesis:
        tokens = [self.token_list[token_id] for token_id in token_ids]
        return Hypothesis(self.tokens_to_text(tokens), tokens, token_ids, score)

    def add_words(
        self,
        hypotheses: Sequence[Hypothesis],
        hs_pad: torch.Tensor,
        hlens: torch.Tensor,
        frame_times: Sequence[FrameTimes],
    ) -> list[Hypothesis]:
        """The hypotheses of a batch, one an utterance, with times of their words.

        Args:
            hypotheses: B of them.
            hs_pad: Encoder output (B, T, D).
            hlens: Valid frames (B,).
            frame_times: How each utterance's frames lie in time.
        """
        log_probs = self.log_probs(hs_pad)
        token_lens = torch.tensor([len(hypothesis.token_ids) for hypothesis in hypotheses], device=hs_pad.device)
        tokens = pad_sequence(
            [torch.tensor(hypothesis.token_ids, dtype=torch.long) for hypothesis in hypotheses], batch_first=True
        ).to(hs_pad.device)
        aligned = align(log_probs, hlens.to(hs_pad.device), tokens, token_lens, self.model.blank_id)
        rows = zip(hypotheses, frame_times, hlens.tolist(), *(part.tolist() for part in aligned), strict=True)
        timed = []
        for hypothesis, times, num_frames, starts, ends, means, score in rows:
            spans = list(zip(starts, ends, means, strict=True))
            if score == NO_PATH:
                spans = _evenly(len(hypothesis.token_ids), num_frames)
            timed.append(hypothesis._replace(words=self._words_of(hypothesis, spans, times)))
        return timed

    def _words_of(
        self, hypothesis: Hypothesis, spans: list[tuple[int, int, float]], frame_times: FrameTimes
    ) -> tuple[Word, ...]:
        words = has_words(self.token_list)
        tokens, token_ids = hypothesis.tokens, hypothesis.token_ids
        return make_words(tokens, token_ids, spans, frame_times, self.tokens_to_text, words=words)


def _evenly(num_tokens: int, num_frames: int) -> list[tuple[int, int, float]]:
    """Spans of tokens that an LM found in too few frames for them, with no confidence."""
    edges = [index * num_frames // max(num_tokens, 1) for index in range(num_tokens + 1)]
    return [(start, end, NO_PATH) for start, end in itertools.pairwise(edges)]


def ctc_text_maker(
    model: ESPnetASRModel, args: argparse.Namespace, token_type: str | None = None, bpemodel: str | None = None
) -> Callable[[list[str]], str]:
    """The function that joins tokens of a model's CTC head to a text.

    Args:
        model: The model.
        args: The options of its training.
        token_type: How tokens make text; None as in training.
        bpemodel: The sentencepiece model of `token_type: bpe`; None as in training.

    Raises:
        ValueError: token_type or bpemodel is given for a model with an LM, whose tokens are the LM's.
    """
    if not hasattr(model.decoder, "special_tokens"):
        return _read(token_type or args.token_type or "word", bpemodel or args.bpemodel)
    for name, value in (("token_type", token_type), ("bpemodel", bpemodel)):
        if value is not None:
            raise ValueError(
                f"{name} is {value}, but the model has an LM, whose tokenizer makes its hypotheses; leave it out."
            )
    if model.has_own_ctc_tokens:
        conf = args.preprocessor_conf or {}
        return _read(conf.get("ctc_token_type", "char"), conf.get("ctc_bpemodel"))
    ids = {token: index for index, token in enumerate(model.token_list)}
    tokenizer = model.decoder.tokenizer

    def decode(tokens: list[str]) -> str:
        return on_one_line(tokenizer.decode([ids[token] for token in tokens], skip_special_tokens=True))

    return decode


def _read(token_type: str, bpemodel: str | None) -> Callable[[list[str]], str]:
    tokenizer = build_tokenizer(token_type, bpemodel)
    # ESPnet reads a sentencepiece model at its first use, when a pack's temporary files are gone.
    tokenizer.tokens2text([])
    return tokenizer.tokens2text


def spelling_of(model: ESPnetASRModel, preprocess: Any) -> Spell | None:
    """How the LM's tokens are spelled in those of the CTC head; None if it has none of its own.

    Args:
        model: The model, with a CTC head.
        preprocess: Its preprocessor; without a `speech_llm` one the spelling is not known, which gives None, too.
    """
    if not getattr(model, "has_own_ctc_tokens", False) or getattr(preprocess, "ctc_converter", None) is None:
        return None
    # ESPnet reads a sentencepiece model at its first use, when a pack's temporary files are gone.
    preprocess.to_ctc_ids("")
    is_by_words = preprocess.ctc_token_type == "bpe"  # noqa: S105  # no password
    return Spelling(model.decoder.tokenizer, preprocess.to_ctc_ids, is_by_words)
