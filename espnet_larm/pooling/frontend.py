"""Another front end whose neighbouring frames are merged where they say the same, before the encoder.

Source: Xiang et al., arXiv:2604.06871, who pool at an LLM's input; see pooling/affinity.py. At the encoder's input it
is ours, and so is what is compared there: log mel frames all point the same way, towards the mean spectrum, so that
each is compared after the utterance's mean is taken off.
Shapes: B utterances, N samples, T frames, T' merged frames, F features. Masks are True where valid.
"""

import difflib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import humanfriendly  # type: ignore[import-untyped]
import torch
from typeguard import TypeCheckError, typechecked

from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.frontend.default import DefaultFrontend

from espnet_larm.options import Option, check_parameters
from espnet_larm.pooling.affinity import Kept, Pooled, boundaries, keep_at_least, merge, valid_mask
from espnet_larm.pooling.baselines import kept_lens
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import CHANGE, NONE

logger = logging.getLogger(__name__)

WHERE = "frontend_conf"
NAME = "affinity_pooling"
# Where pip calls what ESPnet's front ends import by another name.
PACKAGES = {"whisper": "openai-whisper"}


_POOLING: ContextVar[Pooling | None] = ContextVar("pooling of the front end", default=None)


# Frames that each utterance of the batch needs (B,). Where they are more than `min_frames_per_second` leaves, so many
# are left, or all that there are. Training sets it from the transcripts (train/batches/frames.py), which ESPnet hands
# to no front end.
NEEDED_FRAMES: ContextVar[torch.Tensor | None] = ContextVar("frames that utterances need", default=None)
_MERGES: ContextVar[list[Kept] | None] = ContextVar("what front ends have merged", default=None)


@contextmanager
def collect_merges() -> Iterator[list[Kept]]:
    """While it is entered, collect what affinity-pooling front ends that this thread calls have left of each batch."""
    merges: list[Kept] = []
    token = _MERGES.set(merges)
    try:
        yield merges
    finally:
        _MERGES.reset(token)


def _collected(pooled: Pooled, lens: torch.Tensor) -> Pooled:
    if (merges := _MERGES.get()) is not None:
        merges.append(Kept(lens, pooled.lens))
    return pooled


@contextmanager
def pooled_by(pooling: Pooling) -> Iterator[None]:
    """While it is entered, affinity-pooling front ends that this thread calls pool so, not as they were made.

    Args:
        pooling: Affinity pooling with a tau.
    """
    token = _POOLING.set(pooling)
    try:
        yield
    finally:
        _POOLING.reset(token)


