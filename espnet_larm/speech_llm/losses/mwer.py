"""Minimum word error rate (MWER) training: hypotheses with fewer errors get more of the probability of an N-best list.

A search without gradient gives the N best hypotheses of each utterance; they are scored again with gradient, in one
teacher-forced batch. An utterance's loss is the sum of p (errors - mean errors) over them, p being their probabilities,
which add up to 1. So it has no gradient where one hypothesis is found, or where all have as many errors.
Source: Prabhavalkar et al., "Minimum Word Error Rate Training for Attention-based Sequence-to-Sequence Models", ICASSP
2018, arXiv:1712.01818, N-best variant; with draft heads Raj et al., arXiv:2409.08148.
Shapes: B utterances, N hypotheses of each, R in all, T frames, E encoder size, L tokens, D model size, V LM tokens.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.chunks import by_chunks
from espnet_larm.scoring.alignment import align, split_words
from espnet_larm.search.hypotheses import Bounds, TokenHypothesis
from espnet_larm.search.lookahead import Lookahead
from espnet_larm.search.prefix_beam import prefix_beam
from espnet_larm.speech_llm.hypotheses import SpeechHypotheses
from espnet_larm.upstream import add_sos_eos

# A hypothesis has so many tokens for each of the reference, and so many more: a loop costs time.
TOKENS_PER_TOKEN = 1.5
MORE_TOKENS = 8


@dataclasses.dataclass(frozen=True)
class Mwer:
    """Options that `model_conf` names behind `mwer_`; `SpeechLlmModel` says their meaning and checks their ranges.

    Raises:
        ValueError: The beam is narrower than N.
    """

    weight: float
    ce_weight: float
    nbest: int
    beam_size: int
    in_validation: bool

    def __post_init__(self) -> None:
        if self.beam_size < self.nbest:
            raise ValueError(
                f"model_conf: mwer_beam_size is {self.beam_size}, but mwer_nbest {self.nbest}: a beam finds as many "
                "hypotheses as it is wide; make it wider, or ask for fewer."
            )


class Nbest(NamedTuple):
    """What a search found.

    Attributes:
        texts: Hypotheses of each utterance, 1 to N token sequences without an end, the best first, no two equal.
        errors: Words that are wrong in each (B, N), 0 where there is none.
        mask: Where there is a hypothesis (B, N).
        num_words: Words of each reference (B,).
    """

    texts: list[list[list[int]]]
    errors: torch.Tensor
    mask: torch.Tensor
    num_words: torch.Tensor

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        texts: list[list[list[int]]],
        references: Sequence[Sequence[int]],
        nbest: int,
        device: torch.device,
    ) -> "Nbest":
        """Count the errors of what was found.

        Args:
            tokenizer: HF's, of the LM.
            texts: Hypotheses of each utterance, 1 to N.
            references: Tokens of each utterance.
            nbest: N.
            device: Where the figures are.
        """
        errors, num_words = count_errors(
            [[words_of(tokenizer, tokens) for tokens in row] for row in texts],
            [words_of(tokenizer, tokens) for tokens in references],
        )
        mask = torch.zeros(len(texts), nbest, dtype=torch.bool)
        padded = torch.zeros(len(texts), nbest)
        for row, counts in enumerate(errors):
            mask[row, : len(counts)] = True
            padded[row, : len(counts)] = torch.tensor(counts, dtype=torch.float)
        return cls(texts, padded.to(device), mask.to(device), torch.tensor(num_words, device=device))

    def to_score(self) -> list[tuple[int, int]]:
        """Utterance and place of each hypothesis that the loss depends on: where an utterance's differ in errors."""
        return [
            (utterance, place)
            for utterance, (texts, errors) in enumerate(zip(self.texts, self.errors.tolist(), strict=True))
            if len(set(errors[: len(texts)])) > 1
            for place in range(len(texts))
        ]


def find_nbest(
    decoder: Any, hs_pad: torch.Tensor, hlens: torch.Tensor, references: Sequence[Sequence[int]], eos: int, conf: Mwer
) -> Nbest:
    """Search without gradient and without dropout; no random number is drawn, and the decoder is left as it was.

    Args:
        decoder: A `speech_llm`.
        hs_pad: Encoder output (B, T, E).
        hlens: Valid frames (B,).
        references: Tokens of each utterance.
        eos: The token that ends a hypothesis.
        conf: N and the width of the beam.
    """
    with torch.no_grad(), evaluating(decoder):
        begun = decoder.start(hs_pad.detach(), hlens)
        found = _search(decoder, begun, bounds_near(decoder, begun, map(len, references)), eos, conf)
    # A guard cuts a hypothesis back, perhaps to one that was found, too.
    texts = [[list(each) for each in dict.fromkeys(tuple(one.token_ids) for one in row)] for row in found]
    return Nbest.of(decoder.tokenizer, texts, references, conf.nbest, hs_pad.device)


def bounds_near(decoder: Any, begun: SpeechHypotheses, num_tokens: Iterable[int]) -> list[Bounds]:
    """Bounds of hypotheses that are searched in training: about as long as the references, and within the context.

    Args:
        decoder: A `speech_llm`.
        begun: The hypotheses, at their start.
        num_tokens: Tokens of each utterance's reference.
    """
    room = (decoder.backbone.max_positions - begun.next_positions).clamp(min=0).tolist()
    return [
        Bounds(min(left, MORE_TOKENS + int(TOKENS_PER_TOKEN * number)))
        for left, number in zip(room, num_tokens, strict=True)
    ]


