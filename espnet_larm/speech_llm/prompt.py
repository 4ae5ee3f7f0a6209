"""What an LM reads: prefix, speech, suffix, text; put together without gaps, so that positions need no mask.

Shapes: B rows, N positions before packing, L after it, D model size of the LM. Masks are True where valid.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

SPEECH_MARK = "<|speech is here|>"
# Takes the place of the function of the clock that HF gives templates.
STOPPED_CLOCK = "{% macro strftime_now(form) %}0{% endmacro %}"


class Prompt(NamedTuple):
    """What stands around the speech, as tokens of the LM.

    Attributes:
        prefix: Before it.
        suffix: After it; the text follows.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


class Packed(NamedTuple):
    """Rows without gaps.

    Attributes:
        embeddings: (B, L, D), zeros behind each row's end.
        lens: Valid positions (B,).
        speech: True where a position is speech (B, L).
    """

    embeddings: torch.Tensor
    lens: torch.Tensor
    speech: torch.Tensor


def make_prompt(tokenizer: Any, prefix: str, suffix: str | None, instruction: str | None) -> Prompt:
    """Tokens around the speech.

    Args:
        tokenizer: HF's.
        prefix: Text before the speech; special tokens may be written out.
        suffix: Text after it; None stands for the token that begins a text, if the tokenizer has one.
        instruction: What a user asks of a chat model; its template then gives prefix and suffix, and the speech stands
            behind the instruction.

    Raises:
        ValueError: An instruction is given and the tokenizer has no chat template, or one that reads the clock, or
            beside prefix or suffix; or there is nothing at all between speech and text, so that no position of the
            LM's own predicts the first token.
    """
    if instruction is not None:
        if prefix or suffix:
            raise ValueError(
                "decoder_conf: instruction is given beside prefix or suffix; the chat template gives both."
            )
        prefix, suffix = _from_template(tokenizer, instruction)
    elif suffix is None:
        suffix = tokenizer.bos_token or ""
    before, after = (tuple(tokenizer.encode(part, add_special_tokens=False)) for part in (prefix, suffix))
    if not after:
        raise ValueError(
            "decoder_conf: suffix is empty and the tokenizer has no token that begins a text; give one token at least."
        )
    return Prompt(before, after)


class ContextError(ValueError):
    """An utterance takes more positions than the LM's context has."""


def pack(parts: Sequence[tuple[torch.Tensor, torch.Tensor, bool]]) -> Packed:
    """Put parts of rows one behind the other.

    Args:
        parts: Embeddings (B, n, D), their valid lengths (B,), and whether they are speech, in order.
    """
    embeddings = torch.cat([part for part, _, _ in parts], dim=1)  # (B, N, D)
    device = embeddings.device
    masks = [torch.arange(part.size(1), device=device) < lens.to(device).unsqueeze(1) for part, lens, _ in parts]
    mask = torch.cat(masks, dim=1)  # (B, N)
    is_speech = torch.cat([torch.full((part.size(1),), flag, device=device) for part, _, flag in parts])  # (N,)
    lens = mask.sum(dim=1)
    # A stable sort of "is padding" moves what is valid to the front and keeps its order.
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lens.max())]  # (B, L)
    valid = mask.gather(1, order)
    packed = embeddings.gather(1, order.unsqueeze(-1).expand(-1, -1, embeddings.size(2)))
    return Packed(packed * valid.unsqueeze(-1).to(packed.dtype), lens, is_speech[order] & valid)


def _from_template(tokenizer: Any, instruction: str) -> tuple[str, str]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "decoder_conf: instruction is given, but the LM's tokenizer has no chat template; write prefix and suffix."
        )
    messages = [{"role": "user", "content": f"{instruction}{SPEECH_MARK}"}]

    template = tokenizer.get_chat_template()

    def render(template: str) -> str:
        options = {"tokenize": False, "add_generation_prompt": True, "chat_template": template}
        return str(tokenizer.apply_chat_template(messages, **options))

    prefix, mark, suffix = render(template).partition(SPEECH_MARK)
    if not mark:
        raise ValueError(
            "decoder_conf: instruction: the LM's chat template changes what it is given; write prefix and suffix."
        )
    if render(STOPPED_CLOCK + template) != f"{prefix}{mark}{suffix}":
        raise ValueError(
            "decoder_conf: instruction: the LM's chat template puts the date into the prompt, so that decoding would "
            "read another one than training. Instead of the instruction, write what it gives today, and it stays: "
            f"prefix: {json.dumps(prefix)}, suffix: {json.dumps(suffix)}"
        )
    return prefix, suffix
