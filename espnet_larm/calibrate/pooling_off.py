"""Where a model's speech is pooled, and that switched off for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from espnet_larm.pooling.frontend import AffinityPoolingFrontend
from espnet_larm.pooling.options import Pooling

FRONTEND = "frontend"
# A tau that merges nothing.
OFF = 2.0


@contextmanager
def unpooled(decoder: Any) -> Iterator[None]:
    """Without pooling at either place of the LM, which is set again afterwards."""
    before = decoder.pooling.options
    decoder.set_pooling()
    try:
        yield
    finally:
        decoder.set_pooling(**before)


@contextmanager
def unpooled_frontend(model: Any) -> Iterator[None]:
    """Without pooling in front of the encoder, which is set again afterwards."""
    frontend = model.frontend
    if not isinstance(frontend, AffinityPoolingFrontend):
        yield
        return
    before = frontend.pooling
    frontend.pooling = Pooling(tau=OFF)
    try:
        yield
    finally:
        frontend.pooling = before


def pooled_places(model: Any) -> dict[str, dict[str, Any]]:
    """Options of the places that pool: of the front end, and of the LM; those that are off are left out."""
    places = {}
    if isinstance(model.frontend, AffinityPoolingFrontend) and not model.frontend.pooling.is_off:
        pooling = model.frontend.pooling
        places[FRONTEND] = {"tau": pooling.tau, "window": pooling.window, "max_group": pooling.max_group}
    for place, options in model.decoder.pooling.options.items():
        if not (options.get("tau") or 0) > 1 and options.get("retention") != 1:
            places[place] = dict(options)
    return places


def describe_places(places: Mapping[str, Mapping[str, Any]]) -> str:
    """For people: `input (tau 0.9), deep (layer 6, tau 0.8)`, or `none`."""
    words = {
        place: ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
        for place, options in places.items()
    }
    return ", ".join(f"{place} ({options})" for place, options in words.items()) or "none"
