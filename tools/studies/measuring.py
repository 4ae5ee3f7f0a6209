"""What a run of a study is measured by: words that it gets wrong, and what it has lost of text."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_larm.recognize.ctc import Searcher, ctc_text_maker, spelling_of
from espnet_larm.recognize.llm_search import LlmSearcher
from espnet_larm.recognize.model.features import batches_by_length, pad_features
from espnet_larm.recognize.output.results import GREEDY
from espnet_larm.scoring.alignment import split_words
from espnet_larm.scoring.bootstrap import Grouping, group_utterances
from espnet_larm.scoring.scores import score
from espnet_larm.speech_llm.text_ability import measure_lines
from studies.frames import Utterances

# Of encoder frames, padding included: the LM's part of a batch is small beside a training's.
FRAMES_AT_ONCE = 3000


class Measure:
    """Measures a model as it is.

    Args:
        model: Of `study.fitting.build`.
        args: Its options.
        preprocess: Its preprocessor.
        lines: Tokens of held-out text.
    """

    def __init__(self, model: Any, args: argparse.Namespace, preprocess: Any, lines: Sequence[torch.Tensor]) -> None:
        self.model, self.lines = model, lines
        searcher = Searcher(model, ctc_text_maker(model, args))
        self.searcher = LlmSearcher(model, searcher, spelling_of(model, preprocess))
        # Heads draft what the LM would say; here the LM is measured.
        self.searcher.set_drafting(drafts="none")

    @torch.no_grad()
    def texts(self, spoken: Utterances) -> dict[str, str]:
        """Greedy texts of the LM alone, by utterance."""
        device = next(self.model.decoder.parameters()).device
        found: dict[str, str] = {}
        for batch in batches_by_length([len(frames) for frames in spoken.frames], FRAMES_AT_ONCE):
            hs_pad, hlens = pad_features([spoken.frames[index] for index in batch])
            seconds = [spoken.seconds[index] for index in batch]
            nbest = self.searcher.find(hs_pad.to(device), hlens.to(device), GREEDY, seconds)
            found.update({spoken.names[index]: best.text for index, (best, *_) in zip(batch, nbest, strict=True)})
        return found

    def nats(self) -> float:
        """Per token of the held-out text."""
        sums = measure_lines(self.model.decoder.backbone, self.lines)
        return float(sums.nats.sum() / sums.tokens.sum())


def word_error_rate(spoken: Utterances, texts: Mapping[str, str]) -> float:
    """Percent."""
    references = dict(zip(spoken.names, spoken.texts, strict=True))
    rate = score(references, texts, split_words, group_utterances(list(references), {})).total.error_percent
    return float(rate)


def grouping_of(data_dir: Path, names: Sequence[str]) -> Grouping:
    """Utterances of a data folder by speaker, where there are enough of them."""
    from espnet_larm.data.kaldi_dir import read_table

    path = data_dir / "utt2spk"
    return group_utterances(list(names), read_table(path) if path.is_file() else {})
