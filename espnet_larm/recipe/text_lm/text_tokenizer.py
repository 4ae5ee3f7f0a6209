"""A BPE tokenizer trained from text, in Hugging Face's format: `<unk>` 0, `<s>` 1, `</s>` 2, `<pad>` 3, then pieces."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from espnet_larm.llm.hugging_face import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
WORD_START = "\u2581"


def train_tokenizer(sentences: Sequence[str], vocab_size: int, max_positions: int) -> Any:
    """Train one; a text of few words may fill less than `vocab_size`.

    Args:
        sentences: One space between words.
        vocab_size: Special tokens, characters and pieces together, at most.
        max_positions: Longest text that the LM will take, for the tokenizer's own record.

    Raises:
        ValueError: The text's characters alone are more than `vocab_size`.
    """
    characters = set().union(*sentences) - {" "}
    least = len(SPECIAL_TOKENS) + len(characters | {WORD_START})
    if vocab_size < least:
        raise ValueError(
            f"--vocab_size {vocab_size} is too small: the text has {len(characters)} characters, and with the start of "
            f"a word and {len(SPECIAL_TOKENS)} special tokens that makes {least}; raise it, or clean the text."
        )
    made = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106  # no password
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    made.train_from_iterator(sentences, trainer)
    unknown, start, end, padding = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        pad_token=padding,
        model_max_length=max_positions,
    )
