"""The pooling that a YAML names: its options, checked, and one call for all methods.

Groups are cut by `method`, and where that is `affinity`, by `boundaries`; `weight` says what tokens count for in their
group's mean. `affinity` with `tau` is the paper's; with `retention` it begins groups where neighbours differ most, so
many an utterance as the others leave. With `boundaries: ctc`, groups are the runs of equal labels on the CTC path, each
run of blanks one of them. A `retention` then says how many are left: where it asks for fewer than there are runs,
neighbouring runs are joined where they are most alike; where it asks for more, runs are split where neighbours differ
most.
Shapes: B utterances, T tokens, T' pooled tokens, D features.
"""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import torch
from typeguard import typechecked

from espnet_larm.options import Option, check_parameters
from espnet_larm.pooling.a_tome import a_tome
from espnet_larm.pooling.affinity import (
    Pooled,
    Weigh,
    affinity_pool,
    cut_runs,
    merge,
    split_where_most_different,
    unpooled,
)
from espnet_larm.pooling.baselines import kept_lens, linear_interpolation, random_drop, uniform_drop, uniform_mean
from espnet_larm.pooling.weights import BOUNDARIES, CHANGE, COSINE, CTC, NONE, WEIGHTS, CtcPath, change_weights

AFFINITY, UNIFORM_MEAN = "affinity", "uniform_mean"
RETENTION = ("retention", "retention_sampling")
# What each method may be given; one of the first two of affinity, and the first of the others, must be.
OPTIONS = {
    AFFINITY: ("tau", *RETENTION, "window", "max_group", "boundaries", "weight"),
    UNIFORM_MEAN: (*RETENTION, "weight"),
    # The older name of uniform_mean.
    "stride": (*RETENTION, "weight"),
    "interpolation": RETENTION,
    "uniform_drop": RETENTION,
    "random_drop": (*RETENTION, "seed"),
    "a_tome": (*RETENTION, "weight"),
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
        method: Annotated[
            str,
            Option(
                "how tokens are merged or dropped; `uniform_mean` merges neighbours in groups of even size, and "
                "`stride` is its older name",
                choices=tuple(OPTIONS),
            ),
        ] = AFFINITY,
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
            Option(
                "part of the tokens of each utterance that is left; 1 is off. `affinity` takes it instead of `tau`, "
                "or, with `boundaries: ctc`, takes neither and leaves a token for each run of the CTC path",
                above=0.0,
                most=1.0,
            ),
        ] = None,
        seed: Annotated[int | None, Option("seed of `random_drop`; 0 by default", least=0)] = None,
        weight: Annotated[
            str | None,
            Option(
                "what tokens count for in their group's mean: none (each once), ctc (the CTC head's posterior of all "
                "but the blank; each once in a group of blanks alone) or change (how far a token is from the one "
                "before it); none by default",
                choices=WEIGHTS,
            ),
        ] = None,
        boundaries: Annotated[
            str | None,
            Option(
                "where groups of `affinity` begin: cosine (where neighbours differ) or ctc (where the label of the CTC "
                "path changes); cosine by default",
                choices=BOUNDARIES,
            ),
        ] = None,
        retention_sampling: Annotated[
            list[int | float] | None,
            Option(
                "retentions of which each training step draws one, so that one model serves many; validation and "
                "decoding take `retention`; none by default"
            ),
        ] = None,
        where: str = "pooling",
    ) -> None:
        given = {
            "tau": tau,
            "window": window,
            "max_group": max_group,
            "retention": retention,
            "seed": seed,
            "weight": weight,
            "boundaries": boundaries,
            "retention_sampling": retention_sampling,
        }
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
        self.weight = weight or NONE
        self.boundaries = boundaries or COSINE
        self.retention_sampling = _checked_sampling(where, retention_sampling)

    @property
    def is_off(self) -> bool:
        """Whether nothing is ever merged or dropped."""
        return (self.tau is not None and self.tau > 1) or self.retention == 1

    @property
    def needs_ctc(self) -> bool:
        """Whether it reads what a CTC head recognises."""
        return CTC in (self.weight, self.boundaries)

    def at(self, retention: float) -> "Pooling":
        """The same with another retention."""
        made = copy.copy(self)
        made.retention = retention
        return made

    def __call__(
        self,
        xs_pad: torch.Tensor,
        lens: torch.Tensor,
        keys: torch.Tensor | None = None,
        path: CtcPath | None = None,
    ) -> Pooled:
        """Pool a padded batch.

        Args:
            xs_pad: Tokens (B, T, D).
            lens: Valid tokens (B,).
            keys: What `affinity` and `a_tome` compare (B, T, D'), and whose change is a weight; the tokens by default.
            path: What a CTC head recognises in the tokens, where `needs_ctc`.

        Returns:
            The tokens themselves, with their padding, if pooling is off.

        Raises:
            ValueError: The path is needed and not given.
        """
        if self.is_off:
            return unpooled(xs_pad, lens)
        if self.needs_ctc and path is None:
            raise ValueError(f"pooling: weight {self.weight}, boundaries {self.boundaries}: no path of CTC is given.")
        compared = xs_pad if keys is None else keys
        weigh = self.weigh_of(compared.detach(), path)
        if self.method == AFFINITY:
            return self._by_affinity(xs_pad, lens, compared, weigh, path)
        assert self.retention is not None, "checked by the constructor"
        if self.method == "a_tome":
            return a_tome(xs_pad, lens, self.retention, keys, weigh)
        if self.method == "random_drop":
            return random_drop(xs_pad, lens, self.retention, self.seed)
        plain = {"interpolation": linear_interpolation, "uniform_drop": uniform_drop}
        merging = partial(uniform_mean, weigh=weigh)
        return plain.get(self.method, merging)(xs_pad, lens, self.retention)

    def _by_affinity(
        self,
        xs_pad: torch.Tensor,
        lens: torch.Tensor,
        keys: torch.Tensor,
        weigh: Weigh | None,
        path: CtcPath | None,
    ) -> Pooled:
        if self.tau is not None:
            return affinity_pool(xs_pad, lens, self.tau, self.window, self.max_group, keys, weigh)
        runs = path.starts(lens) if self.boundaries == CTC and path is not None else None
        if self.retention is not None:
            number = kept_lens(lens, self.retention)
            return merge(xs_pad, lens, split_where_most_different(keys, lens, number, runs), weigh)
        assert runs is not None, "checked by the constructor"
        return merge(xs_pad, lens, runs if self.max_group is None else cut_runs(runs, self.max_group), weigh)

    def weigh_of(self, keys: torch.Tensor, path: CtcPath | None = None) -> Weigh | None:
        """What gives the tokens' weights, from what is compared (B, T, D') and the path; None counts each once."""
        if self.weight == CTC and path is not None:
            return path.weigh
        if self.weight == CHANGE:
            changes = change_weights(keys)
            return lambda _: changes
        return None


