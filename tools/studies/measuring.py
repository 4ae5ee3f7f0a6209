"""Measures of a model in a study: word error rate by its LM, and nats per token of held-out text."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_larm.data.kaldi_dir import read_table
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ctc import CtcSearcher, ctc_text_maker, spelling_of
from espnet_larm.recognize.drafting import Drafting
from espnet_larm.recognize.llm_search import LlmPlan, LlmSearcher
from espnet_larm.recognize.model.features import batches_by_length, pad_features
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Grouping, group_utterances
from espnet_larm.scoring.scores import score
from studies.frames import Utterances
from studies.text_ability.measures import measure_lines

# Encoder frames of a batch, padding included.
FRAMES_AT_ONCE = 3000


class Measure:
    """Measures a model as it is.

    Args:
        model: Model from `studies.adaptation.fitting.build`.
        args: Options of the model.
        preprocess: Preprocessor of the model.
        lines: Tokens of each line of held-out text.
    """

    def __init__(self, model: Any, args: argparse.Namespace, preprocess: Any, lines: Sequence[torch.Tensor]) -> None:
        self.model, self.lines = model, lines
        searcher = CtcSearcher(model, ctc_text_maker(model, args))
        self.searcher = LlmSearcher(model, searcher, spelling_of(model, preprocess))
        # Without drafts: here the LM alone is measured.
        self.plan = LlmPlan(DecodeConfig(), 0.0, Drafting())

    @torch.no_grad()
    def texts(self, spoken: Utterances) -> dict[str, str]:
        """Greedy hypotheses of the LM alone, by utterance."""
        device = next(self.model.decoder.parameters()).device
        found: dict[str, str] = {}
        for batch in batches_by_length([len(frames) for frames in spoken.frames], FRAMES_AT_ONCE):
            hs_pad, hlens = pad_features([spoken.frames[index] for index in batch])
            seconds = [spoken.seconds[index] for index in batch]
            nbest = self.searcher.find(hs_pad.to(device), hlens.to(device), self.plan, seconds).nbest
            found.update({spoken.names[index]: best.text for index, (best, *_) in zip(batch, nbest, strict=True)})
        return found

    def nats(self) -> float:
        """Nats per token of the held-out text."""
        sums = measure_lines(self.model.decoder.backbone, self.lines)
        return float(sums.nats.sum() / sums.tokens.sum())


def word_error_rate(spoken: Utterances, texts: Mapping[str, str]) -> float:
    """Word error rate of hypotheses by utterance, in percent."""
    references = dict(zip(spoken.names, spoken.texts, strict=True))
    rate = score(references, texts, split_words, group_utterances(list(references), {})).total.error_percent
    return float(rate)


def grouping_of(data_dir: Path, names: Sequence[str]) -> Grouping:
    """Utterances of a data folder by speaker, if there are enough speakers."""
    path = data_dir / "utt2spk"
    return group_utterances(list(names), read_table(path) if path.is_file() else {})
