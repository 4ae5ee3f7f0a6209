"""Tiny random twins of the architectures, in HF's own form and in ours with the same weights."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

SHAPES = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 4, "sliding_window": None},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
}
COMMON = {
    "vocab_size": 37,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def tiny_config(kind: str, **changes):
    return {"model_type": kind, **COMMON, **SHAPES[kind], **changes}


@pytest.fixture
def hf_model():
    """HF's model by architecture, with SDPA attention."""

    def make(kind: str = "llama", **changes):
        torch.manual_seed(0)
        options = tiny_config(kind, **changes)
        config = transformers.AutoConfig.for_model(options.pop("model_type"), **options)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    return make