def retention_of(pooled: Pooled, lens: torch.Tensor) -> float:
    """Share of the tokens of a batch, with lengths (B,) before pooling, that is left; 1 of none."""
    return int(pooled.lens.sum()) / max(1, int(lens.sum())) if int(lens.sum()) else 1.0


def _check_names(where: str, method: str, given: Mapping[str, Any]) -> None:
    allowed = OPTIONS.get(method, ())
    if not allowed:
        # It is refused with its range.
        return
    for name, value in given.items():
        if value is not None and name not in allowed:
            raise ValueError(f"{where}: {name} means nothing to method {method}; leave it out ({', '.join(allowed)}).")
    is_there = {name for name, value in given.items() if value is not None}
    by_path = given["boundaries"] == CTC
    if method != AFFINITY and "retention" not in is_there:
        raise ValueError(f"{where}: method {method} needs retention, which is not given.")
    if method == AFFINITY and not by_path and not is_there & {"tau", "retention"}:
        raise ValueError(f"{where}: method affinity needs tau (or retention), which is not given.")
    for name, others, why in (
        ("retention", {"tau"}, "which leaves what the cosines say"),
        ("tau", {"boundaries"} if by_path else set(), "whose groups are the runs of the CTC path; give retention"),
        ("window", {"retention"} | ({"boundaries"} if by_path else set()), "which compares neighbours alone"),
        ("max_group", {"retention"}, "which bounds no group"),
    ):
        if name in is_there and (beside := others & is_there):
            other = min(beside)
            raise ValueError(
                f"{where}: {name} means nothing beside {other}: {given[other]}, {why}; leave one of them out."
            )
    if "retention_sampling" in is_there and "retention" not in is_there:
        raise ValueError(
            f"{where}: retention_sampling needs retention, which validation and decoding take; it is not given."
        )


def _checked_sampling(where: str, retentions: list[Any] | None) -> tuple[float, ...]:
    """The retentions that are drawn; empty for none."""
    for retention in retentions or ():
        if type(retention) not in (int, float) or not 0 < retention <= 1:
            raise ValueError(f"{where}: retention_sampling has {retention!r}; allowed: numbers above 0 to 1.")
    if retentions is not None and len(set(retentions)) < 2:
        raise ValueError(f"{where}: retention_sampling is {retentions}; allowed: two different numbers or more.")
    return tuple(retentions or ())
