"""Names of transformers' trainer, by themselves: with it come peft, datasets and pandas, seconds at each start."""

from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

__all__ = [
    "PrinterCallback",
    "Trainer",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
    "set_seed",
]
