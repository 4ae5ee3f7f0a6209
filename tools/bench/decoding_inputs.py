"""Inputs of decoding.py: encoder output of a test set, or random frames for a random LM."""

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from benching import SAMPLE_RATE_HZ, words_wrong
from ctc_decoding import samples_of
from llm_ways import Frames
from transformers import PreTrainedTokenizerFast

from espnet_larm.adaptation.llm_weights import is_own
from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.llm.packed_linear import pack_linear_layers
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.llm_search import LEAST_TOKENS
from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
from espnet_larm.speech_llm.heads import MAX_HEADS

# 30 million weights: 9 layers of 2.95 M, and a tied embedding of 8000 x 512.
RANDOM_LM = {
    "model_type": "llama",
    "vocab_size": 8000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 9,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
ENCODER_SIZE, FRAMES_A_SECOND, RANDOM_SECONDS, RANDOM_UTTERANCES = 144, 25, 10.0, 16


class Inputs(NamedTuple):
    """Encoder output, and the decoder for it.

    Attributes:
        decoder: Decoder in eval mode.
        eos: Token that ends a hypothesis.
        batches: Batches of encoder output.
        seconds: Duration of each utterance.
        encoder_seconds: Seconds of features and encoder.
        texts: References; none for random frames.
        ctc_tokens: CTC hypothesis of each utterance in the LM's tokens; None without a CTC head.
        ctc_seconds: Seconds of CTC decoding.
    """

    decoder: SpeechLlmDecoder
    eos: int
    batches: list[Frames]
    seconds: list[float]
    encoder_seconds: float
    texts: list[str]
    ctc_tokens: list[list[int]] | None = None
    ctc_seconds: float = 0.0

    @property
    def num_utts(self) -> int:
        """Number of utterances."""
        return len(self.seconds)

    @property
    def audio_seconds(self) -> float:
        """Seconds of all utterances."""
        return sum(self.seconds)

    @property
    def device(self) -> torch.device:
        """Device of the frames."""
        return self.batches[0].hs_pad.device

    def decoded(self, token_ids: Sequence[list[int]]) -> list[str]:
        """Texts of token ids."""
        tokenizer = self.decoder.tokenizer
        return [" ".join(tokenizer.decode(row, skip_special_tokens=True).split()) for row in token_ids]

    def references(self) -> list[list[int]]:
        """References in the LM's tokens."""
        return [self.decoder.tokenizer.encode(text, add_special_tokens=False) for text in self.texts]

    def words_wrong(self, token_ids: Sequence[list[int]]) -> str:
        """Word errors of all utterances."""
        return words_wrong(self.texts, self.decoded(token_ids))

    def in_bfloat16(self) -> SpeechLlmDecoder:
        """The decoder as `dtype: bfloat16` makes it: projector, rotary angles and what was added stay float32."""
        half = copy.deepcopy(self.decoder)
        for name, parameter in half.backbone.named_parameters():
            if is_own(name):
                parameter.data = parameter.data.bfloat16()
        return half


def of_experiment(args: argparse.Namespace) -> Inputs:
    """Encode the utterances of a Kaldi folder."""
    if None in (args.asr_train_config, args.asr_model_file, args.data_dir):
        raise SystemExit("give --asr_train_config, --asr_model_file and --data_dir, or --random")
    return of_recognizer(Recognizer.from_files(args.asr_train_config, args.asr_model_file, args.device), args)


def of_recognizer(recognizer: Recognizer, args: argparse.Namespace) -> Inputs:
    """Encode the utterances of a Kaldi folder by a model that is loaded."""
    model, utterances = recognizer.model, read_dir(args.data_dir)
    utterances = utterances[:: max(1, len(utterances) // (args.utterances or len(utterances)))]
    waveforms = [samples_of(utterance, args.data_dir) for utterance in utterances]
    seconds = [len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms]
    batches, start = [], time.perf_counter()
    for indices in batches_by_length(list(map(len, waveforms)), args.batch_seconds * SAMPLE_RATE_HZ, None):
        features = [
            extract_features(model, torch.from_numpy(waveforms[index]).to(recognizer.device)) for index in indices
        ]
        *_, (_, hs_pad, hlens, _) = read_outs(model, *pad_features(features))
        most = [LEAST_TOKENS + int(DecodeConfig().max_tokens_per_second * seconds[index]) for index in indices]
        batches.append(Frames(list(indices), hs_pad, hlens, most))
    spent = time.perf_counter() - start
    ctc_tokens, ctc_seconds = _ctc_tokens(recognizer, batches)
    texts = [utterance.text for utterance in utterances]
    return Inputs(model.decoder, model.eos, batches, seconds, spent, texts, ctc_tokens, ctc_seconds)


def _ctc_tokens(recognizer: Recognizer, batches: Sequence[Frames]) -> tuple[list[list[int]] | None, float]:
    """CTC hypotheses of all utterances, and the seconds of finding them."""
    searcher = recognizer.heads.llm
    if searcher is None:
        raise SystemExit("--asr_train_config: this model has no LM that decodes (decoder: speech_llm)")
    if searcher.ctc is None:
        return None, 0.0
    found, start = {}, time.perf_counter()
    for frames in batches:
        found |= dict(zip(frames.indices, searcher.ctc_tokens(frames.hs_pad, frames.hlens), strict=True))
    return [found[index] for index in range(len(found))], time.perf_counter() - start


def random_inputs(args: argparse.Namespace) -> Inputs:
    """A random LM whose hypotheses never end by themselves, and random frames of 10 s."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        _write_tokenizer(Path(folder), RANDOM_LM["vocab_size"])
        decoder = SpeechLlmDecoder(
            RANDOM_LM["vocab_size"],
            ENCODER_SIZE,
            llm_config=RANDOM_LM,
            tokenizer=folder,
            projector_frames=3,
            num_heads=min(MAX_HEADS, max(args.tokens_per_call)) if args.drafts else 1,
        )
    eos = decoder.special_tokens.eos
    # Its logit is 0 then, which among thousands is never the greatest.
    decoder.backbone.model.get_output_embeddings().weight.data[eos] = 0.0
    decoder.to(args.device).eval()
    # As a recogniser does.
    pack_linear_layers(decoder.backbone)
    pack_linear_layers(decoder.heads)
    num_frames, num_utts = int(RANDOM_SECONDS * FRAMES_A_SECOND), args.utterances or RANDOM_UTTERANCES
    hs_pad = torch.randn(num_utts, num_frames, ENCODER_SIZE, device=args.device)
    in_batch = max(1, int(args.batch_seconds // RANDOM_SECONDS))
    batches = []
    for first in range(0, num_utts, in_batch):
        rows = hs_pad[first : first + in_batch]
        hlens = torch.full((len(rows),), num_frames, device=args.device)
        batches.append(Frames(list(range(first, first + len(rows))), rows, hlens, [args.tokens] * len(rows)))
    return Inputs(decoder, eos, batches, [RANDOM_SECONDS] * num_utts, 0.0, [])


def _write_tokenizer(folder: Path, size: int) -> None:
    """Write a tokenizer of so many made-up words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    specials = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    words = [*specials.values(), *(f"w{number}" for number in range(len(specials), size))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)
