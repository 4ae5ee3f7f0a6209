"""Sites where affinity pooling is calibrated: what a tau leaves there, and a data folder decoded with it."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.calibrate.pooling_sweep import (
    OFF,
    Cost,
    EncodedFolder,
    Outcome,
    Tokens,
    UnreachableError,
    retention_at,
    waveforms_of,
)
from espnet_larm.pooling.baselines import kept_lens
from espnet_larm.pooling.deep import DEEP
from espnet_larm.pooling.frontend import NAME, AffinityPoolingFrontend, pooled_by
from espnet_larm.pooling.in_llm import SpeechPooling, speech_pooling_of
from espnet_larm.pooling.options import Pooling
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.model.features import extract
from espnet_larm.recognize.recognizer import Recognizer

FRONTEND = "frontend"


class Bounds(NamedTuple):
    """Bounds of the group size; None uses the site's default."""

    window: int | None = None
    max_group: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """The bounds that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def pooled_places(model: Any, pooling: SpeechPooling | None = None) -> dict[str, dict[str, Any]]:
    """Options of the sites that pool: the front end and those of the LM; sites that are off are left out.

    Args:
        model: The model.
        pooling: The LM's pooling; None as in training.
    """
    places = {}
    if isinstance(model.frontend, AffinityPoolingFrontend) and not model.frontend.pooling.is_off:
        front = model.frontend.pooling
        places[FRONTEND] = {"tau": front.tau, "window": front.window, "max_group": front.max_group}
    for place, options in (model.decoder.pooling if pooling is None else pooling).options.items():
        if not (options.get("tau") or 0) > 1 and options.get("retention") != 1:
            places[place] = dict(options)
    return places


def describe_places(places: Mapping[str, Mapping[str, Any]]) -> str:
    """Sites and their options for people: `input (tau 0.9), deep (layer 6, tau 0.8)`, or `none`."""
    words = {
        place: ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
        for place, options in places.items()
    }
    return ", ".join(f"{place} ({options})" for place, options in words.items()) or "none"


def check_layer(recognizer: Recognizer, place: str, layer: int | None) -> None:
    """Refuse a layer that cannot pool, before anything is encoded.

    Raises:
        ValueError: It is not given, or outside the LM.
    """
    if place == DEEP:
        speech_pooling_of({DEEP: {"tau": OFF, "layer": layer}}, recognizer.model.decoder.backbone)


def refusal(option: str, asked: float, place: "SpeechPlace | FrontendPlace", error: UnreachableError) -> str:
    """Why no tau leaves a retention, and what to do.

    Args:
        option: The option that asked for it.
        asked: The value that the user gave.
        place: The site.
        error: What `find_tau` raised.
    """
    more = place.leaves_less if error.is_below else "ask for 1, which is no pooling"
    hint = "" if more is None else f", or {more}"
    return f"{option} is {asked:g}, but {error}; ask for a retention in that range{hint}."


class SpeechPlace:
    """A site inside the LM; the other site stays as it is.

    Args:
        folder: The encoded folder.
        place: `input` or `deep`.
        layer: The layer behind which `deep` pools.
        bounds: Bounds of the group size.
        pooling: The LM's pooling, of which the other site is taken; None as in training.

    Raises:
        ValueError: The layer or a bound is out of its range.
    """

    def __init__(
        self,
        folder: EncodedFolder,
        place: str,
        layer: int | None,
        bounds: Bounds,
        pooling: SpeechPooling | None = None,
    ) -> None:
        self.folder = folder
        self.place = place
        self.bounds = bounds
        self.layer = {} if layer is None else {"layer": layer}
        options = (folder.decoder.pooling if pooling is None else pooling).options
        self.others = {name: each for name, each in options.items() if name != place}
        folder.pooling_of(self.conf(tau=OFF, **bounds.options))
        self._tokens: list[Tokens] = folder.tokens_at(place, layer or 0, self.others)

    @property
    def left_out(self) -> list[str]:
        """Utterances that are too short."""
        return self.folder.left_out

    def unpooled_cost(self) -> Cost:
        """The cost without pooling at any site."""
        return self.folder.unpooled_cost()

    def conf(self, **options: Any) -> dict[str, Any]:
        """The pooling of both sites with these options at this one, as a YAML's `pooling`."""
        return {**self.others, self.place: {**self.layer, **options}}

    @property
    def leaves_less(self) -> str | None:
        """What to change so that tau -1 leaves less; None where it leaves each utterance one token."""
        most = self.bounds.max_group
        return None if most is None else f"raise --max_group, which is {most}"

    def retention(self, tau: float) -> float:
        """The fraction of the speech tokens that a tau leaves."""
        return retention_at(self._tokens, Pooling(tau=tau, **self.bounds._asdict()))

    def rounded_up(self, retention: float) -> float:
        """The fraction that methods with a retention leave, which round up in each utterance."""
        lens = torch.cat([tokens.lens for tokens in self._tokens])
        return int(kept_lens(lens, retention).sum()) / max(1, int(lens.sum()))

    def decode(self, tau: float) -> Outcome:
        """Decode the folder with a tau."""
        return self.decode_with(tau=tau, **self.bounds.options)

    def decode_with(self, **options: Any) -> Outcome:
        """Decode the folder with options of any method."""
        return self.folder.decode(self.conf(**options))


