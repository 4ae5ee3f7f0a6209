"""Where the speech that an LM reads is pooled: `pooling` of a decoder's YAML, in training and in decoding.

`input` pools the projector's embeddings, so that positions behind it are contiguous; `deep` pools what it leaves once
more, behind a layer (deep_pooling.py). Neither has a weight, and CTC hears none of it.
Shapes: B utterances, S speech tokens, D model size.
"""

from collections.abc import Mapping
from typing import Any

import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.pooling.deep import DEEP, INPUT, PLACES, DeepPooling, Kept
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


class SpeechPooling:
    """Both places of one LM, each with a pooling or none.

    Args:
        backbone: The LM; its `after_layer` has an entry while `deep` is set.

    Attributes:
        options: As they were given, by place; those that are not set are left out.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.options: dict[str, dict[str, Any]] = {}
        self._input: Pooling | None = None
        self._input_kept: Kept | None = None
        self._deep: DeepPooling | None = None
        self._layer = 0

    def set(self, conf: Mapping[str, Any] | None, where: str = WHERE) -> None:
        """Choose both places anew.

        Args:
            conf: By place, as `places_of` takes it: at `input` arguments of `Pooling`; at `deep` those and `layer`: so
                many of the LM's layers read all speech, with the layers that were added behind them; 1 to one less than
                the LM has.
            where: The YAML key of these options, for messages.

        Raises:
            ValueError: An option is not known, of another type or out of its range; nothing is changed.
        """
        at_input, deep = places_of(conf, where).values()
        made, made_deep, layer = None, None, 0
        if at_input is not None:
            made = Pooling(**_checked(at_input, TYPES, f"{where}: {INPUT}"), where=f"{where}: {INPUT}")
        if deep is not None:
            given = _checked(deep, DEEP_TYPES, f"{where}: {DEEP}")
            layer = _checked_layer(given.pop("layer", None), len(self.backbone.layers), f"{where}: {DEEP}")
            made_deep = DeepPooling(Pooling(**given, where=f"{where}: {DEEP}"))
        if self._deep is not None:
            del self.backbone.after_layer[self._layer - 1]
        if made_deep is not None:
            assert layer - 1 not in self.backbone.after_layer, "one function a layer"
            self.backbone.after_layer[layer - 1] = made_deep
        self._input, self._deep, self._layer, self._input_kept = made, made_deep, layer, None
        given_places = {INPUT: at_input, DEEP: deep}
        self.options = {place: dict(options) for place, options in given_places.items() if options is not None}

    def pool_input(self, speech: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, S, D) and their lengths (B,), pooled if `input` is set."""
        if self._input is None:
            return speech, lens
        lens = lens.to(speech.device)
        pooled = self._input(speech, lens)
        self._input_kept = Kept(lens, pooled.lens)
        return pooled.tokens, pooled.lens

    @property
    def kept(self) -> dict[str, Kept]:
        """Of the last prompts, by the places that are set."""
        found = {INPUT: self._input_kept, DEEP: None if self._deep is None else self._deep.kept}
        return {place: each for place, each in found.items() if each is not None}


def places_of(conf: Mapping[str, Any] | None, where: str = WHERE) -> dict[str, Mapping[str, Any] | None]:
    """The options of each place, from a YAML; what is left out is not pooled.

    Args:
        conf: Places and their options; None for none.
        where: Its key, for messages.

    Raises:
        ValueError: A place is not known.
    """
    given = dict(conf or {})
    if unknown := [str(place) for place in given if place not in PLACES]:
        raise ValueError(f"{where}: unknown place {', '.join(unknown)}; allowed: {', '.join(PLACES)}.")
    return {place: given.get(place) for place in PLACES}


def _checked(conf: Any, types: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options without those that are null, which stands for the default."""
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
