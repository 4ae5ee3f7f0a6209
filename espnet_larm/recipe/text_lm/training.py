"""Trains a small Llama and its tokenizer from text, with transformers' Trainer.

Trainer is imported here alone: with it come peft, datasets and pandas, seconds at each start.
Shapes: n blocks, L positions of a block.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from espnet_larm.llm.hugging_face import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    disable_progress_bar,
)
from espnet_larm.recipe.text_lm.options import ModelSize, Schedule

# File that is written last into a checkpoint: names and bytes of the others.
WHOLE = "whole.json"
# Tokens 0 to 3 of a tokenizer.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
WORD_START = "\u2581"

logger = logging.getLogger(__name__)


def train_tokenizer(sentences: Sequence[str], vocab_size: int, max_positions: int) -> Any:
    """Train a BPE tokenizer in Hugging Face's format; a text of few words may fill less than `vocab_size`.

    Args:
        sentences: Sentences with one space between words.
        vocab_size: Largest number of special tokens, characters and pieces together.
        max_positions: Longest text that the LM will take, for the tokenizer's own record.

    Raises:
        ValueError: The text's characters alone are more than `vocab_size`.
    """
    characters = set().union(*sentences) - {" "}
    least = len(SPECIAL_TOKENS) + len(characters | {WORD_START})
    if vocab_size < least:
        raise ValueError(
            f"--vocab_size {vocab_size} is too small: the text has {len(characters)} characters, and with the start of "
            f"a word and {len(SPECIAL_TOKENS)} special tokens that makes {least}; raise it, or clean the text."
        )
    made = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106  # no password
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    made.train_from_iterator(sentences, trainer)
    unknown, start, end, padding = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        pad_token=padding,
        model_max_length=max_positions,
    )


def make_config(size: ModelSize, tokenizer: Any) -> LlamaConfig:
    """Make the model's configuration, with the special tokens of the tokenizer."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=size.ffn_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_kv_heads,
        max_position_embeddings=size.max_positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train_llama(
    config: LlamaConfig,
    blocks: torch.Tensor,
    schedule: Schedule,
    folder: Path,
    save_steps: int,
    uses_gpu: bool,
    measure: Callable[[PreTrainedModel], object],
    should_stop: Callable[[], bool],
) -> PreTrainedModel | None:
    """Train to the end, from the newest whole checkpoint in `folder` if there is one.

    On a CPU, a training that was interrupted ends with the weights of one that was not, bit for bit
    (test_a_killed_training_ends_as_an_undisturbed_one).

    Args:
        config: Configuration of the model.
        blocks: Text to train on (n, L).
        schedule: Course of the training.
        folder: Folder for checkpoints, made here.
        save_steps: Number of steps between two checkpoints.
        uses_gpu: Whether to train on one GPU, or on the CPU.
        measure: Function whose result is logged at each checkpoint.
        should_stop: Function that is asked after each step; a training that stops has saved.

    Returns:
        The model in eval mode, where it was trained; None if the training was stopped before its end.
    """
    disable_progress_bar()
    set_seed(schedule.seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    trainer = Trainer(
        model=model,
        args=_arguments(schedule, folder, save_steps, uses_gpu),
        train_dataset=_Blocks(blocks),
        callbacks=[_Reporter(measure, should_stop)],
    )
    trainer.remove_callback(PrinterCallback)
    newest = _newest_whole(folder)
    if newest is not None:
        logger.info("resuming from %s", newest.name)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    is_done = trainer.state.global_step >= trainer.state.max_steps
    # Trainer turns the cache off; whoever loads the LM to generate text wants it.
    model.config.use_cache = True
    return model.eval() if is_done else None


class _Blocks(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Data set of blocks for Trainer."""

    def __init__(self, blocks: torch.Tensor) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.blocks[index].long()
        return {"input_ids": ids, "labels": ids}


class _Reporter(TrainerCallback):
    """Logs losses and measures, marks whole checkpoints, and stops when asked to."""

    def __init__(self, measure: Callable[[PreTrainedModel], object], should_stop: Callable[[], bool]) -> None:
        self.measure = measure
        self.should_stop = should_stop
        self.loss = math.nan

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.should_stop():
            control.should_save = control.should_training_stop = True
        # The loss of the last steps is logged beside their checkpoint, however few they are.
        control.should_log |= control.should_training_stop or state.global_step >= state.max_steps
        return control

    def on_log(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        self.loss = float(logs.get("loss", self.loss))

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        model: PreTrainedModel,
        **_: Any,
    ) -> None:
        saved = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {path.name: path.stat().st_size for path in saved.iterdir()}
        (saved / WHOLE).write_text(json.dumps(sizes), encoding="utf-8")
        logger.info(
            "step %d/%d: loss %.3f, valid perplexity %s",
            *(state.global_step, state.max_steps, self.loss, self.measure(model)),
        )


def _arguments(schedule: Schedule, folder: Path, save_steps: int, uses_gpu: bool) -> TrainingArguments:
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=schedule.batch_size,
        num_train_epochs=schedule.num_epochs,
        max_steps=schedule.max_steps or -1,
        learning_rate=schedule.lr,
        lr_scheduler_type=schedule.lr_schedule,
        warmup_steps=schedule.warmup_steps,
        weight_decay=schedule.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=schedule.grad_clip,
        seed=schedule.seed,
        bf16=schedule.bf16,
        optim="adamw_torch",
        use_cpu=not uses_gpu,
        dataloader_pin_memory=uses_gpu,
        save_steps=save_steps,
        # A whole checkpoint beside the one that is being written.
        save_total_limit=2,
        logging_steps=min(save_steps, 50),
        report_to="none",
        disable_tqdm=True,
    )
    # Of several GPUs, Trainer would take all by DataParallel, with batches as many times larger.
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def _newest_whole(folder: Path) -> Path | None:
    """Remove checkpoints that were not written to their end, and find the newest of the others."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if _is_whole(path):
            whole.append(path)
        else:
            logger.warning("%s was not written to its end and is removed", path)
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return all(
        (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size for name, size in sizes.items()
    )
