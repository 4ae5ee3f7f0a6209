"""Keys and values of a causal LM: prompts once an utterance, texts once a hypothesis, a length per layer and row.

Hugging Face's caches have one length for all rows and copy an utterance's prompt for each of its hypotheses. Here rows
accept different numbers of tokens, give some back, part and leave; layers may hold prompts of different lengths.
Lengths and owners stay on the CPU, whatever the device of keys and values, so that no step waits for a GPU.
Shapes: U utterances, B rows (hypotheses), H key-value heads, Q queries a key-value head, P prompt positions, N text
positions, L new positions, S head size.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from espnet_larm.llm.windows import Window

GROWTH = 2
LEAST_CAPACITY = 16


class Segment:
    """Keys and values of one layer: a buffer with more room than is in use, and a length per row.

    Attributes:
        keys: (rows, H, capacity, S); None before the first append.
        values: Values of the same shape.
        lens: Valid positions (rows,).
        positions: Positions of a prompt that a window is counted in (rows, P), on the CPU; None without a window.
    """

    def __init__(self) -> None:
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None
        self.lens: torch.Tensor = torch.zeros(0, dtype=torch.long)
        self.positions: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """Positions in use."""
        return int(self.lens.max()) if len(self.lens) else 0

    def append(self, keys: torch.Tensor, values: torch.Tensor, num_new: torch.Tensor) -> None:
        """Write behind each row's end.

        Args:
            keys: (rows, H, L, S).
            values: Values of the same shape.
            num_new: Number of valid ones among the L (rows,); what lies behind them is overwritten by the next append.
        """
        if self.keys is None or self.values is None:
            # A prompt is appended once: no more room than it takes. Laid out as it is read, or each step would copy it.
            self.keys, self.values = keys.contiguous(), values.contiguous()
            self.lens = num_new
            return
        self._make_room(self.longest + keys.size(2))
        start = self.longest
        if bool((self.lens == start).all()):
            self.keys[:, :, start : start + keys.size(2)] = keys
            self.values[:, :, start : start + keys.size(2)] = values
        else:
            positions = self.lens.unsqueeze(1) + torch.arange(keys.size(2))  # (rows, L)
            positions = positions.to(keys.device, non_blocking=True)
            rows = torch.arange(len(keys), device=keys.device).unsqueeze(1)
            self.keys[rows, :, positions] = keys.transpose(1, 2)
            self.values[rows, :, positions] = values.transpose(1, 2)
        self.lens = self.lens + num_new

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order, some perhaps several times."""
        if self.keys is not None and self.values is not None:
            there = rows.to(self.keys.device, non_blocking=True)
            self.keys, self.values = self.keys[there], self.values[there]
        if self.positions is not None:
            self.positions = self.positions[rows]
        self.lens = self.lens[rows]

    def _make_room(self, needed: int) -> None:
        assert self.keys is not None and self.values is not None
        capacity = self.keys.size(2)
        if needed > capacity:
            more = max(needed, GROWTH * capacity, LEAST_CAPACITY) - capacity
            self.keys = functional.pad(self.keys, (0, 0, 0, more))
            self.values = functional.pad(self.values, (0, 0, 0, more))


