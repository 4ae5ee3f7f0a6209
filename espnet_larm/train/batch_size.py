"""What the batches amount to: the number that makes runs on other machines comparable."""

from statistics import mean
from typing import Any

from espnet2.train.distributed_utils import DistributedOption


def describe_batches(iter_factory: Any, accum_grad: int, distributed_option: DistributedOption) -> str:
    """A sentence with the effective batch: utterances that change the parameters together.

    Args:
        iter_factory: ESPnet's, of training; those without a list of batches (chunks) are described in words only.
        accum_grad: Batches a step.
        distributed_option: With the number of processes.
    """
    num_processes = distributed_option.dist_world_size if distributed_option.distributed else 1
    batches = getattr(getattr(iter_factory, "sampler", None), "batches", None)
    if not batches:
        return f"Effective batch: {num_processes} process(es) x accum_grad {accum_grad} x the iterator's batch"
    sizes = [len(batch) for batch in batches]
    num_batches = getattr(iter_factory, "num_iters_per_epoch", None) or len(sizes)
    return (
        f"Effective batch: {mean(sizes) * num_processes * accum_grad:.1f} utterances on average "
        f"(batches of {min(sizes)} to {max(sizes)} x {num_processes} process(es) x accum_grad {accum_grad}), "
        f"{num_batches // accum_grad} steps an epoch"
    )
