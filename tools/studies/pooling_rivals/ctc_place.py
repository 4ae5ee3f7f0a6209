"""Sites of a model that CTC alone decodes: what its CTC head still recognises of speech that is pooled.

At `encoder` the encoder's output is pooled and the CTC head reads the means. No model decodes so; it shows how much of
what is recognised a group's mean keeps, before an LM that learns from it is there. At `frontend` the front end's frames
are pooled, and the encoder, which was not trained so, reads the means.
Shapes: T frames of an utterance, F features, E encoder size.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.calibrate.pooling_places import Bounds
from espnet_larm.calibrate.pooling_sweep import OFF, Cost, Outcome, Tokens, retention_at, waveforms_of
from espnet_larm.pooling.baselines import kept_lens
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import CtcPath, path_of
from espnet_larm.recognize.audio import AudioTable
from espnet_larm.recognize.model.encoding import encode
from espnet_larm.recognize.model.features import batches_by_length, extract_features, pad_features
from espnet_larm.recognize.model.read_outs import read_outs
from espnet_larm.recognize.recognizer import Recognizer

ENCODER, FRONTEND = "encoder", "frontend"


class _Batch(NamedTuple):
    names: list[str]
    tokens: Tokens
    path: CtcPath | None


class CtcPlace:
    """A data folder whose frames are computed once, and decoded by CTC with one pooling after another.

    Args:
        recognizer: The model.
        table: The folder's audio.
        keys: The utterances to take.
        batch_seconds: Padded audio in a batch.
        bounds: Bounds of the group size.
        place: ENCODER or FRONTEND.

    Attributes:
        left_out: Utterances that are too short for the encoder.

    Raises:
        ValueError: Audio cannot be read, or at FRONTEND the model normalises features, which pooling comes before.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        table: AudioTable,
        keys: Sequence[str],
        batch_seconds: float,
        bounds: Bounds,
        place: str,
    ) -> None:
        if place == FRONTEND and recognizer.model.normalize is not None:
            raise ValueError("--place frontend: the model normalises features (normalize); allowed: a model without.")
        self.recognizer, self.bounds, self.place = recognizer, bounds, place
        self.seconds = 0.0
        found = {}
        for waveforms in waveforms_of(table, keys, batch_seconds):
            found.update(self._frames_of(waveforms))
            self.seconds += sum(len(each) for name, each in waveforms.items() if name in found) / table.sample_rate_hz
        self.left_out = [key for key in keys if key not in found]
        names = list(found)
        groups = batches_by_length([len(found[name]) for name in names], max(map(len, found.values())) * 8)
        self.batches = [self._batch({names[index]: found[names[index]] for index in group}) for group in groups]

    def _frames_of(self, waveforms: dict[str, Any]) -> dict[str, torch.Tensor]:
        model = self.recognizer.model
        if self.place == ENCODER:
            return encode(model, waveforms)
        with torch.no_grad():
            return {name: extract_features(model, torch.as_tensor(each)) for name, each in waveforms.items()}

    @torch.no_grad()
    def _batch(self, frames: dict[str, torch.Tensor]) -> _Batch:
        tokens = Tokens(*pad_features(list(frames.values())))
        if self.place == FRONTEND:
            return _Batch(list(frames), tokens, None)
        assert self.recognizer.heads.ctc is not None
        return _Batch(
            list(frames), tokens, path_of(self.recognizer.heads.ctc.log_probs(tokens.xs_pad).exp(), tokens.lens)
        )

    def retention(self, tau: float) -> float:
        """The fraction of the frames that a tau leaves."""
        return retention_at([batch.tokens for batch in self.batches], Pooling(tau=tau, **self.bounds._asdict()))

    def rounded_up(self, retention: float) -> float:
        """The fraction that ways with a retention leave, which round up in each utterance."""
        lens = torch.cat([batch.tokens.lens for batch in self.batches])
        return int(kept_lens(lens, retention).sum()) / max(1, int(lens.sum()))

    def unpooled_cost(self) -> Cost:
        """No LM reads a prompt: shares of its cost mean nothing here."""
        return Cost(1, 1)

    def decode(self, tau: float) -> Outcome:
        """Decode with a tau."""
        return self.decode_with(tau=tau, **(self.bounds.options if tau != OFF else {}))

    @torch.no_grad()
    def decode_with(self, **options: Any) -> Outcome:
        """Decode greedily with options of any way."""
        pooling, ctc = Pooling(**options), self.recognizer.heads.ctc
        assert ctc is not None
        texts: dict[str, str] = {}
        before = after = 0
        for batch in self.batches:
            pooled = pooling(*batch.tokens, path=batch.path)
            hs_pad, lens = pooled.tokens, pooled.lens
            before, after = before + int(batch.tokens.lens.sum()), after + int(lens.sum())
            if self.place == FRONTEND:
                *_, (_, hs_pad, lens, _) = read_outs(self.recognizer.model, hs_pad, lens)
            found = ctc.find(hs_pad, lens)
            texts |= {name: best.text for name, (best, *_) in zip(batch.names, found, strict=True)}
        return Outcome(texts, 0, 0, {self.place: (before, after)}, self.seconds)
