"""The pooling that a YAML names: its options, checked, and one call for all methods.

Shapes: B utterances, T tokens, T' pooled tokens, D features.
"""

from typing import Annotated

import torch
from typeguard import typechecked

from espnet_larm.options import Option, check_parameters
from espnet_larm.pooling.a_tome import a_tome
from espnet_larm.pooling.affinity import Pooled, affinity_pool, unpooled
from espnet_larm.pooling.baselines import linear_interpolation, random_drop, uniform_drop, uniform_stride

AFFINITY = "affinity"
# What each method may be given; the first option must be.
OPTIONS = {
    AFFINITY: ("tau", "window", "max_group"),
    "stride": ("retention",),
    "interpolation": ("retention",),
    "uniform_drop": ("retention",),
    "random_drop": ("retention", "seed"),
    "a_tome": ("retention",),
}


class Pooling:
    """Shortens padded batches of tokens.

    Args:
        method: The meaning and range of this and all other options stand at the parameters; docs/options.md lists them.
        where: The YAML key of these options, for messages.

    Raises:
        ValueError: A value is out of range, is missing, or means nothing beside the method.
    """

    @typechecked
    def __init__(
        self,
        method: Annotated[str, Option("how tokens are merged or dropped", choices=tuple(OPTIONS))] = AFFINITY,
        tau: Annotated[
            float | None,
            Option(
                "least cosine that merges, of `affinity`; 0.8 is a first try at the input of an LLM with 25 tokens a "
                "second",
                least=-1.0,
                note="a cosine; above 1 pooling is off",
            ),
        ] = None,
        window: Annotated[
            int | None, Option("tokens of the current group that are compared; 1 by default", least=1, note="tokens")
        ] = None,
        max_group: Annotated[
            int | None,
            Option("most tokens of a group, no less than `window`; any by default", least=1, note="tokens"),
        ] = None,
        retention: Annotated[
            float | None,
            Option("part of the tokens that is left, of all other methods; 1 is off", above=0.0, most=1.0),
        ] = None,
        seed: Annotated[int | None, Option("seed of `random_drop`; 0 by default", least=0)] = None,
        where: str = "pooling",
    ) -> None:
        given = {"tau": tau, "window": window, "max_group": max_group, "retention": retention, "seed": seed}
        _check_names(where, method, given)
        check_parameters(Pooling.__init__, {"method": method, **given}, where)
        if window is not None and max_group is not None and window > max_group:
            raise ValueError(
                f"{where}: window is {window}, but a group has max_group = {max_group} tokens at most; lower window or "
                "raise max_group."
            )
        self.method = method
        self.tau = tau
        self.window = 1 if window is None else window
        self.max_group = max_group
        self.retention = retention
        self.seed = seed or 0

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever merged or dropped."""
        return (self.tau is not None and self.tau > 1) or self.retention == 1

    def __call__(self, xs_pad: torch.Tensor, lens: torch.Tensor, keys: torch.Tensor | None = None) -> Pooled:
        """Pool a padded batch.

        Args:
            xs_pad: Tokens (B, T, D).
            lens: Valid tokens (B,).
            keys: What `affinity` and `a_tome` compare (B, T, D'); the tokens by default.

        Returns:
            The tokens themselves, with their padding, if pooling is off.
        """
        if self.is_off:
            return unpooled(xs_pad, lens)
        if self.tau is not None:
            return affinity_pool(xs_pad, lens, self.tau, self.window, self.max_group, keys)
        assert self.retention is not None, "checked by the constructor"
        if self.method == "a_tome":
            return a_tome(xs_pad, lens, self.retention, keys)
        if self.method == "random_drop":
            return random_drop(xs_pad, lens, self.retention, self.seed)
        plain = {"stride": uniform_stride, "interpolation": linear_interpolation, "uniform_drop": uniform_drop}
        return plain[self.method](xs_pad, lens, self.retention)


def retention_of(pooled: Pooled, lens: torch.Tensor) -> float:
    """Share of the tokens of a batch, with lengths (B,) before pooling, that is left; 1 of none."""
    return int(pooled.lens.sum()) / max(1, int(lens.sum())) if int(lens.sum()) else 1.0


def _check_names(where: str, method: str, given: dict[str, float | None]) -> None:
    allowed = OPTIONS.get(method, ())
    if not allowed:
        # It is refused with its range.
        return
    if given[allowed[0]] is None:
        raise ValueError(f"{where}: method {method} needs {allowed[0]}, which is not given.")
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise ValueError(f"{where}: {name} means nothing to method {method}; leave it out ({', '.join(allowed)}).")
