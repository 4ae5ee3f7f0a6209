"""Refuses `--init_param` that matches no parameter, which ESPnet silently accepts, or that ESPnet breaks off at."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from espnet_larm.adaptation.added_layout import PREFIX, layout_difference, layout_of
from espnet_larm.errors import name_some
from espnet_larm.files.reading import read_tensors
from espnet_larm.speech_llm.heads import num_heads_of

NUM_SHOWN = 3
# Of these parts the file may hold what the model takes from elsewhere, and says so itself.
BY_NAME = ("decoder.backbone.", "frontend.")


def check_init_params(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Check that each entry of `init_param` sets at least one parameter.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An entry sets none (the message has names of the file and of the model), or the model has other
            draft heads, added layers or shapes than the file.
    """
    for entry in args.init_param:
        path, *keys = entry.split(":", 3)
        source, target, excluded = [*keys, "", "", ""][:3]
        if not Path(path).is_file():
            raise FileNotFoundError(f"--init_param: {path} is missing; it is PATH[:SRC_KEY[:DST_KEY[:EXCLUDE_KEYS]]].")
        found, wanted = _shapes(path), _shapes_of(model.state_dict())
        if why := _why_nothing_matches(found, wanted, source, target, excluded):
            raise ValueError(f"--init_param {entry} would change no parameter: {why}.")
        layout = (
            {} if source else layout_of({name: found[name] for name in found if not _starts_with_any(name, excluded)})
        )
        if layout and (reason := layout_difference(layout_of(wanted), layout)):
            raise ValueError(f"--init_param {entry}: {reason[:-1]}, or leave them out with PATH:::{PREFIX}added.")
        num_found = num_heads_of(name for name in found if not _starts_with_any(name, excluded))
        if num_found not in (1, num_heads_of(wanted)) and not source:
            raise ValueError(
                f"--init_param {entry} has heads for {num_found} tokens a call, but decoder_conf: num_heads is "
                f"{num_heads_of(wanted)}; set it to {num_found}, or begin heads anew with PATH:::decoder.heads."
            )
        if not (source or target or args.ignore_init_mismatch):
            _check_shapes(entry, {name: found[name] for name in found if not _starts_with_any(name, excluded)}, wanted)


def _check_shapes(entry: str, found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    """Refuse what ESPnet's loading would break off at, with what to leave out."""
    reshaped = [name for name in found if name in wanted and found[name] != wanted[name]]
    if reshaped:
        name = reshaped[0]
        raise ValueError(
            f"--init_param {entry}: other shapes than the model's: {_some(reshaped)} ({name} is {found[name]} in the "
            f"file and {wanted[name]} in the model). Leave them out, so that they begin anew: "
            f"{_without(entry, reshaped)}"
        )
    unknown = [name for name in found if name not in wanted and not name.startswith(BY_NAME)]
    if unknown:
        raise ValueError(
            f"--init_param {entry}: the model has no {_some(unknown)}. If its own parts shall begin anew, leave them "
            f"out: {_without(entry, unknown)}"
        )


def _without(entry: str, names: Iterable[str]) -> str:
    """An entry that leaves out the modules of some weights, beside what it leaves out already."""
    path, *keys = entry.split(":", 3)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
    least = [each for each in modules if not any(each.startswith(f"{other}.") for other in modules)]
    return f"{path}:::{','.join(part for part in (*keys[2:], *least) if part)}"


def _why_nothing_matches(
    found: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], source: str, target: str, excluded: str
) -> str:
    """Why nothing matches by ESPnet's rules (`excluded` left out, `source` cut off, `target` put before), or empty."""
    kept = {name: shape for name, shape in found.items() if not _starts_with_any(name, excluded)}
    if not kept:
        return f"exclude_keys {excluded} leaves nothing of {_some(found)}"
    chosen = {name[len(source) + 1 :] if source else name: kept[name] for name in kept if name.startswith(source)}
    if not chosen:
        return f"nothing begins with src_key {source}: the file has {_some(kept)}"
    places = {name.removeprefix(f"{target}."): wanted[name] for name in wanted if name.startswith(f"{target}.")}
    if target and not places:
        return f"nothing begins with dst_key {target}: the model has {_some(wanted)}"
    places = places if target else wanted
    common = [name for name in chosen if name in places]
    if not common:
        return (
            f"names {_some(chosen)} in the file; {_some(places)} in the model. "
            "PATH:SRC_KEY:DST_KEY puts what is below one name below another"
        )
    if not any(chosen[name] == places[name] for name in common):
        name = common[0]
        return f"all shapes differ: {name} is {chosen[name]} in the file and {places[name]} in the model"
    return ""


def _starts_with_any(name: str, prefixes: str) -> bool:
    return bool(prefixes) and name.startswith(tuple(prefixes.split(",")))


def _shapes(path: str) -> dict[str, tuple[int, ...]]:
    states = read_tensors(Path(path))
    # DeepSpeed's files hold the weights there.
    weights = states.get("module", states) if isinstance(states, dict) else states
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(
            f"--init_param {path} holds a {type(weights).__name__}; allowed: weights by name, as in "
            "valid.loss.ave.pth or N epoch.pth."
        )
    return _shapes_of(weights)


def _shapes_of(states: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in states.items()}


def _some(names: Iterable[str]) -> str:
    return name_some(list(names), NUM_SHOWN)
