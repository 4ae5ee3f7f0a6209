"""A penalty that keeps an LM near the one that it was made of, on lines of text, while it learns speech.

A line is read as `<s> line </s>`, without speech, as `speech_llm/text_ability.py` reads it to measure; the penalty is
KL(base || model) in nats, the mean over the predicted tokens of the lines that were drawn. With added layers the base
is the LM with them dropped, with LoRA the LM without it, and of an LM that learns as a whole a copy.
Shapes: B lines of a batch, L positions, M predicted tokens, D model size, V tokens.
"""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from espnet_larm.adaptation.depth_upscaling import dropped
from espnet_larm.data.text import read_sentences
from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.chunks import by_chunks
from espnet_larm.llm.fingerprint import FINGERPRINT, difference
from espnet_larm.llm.packing import pack_sentences
from espnet_larm.speech_llm.losses.mwer import evaluating
from espnet_larm.speech_llm.text_ability import check_case, lora_off


@dataclasses.dataclass(frozen=True)
class TextKlOptions:
    """Options that `model_conf` names behind `text_kl_`; `SpeechLlmModel` says their meaning and checks their ranges.

    Raises:
        ValueError: There is a weight, but no text.
    """

    weight: float
    text: str | None
    lines: int
    max_lines: int

    def __post_init__(self) -> None:
        if self.weight > 0 and self.text is None:
            raise ValueError(
                f"model_conf: text_kl_weight is {self.weight}, but text_kl_text is not set; name a file of one "
                "sentence a line, or set the weight to 0."
            )


class TextKl(torch.nn.Module):
    """The penalty. A copy of the LM is moved with the model, but is none of its weights: no state dict has it.

    Args:
        decoder: A `speech_llm` as it was made, before a checkpoint is loaded.
        options: With a weight above 0.

    Raises:
        ValueError: Nothing of the LM learns, or all of it does and no name says what it was.
    """

    def __init__(self, decoder: Any, options: TextKlOptions) -> None:
        super().__init__()
        self.options = options
        self._tokens = torch.zeros(0, dtype=torch.int32)
        self._ends: list[int] = []
        # In a tuple: a module that is an attribute would be in the state dict.
        self._copy: tuple[Backbone, ...] = ()
        given = f"model_conf: text_kl_weight is {options.weight}, but decoder_conf: adaptation is {decoder.adaptation}"
        if decoder.adaptation == "frozen":
            raise ValueError(
                f"{given}, which leaves the LM as it is; allowed with it: 0, with full, lora and depth_upscaling more."
            )
        if decoder.adaptation == "full":
            fingerprint = getattr(decoder.backbone, FINGERPRINT, None)
            if fingerprint is None:
                raise ValueError(
                    f"{given} of an LM with random weights (llm_config), to which it must not stay near; name an LM "
                    "(llm), or set the weight to 0."
                )
            self._copy = (copy.deepcopy(decoder.backbone).requires_grad_(False).eval(),)
            decoder.backbone.register_load_state_dict_pre_hook(partial(_refuse_another, fingerprint.clone()))

    def read_text(self, tokenizer: Any) -> None:
        """Read and tokenise the text, once; training does it before its first step.

        Args:
            tokenizer: The LM's.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It has no words, is in the wrong case, or the tokenizer cannot spell it.
        """
        if self._ends:
            return
        path = Path(self.options.text or "")
        try:
            sentences = read_sentences([path], self.options.max_lines)
            check_case(tokenizer, sentences, str(path))
            text = pack_sentences(tokenizer, sentences)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"model_conf: text_kl_text: {error}") from error
        self._tokens, self._ends = text.tokens, torch.tensor(text.lens).cumsum(0).tolist()

    def forward(self, decoder: Any) -> torch.Tensor:
        """The penalty of lines that torch's generator draws, without its weight.

        Args:
            decoder: The decoder of the constructor, perhaps trained since.
        """
        self.read_text(decoder.tokenizer)
        backbone: Backbone = decoder.backbone
        rows = [row[: backbone.max_positions].long() for row in self._draw()]
        lens = torch.tensor([len(row) for row in rows])
        ids = pad_sequence(rows, batch_first=True)  # (B, L)
        predicted = torch.arange(1, ids.size(1)) < lens.unsqueeze(1)  # (B, L - 1)
        given = (each.to(backbone.model.device) for each in (ids, lens, predicted))
        ids, lens, predicted = given
        # Before the base: autocast of older torch keeps what it casts first, also without gradient (issue 105211).
        hidden = _read(backbone, ids, lens)[:, :-1][predicted]  # (M, D)
        with torch.no_grad(), self._base(backbone) as base:
            wanted = _read(base, ids, lens)[:, :-1][predicted]  # (M, D)

        def divergence(hidden: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor]:
            scores = backbone.logits(hidden).log_softmax(-1)  # (m, V)
            with torch.no_grad():
                target = _own_logits(base, wanted).log_softmax(-1)
            return (functional.kl_div(scores, target, reduction="none", log_target=True).sum(-1),)

        # Logits are not kept for the backward pass.
        (penalties,) = by_chunks(divergence, backbone.vocab_size, hidden, wanted, recomputes=True)
        return penalties.sum() / max(len(penalties), 1)

    def _draw(self) -> list[torch.Tensor]:
        """Lines in tokens; processes that have the same random numbers draw different ones."""
        rank, num_processes = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, num_processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
        drawn = torch.randint(len(self._ends), (num_processes, self.options.lines))[rank].tolist()
        return [self._tokens[self._ends[place - 1] if place else 0 : self._ends[place]] for place in drawn]

    @contextmanager
    def _base(self, backbone: Backbone) -> Iterator[Backbone]:
        """What the LM was made of, without dropout."""
        if self._copy:
            yield self._copy[0]
            return
        with evaluating(backbone), dropped(backbone), lora_off(backbone):
            yield backbone

    def _apply(self, fn: Any, recurse: bool = True) -> "TextKl":
        """Move the copy, too."""
        super()._apply(fn, recurse)
        for each in self._copy:
            each._apply(fn, recurse)
        return self


def _read(backbone: Backbone, ids: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """Hidden states (B, L, D) of texts by themselves."""
    positions = torch.arange(ids.size(1), device=ids.device).expand(ids.shape)
    return backbone(backbone.embed(ids), positions, lens).hidden


def _own_logits(base: Backbone, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of a base by its own head, which LoRA may adapt; outside `_base`, since chunks are computed again."""
    head = base.model.get_output_embeddings()
    return base.bounded(getattr(head, "base_layer", head)(hidden).float())


def _refuse_another(
    own: torch.Tensor,
    module: torch.nn.Module,  # noqa: ARG001
    state: dict[str, Any],
    prefix: str,
    metadata: Any,  # noqa: ARG001
    strict: bool,  # noqa: ARG001
    missing: list[str],  # noqa: ARG001
    unexpected: list[str],  # noqa: ARG001
    errors: list[str],
) -> None:
    """A load hook: weights that were made of another LM than the copy would be drawn to that one."""
    saved = state.get(prefix + FINGERPRINT)
    if saved is not None and (reason := difference(own, saved)) and reason not in errors:
        errors.append(reason)
