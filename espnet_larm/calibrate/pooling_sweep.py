"""A data folder that is encoded once, and read by an LM with one pooling after another.

Shapes: B utterances, T frames, E encoder size, S speech tokens, D model size of the LM.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.calibrate.flops import by_layer, prefill_flops
from espnet_larm.calibrate.pooling_off import FRONTEND, OFF, pooled_places, unpooled, unpooled_frontend
from espnet_larm.llm.stream import Stream
from espnet_larm.pooling.affinity import take
from espnet_larm.pooling.deep import DEEP, INPUT
from espnet_larm.pooling.options import Pooling
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.batching import batches_by_length
from espnet_larm.recognize.encoding import encode
from espnet_larm.recognize.features import pad_features
from espnet_larm.recognize.recognizer import Recognizer
from espnet_larm.recognize.transcripts import GREEDY
from espnet_larm.speech_llm.prompt import ContextError

# tau is looked for among the multiples of 1 / STEPS.
STEPS = 1_000_000
# A retention this near to what tau can reach is reached.
NEAR = 0.005


class Batch(NamedTuple):
    """Utterances that the LM reads together.

    Attributes:
        names: Of them.
        hs_pad: Encoder output (B, T, E).
        hlens: Valid frames (B,).
        seconds: Of each.
        text_lens: Positions of a prompt that are no speech (B,).
        speech_lens: Those that are, of which none is merged (B,).
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
    """What the LM made of the folder with one pooling.

    Attributes:
        texts: By utterance.
        positions: Of all prompts, that the LM's last layer reads.
        flops: Of reading the prompts.
        kept: Speech tokens before and after each place that pools.
    """

    texts: dict[str, str]
    positions: int
    flops: int
    kept: dict[str, tuple[int, int]]


class Cost(NamedTuple):
    """Of reading all prompts: positions that the LM's last layer reads, and operations."""

    positions: int
    flops: int


