"""Where affinity pooling is calibrated: what a tau leaves there, and a data folder decoded with it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.calibrate.pooling_off import FRONTEND, OFF
from espnet_larm.calibrate.pooling_sweep import (
    Cost,
    Outcome,
    Spoken,
    Tokens,
    UnreachableError,
    retention_at,
    waveforms_of,
)
from espnet_larm.pooling.baselines import kept_lens
from espnet_larm.pooling.deep import DEEP
from espnet_larm.pooling.frontend import NAME, AffinityPoolingFrontend
from espnet_larm.pooling.options import Pooling
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.features import extract
from espnet_larm.recognize.recognizer import Recognizer


class Bounds(NamedTuple):
    """Of groups, None for what the place has by default."""

    window: int | None = None
    max_group: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Those that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def check_layer(recognizer: Recognizer, place: str, layer: int | None) -> None:
    """Refuse a layer that cannot pool, before anything is encoded.

    Raises:
        ValueError: It is not given, or outside the LM.
    """
    if place == DEEP:
        before = recognizer.model.decoder.pooling.options
        recognizer.set_pooling(deep={"tau": OFF, "layer": layer})
        recognizer.set_pooling(**before)


def refusal(option: str, asked: float, place: "SpeechPlace | FrontendPlace", error: UnreachableError) -> str:
    """Why no tau leaves a share, and what to do.

    Args:
        option: That asked for it.
        asked: As the user gave it.
        place: Where it was looked for.
        error: Of `find_tau`.
    """
    more = place.leaves_less if error.is_below else "ask for 1, which is no pooling"
    hint = "" if more is None else f", or {more}"
    return f"{option} is {asked:g}, but {error}; ask for a retention in that range{hint}."


class SpeechPlace:
    """A place inside the LM; the other place stays as it is.

    Args:
        spoken: The folder.
        place: `input` or `deep`.
        layer: Of `deep`.
        bounds: Of groups.

    Raises:
        ValueError: The layer or a bound is out of its range.
    """

    def __init__(self, spoken: Spoken, place: str, layer: int | None, bounds: Bounds) -> None:
        self.spoken = spoken
        self.place = place
        self.bounds = bounds
        self.layer = {} if layer is None else {"layer": layer}
        self.others = {name: each for name, each in spoken.decoder.pooling.options.items() if name != place}
        self.set(tau=OFF, **bounds.options)
        self._tokens: list[Tokens] = spoken.tokens_at(place, layer or 0)

    @property
    def left_out(self) -> list[str]:
        """Utterances that are too short."""
        return self.spoken.left_out

    def unpooled_cost(self) -> Cost:
        """Without pooling at any place."""
        return self.spoken.unpooled_cost()

    def set(self, **options: Any) -> dict[str, Any]:
        """Pool at this place so; gives what both places have, as a YAML's `pooling`."""
        conf = {**self.others, self.place: {**self.layer, **options}}
        self.spoken.decoder.set_pooling(**conf)
        return conf

    @property
    def leaves_less(self) -> str | None:
        """What to change so that tau -1 leaves less; None where it leaves each utterance one token."""
        most = self.bounds.max_group
        return None if most is None else f"raise --max_group, which is {most}"

    def retention(self, tau: float) -> float:
        """Share of the speech tokens that a tau leaves."""
        return retention_at(self._tokens, Pooling(tau=tau, **self.bounds._asdict()))

    def rounded_up(self, retention: float) -> float:
        """Share that methods with a retention leave, which round up in each utterance."""
        lens = torch.cat([tokens.lens for tokens in self._tokens])
        return int(kept_lens(lens, retention).sum()) / max(1, int(lens.sum()))

    def decode(self, tau: float) -> Outcome:
        """The folder with a tau."""
        return self.decode_with(tau=tau, **self.bounds.options)

    def decode_with(self, **options: Any) -> Outcome:
        """The folder with options of any method."""
        self.set(**options)
        return self.spoken.decode()


class FrontendPlace:
    """In front of the encoder, which hears the folder anew for each tau.

    Args:
        recognizer: Whose front end is wrapped.
        config: The training's, of which `frontend` and `frontend_conf` are read.
        table: Audio.
        keys: Utterances of it.
        batch_seconds: Padded audio in a batch.
        bounds: Of groups.
        min_frames_per_second: That are left of each utterance; None for the front end's own default.

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
    ) -> None:
        self.recognizer, self.table, self.batch_seconds = recognizer, table, batch_seconds
        name, conf = config.get("frontend"), config.get("frontend_conf") or {}
        self._options = dict(conf) if name == NAME else {"frontend": name, "frontend_conf": conf}
        self._options |= bounds.options
        if min_frames_per_second is not None:
            self._options["min_frames_per_second"] = min_frames_per_second
        self._state = recognizer.model.frontend.state_dict()
        self._set(OFF)
        spoken = Spoken(recognizer, table, keys, batch_seconds)
        self.left_out = spoken.left_out
        self.keys = [key for key in keys if key not in self.left_out]
        self._unpooled_cost = spoken.unpooled_cost()
        batches = list(waveforms_of(table, self.keys, batch_seconds))
        self._waveforms = [each for batch in batches for each in batch.values()]

    def unpooled_cost(self) -> Cost:
        """Without pooling at any place."""
        return self._unpooled_cost

    def conf(self, tau: float) -> dict[str, Any]:
        """What a training configuration then says."""
        return {"frontend": NAME, "frontend_conf": {**self._options, "tau": tau}}

    def _set(self, tau: float) -> None:
        frontend = AffinityPoolingFrontend(**{**self._options, "tau": tau})
        frontend.load_state_dict(self._state)
        self.recognizer.model.frontend = frontend.eval().to(self.recognizer.device)

    def _count(self, tau: float) -> tuple[int, int]:
        self._set(tau)
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
        """Share of the frames that a tau leaves."""
        before, after = self._count(tau)
        return after / max(1, before)

    def decode(self, tau: float) -> Outcome:
        """The folder with a tau; `kept` counts frames."""
        counts = self._count(tau)
        outcome = Spoken(self.recognizer, self.table, self.keys, self.batch_seconds).decode()
        return outcome._replace(kept={**outcome.kept, FRONTEND: counts})