def _with_frontend(recognizer: Recognizer, frontend: torch.nn.Module) -> Recognizer:
    """The recogniser with another front end; all other parts are shared."""
    model = copy.copy(recognizer.model)
    model._modules = {**model._modules, "frontend": frontend}
    return Recognizer(model, recognizer.tokens_to_text, recognizer.sample_rate_hz, recognizer.preprocess)


class FrontendPlace:
    """The site in front of the encoder, which encodes the folder anew for each tau.

    Args:
        recognizer: The model; a copy of it gets a front end that pools.
        config: The training's configuration, of which `frontend` and `frontend_conf` are read.
        table: The folder's audio.
        keys: The utterances to take.
        batch_seconds: Padded audio in a batch.
        bounds: Bounds of the group size.
        min_frames_per_second: Frames that are left of each utterance at least; None uses the front end's default.
        options: The LM's pooling by site; None as in training.

    Attributes:
        left_out: Utterances that are too short without pooling.

    Raises:
        ValueError: A bound is out of its range.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        config: Mapping[str, Any],
        table: AudioTable,
        keys: Sequence[str],
        batch_seconds: float,
        bounds: Bounds,
        min_frames_per_second: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.table, self.batch_seconds, self.options = table, batch_seconds, options
        name, conf = config.get("frontend"), config.get("frontend_conf") or {}
        self._options = dict(conf) if name == NAME else {"frontend": name, "frontend_conf": conf}
        self._options |= bounds.options
        if min_frames_per_second is not None:
            self._options["min_frames_per_second"] = min_frames_per_second
        frontend = AffinityPoolingFrontend(**{**self._options, "tau": OFF})
        frontend.load_state_dict(recognizer.model.frontend.state_dict())
        self.frontend = frontend.eval().to(recognizer.device)
        self.recognizer = _with_frontend(recognizer, self.frontend)
        folder = EncodedFolder(self.recognizer, table, keys, batch_seconds)
        self.left_out = folder.left_out
        self.keys = [key for key in keys if key not in self.left_out]
        self._unpooled_cost = folder.unpooled_cost()
        batches = list(waveforms_of(table, self.keys, batch_seconds))
        self._waveforms = [each for batch in batches for each in batch.values()]

    def unpooled_cost(self) -> Cost:
        """The cost without pooling at any site."""
        return self._unpooled_cost

    def conf(self, tau: float) -> dict[str, Any]:
        """Entries of a training configuration with a tau."""
        return {"frontend": NAME, "frontend_conf": {**self._options, "tau": tau}}

    def _pooling(self, tau: float) -> Pooling:
        off = self.frontend.pooling
        return Pooling(tau=tau, window=off.window, max_group=off.max_group, weight=off.weight)

    def _count(self) -> tuple[int, int]:
        found = [self._extract(each) for each in self._waveforms]
        return sum(before for before, _ in found), sum(after for _, after in found)

    @torch.no_grad()
    def _extract(self, waveform: Any) -> tuple[int, int]:
        features = extract(self.recognizer.model, torch.as_tensor(waveform).to(self.recognizer.device))
        return features.num_frames, len(features.xs)

    @property
    def leaves_less(self) -> str | None:
        """What to change so that tau -1 leaves less: of the floor and of the groups' size, what leaves more."""
        frontend = AffinityPoolingFrontend(**{**self._options, "tau": -1.0})
        most = frontend.pooling.max_group
        if frontend.least_share > (0 if most is None else 1 / most):
            default = inspect.signature(AffinityPoolingFrontend).parameters["min_frames_per_second"].default
            floor = self._options.get("min_frames_per_second", f"its default ({default:g})")
            return f"lower --min_frames_per_second, which is {floor}"
        return None if most is None else f"raise --max_group, which is {most}"

    def retention(self, tau: float) -> float:
        """The fraction of the frames that a tau leaves."""
        with pooled_by(self._pooling(tau)):
            before, after = self._count()
        return after / max(1, before)

    def decode(self, tau: float) -> Outcome:
        """Decode the folder with a tau; `kept` counts frames."""
        with pooled_by(self._pooling(tau)):
            counts = self._count()
            folder = EncodedFolder(self.recognizer, self.table, self.keys, self.batch_seconds)
            outcome = folder.decode(self.options)
        return outcome._replace(kept={**outcome.kept, FRONTEND: counts})
