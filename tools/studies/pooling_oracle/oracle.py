"""Greedy decoding by an LM while the words of a known text are reduced to few tokens at one of its layers.

Words are found once, in the CTC head's alignment of the reference; the LM then decodes stored encoder outputs greedily,
once for each layer, number of tokens and method of reduction (windows.py).
Shapes: B utterances, T frames, E encoder size, S speech tokens, D model size of the LM. Masks are True where valid.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.pooling.affinity import Pooled, cosines, merge, take, unpooled, valid_mask
from espnet_larm.pooling.baselines import select
from espnet_larm.pooling.deep import pool_deep
from espnet_larm.pooling.in_llm import SpeechPooling
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.model.features import batches_by_length, pad_features
from espnet_larm.recognize.output.results import Hypothesis
from espnet_larm.recognize.output.words import group_tokens, has_words
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.search.ctc.align import NO_PATH, align
from espnet_larm.speech_llm.hypotheses import positions_of
from studies.frames import Utterances
from studies.pooling_oracle.windows import MERGE, reduction_mask, window_starts, word_edges

UNKNOWN = "<unk>"
FRAMES_AT_ONCE = 3000
Reduce = Callable[[torch.Tensor, torch.Tensor], Pooled]
logger = logging.getLogger(__name__)


class Utterance(NamedTuple):
    """An utterance whose words are found.

    Attributes:
        name: Name of the utterance.
        text: Reference.
        seconds: Duration.
        frames: Encoder output (T, E).
        num_tokens: Number of speech tokens (S).
        starts: First token of each word's window; fewer than words where some have no token of their own.
    """

    name: str
    text: str
    seconds: float
    frames: torch.Tensor
    num_tokens: int
    starts: list[int]


class Cell(NamedTuple):
    """One way to decode: a layer, a number of tokens and a method.

    Attributes:
        layer: Number of the LM's layers that read all tokens; 0 reduces its input.
        tokens_per_word: Tokens left of a word (R), 1 or more.
        method: One of METHODS.
    """

    layer: int
    tokens_per_word: int
    method: str


class Similarity(NamedTuple):
    """Mean cosines of speech tokens behind a layer; NaN where there are no such pairs.

    Attributes:
        layer: Number of layers that have read the tokens; 0 is the LM's input.
        within: Mean of neighbours in one word's window, which holds half of each pause beside the word.
        across: Mean of neighbours in two windows; between distant words, both lie in the pause.
        random: Mean of two tokens of one utterance, drawn at random.
    """

    layer: int
    within: float
    across: float
    random: float


def check_model(recognizer: Recognizer) -> None:
    """Refuse a model whose words cannot be found, or that has no LM.

    Raises:
        ValueError: The model is such a model.
    """
    if recognizer.heads.llm is None:
        raise ValueError("the model has no LM, so that there is no layer to reduce speech at; name one of speech_llm.")
    if not recognizer.heads.llm.can_align:
        raise ValueError(
            "words are found by a CTC head that knows how a text is spelled, which this model has not; train with "
            "model_conf: ctc_weight above 0 and, if the head has tokens of its own, preprocessor: speech_llm."
        )


@torch.no_grad()
def find_windows(recognizer: Recognizer, spoken: Utterances) -> tuple[list[Utterance], dict[str, str]]:
    """Align the references with the encoder outputs.

    Args:
        recognizer: Recogniser with a model that `check_model` accepts.
        spoken: Encoder outputs and references.

    Returns:
        Utterances whose words are found, and reasons of the others by name.
    """
    model = recognizer.model
    found: list[Utterance] = []
    left_out: dict[str, str] = {}
    spelled = []
    for index, (name, text) in enumerate(zip(spoken.names, spoken.texts, strict=True)):
        given, reason = _spell(recognizer, text, len(spoken.frames[index]))
        if given is None:
            left_out[name] = reason
        else:
            spelled.append((index, given))
    projector = model.decoder.projector
    lengths = [len(spoken.frames[index]) for index, _ in spelled]
    for batch in batches_by_length(lengths, FRAMES_AT_ONCE):
        chosen = [spelled[place] for place in batch]
        for (index, _), spans in zip(chosen, _align(recognizer, spoken, chosen), strict=True):
            name, num_frames = spoken.names[index], len(spoken.frames[index])
            if spans is None:
                left_out[name] = f"its text has more tokens than its {num_frames} frames have room for"
                continue
            num_tokens = int(projector.output_lens(torch.tensor([num_frames])))
            starts = window_starts(word_edges(spans), num_tokens, projector.kind, projector.frames)
            found.append(
                Utterance(name, spoken.texts[index], spoken.seconds[index], spoken.frames[index], num_tokens, starts)
            )
    order = {name: index for index, name in enumerate(spoken.names)}
    return sorted(found, key=lambda one: order[one.name]), left_out


def _spell(recognizer: Recognizer, text: str, num_frames: int) -> tuple[Hypothesis | None, str]:
    """A text in the CTC head's tokens, or why the utterance cannot be measured."""
    decoder, searcher = recognizer.model.decoder, recognizer.heads.llm
    assert searcher is not None
    if not text.split():
        return None, "no word is said in it"
    num_positions = sum(map(len, decoder.prompt)) + int(decoder.projector.output_lens(torch.tensor([num_frames])))
    if num_positions > decoder.backbone.max_positions:
        return None, f"its {num_positions} positions are more than the LM's context has"
    token_ids = decoder.tokenizer.encode(text, add_special_tokens=False)
    (spelled,) = searcher.in_ctc_tokens([Hypothesis(text, [], token_ids, 0.0)])
    is_known = decoder.tokenizer.unk_token_id not in token_ids and UNKNOWN not in spelled.tokens
    if not spelled.tokens or not is_known:
        return None, "the CTC head cannot spell its text"
    return spelled, ""