def _search(decoder: Any, begun: Any, bounds: Sequence[Bounds], eos: int, conf: Mwer) -> list[list[TokenHypothesis]]:
    num_heads = decoder.heads.num_heads
    lookahead = Lookahead(lambda hidden: decoder.draft_logits(hidden, num_heads)) if num_heads > 1 else None
    return prefix_beam(begun, bounds, eos, conf.beam_size, conf.nbest, lookahead=lookahead).hypotheses


def count_errors(texts: Sequence[Sequence[str]], references: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Word errors of several hypotheses of each utterance, and the words of its reference."""
    pairs = [(reference, text) for reference, row in zip(references, texts, strict=True) for text in row]
    aligned = align([reference for reference, _ in pairs], [text for _, text in pairs], split_words)
    counts = iter(one.counts.errors for one in aligned)
    return [[next(counts) for _ in row] for row in texts], [len(split_words(each)) for each in references]


def score_nbest(
    decoder: Any, hs_pad: torch.Tensor, hlens: torch.Tensor, found: Nbest, eos: int, ignore_id: int
) -> torch.Tensor:
    """With gradient, log-probabilities (B, N) of the hypotheses that the loss depends on; 0 for all others.

    Args:
        decoder: A `speech_llm`.
        hs_pad: Encoder output (B, T, E).
        hlens: Valid frames (B,).
        found: What the search found in it.
        eos: The token that ends a hypothesis.
        ignore_id: Padding, no token.
    """
    log_probs = torch.zeros_like(found.errors)
    places = found.to_score()
    if not places:
        return log_probs
    utterances, ranks = torch.tensor(places, device=hs_pad.device).unbind(1)  # (R,)
    texts = [found.texts[utterance][rank] for utterance, rank in places]
    scores = log_probs_of(decoder, hs_pad[utterances], hlens[utterances], texts, eos, ignore_id)
    return log_probs.index_put((utterances, ranks), scores)


def log_probs_of(
    decoder: Any, hs_pad: torch.Tensor, hlens: torch.Tensor, texts: Sequence[Sequence[int]], eos: int, ignore_id: int
) -> torch.Tensor:
    """Log-probabilities of hypotheses and their ends (R,), float32; one that a guard ended counts as ended by itself.

    Args:
        decoder: A `speech_llm`.
        hs_pad: Encoder output of each hypothesis's utterance (R, T, E).
        hlens: Valid frames (R,).
        texts: Tokens, without an end.
        eos: The token that ends a hypothesis.
        ignore_id: Padding, no token.
    """
    tokens = [torch.tensor(text, dtype=torch.long, device=hs_pad.device) for text in texts]
    lens = torch.tensor([len(text) for text in texts], device=hs_pad.device)
    padded = pad_sequence(tokens, batch_first=True, padding_value=ignore_id)
    ys_in_pad, ys_out_pad = add_sos_eos(padded, eos, eos, ignore_id)
    hidden = decoder.read_text(hs_pad, hlens, ys_in_pad, lens + 1).hidden  # (R, L + 1, D)

    is_token = ys_out_pad != ignore_id

    def score(states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor]:
        return (-functional.cross_entropy(decoder.logits_of(1, states).float(), tokens, reduction="none"),)

    # The logits are not kept for the backward pass.
    given = hidden[is_token], ys_out_pad[is_token]
    (scores,) = by_chunks(score, decoder.backbone.vocab_size, *given, recomputes=True)
    return scores.new_zeros(is_token.shape).masked_scatter(is_token, scores).sum(1)


def mwer_loss(log_probs: torch.Tensor, errors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The MWER loss of each utterance (B,).

    Args:
        log_probs: Log-probabilities of its hypotheses (B, N).
        errors: (B, N).
        mask: Where there is a hypothesis (B, N), one at least in each row.
    """
    excess = (errors - (errors * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)) * mask
    return (probabilities(log_probs, mask) * excess).sum(1)


def probabilities(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probabilities of an utterance's hypotheses among each other (B, N), 0 where the mask (B, N) is False."""
    return log_probs.float().masked_fill(~mask, float("-inf")).softmax(-1)


def figures(log_probs: torch.Tensor, found: Nbest) -> dict[str, torch.Tensor]:
    """For ESPnet's reporter: word errors a word, and the share of utterances with fewer than N hypotheses.

    Args:
        log_probs: (B, N), as `score_nbest` gives them.
        found: The hypotheses.
    """
    words = found.num_words.sum().clamp(min=1)
    return {
        # By the model's own probabilities; of the first; of the one with the fewest.
        "wer_expected": (probabilities(log_probs, found.mask) * found.errors).sum() / words,
        "wer_best": found.errors[:, 0].sum() / words,
        "wer_oracle": found.errors.masked_fill(~found.mask, float("inf")).min(1).values.sum() / words,
        "short_nbest": (~found.mask).any(1).float().mean(),
    }


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode, and each part back in the mode that it had: frozen parts are in eval mode while others learn."""
    modes = [(part, part.training) for part in module.modules()]
    called = [(part, part.mode) for part in module.modules() if isinstance(part, Backbone)]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for backbone, mode in called:
            backbone.mode = mode


def words_of(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of tokens, as decoding makes it."""
    return " ".join(tokenizer.decode(list(token_ids), skip_special_tokens=True).split())
