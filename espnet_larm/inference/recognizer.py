"""Speech to text by CTC, greedily or with a prefix beam, at every read-out of an encoder in one pass.

A batch gives what each utterance gives alone (test_batch_gives_what_each_utterance_gives_alone): features are computed
per utterance; our encoders ignore padding; utterances for ESPnet's, which do not, share a batch only at equal length.
Shapes: B utterances, N samples, T frames, F features.
"""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import humanfriendly  # type: ignore[import-untyped]
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.text.build_tokenizer import build_tokenizer

from espnet_larm.data.stream import stream_file
from espnet_larm.inference.audio import Preprocess
from espnet_larm.inference.batching import same_length
from espnet_larm.inference.cutting import Cutting
from espnet_larm.inference.features import extract_features, feature_dtype, min_num_samples, pad_features
from espnet_larm.inference.loading import load_model
from espnet_larm.inference.read_outs import has_loops, ignores_padding, measure_frame_times, read_out_numbers, read_outs
from espnet_larm.inference.words import FrameTimes, Word, has_words, make_words
from espnet_larm.search.align import align
from espnet_larm.search.ctc import greedy
from espnet_larm.search.ctc_beam import prefix_beam
from espnet_larm.tasks.asr import LarmASRTask
from espnet_larm.upstream import TooShortUttError

logger = logging.getLogger(__name__)

DEFAULT_SAMPLE_RATE_HZ = 16000


class Hypothesis(NamedTuple):
    """What was recognised at one read-out.

    Attributes:
        text: For people.
        tokens: Of the token list.
        token_ids: Their ids.
        score: Log-probability of the best path; with a beam, of the text as far as the beam held its alignments.
        words: With their times, if they were asked for.
    """

    text: str
    tokens: list[str]
    token_ids: list[int]
    score: float
    words: tuple[Word, ...] = ()


EMPTY = Hypothesis("", [], [], 0.0)


class Search(NamedTuple):
    """How the CTC head is searched.

    Attributes:
        beam_size: Hypotheses in the prefix beam; 1 is greedy search.
        nbest: Hypotheses that are kept of the last read-out, at most beam_size.
    """

    beam_size: int = 1
    nbest: int = 1


GREEDY = Search()


class Transcript(NamedTuple):
    """What was recognised in one utterance.

    Attributes:
        hypotheses: By loop or layer, ascending; the last is the result.
        skipped: Why the utterance could not be encoded, its hypotheses being empty; "" if it was.
        others: The second best and further hypotheses of the last read-out.
    """

    hypotheses: dict[int, Hypothesis]
    skipped: str = ""
    others: tuple[Hypothesis, ...] = ()

    @property
    def best(self) -> Hypothesis:
        """The hypothesis of the last loop or layer."""
        return self.hypotheses[max(self.hypotheses)]

    @property
    def text(self) -> str:
        """Of the last loop or layer."""
        return self.best.text


class Cost(NamedTuple):
    """Seconds of compute; reading audio is not in it.

    Attributes:
        features: Front end and normalisation.
        read_outs: By loop or layer: features, encoder up to it, and its own greedy search, so what a run costs that
            stops there.
        words: Alignments of all read-outs, if times of words were asked for; in no other figure.
    """

    features: float
    read_outs: dict[int, float]
    words: float = 0.0


