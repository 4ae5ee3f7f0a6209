"""Names of transformers that the rest of the package uses; those of its trainer are in recipe/text_lm/training.py.

transformers moves and renames them between releases; so these two files alone import it.
"""

from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.audio_utils import mel_filter_bank
from transformers.masking_utils import sdpa_mask
from transformers.utils import FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME, cached_file
from transformers.utils.logging import disable_progress_bar

__all__ = [
    "FEATURE_EXTRACTOR_NAME",
    "PROCESSOR_NAME",
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoConfig",
    "AutoFeatureExtractor",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "LlamaConfig",
    "PreTrainedModel",
    "PreTrainedTokenizerFast",
    "cached_file",
    "disable_progress_bar",
    "mel_filter_bank",
    "sdpa_mask",
]
