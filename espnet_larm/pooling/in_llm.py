"""Pooling of the speech that an LM reads: `pooling` of a decoder's YAML, in training and in decoding.

`input` pools the projector's embeddings, so that positions behind it are contiguous; `deep` pools what it leaves once
more, behind a layer (deep.py). Neither has a weight, and the CTC head reads unpooled frames.
Shapes: B utterances, S speech tokens, D model size.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.stream import Stream
from espnet_larm.options import check_conf
from espnet_larm.pooling.affinity import Kept
from espnet_larm.pooling.deep import DEEP, INPUT, PLACES, pool_deep
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import CtcPath

WHERE = "pooling"
LAYER, SAMPLING = "layer", "retention_sampling"


class AtInput(NamedTuple):
    """The speech that an LM's first layer reads.

    Attributes:
        speech: Embeddings (B, S, D).
        lens: Valid ones (B,).
        kept: What pooling left; None without pooling.
        path: What a CTC head recognises in them; None where nobody asks for it.
    """

    speech: torch.Tensor
    lens: torch.Tensor
    kept: Kept | None
    path: CtcPath | None


class SpeechPooling(NamedTuple):
    """The pooling of both sites of one LM. `speech_pooling_of` makes it.

    Attributes:
        options: The options by site, as they were given, without what training alone reads; sites that do not pool are
            left out.
        at_input: The pooling of the projector's embeddings; None for none.
        behind: The pooling behind a layer; None for none.
        layer: The number of layers that run before `behind`.
    """

    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    at_input: Pooling | None = None
    behind: Pooling | None = None
    layer: int = 0

    @property
    def needs_ctc(self) -> bool:
        """Whether a site reads what a CTC head recognises."""
        return any(each.needs_ctc for each in (self.at_input, self.behind) if each is not None)

    @property
    def is_sampled(self) -> bool:
        """Whether training draws retentions."""
        return any(each.retention_sampling for each in (self.at_input, self.behind) if each is not None)

    def drawn(self, generator: torch.Generator) -> "SpeechPooling":
        """The same with retentions that are drawn, at sites that have some to draw from; a number for each site."""
        numbers = torch.rand(len(PLACES), generator=generator).tolist()
        sites = [_drawn(each, number) for each, number in zip((self.at_input, self.behind), numbers, strict=True)]
        return self._replace(at_input=sites[0], behind=sites[1])

    def after_layer(self, path: CtcPath | None = None) -> dict[int, Callable[[Stream], Stream]]:
        """What `Backbone.forward` does behind its layers.

        Args:
            path: What a CTC head recognises in the speech that the first layer reads.
        """
        return {} if self.behind is None else {self.layer - 1: partial(pool_deep, self.behind, path=path)}

    def pool_input(self, speech: torch.Tensor, lens: torch.Tensor, path: CtcPath | None = None) -> AtInput:
        """Pool at the input.

        Args:
            speech: Embeddings (B, S, D).
            lens: Valid ones (B,).
            path: What a CTC head recognises in them.
        """
        if self.at_input is None:
            return AtInput(speech, lens, None, path)
        lens = lens.to(speech.device)
        pooled = self.at_input(speech, lens, path=path)
        left = None if path is None else path.pooled(pooled.groups, pooled.tokens.size(1))
        return AtInput(pooled.tokens, pooled.lens, Kept(lens, pooled.lens), left)

    def kept(self, at_input: Kept | None, before: torch.Tensor, after: torch.Tensor | None) -> dict[str, Kept]:
        """What was kept of a prompt's speech, by site.

        Args:
            at_input: What `pool_input` kept.
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
        given = _given(at_input, f"{where}: {INPUT}")
        check_conf(Pooling.__init__, given, f"{where}: {INPUT}: ")
        made = Pooling(**given, where=f"{where}: {INPUT}")
    if deep is not None:
        given = _given(deep, f"{where}: {DEEP}")
        layer_given = given.pop(LAYER, None)
        check_conf(Pooling.__init__, given, f"{where}: {DEEP}: ")
        layer = _checked_layer(layer_given, len(backbone.layers), f"{where}: {DEEP}")
        behind = Pooling(**given, where=f"{where}: {DEEP}")
    sites = {INPUT: at_input, DEEP: deep}
    options = {
        site: {name: value for name, value in options.items() if name != SAMPLING}
        for site, options in sites.items()
        if options is not None
    }
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


def _drawn(pooling: Pooling | None, number: float) -> Pooling | None:
    """A site's pooling with the retention that a number from 0 to below 1 draws."""
    if pooling is None or not pooling.retention_sampling:
        return pooling
    return pooling.at(pooling.retention_sampling[int(number * len(pooling.retention_sampling))])


def _given(conf: Any, where: str) -> dict[str, Any]:
    """The options that are not null, which stands for the default."""
    if not isinstance(conf, Mapping):
        raise ValueError(f"{where} is {conf!r}; allowed: options, such as {{tau: 0.9}}, or null for no pooling.")
    return {name: value for name, value in conf.items() if value is not None}


def _checked_layer(layer: Any, num_layers: int, where: str) -> int:
    most = num_layers - 1
    if layer is not None and type(layer) is not int:
        raise ValueError(f"{where}: layer is {layer!r}, of type {type(layer).__name__}; allowed: a whole number.")
    if layer is None or not 1 <= layer <= most:
        allowed = f"1 to {most}" if most else "none, leave deep out"
        raise ValueError(
            f"{where}: layer is {'not given' if layer is None else layer}; allowed: {allowed}: so many of the LM's "
            f"{num_layers} layers run before it pools."
        )
    return layer
