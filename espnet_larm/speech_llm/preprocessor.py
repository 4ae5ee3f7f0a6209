"""ESPnet's preprocessor that writes an utterance's text twice: in the LM's tokens, and in those of the CTC head.

The second is made from the first's text, so that data folders need no second file.
"""

from typing import Annotated, Any

import numpy as np

from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.train.preprocessor import CommonPreprocessor

from espnet_larm.llm.tokens import CTC_TEXT
from espnet_larm.options import Option, check_parameters


class SpeechLlmPreprocessor(CommonPreprocessor):
    """For `model: speech_llm` with `ctc_token_list`.

    Args:
        train: Whether data is augmented; ESPnet sets it, and all that is not named here.
        ctc_token_list: Meaning and range of all `ctc_` options stand at the parameters; `espnet-larm list --name
            speech_llm` prints them.
        espnet: What CommonPreprocessor takes; `non_linguistic_symbols` stay whole in both texts.

    Raises:
        ValueError: The tokens' type is another one, or lacks its model.
    """

    def __init__(
        self,
        train: bool,
        ctc_token_list: Annotated[
            str | None,
            Option("file of the CTC head's tokens, the one that model_conf has; none leaves the second text out"),
        ] = None,
        ctc_token_type: Annotated[str, Option("type of the CTC head's tokens", choices=("char", "bpe"))] = "char",  # noqa: S107  # no password
        ctc_bpemodel: Annotated[str | None, Option("sentencepiece model of `bpe`")] = None,
        **espnet: Any,
    ) -> None:
        check_parameters(SpeechLlmPreprocessor.__init__, locals(), "preprocessor_conf")
        super().__init__(train=train, **espnet)
        if ctc_token_type == "bpe" and ctc_bpemodel is None:  # noqa: S105  # no password
            raise ValueError("preprocessor_conf: ctc_token_type bpe needs ctc_bpemodel, a sentencepiece model.")
        self.ctc_converter = None
        self.ctc_token_type = ctc_token_type
        if ctc_token_list is not None:
            self.ctc_tokenizer = build_tokenizer(
                ctc_token_type, ctc_bpemodel, non_linguistic_symbols=espnet.get("non_linguistic_symbols")
            )
            self.ctc_converter = TokenIDConverter(ctc_token_list)

    def __call__(self, uid: str, data: dict[str, Any]) -> dict[str, np.ndarray]:
        """ESPnet's, with `ctc_text` beside `text` if there is one."""
        text = data.get(self.text_name)
        processed: dict[str, np.ndarray] = super().__call__(uid, data)
        if self.ctc_converter is not None and isinstance(text, str):
            processed[CTC_TEXT] = np.array(self.to_ctc_ids(self.text_cleaner(text)), dtype=np.int64)
        return processed

    def to_ctc_ids(self, text: str) -> list[int]:
        """A cleaned text in the CTC head's tokens, of a preprocessor that has them."""
        assert self.ctc_converter is not None
        ids: list[int] = self.ctc_converter.tokens2ids(self.ctc_tokenizer.text2tokens(text))
        return ids