class AffinityPoolingFrontend(AbsFrontend):
    """Wraps a front end; its weights have the names that they have without pooling.

    Args:
        tau: Meaning and range of this and all other options stand at the parameters; `espnet-larm list
            --name affinity_pooling` prints them.

    Raises:
        ValueError: An option is out of its range, or the wrapped front end or an option of it is not known.
        ImportError: A package that the wrapped front end needs is missing.
    """

    @typechecked
    def __init__(
        self,
        tau: Annotated[
            float,
            Option(
                "least cosine that merges neighbouring frames; above 1 nothing is merged, and the frames are those of "
                "the wrapped front end bit for bit; 0.98 keeps 75 % of read speech's frames of 10 ms, 0.95 50 %",
                least=-1.0,
            ),
        ] = 0.98,
        frontend: Annotated[str, Option("front end that is wrapped, any of ESPnet's")] = "default",
        frontend_conf: Annotated[dict[str, Any] | None, Option("options of the wrapped front end")] = None,
        fs: Annotated[
            int | str | None, Option("the wrapped front end's option of this name, which recipes set; Hz, 16000 or 16k")
        ] = None,
        window: Annotated[int, Option("frames of the current group that are compared", least=1)] = 1,
        max_group: Annotated[
            int | None,
            Option("most frames of a group, no less than `window`; 4 leaves pauses their length, null is any", least=1),
        ] = 4,
        weight: Annotated[
            str,
            Option(
                "what frames count for in their group's mean: none (each once) or change (how far a frame is from the "
                "one before it); a front end has no CTC head that could weigh them",
                choices=(NONE, CHANGE),
            ),
        ] = NONE,
        centered: Annotated[
            bool,
            Option(
                "take the utterance's mean off before frames are compared (what is merged are the frames themselves): "
                "without, cosines of log mel frames are all near 1"
            ),
        ] = True,
        min_frames_per_second: Annotated[
            float,
            Option(
                "frames a second that are left of every utterance at least, training and decoding alike. CTC needs a "
                "frame of the encoder's for each token and between two equal ones: at least the encoder's subsampling "
                "factor times the tokens a second of the fastest speech. 50 leaves 12.5 tokens a second to a factor "
                "of 4, enough for BPE; characters need 80 or a factor of 2",
                least=0.0,
            ),
        ] = 50.0,
    ) -> None:
        check_parameters(AffinityPoolingFrontend.__init__, locals(), WHERE)
        super().__init__()
        self.pooling = Pooling(tau=tau, window=window, max_group=max_group, weight=weight, where=WHERE)
        conf = _with_rate(dict(frontend_conf or {}), fs)
        self.frontend = _build(frontend, conf)
        self.centered = centered
        self.least_share = self._least_share(min_frames_per_second, conf.get("fs", 16000))
        self.register_state_dict_post_hook(_without_own_name)
        self.register_load_state_dict_pre_hook(_with_own_name)

    @property
    def hop_length(self) -> int:
        """Samples between the wrapped front end's frames."""
        return self.frontend.hop_length

    @property
    def stft(self) -> torch.nn.Module | None:
        """The wrapped front end's; None if it has none."""
        return getattr(self.frontend, "stft", None)

    @property
    def min_samples(self) -> int | None:
        """Fewest samples that give a frame; None if the wrapped front end does not tell."""
        return getattr(self.frontend, "min_samples", None)

    @property
    def first_sample(self) -> float:
        """Sample in whose middle the first frame lies."""
        return getattr(self.frontend, "first_sample", 0.0)

    def output_size(self) -> int:
        """F."""
        return self.frontend.output_size()

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: A002
        """Merged frames.

        Args:
            input: Samples (B, N).
            input_lengths: Valid samples (B,).

        Returns:
            (B, T', F), and how many are valid (B,).
        """
        pooled = self.pool(input, input_lengths)
        return pooled.tokens, pooled.lens

    def pool(self, input: torch.Tensor, input_lengths: torch.Tensor) -> Pooled:  # noqa: A002
        """Merge frames as `forward` does, and tell where each frame of the wrapped front end went.

        Raises:
            ValueError: The wrapped front end gives no frames (B, T, F).
        """
        pooling = _POOLING.get() or self.pooling
        xs_pad, lens = self.frontend(input, input_lengths)
        if pooling.is_off:
            return _collected(pooling(xs_pad, lens), lens)
        if xs_pad.dim() != 3:
            raise ValueError(
                f"{WHERE}: {type(self.frontend).__name__} gives frames of the shape {tuple(xs_pad.shape)}; allowed for "
                "pooling: (batch, frames, features). Take another front end, or tau above 1."
            )
        assert pooling.tau is not None, "checked by the constructor"
        keys = _centre(xs_pad, lens) if self.centered else xs_pad
        starts = boundaries(keys, lens, pooling.tau, pooling.window, pooling.max_group)
        least = kept_lens(lens, self.least_share)
        if (needed := NEEDED_FRAMES.get()) is not None:
            least = torch.maximum(least, torch.minimum(needed.to(lens), lens))
        merged = merge(xs_pad, lens, keep_at_least(keys, lens, starts, least), pooling.weigh_of(keys.detach()))
        return _collected(merged, lens)

    def least_frames(self, lens: torch.Tensor) -> torch.Tensor:
        """How many of (B,) frames are left at least (B,)."""
        return kept_lens(lens, 1.0 if self.pooling.is_off else self.least_share)

    def frames_before(self, num_frames: int) -> int | None:
        """Fewest frames of the wrapped front end of which `num_frames` are left for certain; None without a floor."""
        if self.least_share == 0 and not self.pooling.is_off:
            return None
        before = num_frames
        while int(self.least_frames(torch.tensor(before))) < num_frames:
            before += 1
        return before

    def _least_share(self, min_frames_per_second: float, fs: int | str) -> float:
        hop_length = getattr(self.frontend, "hop_length", None)
        if min_frames_per_second == 0:
            return 0.0
        if hop_length is None:
            raise ValueError(
                f"{WHERE}: min_frames_per_second needs a front end with a hop_length, which "
                f"{type(self.frontend).__name__} has not; set it to 0."
            )
        rate_hz = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        share = min_frames_per_second * hop_length / rate_hz
        if share >= 1 and not self.pooling.is_off:
            # No error: models that were trained so can be decoded.
            logger.warning(
                "%s: min_frames_per_second is %g, and %s gives %g frames a second: none are merged.",
                WHERE, min_frames_per_second, type(self.frontend).__name__, rate_hz / hop_length,
            )  # fmt: skip
        return min(1.0, share)


