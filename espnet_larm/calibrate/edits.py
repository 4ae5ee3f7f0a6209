"""The weight of CTC in the choice among edits, on a development set: all candidates are scored once, by both."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from espnet_larm.calibrate.development import features_of, keys_with_text, loaded_batches
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import EDIT, Batching, DecodeConfig
from espnet_larm.recognize.llm_search import EditCandidate, best_edits
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import add_counts, align, split_words
from espnet_larm.speech_llm.editing.editor import edit

logger = logging.getLogger(__name__)

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Where no weight has a say: candidates of CTC's are there, too.
SOME_WEIGHT = 0.5


class Candidates(NamedTuple):
    """Texts that editing may give for an utterance, with both scores.

    Attributes:
        scored: Tokens and scores.
        texts: The same for people.
        draft: The text that was edited.
    """

    scored: list[EditCandidate]
    texts: list[str]
    draft: str


class Row(NamedTuple):
    """What a weight gives.

    Attributes:
        name: The weight, or what stands beside the weights.
        ctc_weight: The weight; None for what is no choice among candidates.
        wer_percent: Word errors per 100 words.
    """

    name: str
    ctc_weight: float | None
    wer_percent: float


def collect(
    recognizer: Recognizer,
    table: AudioTable,
    texts: Mapping[str, str],
    beam_size: int,
    passes: int | None,
    batching: Batching,
) -> dict[str, Candidates]:
    """Edit a development set and score all candidates.

    Args:
        recognizer: A model that edits.
        table: Its audio. Utterances that are cut, being longer than `DecodeConfig.long_seconds`, are left out.
        texts: References by utterance.
        beam_size: Best edits, and as many CTC hypotheses.
        passes: Calls of the LM; None for one.
        batching: How to read and batch.

    Raises:
        ValueError: The model does not edit, an option is out of its range, or an utterance has no text.
    """
    config = DecodeConfig(search=EDIT, beam_size=beam_size, ctc_weight=SOME_WEIGHT, edit_passes=passes)
    plan = recognizer.plan(config).llm
    llm, model = recognizer.heads.llm, recognizer.model
    assert plan is not None and llm is not None
    keys = keys_with_text(table, texts, config.long_seconds * recognizer.sample_rate_hz)
    found = {}
    for waveforms in loaded_batches(recognizer, table, keys, batching):
        features = features_of(recognizer, waveforms)
        if not features:
            continue
        with torch.no_grad():
            *_, (_, hs_pad, hlens, _) = read_outs(model, *pad_features(list(features.values())))
            drafts = llm.ctc_tokens(hs_pad, hlens)
            edited = edit(model.decoder, (hs_pad, hlens), drafts, plan.edit_passes, plan.prompt, plan.pooling)
            rows = llm.edit_candidates(edited, hs_pad, hlens, plan)
        for key, row, draft in zip(features, rows, drafts, strict=True):
            found[key] = Candidates(row, [llm.text_of(each.token_ids) for each in row], llm.text_of(draft))
    return found


def rows_of(
    found: Mapping[str, Candidates], texts: Mapping[str, str], weights: Sequence[float] = WEIGHTS
) -> Iterator[Row]:
    """Word error rates: of the drafts, of each weight, and of the candidates with the fewest errors."""
    keys = [*found]
    references = [texts[key] for key in keys]

    def row(name: str, weight: float | None, hypotheses: Sequence[str]) -> Row:
        counts = add_counts([each.counts for each in align(references, hypotheses, split_words)])
        return Row(name, weight, counts.error_percent)

    yield row("drafts", None, [found[key].draft for key in keys])
    for weight in weights:
        yield row(f"ctc_weight {weight:g}", weight, [_chosen(found[key], weight) for key in keys])
    yield row("fewest errors of all candidates", None, [_oracle(found[key], texts[key]) for key in keys])


def _chosen(candidates: Candidates, weight: float) -> str:
    best, *_ = best_edits(candidates.scored, weight)
    return candidates.texts[candidates.scored.index(best)]


def _oracle(candidates: Candidates, reference: str) -> str:
    aligned = align([reference] * len(candidates.texts), candidates.texts, split_words)
    errors = [each.counts.errors for each in aligned]
    return candidates.texts[errors.index(min(errors))]


def choose(rows: Sequence[Row]) -> Row:
    """The weight with the fewest errors, the least of them."""
    return min((row for row in rows if row.ctc_weight is not None), key=lambda row: (row.wer_percent, row.ctc_weight))
