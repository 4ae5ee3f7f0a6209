"""Decoders that edit, on tiny LMs whose head is their embeddings."""

import pytest
import torch

from espnet_larm.speech_llm.decoder import SpeechLlmDecoder

SPECIAL = ["<unk>", "<s>", "</s>"]
NUM_WORDS, ENCODER_SIZE = 12, 6


@pytest.fixture
def build(save_lm, tmp_path):
    """Builds a decoder; options of the LM come as `lm`."""

    def make(kind="llama", editing=None, lm=None, **options):
        words = [*SPECIAL, *(f"w{index}" for index in range(NUM_WORDS))]
        saved = {"tie_word_embeddings": True, "max_position_embeddings": 256, "hidden_size": 32, **(lm or {})}
        llm = save_lm(tmp_path / f"{kind}{len(list(tmp_path.iterdir()))}", words, kind, **saved)
        conf = {"projector_frames": 2, "prefix": "w4 w7", "editing": {} if editing is None else editing, **options}
        return SpeechLlmDecoder(len(words), ENCODER_SIZE, llm=llm, **conf).eval()

    return make


@pytest.fixture
def speech():
    """Frames of three utterances, the first as long as four windows of the tiny Gemma 3."""
    return torch.randn(3, 56, ENCODER_SIZE) * 3, torch.tensor([56, 9, 30])


@pytest.fixture
def drafts():
    """Three drafts of different lengths, one empty."""
    return [[3, 4, 5, 5, 6], [], [7, 8, 9]]
