"""What a set does at every checkpoint loop: hypotheses, errors, and what each rule of leaving measures.

Shapes: U utterances, C checkpoint loops.
"""

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from espnet_larm.calibrate.development import features_of, keys_with_text, loaded_batches
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batch import Waveform
from espnet_larm.recognize.config import Batching, DecodeConfig
from espnet_larm.recognize.leaving.choosing import check_can_leave, rules_of
from espnet_larm.recognize.leaving.leave import numbers_at
from espnet_larm.recognize.leaving.rules import Rule
from espnet_larm.recognize.model.features import pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.plan import Plan
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.scoring.alignment import align, split_words

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Traces(NamedTuple):
    """What a set does at every checkpoint loop.

    Attributes:
        keys: Utterances, U.
        loops: Checkpoint loops, C, ascending.
        texts: Hypotheses of each utterance at each loop.
        errors: Word errors (U, C).
        words: Words of the references (U,).
        numbers: What each rule measures (U, C), NaN where it cannot yet.
        is_by_llm: Whether an LM decoded.
    """

    keys: list[str]
    loops: tuple[int, ...]
    texts: list[list[str]]
    errors: Integers
    words: Integers
    numbers: Mapping[str, Floats]
    is_by_llm: bool

    def wer_percent(self, errors: Integers) -> float:
        """Word error rate of one number of errors an utterance (U,)."""
        return 100.0 * float(errors.sum()) / max(1, int(self.words.sum()))

    def up_to(self, num_loops: int) -> "Traces":
        """What the set does in the loops up to `num_loops`."""
        count = sum(loop <= num_loops for loop in self.loops)
        return self._replace(
            loops=self.loops[:count],
            texts=[texts[:count] for texts in self.texts],
            errors=self.errors[:, :count],
            numbers={name: values[:, :count] for name, values in self.numbers.items()},
        )


def trace(
    recognizer: Recognizer,
    table: AudioTable,
    references: Mapping[str, str],
    config: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
    batching: Batching = Batching(),  # noqa: B008  # immutable
    num_loops: int | None = None,
) -> Traces:
    """Decode a set at every checkpoint loop, and measure it by every rule that can let an utterance leave.

    Args:
        recognizer: The model.
        table: Its audio. Utterances that are cut, being longer than `config.long_seconds`, are left out.
        references: Texts by utterance.
        config: How to decode.
        batching: How to read and batch.
        num_loops: The last loop, which may be beyond those trained; the last trained one by default.

    Raises:
        ValueError: No utterance of the model can leave early, one has no text, audio cannot be read, the halting head
            beside the model is another's, or `num_loops` cannot be read out.
    """
    model = recognizer.model
    check_can_leave(model)
    num_loops = num_loops or model.encoder.num_loops
    model.encoder.check_loops(num_loops)
    loops = tuple(model.encoder.allowed_loops(num_loops))
    keys = keys_with_text(table, references, config.long_seconds * recognizer.sample_rate_hz)
    plan = recognizer.plan(config)
    rules = rules_of(model, recognizer.halting_head)
    found = {key: _Trace([], {name: [] for name in rules}) for key in keys}
    for waveforms in loaded_batches(recognizer, table, keys, batching):
        _follow(recognizer, plan, rules, waveforms, found, num_loops)
    # What is too short for a frame says nothing at any loop.
    texts = [found[key].texts or [""] * len(loops) for key in keys]
    aligned = [
        align([references[key] for key in keys], [each[place] for each in texts], split_words)
        for place in range(len(loops))
    ]
    errors = np.array([[one.counts.errors for one in each] for each in aligned], dtype=np.int64).T
    words = np.array([one.counts.units for one in aligned[-1]], dtype=np.int64)
    numbers = {name: np.full((len(keys), len(loops)), np.nan) for name in rules}
    for index, key in enumerate(keys):
        for name, values in found[key].numbers.items():
            if values:
                numbers[name][index, -len(values) :] = values
    return Traces(keys, loops, texts, errors, words, numbers, plan.llm is not None)


class _Trace(NamedTuple):
    """Hypotheses of one utterance at each loop, and by rule what it measures from the first loop at which it can."""

    texts: list[str]
    numbers: dict[str, list[float]]


@torch.no_grad()
def _follow(
    recognizer: Recognizer,
    plan: Plan,
    rules: Mapping[str, Rule],
    waveforms: dict[str, Waveform],
    found: Mapping[str, _Trace],
    num_loops: int,
) -> None:
    """Add what a batch says and measures at each loop to `found`."""
    model, heads = recognizer.model, recognizer.heads
    features = features_of(recognizer, waveforms)
    if not features:
        return
    seconds = [len(waveforms[key]) / recognizer.sample_rate_hz for key in features]
    xs_pad, ilens = pad_features(list(features.values()))
    outputs = read_outs(model, xs_pad, ilens, num_loops, plan.config.skip_blank)
    followed = numbers_at(outputs, heads.ctc.log_probs, model.blank_id, list(rules.values()))
    for read, by_rule in followed:
        if plan.llm is None:
            nbest = heads.ctc.find(read.hs_pad, read.hlens, plan.config.beam_size)
        else:
            assert heads.llm is not None
            nbest = heads.llm.find(read.hs_pad, read.hlens, plan.llm, seconds).nbest
        for key, hypotheses in zip(features, nbest, strict=True):
            found[key].texts.append(hypotheses[0].text)
        for name, numbers in zip(rules, by_rule, strict=True):
            for key, number in zip(features, numbers or (), strict=numbers is not None):
                found[key].numbers[name].append(number)
