"""The loss of an LM that edits drafts: CTC over the positions of draft and blanks, and a little copying.

Each position shall also give the token that stands there, with a small weight: at the start this keeps what is right.
Source: "Non-autoregressive LLM editing", arXiv:2603.08397 (weight 0.02).
Logits of a few positions exist at a time, whatever the vocabulary: CTC is given the tokens of the batch alone.
With MWER (mwer.py) the best edits are searched in what the same pass says of the positions, so that the search costs no
further call of the LM; in training they are those under its dropout.
Shapes: B utterances, N positions, M of them all, L tokens, D model size, C tokens of an edit, K tokens of the batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from espnet_larm.llm.chunks import by_chunks
from espnet_larm.search.ctc.posteriors import collapse
from espnet_larm.speech_llm.editing.editor import Editor
from espnet_larm.speech_llm.editing.layout import Layout
from espnet_larm.speech_llm.editing.nbest import EditPosteriors
from espnet_larm.speech_llm.losses.ctc import ctc_losses_of_some
from espnet_larm.speech_llm.losses.mwer import Mwer, Nbest, count_errors, figures, mwer_loss, words_of


@dataclasses.dataclass(frozen=True)
class Editing:
    """Options that `model_conf` names behind `edit_`; `SpeechLlmModel` says their meaning and checks their ranges."""

    weight: float
    copy_weight: float
    only: bool

    def check(self, decoder: Any, others: Mapping[str, Any]) -> None:
        """Refuse options under which nothing could learn to edit, or something would learn nothing.

        Args:
            decoder: A `speech_llm`.
            others: Values of further options that do not go with `only`, by name.

        Raises:
            ValueError: With the options and what to do.
        """
        if self.weight == 0:
            if self.only:
                raise ValueError("model_conf: edit_only is true, and edit_weight 0; set it above 0, 1.0 say.")
            return
        given = f"model_conf: edit_weight is {self.weight}"
        if decoder.editor is None:
            raise ValueError(f"{given}, but decoder_conf: editing is not given; set it, {{}} for its defaults.")
        if decoder.adaptation == "frozen":
            raise ValueError(
                f"{given}, but decoder_conf: adaptation is frozen, under which no LM learns to edit; allowed: lora, "
                "depth_upscaling, full."
            )
        if self.only and (wrong := [f"{name} is {value}" for name, value in others.items() if value]):
            raise ValueError(
                f"model_conf: edit_only leaves the LM's own loss out, but {wrong[0]}, which needs it; leave one out."
            )


class EditLoss(NamedTuple):
    """Loss and figures of a batch.

    Attributes:
        loss: Mean over utterances, with gradient.
        mwer: The MWER loss, likewise; None where no edits were searched.
        stats: For train.log: both parts of the loss; word errors a word of the drafts and of what the LM makes of
            them; the share of drafts with more blanks for their reference, and of tokens that no edit holds.
    """

    loss: torch.Tensor
    mwer: torch.Tensor | None
    stats: dict[str, torch.Tensor]


def edit_loss(
    decoder: Any,
    speech: tuple[torch.Tensor, torch.Tensor] | None,
    drafts: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    copy_weight: float,
    mwer: Mwer | None = None,
) -> EditLoss:
    """Read drafts and compare with what was said.

    Args:
        decoder: A `speech_llm` with `editing`.
        speech: Encoder frames (B, T, E) and their lengths (B,); None without speech.
        drafts: Tokens of each draft.
        references: Tokens of each transcript.
        copy_weight: Weight of copying.
        mwer: How the best edits are searched whose word errors are counted; None leaves that out.

    Raises:
        ContextError: Prompt, speech and draft are longer than the LM's context.
    """
    editor: Editor = decoder.editor
    layout = editor.lay_out(drafts, references)
    hidden = decoder.read_draft(speech, layout).hidden  # (B, N, D)
    device, mask = hidden.device, layout.mask.to(hidden.device)
    found = None if mwer is None else _nbest(decoder, hidden, layout, references, mwer)
    texts = [] if found is None else [text for row in found.texts for text in row]
    (classes, columns, lens), known = _targets(editor, [*references, *texts], device, len(references))
    inputs = editor.places_of(layout.tokens.to(device))  # (B, N)

    def predict(states: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = decoder.backbone.logits(states, editor.token_ids)  # (m, C)
        log_probs = logits - logits.logsumexp(-1, keepdim=True)
        copied = log_probs.gather(-1, places.clamp(min=0).unsqueeze(-1))[:, 0]
        return log_probs[:, columns], copied.masked_fill(places < 0, 0.0), log_probs.detach().argmax(-1)

    wanted, copied, best = by_chunks(predict, editor.num_tokens, hidden[mask], inputs[mask])
    log_probs = wanted.new_zeros(*mask.shape, len(columns)).masked_scatter(mask.unsqueeze(-1), wanted)
    rows = [*range(len(mask)), *(row for row, each in enumerate(found.texts if found else []) for _ in each)]
    losses = ctc_losses_of_some(log_probs[rows], classes, layout.lens.to(device)[rows], lens)
    ctc = losses[: len(mask)].mean()
    copies = -copied.sum() / len(mask)

    ids = best if editor.token_ids is None else editor.token_ids[best]
    path = torch.full_like(inputs, editor.blank).masked_scatter(mask, ids).cpu()
    special = decoder.tokenizer.all_special_ids
    edited = collapse(torch.zeros(path.shape), path, layout.lens, editor.blank, special).to_lists()
    stats = {
        "loss_edit": ctc,
        "loss_copy": copies,
        **_word_errors(decoder.tokenizer, drafts, edited, references),
        "edit_widened": layout.is_widened.float().mean(),
        "edit_unknown": torch.tensor(1.0 - known),
    }
    more = None
    if found is not None:
        scores = torch.zeros_like(found.errors).masked_scatter(found.mask, -losses[len(mask) :])
        more = mwer_loss(scores, found.errors, found.mask).mean()
        stats |= {"loss_mwer": more, **figures(scores, found)}
    return EditLoss(ctc + copy_weight * copies, more, stats)


def _nbest(
    decoder: Any, hidden: torch.Tensor, layout: Layout, references: Sequence[Sequence[int]], mwer: Mwer
) -> Nbest:
    """The best edits of each draft and their word errors."""
    texts = [row[: mwer.nbest] for row in EditPosteriors(decoder, hidden, layout).search(mwer.beam_size)]
    return Nbest.of(decoder.tokenizer, texts, references, mwer.nbest, hidden.device)


def _targets(
    editor: Editor, references: Sequence[Sequence[int]], device: torch.device, num_counted: int
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], float]:
    """Classes of references (B, L), the column of each class among an edit's logits (K,) and lengths (B,).

    Tokens that no edit holds are left out; also the fraction of the first `num_counted` ones' tokens that is left.
    """
    flat = torch.tensor([token for text in references for token in text], dtype=torch.long, device=device)
    is_held = editor.places_of(flat) >= 0
    counted = is_held[: sum(map(len, references[:num_counted]))]
    known = float(counted.float().mean()) if len(counted) else 1.0
    held = torch.unique(flat[is_held])
    columns = torch.cat([editor.places_of(held.new_tensor([editor.blank])), editor.places_of(held)])
    ids, kept = held.tolist(), set(held.tolist())
    class_of = {token: number for number, token in enumerate(ids, 1)}
    rows = [[class_of[token] for token in text if token in kept] for text in references]
    lens = torch.tensor([len(row) for row in rows], device=device)
    classes = torch.zeros(len(rows), max(1, int(lens.max())), dtype=torch.long)
    for padded, row in zip(classes, rows, strict=True):
        padded[: len(row)] = torch.tensor(row, dtype=torch.long)
    return (classes.to(device), columns, lens), known


def _word_errors(tokenizer: Any, *texts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Word errors a word of drafts and edits."""
    drafts, edited, references = ([words_of(tokenizer, each) for each in one] for one in texts)
    errors, num_words = count_errors([[*pair] for pair in zip(drafts, edited, strict=True)], references)
    counts = torch.tensor(errors, dtype=torch.float).sum(0) / max(1, sum(num_words))
    return {"wer_draft": counts[0], "wer_edit": counts[1]}
