"""Ways of decoding.py that yield several tokens a call: ours with each source of drafts, and two of Hugging Face.

K is the most tokens that a call can yield: K - 1 drafts and the token behind them.
Shapes: N prompt positions, D model size, V tokens.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from decoding_inputs import Inputs
from llm_ways import Frames, HuggingFace, Ours, Way

from espnet_larm.recognize.config import CTC, HEADS, LONGER, DecodeConfig
from espnet_larm.recognize.drafting import Drafting, make_drafts, resolve
from espnet_larm.search.drafts import Drafts
from espnet_larm.search.multi_token import Found

LOOKUP, EARLY_EXIT = "HF prompt lookup", "HF early exit"


class Drafted(NamedTuple):
    """A way with drafts.

    Attributes:
        way: The way.
        is_batched: Whether it takes batches.
        num_tokens: Most tokens that a call yields (K).
    """

    way: Way
    is_batched: bool
    num_tokens: int


def draftings(inputs: Inputs, numbers: Sequence[int], taus: Sequence[float] = ()) -> list[Drafting]:
    """Each source of drafts that the model has, with each K of `numbers` that it serves; heads with each tau, too."""
    found = []
    for source in (HEADS, CTC, LONGER):
        for number in numbers:
            # The model lacks draft heads, or so many, or a CTC head.
            with suppress(ValueError):
                config = DecodeConfig(drafts=source, tokens_per_call=number)
                found.append(resolve(config, inputs.decoder, inputs.ctc_tokens is not None))
    return found + [one._replace(tau=tau) for tau in taus for one in found if one.drafts == HEADS]


def name_of(drafting: Drafting) -> str:
    """Name of a drafting in tables."""
    tau = f" sure of {drafting.tau}" if drafting.drafts == HEADS and drafting.tau else ""
    return f"{drafting.drafts}{tau}, {drafting.tokens_per_call} a call"


def drafts_maker(inputs: Inputs, drafting: Drafting) -> Callable[[Frames], Drafts]:
    """A function that makes the drafts of a batch."""
    ctc_tokens = inputs.ctc_tokens or []
    return lambda frames: make_drafts(
        drafting, inputs.decoder, lambda: [ctc_tokens[index] for index in frames.indices], inputs.eos
    )


def our_ways(inputs: Inputs, numbers: Sequence[int], taus: Sequence[float]) -> dict[str, Drafted]:
    """Ours with drafts, verified, by name."""
    ways = {}
    for drafting in draftings(inputs, numbers, taus):
        ours = Ours(inputs.decoder, inputs.eos, drafts_maker(inputs, drafting))
        for is_batched, how in ((False, "one by one"), (True, "batched")):
            ways[f"{name_of(drafting)}, {how}"] = Drafted(ours, is_batched, drafting.tokens_per_call)
    return ways


def hugging_face_ways(inputs: Inputs, hugging_face: HuggingFace, number: int) -> tuple[dict[str, Drafted], list[str]]:
    """HF's ways with K = `number` that work with the first utterance, and HF's errors for the others."""
    layers = max(1, hugging_face.model.config.num_hidden_layers // 3)
    first, ways, refusals = inputs.batches[0].singly()[0], {}, []
    for name, options in (
        (LOOKUP, {"prompt_lookup_num_tokens": number - 1}),
        (f"{EARLY_EXIT} after {layers}", {"assistant_early_exit": layers}),
    ):
        way = HuggingFaceDrafted(hugging_face, options, number - 1)
        refusals += [f"{name}: {refusal}" for refusal in way.try_out(first)]
        if way.is_usable:
            ways[f"{name}, {number} a call, one by one"] = Drafted(way, False, number)
    return ways, refusals


class HuggingFaceDrafted:
    """`generate` with drafts of its own, an utterance at a time: it takes no batches.

    The prompt is given as embeddings, where transformers can do with that. Otherwise it is given as token ids beyond
    the vocabulary, one a position, which the LM's embedding turns into the prompt's embeddings.

    Args:
        hugging_face: Way whose model and prompt are used.
        options: Options of `generate` that choose the drafts.
        num_drafts: Tokens of an assistant's draft.

    Attributes:
        searches: Utterances and cost of each call, without the assistant's own calls.
        takes_embeddings: Whether the prompt is given as embeddings.
        is_usable: Whether it works; `try_out` finds it out.
    """

    def __init__(self, hugging_face: HuggingFace, options: dict[str, Any], num_drafts: int) -> None:
        self.decoder, self.eos, self.model = hugging_face.decoder, hugging_face.eos, hugging_face.model
        self.options = options
        self.searches: list[tuple[list[int], Found]] = []
        self.takes_embeddings = self.is_usable = True
        self.num_layers, self._num_calls = self.model.config.num_hidden_layers, 0
        # The assistant's options are read from its model: drafts of always the same length, as ours.
        self.model.generation_config.num_assistant_tokens = num_drafts
        self.model.generation_config.num_assistant_tokens_schedule = "constant"
        self.model.generation_config.assistant_confidence_threshold = 0.0
        self.model.register_forward_hook(self._count)

    def try_out(self, frames: Frames) -> list[str]:
        """Choose how the prompt is given; errors of the ways that transformers does not take."""
        refusals = []
        for how in ("embeddings", "token ids"):
            self.takes_embeddings = how == "embeddings"
            try:
                self(frames)
            except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                refusals.append(f"no prompt as {how}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            else:
                return refusals
        self.is_usable = False
        return refusals

    def __call__(self, frames: Frames, most: int | None = None) -> list[list[int]]:
        """Decode one utterance; see `Way`."""
        embeddings, limit = self.decoder.read_prompt(frames.hs_pad, frames.hlens).embeddings, frames.most[0]
        table, self._num_calls = self.model.get_input_embeddings(), 0
        try:
            row = self._generate(embeddings, limit + 1 if most is None else most)
        finally:
            self.model.set_input_embeddings(table)
            # An early exit that raises leaves the model shortened.
            self.model.config.num_hidden_layers = self.num_layers
        self.searches.append((frames.indices, Found([], self._num_calls, self._num_calls, 0, Counter(), Counter())))
        return [(row[: row.index(self.eos)] if self.eos in row else row)[:limit]]

    def _generate(self, embeddings: torch.Tensor, num_new: int) -> list[int]:
        """New tokens behind a prompt (1, N, D)."""
        num_positions, prompt = embeddings.size(1), {"inputs_embeds": embeddings}
        if not self.takes_embeddings:
            beyond = BeyondVocabulary(self.model.get_input_embeddings(), embeddings[0])
            self.model.set_input_embeddings(beyond)
            prompt = {"input_ids": beyond.prompt_ids().unsqueeze(0)}
        output = self.model.generate(
            **prompt,
            attention_mask=torch.ones(1, num_positions, dtype=torch.long, device=embeddings.device),
            max_new_tokens=num_new,
            do_sample=False,
            eos_token_id=self.eos,
            pad_token_id=self.eos,
            **self.options,
        )
        row: list[int] = output[0].tolist()
        return row if self.takes_embeddings else row[num_positions:]

    def _count(self, module: torch.nn.Module, *_: Any) -> None:
        # The assistant is the same module with fewer layers.
        self._num_calls += module.config.num_hidden_layers == self.num_layers


class BeyondVocabulary(torch.nn.Module):
    """An embedding whose rows beyond the vocabulary are a prompt.

    Args:
        table: Embedding of V tokens.
        prompt: Embeddings of the prompt (N, D).
    """

    def __init__(self, table: torch.nn.Embedding, prompt: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.prompt = prompt

    def prompt_ids(self) -> torch.Tensor:
        """Token ids of the prompt's positions (N,)."""
        return self.table.num_embeddings + torch.arange(len(self.prompt), device=self.prompt.device)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(..., L) to (..., L, D)."""
        beyond = token_ids - self.table.num_embeddings
        own = self.table(token_ids.clamp(max=self.table.num_embeddings - 1))
        return torch.where((beyond >= 0).unsqueeze(-1), self.prompt[beyond.clamp(min=0)], own)
