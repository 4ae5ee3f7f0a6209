"""What a set does at every checkpoint loop: hypotheses, errors, and what each rule of leaving measures.

Shapes: U utterances, C checkpoint loops.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import Batching, DecodeConfig
from espnet_larm.recognize.decoding import decode_table
from espnet_larm.recognize.leaving.choosing import check_can_leave, rules_of
from espnet_larm.recognize.leaving.leave import numbers_at
from espnet_larm.recognize.leaving.rules import RULES
from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
from espnet_larm.recognize.model.read_outs import ignores_padding, read_outs
from espnet_larm.recognize.output.results import Transcript
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
        texts: Hypotheses of each utterance by loop.
        errors: Word errors (U, C).
        words: Words of the references (U,).
        numbers: What each rule measures (U, C), NaN where it cannot yet.
        is_by_llm: Whether an LM decoded.
    """

    keys: list[str]
    loops: tuple[int, ...]
    texts: list[dict[int, str]]
    errors: Integers
    words: Integers
    numbers: Mapping[str, Floats]
    is_by_llm: bool

    def wer_percent(self, errors: Integers) -> float:
        """Word error rate of one number of errors an utterance (U,)."""
        return 100.0 * float(errors.sum()) / max(1, int(self.words.sum()))


class _Texts:
    """Takes transcripts as `HypothesisWriter` does."""

    def __init__(self) -> None:
        self.found: dict[str, dict[int, str]] = {}
        self.measurable: set[str] = set()

    def write(self, key: str, transcript: Transcript) -> None:
        texts = {number: hypothesis.text for number, hypothesis in transcript.hypotheses.items()}
        self.found.setdefault(key, {}).update(texts)
        if not transcript.skipped:
            self.measurable.add(key)


def trace(
    recognizer: Recognizer,
    table: AudioTable,
    references: Mapping[str, str],
    config: DecodeConfig = DecodeConfig(),  # noqa: B008  # immutable
    batching: Batching = Batching(),  # noqa: B008  # immutable
) -> Traces:
    """Decode a set at every checkpoint loop, and measure it by every rule that can let an utterance leave.

    Args:
        recognizer: The model.
        table: Its audio. Utterances that are cut, being longer than `config.long_seconds`, are left out.
        references: Texts by utterance.
        config: How to decode.
        batching: How to read and batch.

    Raises:
        ValueError: No utterance of the model can leave early, one has no text, or audio cannot be read.
    """
    model = recognizer.model
    check_can_leave(model)
    loops = tuple(model.encoder.allowed_loops(model.encoder.num_loops))
    keys = table.keys(None)
    if lacking := [key for key in keys if key not in references]:
        raise ValueError(f"{len(lacking)} utterances have no text, the first of them {lacking[0]}.")
    most_samples = config.long_seconds * recognizer.sample_rate_hz
    if long := [key for key in keys if table.length(key) > most_samples]:
        logger.warning("%d utterances are longer than long_seconds and left out, %s first", len(long), long[0])
        keys = [key for key in keys if table.length(key) <= most_samples]
    plans = [recognizer.plan(config)]
    if plans[0].llm is not None:
        options = {name: getattr(config, name) for name in config.__dataclass_fields__}
        plans = [recognizer.plan(DecodeConfig(**{**options, "num_loops": loop})) for loop in loops]
    writer = _Texts()
    for plan in plans:
        if failed := decode_table(recognizer, table, keys, plan, batching, writer)["failed"]:
            raise ValueError(f"{len(failed)} utterances cannot be read; see above.")
    texts = [writer.found[key] for key in keys]
    aligned = {
        loop: align([references[key] for key in keys], [each[loop] for each in texts], split_words) for loop in loops
    }
    counts = np.array([[one.counts.errors for one in aligned[loop]] for loop in loops], dtype=np.int64).T
    words = np.array([one.counts.units for one in aligned[loops[-1]]], dtype=np.int64)
    measured = _measure(recognizer, table, [key for key in keys if key in writer.measurable], batching)
    numbers = {name: np.full((len(keys), len(loops)), np.nan) for name in rules_of(model)}
    for index, key in enumerate(keys):
        for name, values in measured.get(key, {}).items():
            numbers[name][index, -len(values) :] = values
    return Traces(keys, loops, texts, counts, words, numbers, plans[0].llm is not None)


@torch.no_grad()
def _measure(
    recognizer: Recognizer, table: AudioTable, keys: Sequence[str], batching: Batching
) -> dict[str, dict[str, list[float]]]:
    """By utterance and rule what it measures at each loop, from the first at which it can."""
    model, names = recognizer.model, rules_of(recognizer.model)
    most = batching.batch_seconds * recognizer.sample_rate_hz
    most_utterances = batching.most_utterances if ignores_padding(model) else 1
    groups = batches_by_length([table.length(key) for key in keys], most, most_utterances)
    found: dict[str, dict[str, list[float]]] = {key: {name: [] for name in names} for key in keys}
    for loaded in table.load_ahead([[keys[index] for index in group] for group in groups], batching.num_workers):
        waveforms = loaded.waveforms
        features = [extract_features(model, torch.as_tensor(each).to(recognizer.device)) for each in waveforms.values()]
        outputs = read_outs(model, *pad_features(features))
        log_probs = recognizer.heads.ctc.log_probs
        for _, by_rule in numbers_at(outputs, log_probs, model.blank_id, [RULES[name] for name in names]):
            for name, numbers in zip(names, by_rule, strict=True):
                for key, number in zip(waveforms, numbers or (), strict=numbers is not None):
                    found[key][name].append(number)
    return found
