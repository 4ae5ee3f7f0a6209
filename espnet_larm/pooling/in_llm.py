"""Pooling of the speech that an LM reads: `pooling` of a decoder's YAML, in training and in decoding.

`input` pools the projector's embeddings, so that positions behind it are contiguous; `deep` pools what it leaves once
more, behind a layer (deep_pooling.py). Neither has a weight, and the CTC head reads unpooled frames.
Shapes: B utterances, S speech tokens, D model size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.stream import Stream
from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.deep import DEEP, INPUT, PLACES, pool_deep
from espnet_larm.pooling.options import OPTIONS, Pooling

WHERE = "pooling"
# What a YAML may give, with its types. `true` is no number.
TYPES: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "tau": (int, float),
    "window": int,
    "max_group": int,
    "retention": (int, float),
    "seed": int,
}
DEEP_TYPES = {"layer": int, **TYPES}
assert {name for names in OPTIONS.values() for name in names} | {"method"} == set(TYPES)


class SpeechPooling(NamedTuple):
    """The pooling of both sites of one LM. `speech_pooling_of` makes it.

    Attributes:
        options: The options by site, as they were given; sites that do not pool are left out.
        at_input: The pooling of the projector's embeddings; None for none.
        behind: The pooling behind a layer; None for none.
        layer: The number of layers that run before `behind`.
    """

    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    at_input: Pooling | None = None
    behind: Pooling | None = None
    layer: int = 0

    @property
    def after_layer(self) -> dict[int, Callable[[Stream], Stream]]:
        """What `Backbone.forward` does behind its layers."""
        return {} if self.behind is None else {self.layer - 1: partial(pool_deep, self.behind)}

    def pool_input(self, speech: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Kept | None]:
        """Pool embeddings (B, S, D) with their lengths (B,) at the input; also what was kept, None without pooling."""
        if self.at_input is None:
            return speech, lens, None
        lens = lens.to(speech.device)
        pooled = self.at_input(speech, lens)
        return pooled.tokens, pooled.lens, Kept(lens, pooled.lens)

    def kept(self, at_input: Kept | None, before: torch.Tensor, after: torch.Tensor | None) -> dict[str, Kept]:
        """What was kept of a prompt's speech, by site.

        Args:
            at_input: What `pool_input` gave.
            before: Speech positions that the first layer reads (B, L), True where speech is.
            after: Speech positions that the last layer reads (B, L').
        """
        found = {} if at_input is None else {INPUT: at_input}
        if self.behind is not None and after is not None:
            found[DEEP] = Kept(before.sum(dim=1), after.sum(dim=1))
        return found


def speech_pooling_of(
    conf: Mapping[str, Mapping[str, Any] | None] | None, backbone: Backbone, where: str = WHERE
) -> SpeechPooling:
    """Check the options of both sites.

    Args:
        conf: Options by site. At `input`: arguments of `Pooling`. At `deep`: those and `layer`, the number of the LM's
            layers that read all speech, with the layers that were added behind them; 1 to one less than the LM has.
        backbone: The LM.
        where: The YAML key of these options, for messages.

    Raises:
        ValueError: An option is not known, of another type or out of its range.
    """
    at_input, deep = places_of(conf, where).values()
    made, behind, layer = None, None, 0
    if at_input is not None:
        made = Pooling(**_checked(at_input, TYPES, f"{where}: {INPUT}"), where=f"{where}: {INPUT}")
    if deep is not None:
        given = _checked(deep, DEEP_TYPES, f"{where}: {DEEP}")
        layer = _checked_layer(given.pop("layer", None), len(backbone.layers), f"{where}: {DEEP}")
        behind = Pooling(**given, where=f"{where}: {DEEP}")
    sites = {INPUT: at_input, DEEP: deep}
    options = {site: dict(options) for site, options in sites.items() if options is not None}
    return SpeechPooling(options, made, behind, layer)


def places_of(conf: Mapping[str, Any] | None, where: str = WHERE) -> dict[str, Mapping[str, Any] | None]:
    """The options of each site, from a YAML; a site that is left out does not pool.

    Args:
        conf: Options by site; None for none.
        where: Its YAML key, for messages.

    Raises:
        ValueError: A site is not known.
    """
    given = dict(conf or {})
    if unknown := [str(place) for place in given if place not in PLACES]:
        raise ValueError(f"{where}: unknown site {', '.join(unknown)}; allowed: {', '.join(PLACES)}.")
    return {place: given.get(place) for place in PLACES}


def _checked(conf: Any, types: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options that are not null, which stands for the default."""
    if not isinstance(conf, Mapping):
        raise ValueError(f"{where} is {conf!r}; allowed: options, such as {{tau: 0.9}}, or null for no pooling.")
    given = {name: value for name, value in conf.items() if value is not None}
    if unknown := [str(name) for name in given if name not in types]:
        raise ValueError(f"{where}: unknown option {', '.join(unknown)}; allowed: {', '.join(types)}.")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, types[name]):
            words = {str: "a text", int: "a whole number"}.get(types[name], "a number")
            raise ValueError(f"{where}: {name} is {value!r}, of type {type(value).__name__}; allowed: {words}.")
    return given


def _checked_layer(layer: int | None, num_layers: int, where: str) -> int:
    most = num_layers - 1
    if layer is None or not 1 <= layer <= most:
        allowed = f"1 to {most}" if most else "none, leave deep out"
        raise ValueError(
            f"{where}: layer is {'not given' if layer is None else layer}; allowed: {allowed}: so many of the LM's "
            f"{num_layers} layers run before it pools."
        )
    return layer