class Recognizer:
    """A trained CTC model as a transcriber.

    Args:
        model: In eval mode.
        tokens_to_text: Joins tokens to a text.
        sample_rate_hz: Of the audio that it was trained on.
        preprocess: The model's preprocessor, called as ESPnet does in decoding, on audio that is read from files; None
            for none.

    Raises:
        ValueError: The model has no CTC head.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        tokens_to_text: Callable[[list[str]], str],
        sample_rate_hz: int = DEFAULT_SAMPLE_RATE_HZ,
        preprocess: Preprocess | None = None,
    ) -> None:
        if model.ctc is None:
            raise ValueError(
                "the model has no CTC head (it was trained with model_conf: ctc_weight 0.0); decode it with ESPnet's "
                "program: python -m espnet_larm --upstream -m espnet2.bin.asr_inference."
            )
        self.model = model
        self.tokens_to_text = tokens_to_text
        self.sample_rate_hz = sample_rate_hz
        self.preprocess = preprocess
        self.has_loops = has_loops(model.encoder)
        parameter = next(model.ctc.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        if not ignores_padding(model):
            logger.info("%s is not padding-invariant: batches of equal length.", type(model.encoder).__name__)

    @classmethod
    def from_files(
        cls,
        asr_train_config: str | Path,
        asr_model_file: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        token_type: str | None = None,
        bpemodel: str | None = None,
    ) -> "Recognizer":
        """Load the model of an experiment.

        Args:
            asr_train_config: Its `config.yaml`.
            asr_model_file: Its weights.
            device: `cpu`, `cuda` or `cuda:N`.
            dtype: `bfloat16`, `float16`, `float32` or `float64`.
            token_type: How tokens make text, as trained by default.
            bpemodel: The sentencepiece model of `token_type: bpe`, as trained by default.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: The model has no CTC head, or the weights are not those of the configuration.
        """
        model, args = load_model(Path(asr_train_config), Path(asr_model_file), device, getattr(torch, dtype))
        tokenizer = build_tokenizer(token_type or args.token_type or "word", bpemodel or args.bpemodel)
        # ESPnet reads a sentencepiece model at its first use, when a pack's temporary files are gone.
        tokenizer.tokens2text([])
        fs = (getattr(args, "frontend_conf", None) or {}).get("fs", DEFAULT_SAMPLE_RATE_HZ)
        sample_rate_hz = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        return cls(model, tokenizer.tokens2text, sample_rate_hz, LarmASRTask.build_preprocess_fn(args, False))

    def check_loops(self, num_loops: int | None) -> None:
        """Refuse a number of loops that cannot be read out; None stands for the model's own.

        Raises:
            ValueError: With the allowed numbers, or since the encoder has no loops.
        """
        if num_loops is None:
            return
        if not self.has_loops:
            name = type(self.model.encoder).__name__
            raise ValueError(f"num_loops is {num_loops}, but {name} has no loops; leave the option out.")
        self.model.encoder.check_loops(num_loops)

    def read_out_numbers(self, num_loops: int | None = None) -> list[int]:
        """Loops (layers of an encoder without loops) that a transcript has hypotheses of."""
        return read_out_numbers(self.model.encoder, num_loops)

    def transcribe(
        self,
        waveforms: Sequence[np.ndarray | torch.Tensor],
        num_loops: int | None = None,
        search: Search = GREEDY,
        with_words: bool = False,
    ) -> list[Transcript]:
        """Recognise utterances together.

        Args:
            waveforms: Samples (N,) of each, in [-1, 1], at the model's sample rate.
            num_loops: The last loop; the model's own number by default.
            search: Greedy by default.
            with_words: Give words of the best hypotheses with their times.

        Raises:
            ValueError: The number of loops cannot be read out, or a waveform is not one-dimensional.
        """
        self.check_loops(num_loops)
        return self.decode(waveforms, num_loops, search, with_words)[0]

    def transcribe_file(
        self,
        path: str | Path,
        num_loops: int | None = None,
        search: Search = GREEDY,
        with_words: bool = False,
        cutting: Cutting = Cutting(),  # noqa: B008  # immutable
    ) -> Transcript:
        """Recognise a file of any length, in memory that does not grow with it.

        Audio longer than `cutting.whole_s` is cut at silences into pieces that are recognised for themselves; it has
        no second best hypotheses.

        Args:
            path: Audio of any format and rate that libsndfile reads.
            num_loops: The last loop; the model's own number by default.
            search: Greedy by default.
            with_words: Give words of the best hypotheses with their times.
            cutting: Lengths of pieces.

        Raises:
            FileNotFoundError: No such file.
            ValueError: It is damaged, or an option is out of its range.
        """
        from espnet_larm.inference.long_audio import transcribe_blocks

        self.check_loops(num_loops)
        blocks = stream_file(Path(path), self.sample_rate_hz)
        return transcribe_blocks(self, blocks, num_loops, search, with_words, cutting)[0]

    @torch.no_grad()
    def decode(
        self,
        waveforms: Sequence[np.ndarray | torch.Tensor],
        num_loops: int | None = None,
        search: Search = GREEDY,
        with_words: bool = False,
    ) -> tuple[list[Transcript], Cost]:
        """`transcribe` without its check of num_loops (done once for many batches), and what it cost."""
        numbers = self.read_out_numbers(num_loops)
        transcripts: list[Transcript | None] = [None] * len(waveforms)
        start = self._now()
        features: dict[int, torch.Tensor] = {}
        for index, waveform in enumerate(waveforms):
            if (num_samples := self._check_waveform(waveform)) < min_num_samples(self.model):
                transcripts[index] = _skipped(numbers, f"{num_samples} samples are too few for a frame")
            else:
                features[index] = extract_features(self.model, torch.as_tensor(waveform).to(self.device))
        feature_seconds = self._now() - start
        seconds, word_seconds = dict.fromkeys(numbers, 0.0), [0.0] if with_words else []
        for group in self._groups(features):
            decoded = self._decode_group(group, features, num_loops, search, seconds, word_seconds)
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
                nbest = self._search(hs_pad, hlens, search)
                best = [found[0] for found in nbest]
                mark = self._now()
                seconds[number] += encoder_seconds + mark - encoded
                if word_seconds:
                    best = self._add_words(best, hs_pad, hlens)
                    aligned = self._now()
                    word_seconds[0] += aligned - mark
                    mark = aligned
                for row, hypothesis in zip(hypotheses, best, strict=True):
                    row[number] = hypothesis
        except TooShortUttError as error:
            if len(group) == 1:
                return [_skipped(list(seconds), str(error.args[0]))]
            # One short utterance stops the batch at its start: each goes alone, so that the others get their text.
            return [
                transcript
                for index in group
                for transcript in self._decode_group([index], features, num_loops, search, seconds, word_seconds)
            ]
        return [Transcript(row, others=tuple(found[1:])) for row, found in zip(hypotheses, nbest, strict=True)]

    def _search(self, hs_pad: torch.Tensor, hlens: torch.Tensor, search: Search) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance, at least one."""
        model = self.model
        log_probs, no_text = self._log_probs(hs_pad), sorted({model.sos, model.eos})
        if search.beam_size == 1:
            best = greedy(log_probs, hlens, model.blank_id, no_text)
            rows = zip(best.to_lists(), best.scores.tolist(), strict=True)
            return [[self._hypothesis(token_ids, score)] for token_ids, score in rows]
        log_probs[:, :, no_text] = float("-inf")
        found = prefix_beam(log_probs, hlens, search.beam_size, model.blank_id)
        return [
            [self._hypothesis(*pair) for pair in list(zip(texts, scores, strict=False))[: search.nbest]]
            for texts, scores in zip(found.to_lists(), found.scores.tolist(), strict=True)
        ]

    def _log_probs(self, hs_pad: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, V), in float32 at least: sums over frames would lose half precision's three digits."""
        logits = self.model.ctc.ctc_lo(hs_pad)
        return logits.to(feature_dtype(logits.dtype)).log_softmax(dim=2)

    def _hypothesis(self, token_ids: list[int], score: float) -> Hypothesis:
        tokens = [self.model.token_list[token_id] for token_id in token_ids]
        return Hypothesis(self.tokens_to_text(tokens), tokens, token_ids, score)

    def _add_words(self, hypotheses: list[Hypothesis], hs_pad: torch.Tensor, hlens: torch.Tensor) -> list[Hypothesis]:
        """The hypotheses of a batch with times of their words."""
        log_probs = self._log_probs(hs_pad)
        token_lens = torch.tensor([len(hypothesis.token_ids) for hypothesis in hypotheses], device=self.device)
        tokens = pad_sequence(
            [torch.tensor(hypothesis.token_ids, dtype=torch.long) for hypothesis in hypotheses], batch_first=True
        ).to(self.device)
        aligned = align(log_probs, hlens.to(self.device), tokens, token_lens, self.model.blank_id)
        rows = zip(hypotheses, *(part.tolist() for part in aligned[:3]), strict=True)
        return [
            hypothesis._replace(words=self._words_of(hypothesis, list(zip(starts, ends, means, strict=True))))
            for hypothesis, starts, ends, means in rows
        ]

    def _words_of(self, hypothesis: Hypothesis, spans: list[tuple[int, int, float]]) -> tuple[Word, ...]:
        words = has_words(self.model.token_list)
        tokens, token_ids = hypothesis.tokens, hypothesis.token_ids
        return make_words(tokens, token_ids, spans, self.frame_times, self.tokens_to_text, words=words)

    @functools.cached_property
    def frame_times(self) -> FrameTimes:
        """Of the encoder's frames, measured once on two lengths."""
        return measure_frame_times(self.model, self.sample_rate_hz, self.device, self.dtype)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _skipped(numbers: Sequence[int], reason: str) -> Transcript:
    return Transcript(dict.fromkeys(numbers, EMPTY), reason)
