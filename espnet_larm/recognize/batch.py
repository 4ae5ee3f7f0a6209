"""Batches of audio to transcripts: features, encoder, search, and what each cost.

A batch gives what each utterance gives alone (test_batch_gives_what_each_utterance_gives_alone): features are computed
per utterance; our encoders ignore padding; utterances for ESPnet's, which do not, share a batch only at equal length.
Shapes: B utterances, N samples, T frames, F features.
"""

import functools
import logging
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.recognize.ctc import CtcSearcher
from espnet_larm.recognize.leaving.leave import run_until_left
from espnet_larm.recognize.llm_search import LlmSearcher, with_words_of
from espnet_larm.recognize.machine import is_out_of_memory
from espnet_larm.recognize.model.features import Features, extract, min_num_samples, pad_features, same_length
from espnet_larm.recognize.model.read_outs import ignores_padding, measure_frame_times, read_outs
from espnet_larm.recognize.output.effort import Effort
from espnet_larm.recognize.output.results import NO_NUMBERS, Cost, Decoded, Hypothesis, Transcript, skipped_transcript
from espnet_larm.recognize.output.words import FrameTimes
from espnet_larm.recognize.plan import Plan
from espnet_larm.scoring.experiment import AUTO_NUMBER
from espnet_larm.speech_llm.prompt import ContextError
from espnet_larm.upstream import TooShortUttError

logger = logging.getLogger(__name__)

Waveform = np.ndarray | torch.Tensor


