"""From encoder frames to embeddings of a causal LM: which frames an embedding covers, and how.

Shapes: B utterances, T frames, E encoder size, D model size of the LM, k frames an embedding.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

KINDS = ("linear", "stack", "conv", "posterior", "qformer")
HIDDEN_FACTOR = 2
# Of qformer: three queries read a window of three times k frames, in two layers.
QUERIES, QFORMER_LAYERS, MOST_HEADS = 3, 2, 8


class Projected(NamedTuple):
    """Embeddings of speech.

    Attributes:
        embeddings: (B, T', D).
        lens: Valid embeddings (B,).
    """

    embeddings: torch.Tensor
    lens: torch.Tensor


class CtcEmbeddings(NamedTuple):
    """What a CTC head recognises in frames, in the LM's embeddings.

    Attributes:
        embeddings: Embeddings of all tokens but the blank, weighted by their posteriors (B, T, D).
        shares: The posteriors' sum (B, T).
        none: What stands where they say blank (D,); None leaves that at zero.
    """

    embeddings: torch.Tensor
    shares: torch.Tensor
    none: torch.Tensor | None = None


class Projector(torch.nn.Module):
    """Frames to embeddings. A batch gives what each utterance gives alone, and padding comes out as zeros.

    `linear` is one layer a frame. `stack` puts k frames side by side and has a hidden layer; the frames that are
    missing at an utterance's end are zeros, so that no speech is dropped. `conv` is a convolution of width 2 k - 1 and
    stride k with a hidden layer behind it: neighbouring embeddings share frames.

    `posterior` is what a CTC head recognises in k frames, as the LM's own embeddings weighted by its posteriors, and a
    correction like `stack` that is zero at the start: the LM reads words from the first step on. Source: Ma et al.,
    "LegoSLM", arXiv:2505.11352. Departures: blanks are left out (of a CTC head with tokens of its own, a space stands
    for them), k frames have the weight of one token at most, and the correction.

    `qformer` cuts the frames into windows of 3 k, which three learned queries read by attention. Source: the windowed
    Q-former of Granite Speech (Saon et al., arXiv:2505.08699, 15 frames to 3 queries there). Departures: the last
    window's missing frames are masked, and its queries that would stand for none of its frames are left out.

    Args:
        kind: One of KINDS.
        input_size: E.
        output_size: D.
        frames: k, 1 or more; 1 for `linear`.

    Raises:
        ValueError: `linear` is given several frames.
    """

    def __init__(self, kind: str, input_size: int, output_size: int, frames: int = 1) -> None:
        super().__init__()
        if kind == "linear" and frames != 1:
            raise ValueError(
                f"decoder_conf: projector_frames is {frames}, but projector is linear, which takes a frame each; "
                "set it to 1, or take stack."
            )
        self.kind = kind
        self.frames = frames
        hidden_size = HIDDEN_FACTOR * output_size
        self.hidden: torch.nn.Module
        if kind == "linear":
            self.out = torch.nn.Linear(input_size, output_size)
        elif kind == "qformer":
            self.hidden = QFormer(input_size, output_size, frames)
            self.out = torch.nn.Linear(output_size, output_size)
        elif kind == "conv":
            self.hidden = torch.nn.Conv1d(input_size, hidden_size, 2 * frames - 1, stride=frames, padding=frames - 1)
            self.out = torch.nn.Linear(hidden_size, output_size)
        else:
            self.hidden = torch.nn.Linear(frames * input_size, hidden_size)
            self.out = torch.nn.Linear(hidden_size, output_size)
        if kind == "posterior":
            torch.nn.init.zeros_(self.out.weight)
            torch.nn.init.zeros_(self.out.bias)

    def output_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """Embeddings (B,) of so many frames (B,): every frame is covered."""
        return torch.div(lens + self.frames - 1, self.frames, rounding_mode="floor")

    def forward(self, hs_pad: torch.Tensor, hlens: torch.Tensor, from_ctc: CtcEmbeddings | None = None) -> Projected:
        """Project a padded batch.

        Args:
            hs_pad: (B, T, E); what is behind hlens has no effect.
            hlens: Valid frames (B,).
            from_ctc: The CTC head's posteriors of the same frames, for `posterior`.
        """
        mask = torch.arange(hs_pad.size(1), device=hs_pad.device) < hlens.unsqueeze(1)
        frames = hs_pad.masked_fill(~mask.unsqueeze(-1), 0.0)
        lens = self.output_lens(hlens)
        if self.kind == "qformer":
            hidden = self.hidden(frames, hlens)[:, : int(lens.max())]
        else:
            hidden = frames if self.kind == "linear" else functional.gelu(self._gather(frames))
        embeddings = self.out(hidden)  # (B, T', D)
        if self.kind == "posterior":
            assert from_ctc is not None
            embeddings = embeddings + self._words(from_ctc, mask).to(embeddings.dtype)
        valid = torch.arange(embeddings.size(1), device=hs_pad.device) < lens.unsqueeze(1)
        return Projected(embeddings.masked_fill(~valid.unsqueeze(-1), 0.0), lens)

    def _gather(self, frames: torch.Tensor) -> torch.Tensor:
        """The hidden layer (B, T', 2 D) before its activation."""
        if self.kind == "conv":
            # The last window begins at or before the last frame, so that ceil(T / k) come out, as output_lens says.
            hidden: torch.Tensor = self.hidden(frames.transpose(1, 2)).transpose(1, 2)
            return hidden
        stacked: torch.Tensor = self.hidden(self._windows(frames).flatten(2))
        return stacked

    def _windows(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, any) to (B, T', k, any), zeros behind the last frame."""
        padded = functional.pad(frames, (0, 0, 0, -frames.size(1) % self.frames))
        return padded.view(len(frames), -1, self.frames, frames.size(2))

    def _words(self, from_ctc: CtcEmbeddings, mask: torch.Tensor) -> torch.Tensor:
        """What was from_ctc in each window (B, T', D); one that holds more than a token is weighted down to one."""
        embeddings = self._windows(from_ctc.embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)).sum(2)
        shares = self._windows(from_ctc.shares.masked_fill(~mask, 0.0).unsqueeze(-1)).sum(2)
        words = embeddings / shares.clamp(min=1.0).to(embeddings.dtype)
        if from_ctc.none is None:
            return words
        return words + (1 - shares).clamp(min=0.0).to(words.dtype) * from_ctc.none.to(words.dtype)


class QFormer(torch.nn.Module):
    """Learned queries that read windows of frames, and each other.

    Args:
        input_size: E.
        size: D, of queries and result.
        frames: k; a window has 3 k frames and 3 queries.
    """

    def __init__(self, input_size: int, size: int, frames: int) -> None:
        super().__init__()
        self.window = QUERIES * frames
        self.queries = torch.nn.Parameter(torch.randn(QUERIES, size))
        self.norm = torch.nn.LayerNorm(input_size)
        self.inputs = torch.nn.Linear(input_size, size)
        heads = max(number for number in range(1, MOST_HEADS + 1) if size % number == 0)
        layer = torch.nn.TransformerDecoderLayer(
            size, heads, HIDDEN_FACTOR * size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = torch.nn.TransformerDecoder(layer, QFORMER_LAYERS, torch.nn.LayerNorm(size))

    def forward(self, frames: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """Frames (B, T, E), of which `lens` (B,) are valid, to (B, 3 * windows, D)."""
        missing = -frames.size(1) % self.window
        windows = functional.pad(self.inputs(self.norm(frames)), (0, 0, 0, missing))
        places = torch.arange(windows.size(1), device=lens.device)
        behind = (places >= lens.unsqueeze(1)).view(-1, self.window)
        # A window behind the end has no frame to attend to, and is left out by the caller.
        behind = behind & ~behind.all(1, keepdim=True)
        windows = windows.reshape(len(behind), self.window, -1)
        found = self.layers(self.queries.expand(len(windows), -1, -1), windows, memory_key_padding_mask=behind)
        return found.reshape(len(frames), -1, found.size(2))