class KeyValueCache:
    """Keys and values of a causal LM for a batch, in two segments.

    Everything appended before `seal` is the prompt, stored once an utterance; everything after is text, stored once a
    row. Attention reads both where they are: no copy of a prompt is made for a hypothesis
    (test_prompts_are_stored_once_an_utterance).

    Args:
        num_layers: Number of the LM's layers.
    """

    def __init__(self, num_layers: int) -> None:
        self.prompt = [Segment() for _ in range(num_layers)]
        self.text = [Segment() for _ in range(num_layers)]
        self.is_sealed = False
        self.owners = torch.zeros(0, dtype=torch.long)
        # None while row b belongs to utterance b.
        self._places: _Places | None = None
        # By the size of the window.
        self._seen: dict[int | None, _Seen] = {}

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.owners)

    @property
    def prompt_lens(self) -> torch.Tensor:
        """Prompt positions by layer and utterance (layers, U)."""
        return torch.stack([segment.lens for segment in self.prompt])

    @property
    def text_lens(self) -> torch.Tensor:
        """Text positions by layer and row (layers, B)."""
        return torch.stack([segment.lens for segment in self.text])

    @property
    def num_bytes(self) -> int:
        """Size of all buffers."""
        buffers = [buffer for segment in (*self.prompt, *self.text) for buffer in (segment.keys, segment.values)]
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers if buffer is not None)

    def append(
        self,
        layer: int,
        keys: torch.Tensor,
        values: torch.Tensor,
        num_new: torch.Tensor,
        window: Window | None = None,
    ) -> None:
        """Write behind each row's end.

        Args:
            layer: From 0.
            keys: (B, H, L, S).
            values: Values of the same shape.
            num_new: How many of the L are valid (B,), on the CPU.
            window: The window of a prompt of which later positions do not see all in this layer.
        """
        segment = (self.text if self.is_sealed else self.prompt)[layer]
        assert self.is_sealed or segment.keys is None, "a prompt is given as a whole"
        if self.is_sealed and segment.keys is None:
            # Room for more steps, so that not every step copies.
            room = max(LEAST_CAPACITY - keys.size(2), 0)
            keys, values = (functional.pad(each, (0, 0, 0, room)) for each in (keys, values))
        elif window is not None and not self.is_sealed:
            segment.positions = window.positions
        segment.append(keys, values, num_new)

    def seal(self) -> None:
        """End the prompt: what follows is text, one row an utterance until `select` says otherwise."""
        lens = self.prompt[0].lens
        self.is_sealed = True
        self.owners = torch.arange(len(lens))
        for segment in self.text:
            segment.lens = torch.zeros_like(lens)

    def crop(self, lens: torch.Tensor) -> None:
        """Forget text behind these lengths (B,), on the CPU, in all layers; a row that is shorter stays."""
        for segment in self.text:
            segment.lens = torch.minimum(segment.lens, lens)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (B'), on the CPU, in this order, some perhaps several times; idle prompts are dropped."""
        for segment in self.text:
            segment.select(rows)
        owners = self.owners[rows]
        kept, self.owners = owners.unique(return_inverse=True)
        if len(kept) < len(self.prompt[0].lens):
            for segment in self.prompt:
                segment.select(kept)
        self._places = None
        if not torch.equal(self.owners, torch.arange(len(kept))):
            buffer = self.prompt[0].keys
            self._places = _Places.of(self.owners, "cpu" if buffer is None else buffer.device)

    def attend(
        self,
        layer: int,
        queries: torch.Tensor,
        num_new: torch.Tensor,
        scaling: float,
        window: Window | None = None,
    ) -> torch.Tensor:
        """Attention of text positions that were just appended.

        Args:
            layer: From 0.
            queries: (B, H x Q, L, S), of the last positions of each row.
            num_new: How many of the L are valid (B,); outputs behind them mean nothing.
            scaling: Factor of the scores.
            window: Window of the new positions, which go on from those before without a gap; None to see all.

        Returns:
            (B, H x Q, L, S).
        """
        prompt, text = self.prompt[layer], self.text[layer]
        assert prompt.keys is not None and prompt.values is not None
        assert text.keys is not None and text.values is not None
        num_rows, num_heads, num_queries, size = queries.shape
        # Heads that share keys become more queries of one head: keys are not repeated for them. Scaled before the
        # product, as in torch's own attention, or float16 would overflow.
        grouped = (queries * scaling).reshape(num_rows, prompt.keys.size(1), -1, size)  # (B, H, Q L, S)
        before = text.lens - num_new
        longest = int(before.max()) + num_queries
        scores = torch.cat(
            [
                self._per_utterance(grouped, prompt.keys.transpose(-1, -2)),
                grouped @ text.keys[:, :, :longest].transpose(-1, -2),
            ],
            dim=-1,
        )  # (B, H, Q L, P + N)
        hidden = self._hidden(prompt, before, longest, num_queries, window)
        by_query = scores.view(num_rows, scores.size(1), -1, num_queries, scores.size(-1))
        weights = by_query.float().masked_fill_(hidden, float("-inf")).softmax(-1).to(queries.dtype)
        prompt_weights, text_weights = weights.view_as(scores).split([prompt.keys.size(2), longest], dim=-1)
        mixed = self._per_utterance(prompt_weights, prompt.values) + text_weights @ text.values[:, :, :longest]
        return mixed.view(num_rows, num_heads, num_queries, size)

    def _hidden(
        self, prompt: Segment, before: torch.Tensor, longest: int, num_queries: int, window: Window | None
    ) -> torch.Tensor:
        """Mask of the keys that a query may not see (B, 1, 1, L, P + N); layers of equal lengths share it."""
        assert prompt.keys is not None
        lens, width = prompt.lens[self.owners], prompt.keys.size(2)
        made_for = [torch.tensor([width, num_queries]), lens, before]
        if window is not None:
            assert prompt.positions is not None
            prompt_positions = prompt.positions[self.owners]
            made_for += [window.positions, prompt_positions]
        size = None if window is None else window.size
        if size in self._seen and self._seen[size].holds_for(made_for):
            return self._seen[size].hidden
        own = (before.unsqueeze(1) + torch.arange(num_queries)).unsqueeze(2)  # (B, L, 1)
        in_prompt = (torch.arange(width) < lens.unsqueeze(1)).unsqueeze(1).expand(-1, num_queries, -1)  # (B, L, P)
        in_text = torch.arange(longest) <= own  # (B, L, N)
        if window is not None:
            in_prompt = in_prompt & (prompt_positions.unsqueeze(1) > window.positions.unsqueeze(2) - window.size)
            in_text &= torch.arange(longest) > own - window.size
        hidden = ~torch.cat([in_prompt, in_text], dim=2)[:, None, None]
        self._seen[size] = _Seen(made_for, hidden.to(prompt.keys.device, non_blocking=True))
        return self._seen[size].hidden

    def _per_utterance(self, rows: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        """Products of each row (B, H, any, i) with what is stored of its utterance (U, H, i, j)."""
        if self._places is None:
            return rows @ stored
        owners, ranks, slots = self._places
        num_utterances, most = slots.shape
        heads, queries = rows.shape[1:3]
        together = rows[slots].transpose(1, 2).reshape(num_utterances, heads, most * queries, -1)
        products = (together @ stored).view(num_utterances, heads, most, queries, -1).transpose(1, 2)
        return products[owners, ranks]


class _Places(NamedTuple):
    """The utterance of each row, on the device of keys and values.

    Attributes:
        owners: Utterance of each row (B,).
        ranks: Its place among the utterance's rows (B,).
        slots: The row at each place (U, most rows); any row where there are fewer.
    """

    owners: torch.Tensor
    ranks: torch.Tensor
    slots: torch.Tensor

    @classmethod
    def of(cls, owners: torch.Tensor, device: "torch.device | str") -> "_Places":
        counts = owners.bincount()
        order = owners.argsort(stable=True)
        ranks = torch.empty_like(owners)
        ranks[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[owners[order]]
        slots = torch.zeros((len(counts), int(counts.max())), dtype=torch.long)
        slots[owners, ranks] = torch.arange(len(owners))
        return cls(*(each.to(device, non_blocking=True) for each in (owners, ranks, slots)))


class _Seen(NamedTuple):
    """A mask, and what it was made for."""

    made_for: list[torch.Tensor]
    hidden: torch.Tensor

    def holds_for(self, made_for: list[torch.Tensor]) -> bool:
        return all(torch.equal(own, other) for own, other in zip(self.made_for, made_for, strict=True))
