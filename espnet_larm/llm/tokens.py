"""An LM's tokens as ESPnet's token list, and the special ones that ESPnet would guess wrongly.

ESPnet hard-wires the blank of CTC to token 0, deletes token 0 from results, and takes the last token for start and end
where it does not find their names. Here they come from the tokenizer, and what does not fit is refused.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

BLANK_ID = 0
# The text of an utterance in the CTC head's own tokens: what the preprocessor adds and the model reads.
CTC_TEXT = "ctc_text"
# The draft of an utterance that an LM learns to edit: a name of data, beside `speech` and `text`.
DRAFT = "draft"


class SpecialTokens(NamedTuple):
    """Ids.

    Attributes:
        eos: Ends a text; ESPnet's start symbol too, which is a placeholder.
        can_be_blank: Whether token 0 is special (it may be the end, too), so that no transcript holds it and CTC may
            use it.
    """

    eos: int
    can_be_blank: bool


def token_list_of(tokenizer: Any, num_rows: int) -> list[str]:
    """A name for every row of the LM's logits.

    Names are for people and for ESPnet's counts; ids come from the tokenizer. A row without a token, or whose token
    would not survive as a line of a file, is called `<idN>`.

    Args:
        tokenizer: HF's.
        num_rows: Number of rows of the logits.

    Raises:
        ValueError: The tokenizer has tokens that the LM has no row for.
    """
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    if num_tokens > num_rows:
        raise ValueError(
            f"the tokenizer has {num_tokens} tokens, but the LM's head only {num_rows} rows; they do not belong "
            "together."
        )
    names: list[str] = []
    for index, name in enumerate(tokenizer.convert_ids_to_tokens(list(range(num_rows)))):
        is_fit = name is not None and name != "" and name.split() == [name]
        names.append(name if is_fit else f"<id{index}>")
    return names


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """What the tokenizer says.

    Raises:
        ValueError: It has no token that ends a text.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the LM's tokenizer has no token that ends a text (eos_token); name one in its folder.")
    eos = int(tokenizer.eos_token_id)
    return SpecialTokens(eos, BLANK_ID in tokenizer.all_special_ids)


def check_spelling(tokenizer: Any, texts: Iterable[str]) -> None:
    """Refuse transcripts that the tokenizer cannot give back, such as capitals for an LM of small letters.

    Raises:
        ValueError: With the first such transcript and what becomes of it.
    """
    for number, text in enumerate(texts, 1):
        ids = tokenizer.encode(text, add_special_tokens=False)
        back = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if back != text:
            raise ValueError(
                f"the LM's tokenizer cannot spell transcript {number}: {text!r} becomes {back!r}; change the case "
                "or the characters of the transcripts (local/data.sh), or take another LM."
            )