def _align(
    recognizer: Recognizer, spoken: Utterances, chosen: Sequence[tuple[int, Hypothesis]]
) -> Iterator[list[tuple[int, int]] | None]:
    """First frame and the one behind the last of the words of each utterance; None where they do not fit in."""
    searcher = recognizer.heads.llm
    assert searcher is not None and searcher.ctc is not None
    hs_pad, hlens = pad_features([spoken.frames[index] for index, _ in chosen])
    ids = [torch.tensor(spelled.token_ids) for _, spelled in chosen]
    token_lens = torch.tensor([len(one) for one in ids])
    device = recognizer.device
    log_probs = searcher.ctc.log_probs(hs_pad.to(device, recognizer.heads.dtype))
    tokens = pad_sequence(ids, batch_first=True).to(device)
    aligned = align(log_probs, hlens.to(device), tokens, token_lens.to(device), recognizer.model.blank_id)
    words = has_words(searcher.ctc.token_list)
    rows = zip(chosen, aligned.starts.tolist(), aligned.ends.tolist(), aligned.scores.tolist(), strict=True)
    for (_, spelled), starts, ends, score in rows:
        groups = group_tokens(spelled.tokens, words=words)
        yield None if score == NO_PATH else [(starts[group[0]], ends[group[-1]]) for group in groups]


class Reducing(NamedTuple):
    """A reduction in the place of a `Pooling`."""

    reduce: Reduce
    is_off: bool = False
    needs_ctc: bool = False

    def __call__(self, xs_pad: torch.Tensor, lens: torch.Tensor, path: None = None) -> Pooled:  # noqa: ARG002
        """Reduce speech (B, S, D) with its lengths (B,)."""
        return self.reduce(xs_pad, lens)


def reduced(layer: int, reduce: Reduce) -> SpeechPooling:
    """The pooling that reduces the speech of prompts.

    Args:
        layer: Number of layers in front; 0 reduces the projector's output, whose positions are then contiguous. Behind
            a layer, tokens keep their positions.
        reduce: Reduces speech (B, S, D) with its lengths (B,).
    """
    made: Any = Reducing(reduce)
    return SpeechPooling(behind=made, layer=layer) if layer else SpeechPooling(at_input=made)


def masks_of(utterances: Sequence[Utterance], cell: Cell, seed: int) -> list[torch.Tensor]:
    """Mask (S,) of each utterance from `reduction_mask`."""
    return [
        reduction_mask(one.starts, one.num_tokens, cell.tokens_per_word, cell.method, seed, one.name)
        for one in utterances
    ]


def num_kept(utterances: Sequence[Utterance], cell: Cell, seed: int) -> int:
    """Number of tokens that are left."""
    return sum(int(mask.sum()) for mask in masks_of(utterances, cell, seed))


