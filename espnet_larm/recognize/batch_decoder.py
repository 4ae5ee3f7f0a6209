"""Batches of audio to transcripts: features, encoder, search, and what each cost.

A batch gives what each utterance gives alone (test_batch_gives_what_each_utterance_gives_alone): features are computed
per utterance; our encoders ignore padding; utterances for ESPnet's, which do not, share a batch only at equal length.
Shapes: B utterances, N samples, T frames, F features.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.recognize.batching import same_length
from espnet_larm.recognize.ctc_search import Searcher
from espnet_larm.recognize.features import extract, min_num_samples, pad_features
from espnet_larm.recognize.llm_search import Guards, LlmSearcher, with_words_of
from espnet_larm.recognize.machine import is_out_of_memory
from espnet_larm.recognize.ngrams import DEFAULT_WEIGHT, load_ngram
from espnet_larm.recognize.options import UPSTREAM, check_ctc_weight
from espnet_larm.recognize.read_outs import has_loops, ignores_padding, measure_frame_times, read_out_numbers, read_outs
from espnet_larm.recognize.transcripts import GREEDY, Cost, Hypothesis, Search, Transcript, skipped_transcript
from espnet_larm.recognize.words import FrameTimes
from espnet_larm.search.ctc_scorer import Spell
from espnet_larm.speech_llm.prompt import ContextError
from espnet_larm.upstream import TooShortUttError

logger = logging.getLogger(__name__)


class BatchDecoder:
    """A trained model that decodes batches: by its LM if it has one, otherwise by CTC.

    Args:
        model: In eval mode.
        tokens_to_text: Joins tokens to a text.
        sample_rate_hz: Of the audio that it was trained on.
        spell: From the LM's tokens to those of a CTC head that has its own, to hear both at once.

    Attributes:
        llm_searcher: The LM's, None where CTC alone decodes.
        num_halved: Batches so far that did not fit into memory and were decoded in halves.
        num_frames: Feature frames so far, before any were merged.
        num_frames_left: Those that the encoder was given.

    Raises:
        ValueError: The model has neither an LM nor a CTC head.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        tokens_to_text: Callable[[list[str]], str],
        sample_rate_hz: int,
        spell: Spell | None = None,
    ) -> None:
        has_llm = hasattr(model.decoder, "special_tokens")
        if model.ctc is None and not has_llm:
            raise ValueError(
                "the model has no CTC head (it was trained with model_conf: ctc_weight 0.0); decode it with ESPnet's "
                "program: python -m espnet_larm --upstream -m espnet2.bin.asr_inference."
            )
        self.model = model
        self.tokens_to_text = tokens_to_text
        self.sample_rate_hz = sample_rate_hz
        if has_llm:
            pack_linear_layers(model.decoder.backbone)
            pack_linear_layers(model.decoder.heads)
        self._searcher = Searcher(model, tokens_to_text)
        ctc = None if model.ctc is None else self._searcher
        self._llm = LlmSearcher(model, ctc, spell) if has_llm else None
        self.llm_searcher = self._llm
        self.num_halved = self.num_frames = self.num_frames_left = 0
        # Of the utterances that are being decoded: seconds, and edges of merged frames.
        self._lengths_s: dict[int, float] = {}
        self._edges: dict[int, tuple[int, ...] | None] = {}
        self.has_loops = has_loops(model.encoder)
        parameter = next((model.decoder.projector if has_llm else model.ctc).parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        if not ignores_padding(model):
            logger.info("%s is not padding-invariant: batches of equal length.", type(model.encoder).__name__)

    @property
    def ctc_token_list(self) -> list[str]:
        """Names of the CTC head's tokens."""
        return self._searcher.token_list

    def read_out_numbers(self, num_loops: int | None = None) -> list[int]:
        """Loops (layers of an encoder without loops) that a transcript has hypotheses of; all of them by CTC."""
        numbers = read_out_numbers(self.model.encoder, num_loops)
        # An LM reads one encoder output, the last: reading others would cost as much again.
        return numbers[-1:] if self.llm_searcher is not None else numbers

    def set_ctc_weight(self, ctc_weight: float) -> None:
        """Choose what decodes: 1.0 is CTC alone, at all read-outs; below, the LM, which hears CTC above 0.0.

        Where there is nothing beside the CTC head, every weight above 0.0 is CTC alone.

        Raises:
            ValueError: The weight is out of its range, or the model has no such head.
        """
        check_ctc_weight(ctc_weight)
        if ctc_weight > 0.0 and self.model.ctc is None:
            raise ValueError(
                f"ctc_weight is {ctc_weight}, but the model has no CTC head (it was trained with model_conf: "
                "ctc_weight 0.0); leave the option out."
            )
        if ctc_weight == 0.0 and self.model.decoder is None:
            raise ValueError("ctc_weight is 0.0, but the model has a CTC head alone; set ctc_weight: 1.0.")
        if ctc_weight < 1.0 and self.model.decoder is None:
            logger.info("ctc_weight is %s, with nothing beside the CTC head: CTC decodes alone.", ctc_weight)
        elif ctc_weight < 1.0 and self._llm is None:
            raise ValueError(
                f"ctc_weight is {ctc_weight}, but the model has no LM; set ctc_weight: 1.0, leave it out, or use "
                f"{UPSTREAM}."
            )
        if self._llm is not None and ctc_weight < 1.0:
            self._llm.set_ctc_weight(ctc_weight)
        if self._llm is not None and ctc_weight == 1.0:
            logger.info("ctc_weight is 1.0: the LM is left aside, and the CTC head decodes.")
        self.llm_searcher = self._llm if ctc_weight < 1.0 else None

    def set_ngram(self, file: str | Path, weight: float = DEFAULT_WEIGHT) -> None:
        """Let the LM's search hear an n-gram, with CTC or without.

        Args:
            file: ARPA or kenlm's binary, over the model's tokens.
            weight: Of its logarithms to base 10, as ESPnet has it, 0 (not heard) or more: 0.9 is 0.39 of natural ones.

        Raises:
            ValueError: The model is not decoded by an LM, or takes drafts unverified; the weight is negative; the file
                is no n-gram, or of another vocabulary or case.
            FileNotFoundError: It is not there.
            ImportError: kenlm is not installed.
        """
        if self.llm_searcher is None:
            raise ValueError(
                f"ngram_file is {file}: n-grams are heard by an LM's search, but this model is decoded by CTC alone; "
                f"leave it out, or use {UPSTREAM}."
            )
        special = self.model.decoder.tokenizer.all_special_ids
        self.llm_searcher.set_ngram(load_ngram(Path(file), weight, self.model.token_list, self.model.eos, special))

    def set_prompt(self, prefix: str = "", suffix: str | None = None, instruction: str | None = None) -> None:
        """Give the LM another prompt than in training, all of it: what is left out has its default.

        Args:
            prefix: Text before the speech.
            suffix: Text after it; by default the token that begins a text.
            instruction: For chat models, instead of both: what is asked, put into the chat template.

        Raises:
            ValueError: The model is not decoded by an LM, or training would refuse the prompt, too.
        """
        if self.llm_searcher is None:
            raise ValueError(
                "prefix, suffix and instruction are read by an LM, but this model is decoded by CTC alone; leave them "
                "out."
            )
        self.model.decoder.set_prompt(prefix, suffix, instruction)

    def set_pooling(
        self,
        input: Mapping[str, Any] | None = None,  # noqa: A002  # as in the YAML
        deep: Mapping[str, Any] | None = None,
    ) -> None:
        """Pool the speech that the LM reads otherwise than in training, at both places: what is left out is not pooled.

        Args:
            input: Options of `decoder_conf: pooling: input`.
            deep: Likewise.

        Raises:
            ValueError: The model is not decoded by an LM, or training would refuse the options, too.
        """
        if self.llm_searcher is None:
            raise ValueError(
                "pooling is of the speech that an LM reads, but this model is decoded by CTC alone; leave it out."
            )
        self.model.decoder.set_pooling(input, deep)

    def set_guards(self, **guards: Any) -> None:
        """Hold the LM's texts to something else; what is left out is as `llm_searching.Guards` has it.

        Raises:
            ValueError: The model is not decoded by an LM, or a guard is out of its range.
        """
        if self.llm_searcher is None:
            raise ValueError(f"{', '.join(guards)}: guards of an LM, but this model is decoded by CTC alone.")
        made = Guards(**guards)
        if made.max_tokens_per_second <= 0:
            raise ValueError(f"max_tokens_per_second is {made.max_tokens_per_second}; allowed: above 0.")
        if not 0.0 <= made.least_ctc_share <= 1.0:
            raise ValueError(f"least_ctc_share is {made.least_ctc_share}; allowed: 0 (off) to 1.")
        self.llm_searcher.guards = made

    def set_drafting(self, **options: Any) -> None:
        """Let a call of the LM yield several tokens; options and errors as those of `drafting.resolve`.

        Raises:
            ValueError: The model is not decoded by an LM, too.
        """
        if self.llm_searcher is None:
            raise ValueError(f"{', '.join(options)}: of an LM's search, but this model is decoded by CTC alone.")
        self.llm_searcher.set_drafting(**options)

    @torch.no_grad()
    def decode(
        self,
        waveforms: Sequence[np.ndarray | torch.Tensor],
        num_loops: int | None = None,
        search: Search = GREEDY,
        with_words: bool = False,
    ) -> tuple[list[Transcript], Cost]:
        """Recognise utterances together.

        Args:
            waveforms: Samples (N,) of each, in [-1, 1], at the model's sample rate.
            num_loops: The last loop, one that `check_loops` accepts; the model's own number by default.
            search: Greedy by default.
            with_words: Give words of the best hypotheses with their times.

        Returns:
            Transcripts, and what they cost.

        Raises:
            ValueError: A waveform is not one-dimensional.
        """
        if with_words and self.llm_searcher is not None and not self.llm_searcher.can_align:
            raise ValueError(
                "times of words, which long audio is joined by, come from a CTC head that knows how the LM's text is "
                "spelled; the model has none. Leave write_ctm out, and cut audio into utterances of less than "
                "--long_seconds."
            )
        numbers = self.read_out_numbers(num_loops)
        transcripts: list[Transcript | None] = [None] * len(waveforms)
        start = self._now()
        features: dict[int, torch.Tensor] = {}
        self._lengths_s = {index: len(waveform) / self.sample_rate_hz for index, waveform in enumerate(waveforms)}
        for index, waveform in enumerate(waveforms):
            if (num_samples := self._check_waveform(waveform)) < min_num_samples(self.model):
                transcripts[index] = skipped_transcript(numbers, f"{num_samples} samples are too few for a frame")
            else:
                extracted = extract(self.model, torch.as_tensor(waveform).to(self.device))
                features[index], self._edges[index] = extracted
                self.num_frames += extracted.num_frames
                self.num_frames_left += len(extracted.xs)
        feature_seconds = self._now() - start
        seconds, word_seconds = dict.fromkeys(numbers, 0.0), [0.0] if with_words else []
        for group in self._groups(features):
            decoded = self._decode_what_fits(group, features, num_loops, search, seconds, word_seconds)
            for index, transcript in zip(group, decoded, strict=True):
                transcripts[index] = transcript
        read_out_seconds = {number: feature_seconds + spent for number, spent in seconds.items()}
        cost = Cost(feature_seconds, read_out_seconds, sum(word_seconds))
        return [transcript for transcript in transcripts if transcript is not None], cost

    def _check_waveform(self, waveform: np.ndarray | torch.Tensor) -> int:
        if waveform.ndim != 1:
            raise ValueError(f"a waveform has the shape {tuple(waveform.shape)}; allowed: one dimension, samples.")
        return len(waveform)

    def _groups(self, features: dict[int, torch.Tensor]) -> list[list[int]]:
        """Indices of utterances that share a batch."""
        if not features:
            return []
        if ignores_padding(self.model):
            return [list(features)]
        return list(same_length({index: len(one) for index, one in features.items()}))

    def _decode_what_fits(
        self,
        group: list[int],
        features: dict[int, torch.Tensor],
        num_loops: int | None,
        search: Search,
        seconds: dict[int, float],
        word_seconds: list[float],
    ) -> list[Transcript]:
        """As `_decode_group`, in halves where the memory does not suffice."""
        try:
            return self._decode_group(group, features, num_loops, search, seconds, word_seconds)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            num_frames = sum(len(features[index]) for index in group)
            if len(group) == 1:
                raise MemoryError(
                    f"one utterance of {num_frames} frames does not fit into memory ({self.device}); cut long audio "
                    "into shorter pieces (--long_seconds, --longest_piece)."
                ) from error
        # Here, and not in the handler: there the error still holds all that the attempt had made.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.num_halved += 1
        logger.warning("%d utterances do not fit into memory together: in halves", len(group))
        middle = len(group) // 2
        return [
            transcript
            for half in (group[:middle], group[middle:])
            for transcript in self._decode_what_fits(half, features, num_loops, search, seconds, word_seconds)
        ]

    def _decode_group(
        self,
        group: list[int],
        features: dict[int, torch.Tensor],
        num_loops: int | None,
        search: Search,
        seconds: dict[int, float],
        word_seconds: list[float],
    ) -> list[Transcript]:
        """Transcripts of a batch; adds to the seconds of read-outs, and of words, which an empty list leaves out."""
        hypotheses: list[dict[int, Hypothesis]] = [{} for _ in group]
        nbest: list[list[Hypothesis]] = []
        mark, encoder_seconds = self._now(), 0.0
        try:
            for number, hs_pad, hlens in read_outs(
                self.model, *pad_features([features[index] for index in group]), num_loops
            ):
                encoded = self._now()
                encoder_seconds += encoded - mark
                mark = encoded
                if number not in seconds:
                    continue
                nbest = self._search(hs_pad, hlens, search, [self._lengths_s[index] for index in group])
                best = [found[0] for found in nbest]
                mark = self._now()
                seconds[number] += encoder_seconds + mark - encoded
                if word_seconds:
                    aligned = best if self.llm_searcher is None else self.llm_searcher.in_ctc_tokens(best)
                    times = [self.frame_times._replace(edges=self._edges[index]) for index in group]
                    timed = self._searcher.add_words(aligned, hs_pad, hlens, times)
                    best = [with_words_of(*pair) for pair in zip(best, timed, strict=True)]
                    after = self._now()
                    word_seconds[0] += after - mark
                    mark = after
                for row, hypothesis in zip(hypotheses, best, strict=True):
                    row[number] = hypothesis
        except (TooShortUttError, ContextError) as error:
            if len(group) == 1:
                return [skipped_transcript(list(seconds), str(error.args[0]))]
            # One short or long utterance stops the batch at its start: each goes alone, and the others get their text.
            return [
                transcript
                for index in group
                for transcript in self._decode_group([index], features, num_loops, search, seconds, word_seconds)
            ]
        return [Transcript(row, others=tuple(found[1:])) for row, found in zip(hypotheses, nbest, strict=True)]

    def _search(
        self, hs_pad: torch.Tensor, hlens: torch.Tensor, search: Search, seconds: Sequence[float]
    ) -> list[list[Hypothesis]]:
        if self.llm_searcher is not None:
            return self.llm_searcher.find(hs_pad, hlens, search, seconds)
        return self._searcher.find(hs_pad, hlens, search)

    @functools.cached_property
    def frame_times(self) -> FrameTimes:
        """Of the encoder's frames, measured once on two lengths."""
        return measure_frame_times(self.model, self.sample_rate_hz, self.device, self.dtype)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
