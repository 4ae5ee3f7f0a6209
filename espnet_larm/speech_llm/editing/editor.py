"""One pass of an LM over a draft, which it reads both ways, and what CTC makes of each position: the edited text.

Source: "Non-autoregressive LLM editing", arXiv:2603.08397. All but the mask of this pass and what was added to the LM
is the LM's own: without, it is what it was, bit for bit (test_editing_leaves_the_ability_to_write_as_it_was).
Shapes: B utterances, N positions, M of them all, T frames, E encoder size, D model size, C tokens of an edit.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.backbone import Backbone
from espnet_larm.llm.chunks import by_chunks
from espnet_larm.options import check_conf
from espnet_larm.pooling.affinity import Kept
from espnet_larm.search.ctc.posteriors import collapse
from espnet_larm.speech_llm.editing.layout import Layout, lay_out
from espnet_larm.speech_llm.editing.options import WHERE, EditingOptions
from espnet_larm.speech_llm.editing.tokens import read_token_ids


class Editor(torch.nn.Module):
    """How an LM edits. It has no weight.

    Args:
        backbone: The LM.
        conf: Arguments of EditingOptions.
        blank: The token that stands for nothing, the LM's end.

    Attributes:
        token_ids: Tokens that an edit may hold (C,), the blank the first; None for all of the LM's.

    Raises:
        ValueError: An option is out of its range, or the LM's head is not its embeddings.
        FileNotFoundError: The file of tokens is not there.
    """

    token_ids: torch.Tensor | None

    def __init__(self, backbone: Backbone, conf: Mapping[str, Any], blank: int) -> None:
        super().__init__()
        check_conf(EditingOptions.__init__, conf, f"{WHERE}: ")
        self.options = EditingOptions(**conf)
        if not backbone.is_tied:
            raise ValueError(
                f"{WHERE} is given, but the LM has a head of its own (tie_word_embeddings false), which does not learn "
                "to copy a draft; take an LM whose head is its embeddings, or leave editing out."
            )
        self.blank, self.vocab_size = blank, backbone.vocab_size
        self.register_buffer("token_ids", None, persistent=False)
        if self.options.tokens is not None:
            self.restrict(read_token_ids(Path(self.options.tokens), backbone.vocab_size))

    def restrict(self, ids: torch.Tensor) -> None:
        """Let edits hold these tokens (C,) alone, and the blank."""
        blank = ids.new_tensor([self.blank])
        self.token_ids = torch.cat([blank, ids[ids != self.blank]])

    @property
    def num_tokens(self) -> int:
        """C."""
        return self.vocab_size if self.token_ids is None else len(self.token_ids)

    def places_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Columns of tokens, of any shape, among the logits of an edit; -1 for those that no edit holds."""
        if self.token_ids is None:
            return tokens
        places = tokens.new_full((self.vocab_size,), -1)
        places[self.token_ids] = torch.arange(len(self.token_ids), device=tokens.device)
        return places[tokens]

    def lay_out(self, drafts: Sequence[Sequence[int]], references: Sequence[Sequence[int]] = ()) -> Layout:
        """Drafts with blanks, and with more of them where references need that."""
        return lay_out(drafts, self.blank, self.options.blanks_every, references)


class Edited(NamedTuple):
    """What the passes over drafts gave.

    Attributes:
        token_ids: Tokens of each utterance.
        scores: Log-probabilities of the last pass's best paths.
        num_positions: Positions of drafts and blanks in all passes together.
        prompt_lens: Positions of prompt and speech that the LM's first layer reads (B,).
        kept: What pooling left of the speech, by site.
        hidden: States of the last pass (B, N, D).
        layout: Its drafts with their blanks.
    """

    token_ids: list[list[int]]
    scores: list[float]
    num_positions: int
    prompt_lens: torch.Tensor
    kept: Mapping[str, Kept]
    hidden: torch.Tensor
    layout: Layout


@torch.no_grad()
def edit(
    decoder: Any,
    speech: tuple[torch.Tensor, torch.Tensor] | None,
    drafts: Sequence[Sequence[int]],
    passes: int = 1,
    prompt: Any = None,
    pooling: Any = None,
) -> Edited:
    """Edit drafts in one call of the LM, or again what the call before gave.

    Args:
        decoder: A `speech_llm` with `editing`.
        speech: Encoder frames (B, T, E) and their lengths (B,), which `text_only` leaves aside; None for none.
        drafts: Tokens of each draft.
        passes: Calls, 1 or more.
        prompt: What stands around the speech; None as in training.
        pooling: How speech is pooled; None as in training.

    Raises:
        ContextError: Prompt, speech and draft are longer than the LM's context.
    """
    editor: Editor = decoder.editor
    special = decoder.tokenizer.all_special_ids
    token_ids, num_positions = [list(draft) for draft in drafts], 0
    for _ in range(passes):
        layout = editor.lay_out(token_ids)
        read = decoder.read_draft(speech, layout, prompt, pooling)
        best, ids = (each.cpu() for each in _best_tokens(decoder.backbone, editor, read.hidden, layout))
        found = collapse(best, ids, layout.lens, editor.blank, special)
        token_ids, num_positions = found.to_lists(), num_positions + int(layout.lens.sum())
    last = read.hidden, layout
    return Edited(token_ids, found.scores.tolist(), num_positions, read.prompt_lens, read.kept, *last)


def _best_tokens(
    backbone: Backbone, editor: Editor, hidden: torch.Tensor, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and ids of the best token at each position (B, N), from states (B, N, D)."""
    mask = layout.mask.to(hidden.device)

    def choose(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = backbone.logits(states, editor.token_ids)  # (m, C)
        best, places = logits.max(-1)
        return best - logits.logsumexp(-1), places

    best, places = by_chunks(choose, editor.num_tokens, hidden[mask])
    ids = places if editor.token_ids is None else editor.token_ids[places]
    together = best.new_zeros(mask.shape), ids.new_full(mask.shape, editor.blank)
    return together[0].masked_scatter(mask, best), together[1].masked_scatter(mask, ids)