@torch.no_grad()
def decode(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    cell: Cell | None,
    seed: int = 0,
    config: DecodeConfig = DecodeConfig(drafts="none"),  # noqa: B008  # immutable
) -> dict[str, str]:
    """Greedy hypotheses of the LM by utterance, with one cell's reduction; None reduces nothing."""
    searcher, plan = recognizer.heads.llm, recognizer.plan(config).llm
    assert searcher is not None and plan is not None
    found: dict[str, str] = {}
    for batch in _batches(utterances):
        pooling = SpeechPooling() if cell is None else reduced(cell.layer, _reduction(batch, cell, seed))
        seconds = [one.seconds for one in batch]
        nbest = searcher.find(*_pad(recognizer, batch), plan._replace(pooling=pooling), seconds).nbest
        found.update({one.name: best.text for one, (best, *_) in zip(batch, nbest, strict=True)})
    return found


def _batches(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    for batch in batches_by_length([len(one.frames) for one in utterances], FRAMES_AT_ONCE):
        yield [utterances[index] for index in batch]


def _pad(recognizer: Recognizer, batch: Sequence[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
    hs_pad, hlens = pad_features([one.frames for one in batch])
    return hs_pad.to(recognizer.device, recognizer.heads.dtype), hlens.to(recognizer.device)


def _reduction(batch: Sequence[Utterance], cell: Cell, seed: int) -> Reduce:
    mask = pad_sequence(masks_of(batch, cell, seed), batch_first=True)

    def reduce(xs_pad: torch.Tensor, lens: torch.Tensor) -> Pooled:
        marks = mask.to(xs_pad.device)
        return merge(xs_pad, lens, marks) if cell.method == MERGE else select(xs_pad, marks)

    return reduce


@torch.no_grad()
def similarity_profile(recognizer: Recognizer, utterances: Sequence[Utterance], seed: int = 0) -> list[Similarity]:
    """Cosines at the LM's input and behind each of its layers; every pair counts alike."""
    decoder = recognizer.model.decoder
    num_places = len(decoder.backbone.layers) + 1
    sums, counts = torch.zeros(num_places, 3, dtype=torch.float64), torch.zeros(num_places, 3)
    generator = torch.Generator().manual_seed(seed)
    for batch in _batches(utterances):
        pairs = pad_sequence([_random_pairs(one.num_tokens, generator) for one in batch], batch_first=True)
        starts = pad_sequence([_start_mask(one) for one in batch], batch_first=True)
        recorders: list[Any] = [
            Reducing(_recorder(pairs, starts, sums[place], counts[place])) for place in range(num_places)
        ]
        packed = decoder.read_prompt(*_pad(recognizer, batch), pooling=SpeechPooling(at_input=recorders[0]))
        after = {index: partial(pool_deep, recorder) for index, recorder in enumerate(recorders[1:])}
        cache = decoder.backbone.new_cache()
        decoder.backbone(packed.embeddings, positions_of(packed), packed.lens, packed.speech, cache, after)
    means = (sums / counts).tolist()
    return [Similarity(layer, *row) for layer, row in enumerate(means)]


def _random_pairs(num_tokens: int, generator: torch.Generator) -> torch.Tensor:
    """Random pairs (S, 2) of different tokens; a single token is paired with itself."""
    first = torch.randint(num_tokens, (num_tokens,), generator=generator)
    steps = torch.randint(1, max(2, num_tokens), (num_tokens,), generator=generator)
    return torch.stack([first, (first + steps) % num_tokens], dim=1)


def _start_mask(utterance: Utterance) -> torch.Tensor:
    """True at the first token of each window (S,)."""
    return reduction_mask(utterance.starts, utterance.num_tokens, 1, MERGE)


def _recorder(pairs: torch.Tensor, starts: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor) -> Reduce:
    """Adds to sums and counts (3,): within, across, random; what it sees stays as it is."""

    def record(xs_pad: torch.Tensor, lens: torch.Tensor) -> Pooled:
        valid = valid_mask(lens, xs_pad.size(1)).cpu()
        neighbours = cosines(xs_pad).cpu()
        first, second = (take(xs_pad, each.to(xs_pad.device)).double() for each in pairs.unbind(-1))
        drawn = torch.cosine_similarity(first, second, dim=-1).cpu()
        several = valid & (lens.cpu() > 1).unsqueeze(1)
        of_two = valid[:, 1:]
        places = ((neighbours, of_two & ~starts[:, 1:]), (neighbours, of_two & starts[:, 1:]), (drawn, several))
        for index, (values, mask) in enumerate(places):
            sums[index] += values.double()[mask].sum()
            counts[index] += mask.sum()
        return unpooled(xs_pad, lens)

    return record


def left_out_of(texts: Mapping[str, str], spoken: Utterances) -> dict[str, str]:
    """Utterances with a text that the encoder gave no frames of."""
    names = set(spoken.names)
    return {name: "it has no audio, or too little for a frame" for name in texts if name not in names}