class Spoken:
    """A data folder as the LM hears it.

    Args:
        recognizer: Of a model with an LM.
        table: Audio.
        keys: Utterances of it.
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
            hs_pad, hlens = pad_features([frames.to(device, self.recognizer.dtype) for frames in found.values()])
            seconds = [len(waveforms[name]) / rate for name in found]
            yield self._with_lens(list(found), hs_pad, hlens, seconds)

    def _with_lens(self, names: list[str], hs_pad: torch.Tensor, hlens: torch.Tensor, seconds: list[float]) -> Batch:
        with unpooled(self.decoder):
            try:
                packed = self.decoder.read_prompt(hs_pad, hlens)
            except ContextError as error:
                raise ValueError(f"{names[0]} or one of its length: {error.args[0]}") from error
        speech_lens = packed.speech.sum(dim=1)
        return Batch(names, hs_pad, hlens, seconds, (packed.lens - speech_lens).cpu(), speech_lens.cpu())

    def unpooled_cost(self) -> Cost:
        """With pooling switched off at all places; where the front end pools, it hears the folder once more."""
        if FRONTEND not in pooled_places(self.recognizer.model):
            flops, num_layers = 0, len(self.decoder.backbone.layers)
            for batch in self.batches:
                speech = by_layer(num_layers, batch.speech_lens)
                flops += prefill_flops(self.decoder.backbone, batch.text_lens, *speech).total
            return Cost(sum(int((each.text_lens + each.speech_lens).sum()) for each in self.batches), flops)
        keys = [name for batch in self.batches for name in batch.names]
        with unpooled_frontend(self.recognizer.model):
            return Spoken(self.recognizer, self.table, keys, self.batch_seconds).unpooled_cost()

    @torch.no_grad()
    def tokens_at(self, place: str, layer: int = 0) -> list[Tokens]:
        """What is pooled at a place, with what is set at the places before it.

        Args:
            place: INPUT or DEEP.
            layer: Of DEEP.
        """
        return [self._tokens_of(batch, place, layer) for batch in self.batches]

    def _tokens_of(self, batch: Batch, place: str, layer: int) -> Tokens:
        backbone = self.decoder.backbone
        seen: list[Tokens] = []
        if place == INPUT:
            # Prompts hold them in the LM's type; decoding pools them before that cast.
            hook = self.decoder.projector.register_forward_hook(lambda _, __, found: seen.append(Tokens(*found)))
            try:
                with unpooled(self.decoder):
                    self.decoder.read_prompt(batch.hs_pad, batch.hlens)
            finally:
                hook.remove()
            return seen[0]

        def see(stream: Stream) -> Stream:
            assert stream.speech is not None
            seen.append(speech_of(stream.hidden, stream.speech))
            return stream

        before = self.decoder.pooling.options
        self.decoder.set_pooling(input=before.get(INPUT))
        backbone.after_layer[layer - 1] = see
        try:
            self.decoder.start(batch.hs_pad, batch.hlens)
        finally:
            del backbone.after_layer[layer - 1]
            self.decoder.set_pooling(**before)
        return seen[0]

    @torch.no_grad()
    def decode(self) -> Outcome:
        """Greedily, with the pooling that is set."""
        searcher = self.recognizer.llm_searcher
        assert searcher is not None
        texts: dict[str, str] = {}
        positions = flops = 0
        kept: dict[str, tuple[int, int]] = {}
        backbone = self.decoder.backbone
        layer = self.decoder.pooling.options.get(DEEP, {}).get("layer", 0)
        for batch in self.batches:
            nbest = searcher.find(batch.hs_pad, batch.hlens, GREEDY, batch.seconds)
            texts |= {name: best.text for name, (best, *_) in zip(batch.names, nbest, strict=True)}
            found = self.decoder.pooling.kept
            for place, each in found.items():
                before, after = kept.get(place, (0, 0))
                kept[place] = before + int(each.before.sum()), after + int(each.after.sum())
            at_input = found[INPUT].after.cpu() if INPUT in found else batch.speech_lens
            deep = found[DEEP].after.cpu() if DEEP in found else None
            speech = by_layer(len(backbone.layers), at_input, layer, deep)
            positions += int(batch.text_lens.sum() + speech[-1].sum())
            flops += prefill_flops(backbone, batch.text_lens, *speech).total
        return Outcome(texts, positions, flops, kept)


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
    """The run of speech in each row of (B, L, D), of which the mask (B, L) is True."""
    lens = speech.sum(dim=1)
    first = speech.to(torch.uint8).argmax(dim=1, keepdim=True)
    columns = first + torch.arange(int(lens.max()), device=speech.device)
    return Tokens(take(embeddings, columns.clamp(max=embeddings.size(1) - 1)), lens)


def retention_at(tokens: Sequence[Tokens], pooling: Pooling) -> float:
    """Share of all batches' tokens that a pooling leaves."""
    left = sum(int(pooling(xs_pad, lens).lens.sum()) for xs_pad, lens in tokens)
    return left / max(1, sum(int(lens.sum()) for _, lens in tokens))


class UnreachableError(ValueError):
    """No tau leaves so much, or so little.

    Attributes:
        is_below: Whether the wanted share is less than what tau -1 leaves.
    """

    def __init__(self, wanted: float, reach: tuple[float, float]) -> None:
        least, most = reach
        super().__init__(f"with these bounds tau from -1 to 1 leaves {least:.4f} to {most:.4f} of the speech")
        self.is_below = wanted < least


def find_tau(retention_of: Callable[[float], float], wanted: float, reach: tuple[float, float]) -> tuple[float, float]:
    """The tau whose retention is nearest to a wanted one, by bisection, and its retention.

    Args:
        retention_of: Share that a tau leaves; it grows with tau.
        wanted: Share, over 0 to 1; of 1, a tau that switches pooling off.
        reach: What tau -1 and tau 1 leave.

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
