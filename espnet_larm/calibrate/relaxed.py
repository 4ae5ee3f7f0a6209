"""Thresholds of `accept: relaxed`: which words each pair loses or wins on a development set, and which calls it saves.

The set is cut into parts by how certain CTC is of each utterance. Each part is decoded by CTC alone, and with each
probability by the LM; every pair of thresholds is a sum of such parts, so that entropies cost no further decoding.
Shapes: B utterances.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch

from espnet_larm.calibrate.development import features_of, keys_with_text, loaded_batches
from espnet_larm.calibrate.drafts import NUM_WARM, Row, Texts, count_errors
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import NONE, RELAXED, Batching, DecodeConfig
from espnet_larm.recognize.decoding import decode_table
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer

logger = logging.getLogger(__name__)

NUM_PARTS = 10
# Above the logarithm of any vocabulary: all utterances are taken.
ALL = 100.0


class _Cost(NamedTuple):
    """Errors and effort of a part of the set, decoded one way; `plus` adds those of another part."""

    errors: int = 0
    words: int = 0
    calls: int = 0
    row_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    audio_seconds: float = 0.0
    accepted_by: Mapping[str, int] = {}

    def plus(self, other: "_Cost") -> "_Cost":
        sums: list[Any] = [left + right for left, right in zip(self[:-1], other[:-1], strict=True)]
        by = Counter(self.accepted_by) + Counter(other.accepted_by)
        return _Cost(*sums)._replace(accepted_by=by)

    def row(self, options: dict[str, Any]) -> Row:
        return Row(
            options,
            100.0 * self.errors / max(1, self.words),
            self.calls,
            self.row_calls,
            self.tokens / max(1, self.row_calls),
            self.seconds / self.audio_seconds,
            self.accepted_by,
        )


def calibrate(
    recognizer: Recognizer,
    table: AudioTable,
    texts: Mapping[str, str],
    taus: Sequence[float],
    drafts: Mapping[str, Any],
    batching: Batching = Batching(),  # noqa: B008  # immutable
) -> Iterator[Row]:
    """Decode a development set a token a call, and find what each pair of thresholds gives.

    Args:
        recognizer: The model, which has a CTC head.
        table: Its audio. Utterances that are cut, being longer than `DecodeConfig.long_seconds`, are left out.
        texts: References by utterance; others are left out.
        taus: Values of `relaxed_tau`, in the order in which they are tried.
        drafts: Options of `DecodeConfig` for drafts behind what the LM believes.
        batching: How to read and batch.

    Raises:
        ValueError: The model has no CTC head, an option is out of its range, or an utterance has no text.
    """

    def plan_of(entropy: float, tau: float) -> Plan:
        return recognizer.plan(DecodeConfig(**_options(drafts, entropy, tau)))

    # All are checked before the first is decoded.
    plans = {tau: plan_of(0.0, tau) for tau in taus}
    config = DecodeConfig(drafts=NONE)
    plan_of_greedy, plan_of_ctc = recognizer.plan(config), plan_of(ALL, 1.0)
    keys = keys_with_text(table, texts, config.long_seconds * recognizer.sample_rate_hz)

    def decode(plan: Plan, part: Sequence[str]) -> _Cost:
        return _decode(recognizer, table, texts, plan, part, batching)

    # What is done once, such as laying out weights, is in no row.
    decode(plan_of_greedy, keys[:NUM_WARM])
    yield decode(plan_of_greedy, keys).row({"drafts": NONE})
    entropies = _most_entropies(recognizer, table, keys, batching)
    thresholds, parts = cut(entropies)
    by_ctc = [decode(plan_of_ctc, part) for part in parts]
    for tau, plan in plans.items():
        by_llm = [decode(plan, part) for part in parts]
        for place, threshold in enumerate(thresholds):
            # Taken by CTC alone, nothing depends on tau.
            if place < len(parts) or tau == taus[-1]:
                cost = reduce(_Cost.plus, [*by_ctc[:place], *by_llm[place:]], _Cost())
                yield cost.row(_options(drafts, threshold, tau))


def _options(drafts: Mapping[str, Any], entropy: float, tau: float) -> dict[str, Any]:
    return {**drafts, "accept": RELAXED, "relaxed_entropy": entropy, "relaxed_tau": tau}


def _decode(
    recognizer: Recognizer,
    table: AudioTable,
    texts: Mapping[str, str],
    plan: Plan,
    keys: Sequence[str],
    batching: Batching,
) -> _Cost:
    writer = Texts()
    stats = decode_table(recognizer, table, keys, plan, batching, writer)
    counts = count_errors(stats, [texts[key] for key in keys], [writer.found.get(key, "") for key in keys])
    (seconds,) = (each["seconds"] for each in stats["loops"].values())
    effort = (stats["decoder_calls"], stats["row_calls"], stats["tokens"], seconds, stats["audio_seconds"])
    return _Cost(counts.errors, counts.units, *effort, stats.get("accepted_by", {}))


@torch.no_grad()
def _most_entropies(
    recognizer: Recognizer, table: AudioTable, keys: Sequence[str], batching: Batching
) -> dict[str, float]:
    """The entropy of each utterance's least certain frame; 0 where no frame is read out.

    Args:
        recognizer: The model.
        table: Its audio.
        keys: Utterances.
        batching: How to read and batch.

    Raises:
        ValueError: Audio cannot be read.
    """
    model, heads = recognizer.model, recognizer.heads
    found = dict.fromkeys(keys, 0.0)
    for waveforms in loaded_batches(recognizer, table, keys, batching):
        features = features_of(recognizer, waveforms)
        if features:
            *_, (_, hs_pad, hlens, _) = read_outs(model, *pad_features(list(features.values())))
            found.update(zip(features, heads.ctc.most_entropy(hs_pad, hlens).tolist(), strict=True))
    return found


def cut(entropies: Mapping[str, float], num_parts: int = NUM_PARTS) -> tuple[list[float], list[list[str]]]:
    """Thresholds of entropy, and the parts of a set between them, the most certain utterances first.

    Args:
        entropies: Entropies by utterance.
        num_parts: Most parts, of about the same number of utterances.

    Returns:
        A threshold before each part and one behind the last: the first takes no utterance, the last all.
    """
    values = np.unique(list(entropies.values()))
    # Between two values: a batch rounds otherwise than its utterances alone.
    places = np.unique(np.linspace(0, len(values), num_parts + 1).round().astype(int))[1:-1]
    between = [float(values[place - 1] + values[place]) / 2 for place in places]
    thresholds = [0.0, *between, ALL]
    parts: list[list[str]] = [[] for _ in thresholds[1:]]
    for key, value in entropies.items():
        parts[sum(value >= threshold for threshold in between)].append(key)
    return thresholds, parts
