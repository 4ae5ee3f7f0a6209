"""Speech to hypotheses: by CTC, at every read-out of an encoder in one pass; or by an LM."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from espnet2.asr.espnet_model import ESPnetASRModel

from espnet_larm.data.stream import stream_file
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.recognize.audio import Preprocess
from espnet_larm.recognize.batch import Heads, Waveform, decode_batch, logger
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.ctc import CtcSearcher, ctc_text_maker, spelling_of
from espnet_larm.recognize.leaving.calibration import Calibration, read_calibration
from espnet_larm.recognize.leaving.halting_head import FoundHead, find_head
from espnet_larm.recognize.llm_search import LlmSearcher
from espnet_larm.recognize.long.transcribe import transcribe_blocks
from espnet_larm.recognize.model.loading import DEFAULT_SAMPLE_RATE_HZ, load_model, sample_rate_of
from espnet_larm.recognize.model.read_outs import has_loops, ignores_padding
from espnet_larm.recognize.model.thresholds import Thresholds, read_thresholds
from espnet_larm.recognize.output.results import Decoded, Transcript
from espnet_larm.recognize.plan import Plan, make_plan
from espnet_larm.train.refusals import traced_to_options
from espnet_larm.train.task import LarmASRTask


class Recognizer:
    """A trained model that transcribes: by its LM if it has one, otherwise by CTC.

    It holds the model and nothing of a call: several threads may share one.

    Args:
        model: The model, in eval mode.
        tokens_to_text: Joins tokens of the CTC head to a text.
        sample_rate_hz: The rate of the audio that it was trained on.
        preprocess: The model's preprocessor, called as ESPnet does in decoding, on audio that is read from files; None
            for none.
        calibration: What is calibrated for `num_loops: auto`; None for nothing.
        thresholds: What is calibrated for `accept: relaxed`; None for nothing.
        halting_head: The halting head beside the model, for `num_loops: auto`; None for none.

    Attributes:
        heads: What decodes: encoder, CTC head and LM.
        has_loops: Whether the number of loops can be chosen.

    Raises:
        ValueError: The model has neither an LM nor a CTC head.
    """

    def __init__(
        self,
        model: ESPnetASRModel,
        tokens_to_text: Callable[[list[str]], str],
        sample_rate_hz: int = DEFAULT_SAMPLE_RATE_HZ,
        preprocess: Preprocess | None = None,
        calibration: Calibration | None = None,
        thresholds: Thresholds | None = None,
        halting_head: FoundHead | None = None,
    ) -> None:
        has_llm = hasattr(model.decoder, "special_tokens")
        if model.ctc is None and not has_llm:
            raise ValueError(
                "the model has no CTC head (it was trained with model_conf: ctc_weight 0.0); decode it with ESPnet's "
                "program: python -m espnet_larm --upstream -m espnet2.bin.asr_inference."
            )
        if has_llm:
            pack_linear_layers(model.decoder.backbone)
            pack_linear_layers(model.decoder.heads)
        ctc = CtcSearcher(model, tokens_to_text)
        llm = None
        if has_llm:
            llm = LlmSearcher(model, None if model.ctc is None else ctc, spelling_of(model, preprocess))
        self.model = model
        self.tokens_to_text = tokens_to_text
        self.sample_rate_hz = sample_rate_hz
        self.preprocess = preprocess
        self.calibration = calibration
        self.thresholds = thresholds
        self.halting_head = halting_head
        self.heads = Heads(model, ctc, llm, sample_rate_hz)
        self.device = self.heads.device
        self.has_loops = has_loops(model.encoder)
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
        llm: str | None = None,
        encoder: str | None = None,
    ) -> "Recognizer":
        """Load the model of an experiment.

        Args:
            asr_train_config: The experiment's `config.yaml`.
            asr_model_file: Its weights.
            device: `cpu`, `cuda` or `cuda:N`.
            dtype: `bfloat16`, `float16`, `float32` or `float64`.
            token_type: How tokens make text; None as in training.
            bpemodel: The sentencepiece model of `token_type: bpe`; None as in training.
            llm: Folder or hub id of the model's LM, where it is another place than in training.
            encoder: Folder or hub id of its pre-trained speech encoder, likewise.

        Raises:
            FileNotFoundError: A file, or the LM or speech encoder, is missing.
            ValueError: The model has neither an LM nor a CTC head, the weights are not those of the configuration, the
                LM or speech encoder is another one, or an option has no effect on this model.
        """
        files = Path(asr_train_config), Path(asr_model_file)
        model, args = load_model(*files, device, getattr(torch, dtype), llm, encoder)
        with traced_to_options(args):
            tokens_to_text = ctc_text_maker(model, args, token_type, bpemodel)
            return cls(
                model,
                tokens_to_text,
                sample_rate_of(args),
                LarmASRTask.build_preprocess_fn(args, False),
                read_calibration(files[0].parent),
                read_thresholds(files[0].parent),
                find_head(files[0].parent, files[1]),
            )

    def plan(self, config: DecodeConfig = DecodeConfig()) -> Plan:  # noqa: B008  # immutable
        """Check options against the model. A plan serves any number of calls, and reads its n-gram once.

        Args:
            config: How to decode.

        Raises:
            ValueError: An option does not go with the model or with another option.
            FileNotFoundError: The n-gram, or a file of the text LM, is not there.
            ImportError: kenlm, which reads n-grams, is not installed.
        """
        return make_plan(self.model, self.heads.llm, config, self.calibration, self.thresholds, self.halting_head)

    def recognize(
        self,
        waveforms: Sequence[Waveform],
        config: DecodeConfig | Plan = DecodeConfig(),  # noqa: B008  # immutable
    ) -> list[Transcript]:
        """Recognise utterances together.

        Args:
            waveforms: Samples (N,) of each, in [-1, 1], at the model's sample rate.
            config: How to decode; greedily by default.

        Raises:
            ValueError: An option does not go with the model, or a waveform is not one-dimensional or not finite.
        """
        return self.decode(waveforms, config).transcripts

    def decode(
        self,
        waveforms: Sequence[Waveform],
        config: DecodeConfig | Plan = DecodeConfig(),  # noqa: B008  # immutable
    ) -> Decoded:
        """Recognise utterances together; also what it cost. Arguments and errors are those of `recognize`."""
        return decode_batch(self.heads, waveforms, self._planned(config))

    def transcribe_file(
        self,
        path: str | Path,
        config: DecodeConfig | Plan = DecodeConfig(),  # noqa: B008  # immutable
    ) -> Transcript:
        """Recognise a file of any length, in memory that does not grow with it.

        Audio longer than `config.long_seconds` is cut at silences into pieces that are recognised for themselves; it
        has no second best hypotheses.

        Args:
            path: Audio of any format and rate that libsndfile reads.
            config: How to decode; greedily by default.

        Raises:
            FileNotFoundError: No such file.
            ValueError: It is damaged, or an option does not go with the model.
        """
        plan = self._planned(config)
        return self.decode_blocks(stream_file(Path(path), self.sample_rate_hz), plan).transcripts[0]

    def decode_blocks(self, blocks: Iterable[np.ndarray], plan: Plan) -> Decoded:
        """Recognise one stream of audio of any length.

        Args:
            blocks: Samples (N,) each, of any length, at the model's rate.
            plan: How to decode.

        Raises:
            ValueError: What `blocks` raises, or what `decode` does.
        """
        return transcribe_blocks(self.heads, self.preprocess, blocks, plan)

    def _planned(self, config: DecodeConfig | Plan) -> Plan:
        return config if isinstance(config, Plan) else self.plan(config)