def _centre(xs_pad: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Frames (B, T, F) without their utterance's mean; in float64, so that padding cannot change a decision."""
    xs = xs_pad.detach().to(torch.float64)
    valid = valid_mask(lens, xs.size(1)).unsqueeze(-1)
    sums = torch.where(valid, xs, 0.0).sum(dim=1, keepdim=True)
    return xs - sums / lens.clamp(min=1).view(-1, 1, 1)


def _with_rate(conf: dict[str, Any], fs: int | str | None) -> dict[str, Any]:
    """Options of the wrapped front end, with the rate that stands beside them."""
    if fs is None:
        return conf
    if (given := conf.setdefault("fs", fs)) != fs:
        raise ValueError(f"{WHERE}: fs is {fs}, but frontend_conf in it says {given}; leave one of them out.")
    return conf


def _build(name: str, conf: dict[str, Any]) -> AbsFrontend:
    """A front end of ESPnet's, or of a plugin."""
    classes = _classes(name)
    if name not in classes or name == NAME:
        allowed = sorted(set(classes) - {NAME})
        raise ValueError(f"{WHERE}: frontend is {name}. {_nearest(name, allowed)}")
    parameters = inspect.signature(classes[name]).parameters
    for key in conf:
        if key not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(
                f"{WHERE}: {key} of its own frontend_conf is not an option of frontend: {name}. "
                f"{_nearest(key, list(parameters))}"
            )
    try:
        return classes[name](**conf)
    except TypeCheckError as error:
        raise ValueError(f"{WHERE}: its own frontend_conf has an option of another type: {error}.") from error
    except ImportError as error:
        package = PACKAGES.get(missing := (error.name or name).partition(".")[0], missing)
        raise ImportError(
            f"{WHERE}: frontend: {name} needs a package that cannot be imported ({error}): pip install {package}"
        ) from error


def _classes(name: str) -> dict[str, type[AbsFrontend]]:
    if name == "default":
        # The table is in ESPnet's task, whose import takes 10 s.
        return {name: DefaultFrontend}
    from espnet2.tasks.asr import frontend_choices

    return frontend_choices.classes


def _nearest(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Allowed: {', '.join(allowed)}."


def _without_own_name(module: torch.nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:  # noqa: ARG001
    """Let the wrapped front end's weights have the names that they have without pooling."""
    start = f"{prefix}frontend."
    for name in [name for name in state if name.startswith(start)]:
        state[prefix + name.removeprefix(start)] = state.pop(name)


def _with_own_name(module: torch.nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ARG001
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}frontend.{name.removeprefix(prefix)}"] = state.pop(name)
