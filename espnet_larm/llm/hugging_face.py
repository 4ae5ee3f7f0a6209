"""Names of transformers that the rest of the package uses: its only import.

transformers moves and renames them between releases; so one file follows it.
"""

from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.masking_utils import sdpa_mask
from transformers.utils.logging import disable_progress_bar

__all__ = [
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "LlamaConfig",
    "PreTrainedModel",
    "PreTrainedTokenizerFast",
    "PrinterCallback",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "disable_progress_bar",
    "sdpa_mask",
    "set_seed",
]
