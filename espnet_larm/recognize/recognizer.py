"""Speech to text: by CTC, greedily or with a prefix beam, at every read-out of an encoder in one pass; or by an LM."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.data.stream import stream_file
from espnet_larm.recognize.audio import Preprocess
from espnet_larm.recognize.batch_decoder import BatchDecoder
from espnet_larm.recognize.ctc_text import ctc_text_maker, spelling_of
from espnet_larm.recognize.loading import DEFAULT_SAMPLE_RATE_HZ, load_model, sample_rate_of
from espnet_larm.recognize.long.cutting import Cutting
from espnet_larm.recognize.transcripts import GREEDY, Cost, Hypothesis, Search, Transcript
from espnet_larm.train.task import LarmASRTask

# The types of its arguments and results can be imported from here too.
__all__ = ["GREEDY", "Cost", "Hypothesis", "Recognizer", "Search", "Transcript"]


class Recognizer(BatchDecoder):
    """A trained model as a transcriber: by its LM if it has one, otherwise by CTC.

    Args:
        model: In eval mode.
        tokens_to_text: Joins tokens of the CTC head to a text.
        sample_rate_hz: Of the audio that it was trained on.
        preprocess: The model's preprocessor, called as ESPnet does in decoding, on audio that is read from files; None
            for none.

    Raises:
        ValueError: The model has neither an LM nor a CTC head.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        tokens_to_text: Callable[[list[str]], str],
        sample_rate_hz: int = DEFAULT_SAMPLE_RATE_HZ,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__(model, tokens_to_text, sample_rate_hz, spelling_of(model, preprocess))
        self.preprocess = preprocess

    @classmethod
    def from_files(
        cls,
        asr_train_config: str | Path,
        asr_model_file: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        token_type: str | None = None,
        bpemodel: str | None = None,
        llm: str | None = None,
    ) -> "Recognizer":
        """Load the model of an experiment.

        Args:
            asr_train_config: Its `config.yaml`.
            asr_model_file: Its weights.
            device: `cpu`, `cuda` or `cuda:N`.
            dtype: `bfloat16`, `float16`, `float32` or `float64`.
            token_type: How tokens make text, as trained by default.
            bpemodel: The sentencepiece model of `token_type: bpe`, as trained by default.
            llm: Folder or hub id of the model's LM, where it is another than in training.

        Raises:
            FileNotFoundError: A file or the LM is missing.
            ValueError: The model has neither an LM nor a CTC head, the weights are not those of the configuration, the
                LM is another one, or an option has no effect on this model.
        """
        model, args = load_model(Path(asr_train_config), Path(asr_model_file), device, getattr(torch, dtype), llm)
        tokens_to_text = ctc_text_maker(model, args, token_type, bpemodel)
        return cls(model, tokens_to_text, sample_rate_of(args), LarmASRTask.build_preprocess_fn(args, False))

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
        from espnet_larm.recognize.long.transcribe import transcribe_blocks

        self.check_loops(num_loops)
        blocks = stream_file(Path(path), self.sample_rate_hz)
        return transcribe_blocks(self, blocks, num_loops, search, with_words, cutting)[0]
