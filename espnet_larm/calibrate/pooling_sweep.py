"""A data folder that is encoded once and decoded by an LM with one pooling after another; the search for tau.

Shapes: B utterances, T frames, E encoder size, S speech tokens, D model size of the LM.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.calibrate.flops import by_layer, prefill_flops
from espnet_larm.llm.stream import Stream
from espnet_larm.pooling.affinity import take
from espnet_larm.pooling.deep import DEEP, INPUT
from espnet_larm.pooling.frontend import AffinityPoolingFrontend, pooled_by
from espnet_larm.pooling.in_llm import SpeechPooling, speech_pooling_of
from espnet_larm.pooling.options import Pooling
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.recognize.model.encoding import encode
from espnet_larm.recognize.model.features import batches_by_length, pad_features
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.speech_llm.hypotheses import positions_of
from espnet_larm.speech_llm.prompt import ContextError

# A tau that merges nothing.
OFF = 2.0
# tau is looked for among the multiples of 1 / STEPS.
STEPS = 1_000_000
# A retention this near to what tau can reach is reached.
NEAR = 0.005


class Batch(NamedTuple):
    """Utterances that the LM reads together.

    Attributes:
        names: The utterances' names.
        hs_pad: Encoder output (B, T, E).
        hlens: Valid frames (B,).
        seconds: Length of each utterance.
        text_lens: Positions of a prompt that are not speech (B,).
        speech_lens: Positions of a prompt that are speech, before any is merged (B,).
    """

    names: list[str]
    hs_pad: torch.Tensor
    hlens: torch.Tensor
    seconds: list[float]
    text_lens: torch.Tensor
    speech_lens: torch.Tensor


class Tokens(NamedTuple):
    """Speech tokens of a batch (B, S, D), and how many are valid (B,)."""

    xs_pad: torch.Tensor
    lens: torch.Tensor


class Outcome(NamedTuple):
    """The folder, decoded with one pooling.

    Attributes:
        texts: Hypotheses by utterance.
        positions: Positions of all prompts that the LM's last layer reads.
        flops: Operations of reading the prompts.
        kept: Speech tokens before and after each site that pools.
        seconds: Duration of the folder's speech.
    """

    texts: dict[str, str]
    positions: int
    flops: int
    kept: dict[str, tuple[int, int]]
    seconds: float


class Cost(NamedTuple):
    """The cost of reading all prompts: positions that the LM's last layer reads, and operations."""

    positions: int
    flops: int


class EncodedFolder:
    """A data folder, encoded once.

    Args:
        recognizer: The model, which has an LM.
        table: The folder's audio.
        keys: The utterances to take.
        batch_seconds: Padded audio in a batch.

    Attributes:
        left_out: Utterances that are too short for the encoder.

    Raises:
        ValueError: Audio cannot be read, or no utterance is left.
    """

    def __init__(self, recognizer: Recognizer, table: AudioTable, keys: Sequence[str], batch_seconds: float) -> None:
        self.recognizer = recognizer
        self.decoder = recognizer.model.decoder
        self.table, self.batch_seconds = table, batch_seconds
        self.left_out: list[str] = []
        self.batches = list(self._encode(table, keys, batch_seconds))
        if not self.batches:
            raise ValueError(f"{table.wav_scp}: no utterance is long enough for the encoder.")

    @torch.no_grad()
    def _encode(self, table: AudioTable, keys: Sequence[str], batch_seconds: float) -> Iterator[Batch]:
        rate, device = table.sample_rate_hz, self.recognizer.device
        for waveforms in waveforms_of(table, keys, batch_seconds):
            found = encode(self.recognizer.model, waveforms)
            self.left_out += [name for name in waveforms if name not in found]
            if not found:
                continue
            hs_pad, hlens = pad_features([frames.to(device, self.recognizer.heads.dtype) for frames in found.values()])
            seconds = [len(waveforms[name]) / rate for name in found]
            yield self._with_lens(list(found), hs_pad, hlens, seconds)

    def _with_lens(self, names: list[str], hs_pad: torch.Tensor, hlens: torch.Tensor, seconds: list[float]) -> Batch:
        try:
            packed = self.decoder.read_prompt(hs_pad, hlens, pooling=self.pooling_of({}))
        except ContextError as error:
            raise ValueError(f"{names[0]} or one of its length: {error.args[0]}") from error
        speech_lens = packed.speech.sum(dim=1)
        return Batch(names, hs_pad, hlens, seconds, (packed.lens - speech_lens).cpu(), speech_lens.cpu())

    def pooling_of(self, options: Mapping[str, Mapping[str, Any] | None]) -> SpeechPooling:
        """The LM's pooling with these options by site; sites that are left out do not pool.

        Raises:
            ValueError: An option is out of its range.
        """
        return speech_pooling_of(options, self.decoder.backbone)

    def unpooled_cost(self) -> Cost:
        """The cost without pooling at any site; where the front end pools, the folder is encoded once more."""
        frontend = self.recognizer.model.frontend
        if not isinstance(frontend, AffinityPoolingFrontend) or frontend.pooling.is_off:
            return self._cost()
        keys = [name for batch in self.batches for name in batch.names]
        with pooled_by(Pooling(tau=OFF)):
            return EncodedFolder(self.recognizer, self.table, keys, self.batch_seconds)._cost()

    def _cost(self) -> Cost:
        flops, num_layers = 0, len(self.decoder.backbone.layers)
        for batch in self.batches:
            speech = by_layer(num_layers, batch.speech_lens)
            flops += prefill_flops(self.decoder.backbone, batch.text_lens, *speech).total
        return Cost(sum(int((each.text_lens + each.speech_lens).sum()) for each in self.batches), flops)

    @torch.no_grad()
    def tokens_at(self, site: str, layer: int, options: Mapping[str, Mapping[str, Any] | None]) -> list[Tokens]:
        """The tokens that a site pools.

        Args:
            site: INPUT or DEEP.
            layer: The layer behind which DEEP pools.
            options: The LM's pooling; that of the sites before this one counts.
        """
        before = self.pooling_of({INPUT: options.get(INPUT)} if site == DEEP else {})
        return [self._tokens_of(batch, site, layer, before) for batch in self.batches]

    def _tokens_of(self, batch: Batch, site: str, layer: int, pooling: SpeechPooling) -> Tokens:
        backbone = self.decoder.backbone
        seen: list[Tokens] = []
        if site == INPUT:
            # Prompts hold them in the LM's type; decoding pools them before that cast.
            hook = self.decoder.projector.register_forward_hook(lambda _, __, found: seen.append(Tokens(*found)))
            try:
                self.decoder.read_prompt(batch.hs_pad, batch.hlens, pooling=pooling)
            finally:
                hook.remove()
            return seen[0]

        def see(stream: Stream) -> Stream:
            assert stream.speech is not None
            seen.append(speech_of(stream.hidden, stream.speech))
            return stream

        packed = self.decoder.read_prompt(batch.hs_pad, batch.hlens, pooling=pooling)
        backbone(
            packed.embeddings, positions_of(packed), packed.lens, packed.speech, backbone.new_cache(), {layer - 1: see}
        )
        return seen[0]

    @torch.no_grad()
    def decode(self, options: Mapping[str, Mapping[str, Any] | None] | None = None) -> Outcome:
        """Decode greedily.

        Args:
            options: The LM's pooling by site; None as in training.
        """
        searcher = self.recognizer.heads.llm
        plan = self.recognizer.plan(DecodeConfig(pooling=options)).llm
        assert searcher is not None and plan is not None
        layer = ((self.decoder.pooling.options if options is None else options).get(DEEP) or {}).get("layer", 0)
        texts: dict[str, str] = {}
        positions = flops = 0
        kept: dict[str, tuple[int, int]] = {}
        backbone = self.decoder.backbone
        for batch in self.batches:
            found = searcher.find(batch.hs_pad, batch.hlens, plan, batch.seconds)
            texts |= {name: best.text for name, (best, *_) in zip(batch.names, found.nbest, strict=True)}
            left = found.kept
            for site, each in left.items():
                before, after = kept.get(site, (0, 0))
                kept[site] = before + int(each.before.sum()), after + int(each.after.sum())
            at_input = left[INPUT].after.cpu() if INPUT in left else batch.speech_lens
            deep = left[DEEP].after.cpu() if DEEP in left else None
            speech = by_layer(len(backbone.layers), at_input, layer, deep)
            positions += int(batch.text_lens.sum() + speech[-1].sum())
            flops += prefill_flops(backbone, batch.text_lens, *speech).total
        return Outcome(texts, positions, flops, kept, sum(sum(batch.seconds) for batch in self.batches))