class Heads:
    """What a model decodes with. It holds nothing of the audio.

    Args:
        model: The model, in eval mode.
        ctc: Its CTC head.
        llm: Its LM; None for a model without one.
        sample_rate_hz: The rate of its audio.
    """

    def __init__(self, model: ESPnetASRModel, ctc: CtcSearcher, llm: LlmSearcher | None, sample_rate_hz: int) -> None:
        self.model, self.ctc, self.llm, self.sample_rate_hz = model, ctc, llm, sample_rate_hz
        parameter = next((model.ctc if llm is None else model.decoder.projector).parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @functools.cached_property
    def frame_times(self) -> FrameTimes:
        """How the encoder's frames lie in time, measured once on two lengths."""
        return measure_frame_times(self.model, self.sample_rate_hz, self.device, self.dtype)

    def now(self) -> float:
        """Seconds on a clock that waits for the GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@torch.no_grad()
def decode_batch(heads: Heads, waveforms: Sequence[Waveform], plan: Plan) -> Decoded:
    """Recognise utterances together.

    Args:
        heads: The model.
        waveforms: Samples (N,) of each, in [-1, 1], at the model's sample rate.
        plan: How to decode.

    Raises:
        ValueError: A waveform is not one-dimensional or not finite, or words of a hypothesis cannot be aligned.
        MemoryError: One utterance alone does not fit into memory.
    """
    if plan.config.with_words and plan.llm is not None and not (heads.llm and heads.llm.can_align):
        raise ValueError(
            "times of words, which long audio is joined by, come from a CTC head that knows how the LM's hypothesis is "
            "spelled; the model has none. Leave write_ctm out, and cut audio into utterances of less than "
            "--long_seconds."
        )
    return _Batch(heads, waveforms, plan).decode()


class _Batch:
    """Utterances that are being decoded, and what that has cost so far."""

    def __init__(self, heads: Heads, waveforms: Sequence[Waveform], plan: Plan) -> None:
        self.heads, self.model, self.waveforms, self.plan = heads, heads.model, waveforms, plan
        self.features: dict[int, Features] = {}
        self.transcripts: dict[int, Transcript] = {}
        self.loops: dict[int, int] = {}
        self.seconds = dict.fromkeys(plan.numbers, 0.0)
        self.word_seconds = 0.0
        self.effort = Effort()
        self.num_halved = 0

    def decode(self) -> Decoded:
        start = self.heads.now()
        self._extract()
        feature_seconds = self.heads.now() - start
        for group in self._groups():
            self.transcripts.update(zip(group, self._decode_what_fits(group), strict=True))
        cost = Cost(
            feature_seconds,
            {number: feature_seconds + spent for number, spent in self.seconds.items()},
            self.word_seconds,
            self.effort,
            sum(each.num_frames for each in self.features.values()),
            sum(len(each.xs) for each in self.features.values()),
            self.num_halved,
        )
        return Decoded([self.transcripts[index] for index in range(len(self.waveforms))], cost)

    def _extract(self) -> None:
        least = min_num_samples(self.model)
        for index, waveform in enumerate(self.waveforms):
            if waveform.ndim != 1:
                raise ValueError(f"a waveform has the shape {tuple(waveform.shape)}; allowed: one dimension, samples.")
            samples = torch.as_tensor(waveform)
            if not samples.isfinite().all():
                raise ValueError(f"waveform {index} holds samples that are not finite numbers; replace it.")
            if len(waveform) < least:
                reason = f"{len(waveform)} samples are too few for a frame"
                self.transcripts[index] = skipped_transcript(self.plan.numbers, reason)
            else:
                self.features[index] = extract(self.model, samples.to(self.heads.device, non_blocking=True))

    def _groups(self) -> list[list[int]]:
        """Indices of utterances that share a batch."""
        if not self.features:
            return []
        if ignores_padding(self.model):
            return [list(self.features)]
        return list(same_length({index: len(each.xs) for index, each in self.features.items()}))

    def _decode_what_fits(self, group: list[int]) -> list[Transcript]:
        """The transcripts of a group, which is decoded in halves where memory does not suffice."""
        try:
            return self._decode_group(group)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                raise MemoryError(
                    f"one utterance of {len(self.features[group[0]].xs)} frames does not fit into memory "
                    f"({self.heads.device}); cut long audio into shorter pieces (--long_seconds, --longest_piece)."
                ) from error
        # Here, and not in the handler: there the error still holds all that the attempt had made.
        if self.heads.device.type == "cuda":
            torch.cuda.empty_cache()
        self.num_halved += 1
        logger.warning("%d utterances do not fit into memory together: in halves", len(group))
        middle = len(group) // 2
        return [*self._decode_what_fits(group[:middle]), *self._decode_what_fits(group[middle:])]

    def _decode_group(self, group: list[int]) -> list[Transcript]:
        hypotheses: list[dict[int, Hypothesis]] = [{} for _ in group]
        nbest: list[list[Hypothesis]] = []
        try:
            for number, hs_pad, hlens in self._read_outs(group):
                start = self.heads.now()
                nbest = self._search(group, hs_pad, hlens)
                self.seconds[number] += self.heads.now() - start
                best = self._with_words(group, [found[0] for found in nbest], hs_pad, hlens)
                for row, hypothesis in zip(hypotheses, best, strict=True):
                    row[number] = hypothesis
        except (TooShortUttError, ContextError) as error:
            if len(group) == 1:
                return [skipped_transcript(self.plan.numbers, str(error.args[0]))]
            # One short or long utterance stops the batch at its start: each goes alone, and the others are decoded.
            return [transcript for index in group for transcript in self._decode_group([index])]
        rows = zip(group, hypotheses, nbest, strict=True)
        return [self._transcript(index, row, found[1:]) for index, row, found in rows]

    def _transcript(self, index: int, hypotheses: dict[int, Hypothesis], others: list[Hypothesis]) -> Transcript:
        if not all(math.isfinite(hypothesis.score) for hypothesis in hypotheses.values()):
            return skipped_transcript(self.plan.numbers, NO_NUMBERS)
        edges, loops = self.features[index].edges, self.loops.get(index)
        return Transcript(hypotheses, others=tuple(others), edges=edges, loops=loops)

    def _read_outs(self, group: list[int]) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """The read-outs that are asked for; adds what the encoder took up to each to its seconds."""
        xs_pad, ilens = pad_features([self.features[index].xs for index in group])
        spent, mark = 0.0, self.heads.now()
        outputs = read_outs(self.model, xs_pad, ilens, self.plan.last_loop, self.plan.config.skip_blank)
        if self.plan.leaving is not None:
            left = run_until_left(outputs, self.heads.ctc.log_probs, self.model.blank_id, self.plan.leaving)
            self.loops.update(zip(group, left.loops, strict=True))
            self.seconds[AUTO_NUMBER] += self.heads.now() - mark
            yield AUTO_NUMBER, left.hs_pad, left.hlens
            return
        for number, hs_pad, hlens, _ in outputs:
            spent += self.heads.now() - mark
            if number in self.seconds:
                self.seconds[number] += spent
                yield number, hs_pad, hlens
            mark = self.heads.now()

    def _search(self, group: list[int], hs_pad: torch.Tensor, hlens: torch.Tensor) -> list[list[Hypothesis]]:
        config = self.plan.config
        if self.plan.llm is None:
            fusion = None if self.plan.words is None else self.plan.words.fusion
            return self.heads.ctc.find(hs_pad, hlens, config.beam_size, config.nbest, fusion, self.plan.rescorer)
        assert self.heads.llm is not None
        seconds = [len(self.waveforms[index]) / self.heads.sample_rate_hz for index in group]
        found = self.heads.llm.find(hs_pad, hlens, self.plan.llm, seconds)
        self.effort = self.effort.plus(found.effort)
        return found.nbest

    def _with_words(
        self, group: list[int], best: list[Hypothesis], hs_pad: torch.Tensor, hlens: torch.Tensor
    ) -> list[Hypothesis]:
        """The hypotheses with times of their words, if they are asked for."""
        if not self.plan.config.with_words:
            return best
        start = self.heads.now()
        aligned = best
        if self.plan.llm is not None and self.heads.llm is not None:
            aligned = self.heads.llm.in_ctc_tokens(best)
        times = [self.heads.frame_times._replace(edges=self.features[index].edges) for index in group]
        timed = self.heads.ctc.add_words(aligned, hs_pad, hlens, times)
        self.word_seconds += self.heads.now() - start
        return [with_words_of(*pair) for pair in zip(best, timed, strict=True)]
