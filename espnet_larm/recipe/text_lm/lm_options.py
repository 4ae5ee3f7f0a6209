"""Options of a text LM that is trained here: its size and how it is trained. No import of torch: programs list them."""

from typing import NamedTuple

SCHEDULES = ("cosine", "linear", "constant_with_warmup")


class ModelSize(NamedTuple):
    """Of a Llama whose head shares the embeddings' weights.

    Attributes:
        hidden_size: of embeddings and layers
        num_layers: of the decoder
        num_heads: attention heads; they divide hidden_size into parts of even size
        num_kv_heads: heads of keys and values; they divide num_heads
        ffn_size: inside the feed-forward parts
        max_positions: longest text that it will take, speech in front of it included
    """

    hidden_size: int = 192
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int = 3
    ffn_size: int = 512
    max_positions: int = 1024


class Schedule(NamedTuple):
    """How it is trained.

    Attributes:
        block_size: tokens of a block; sentences are packed without gaps
        batch_size: blocks of a step
        num_epochs: passes over the text
        max_steps: steps in all, instead of num_epochs; 0 for num_epochs
        lr: highest learning rate of AdamW
        lr_schedule: of the learning rate after its warm-up; cosine and linear end at 0
        warmup_steps: in which the learning rate rises from 0
        weight_decay: of AdamW
        grad_clip: largest norm of a gradient
        seed: of initial weights and of the blocks' order
        bf16: true or false: multiply matrices in bfloat16; weights stay in float32
    """

    block_size: int = 256
    batch_size: int = 16
    num_epochs: float = 1.0
    max_steps: int = 0
    lr: float = 2e-3
    lr_schedule: str = SCHEDULES[0]
    warmup_steps: int = 200
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    seed: int = 0
    bf16: bool = False


def check_options(size: ModelSize, schedule: Schedule) -> None:
    """Refuse what no model can be built or trained with.

    Raises:
        ValueError: With the option's name.
    """
    for name, value in (*size._asdict().items(), ("batch_size", schedule.batch_size), ("lr", schedule.lr)):
        if value <= 0:
            raise ValueError(f"--{name} {value} must be above 0.")
    if size.hidden_size % (2 * size.num_heads) != 0:
        raise ValueError(
            f"--hidden_size {size.hidden_size} is no multiple of 2 * --num_heads {size.num_heads}: each head gets a "
            "part of even size; change one of them."
        )
    if size.num_heads % size.num_kv_heads != 0:
        raise ValueError(
            f"--num_heads {size.num_heads} is no multiple of --num_kv_heads {size.num_kv_heads}; change one of them."
        )
    if not 2 <= schedule.block_size <= size.max_positions:
        raise ValueError(f"--block_size {schedule.block_size}; allowed: 2 to --max_positions {size.max_positions}.")
    if schedule.max_steps <= 0 and schedule.num_epochs <= 0:
        raise ValueError(f"--num_epochs {schedule.num_epochs} must be above 0 where --max_steps is not given.")