def waveforms_of(table: AudioTable, keys: Sequence[str], batch_seconds: float) -> Iterator[dict[str, Any]]:
    """Batches of samples (N,) by utterance, of similar length.

    Raises:
        ValueError: Audio cannot be read.
    """
    batches = batches_by_length([table.length(key) for key in keys], batch_seconds * table.sample_rate_hz)
    for loaded in table.load_ahead([[keys[index] for index in batch] for batch in batches], num_workers=1):
        if loaded.failed:
            key, reason = next(iter(loaded.failed.items()))
            raise ValueError(f"{key}: {reason}")
        yield loaded.waveforms


def speech_of(embeddings: torch.Tensor, speech: torch.Tensor) -> Tokens:
    """The run of speech in each row of (B, L, D), where the mask (B, L) is True."""
    lens = speech.sum(dim=1)
    first = speech.to(torch.uint8).argmax(dim=1, keepdim=True)
    columns = first + torch.arange(int(lens.max()), device=speech.device)
    return Tokens(take(embeddings, columns.clamp(max=embeddings.size(1) - 1)), lens)


def retention_at(tokens: Sequence[Tokens], pooling: Pooling) -> float:
    """The fraction of all batches' tokens that a pooling leaves."""
    left = sum(int(pooling(xs_pad, lens).lens.sum()) for xs_pad, lens in tokens)
    return left / max(1, sum(int(lens.sum()) for _, lens in tokens))


class UnreachableError(ValueError):
    """No tau leaves the wanted fraction.

    Attributes:
        is_below: Whether the wanted fraction is less than what tau -1 leaves.
    """

    def __init__(self, wanted: float, reach: tuple[float, float]) -> None:
        least, most = reach
        super().__init__(f"with these bounds tau from -1 to 1 leaves {least:.4f} to {most:.4f} of the speech")
        self.is_below = wanted < least


def find_tau(retention_of: Callable[[float], float], wanted: float, reach: tuple[float, float]) -> tuple[float, float]:
    """The tau whose retention is nearest to a wanted one, by bisection, and its retention.

    Args:
        retention_of: Gives the retention of a tau, which grows with tau.
        wanted: Retention above 0 and up to 1; 1 gives a tau that switches pooling off.
        reach: Retentions of tau -1 and tau 1.

    Raises:
        UnreachableError: With the range that tau reaches.
    """
    if wanted == 1:
        return OFF, 1.0
    least, most = reach
    if not least - NEAR <= wanted <= most + NEAR:
        raise UnreachableError(wanted, reach)
    low, high = -STEPS, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if retention_of(middle / STEPS) < wanted:
            low = middle
        else:
            high = middle
    found = [(step / STEPS, retention_of(step / STEPS)) for step in (low, high)]
    return min(found, key=lambda pair: abs(pair[1] - wanted))
