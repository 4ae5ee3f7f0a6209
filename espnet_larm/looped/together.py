"""What the looped encoder's options must be together, beyond the ranges that stand at each."""

from typing import Any

from espnet_larm.looped.sampling import POISSON, UNIFORM
from espnet_larm.looped.subsampling import FACTORS, LINEAR

NO_SAMPLING = "none"


def check_together(options: dict[str, Any]) -> None:
    """Refuse options that do not go with another one, by their YAML names.

    Args:
        options: The encoder's, by name, each within its own range.

    Raises:
        ValueError: With what is allowed.
    """
    pair = 2 * options["attention_heads"]
    together = {
        "checkpoint_period": (
            options["checkpoint_period"] <= options["num_loops"],
            f"1 to num_loops, which is {options['num_loops']}",
        ),
        "output_size": (
            options["output_size"] % pair == 0,
            f"a multiple of 2 x attention_heads = {pair}, since rotary positions turn pairs of a head",
        ),
        "subsampling_factor": (
            options["subsampling"] == LINEAR or options["subsampling_factor"] > 1,
            f"{', '.join(map(str, FACTORS))} with subsampling: conv, and 1 with linear",
        ),
        "cnn_module_kernel": (options["cnn_module_kernel"] % 2 == 1, "odd, 1 or more"),
        "loop_mean": (
            options["loop_mean"] is None or options["loop_sampling"] == POISSON,
            f"none, since loop_sampling is {options['loop_sampling']}; it is the mean of poisson",
        ),
        "loop_sampling": (
            options["loop_sampling"] == NO_SAMPLING or (options["share_blocks"] and options["num_loops"] > 1),
            "none without a stack that is run several times (num_loops above 1, share_blocks: true)",
        ),
    }
    if options["loop_sampling"] == UNIFORM and options["checkpoint_period"] == options["num_loops"]:
        raise ValueError(
            f"encoder_conf: loop_sampling is uniform, but checkpoint_period {options['checkpoint_period']} leaves one "
            "checkpoint loop to draw; set a smaller one, or loop_sampling: poisson."
        )
    for name, (is_allowed, allowed) in together.items():
        if not is_allowed:
            raise ValueError(f"encoder_conf: {name} is {options[name]}; allowed: {allowed}.")
