"""Text ability of a speech LM: the case of its text, and switches for the parts that were added to it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from espnet_larm.llm.backbone import Backbone

# stories260K needs 2 to 3 times as many tokens for a text in capitals.
MOST_TIMES_LONGER = 1.5
NUM_CASE_LINES = 1000


def check_case(tokenizer: Any, sentences: Sequence[str], name: str = "--text") -> None:
    """Refuse a text whose words would be short pieces only because of its case.

    Args:
        tokenizer: HF's.
        sentences: The text, of which the first NUM_CASE_LINES are looked at.
        name: What the message calls it.

    Raises:
        ValueError: In small letters, or in capitals, it has far fewer tokens.
    """
    some = list(sentences[:NUM_CASE_LINES])

    def count(texts: list[str]) -> float:
        ids = [token for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in row]
        # What is unknown may be one token a word; pack_sentences refuses it.
        return len(ids) if tokenizer.unk_token_id not in ids else float("inf")

    found = count(some)
    for style, other in (
        ("small letters", [text.lower() for text in some]),
        ("capitals", [text.upper() for text in some]),
    ):
        if MOST_TIMES_LONGER * (number := count(other)) < found < float("inf"):
            raise ValueError(
                f"{name} is in the wrong case for this LM: {len(some)} lines are {found} tokens, in {style} {number}; "
                f"give it in {style}."
            )


@contextmanager
def lora_off(backbone: Backbone) -> Iterator[None]:
    """Without what LoRA adds."""
    layers = lora_layers(backbone)
    # peft freezes adapters that it turns off, and lets all learn that it turns on.
    learns = {name: each.requires_grad for name, each in backbone.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for name, each in backbone.named_parameters():
            each.requires_grad_(learns[name])


def lora_layers(backbone: Backbone) -> list[Any]:
    """peft's, which stand in the place of the LM's projections."""
    return [module for module in backbone.modules() if hasattr(module, "base_layer")]
