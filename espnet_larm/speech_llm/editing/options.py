"""What editing needs in training and in decoding alike: `decoder_conf: editing` of a YAML."""

from typing import Annotated

from typeguard import typechecked

from espnet_larm.options import Option, check_parameters

WHERE = "decoder_conf: editing"
# Above, an edit chooses among the tokens of the training text: of Gemma's, all of them would take most of its time.
MOST_TOKENS = 16_384
# Of an experiment: the ids of these tokens.
TOKENS_FILE = "edit_tokens.txt"


class EditingOptions:
    """How drafts are laid out and what an edit may choose.

    Args:
        blanks_every: Meaning and range of this and all other options stand at the parameters; docs/options.md lists
            them.

    Raises:
        ValueError: An option is out of its range.
    """

    @typechecked
    def __init__(
        self,
        blanks_every: Annotated[
            int,
            Option(
                "tokens of a draft between two blanks; 1 has the most room for what is missing, more is faster", least=1
            ),
        ] = 1,
        text_only: Annotated[
            bool, Option("edit without speech: the LM reads prefix, suffix and draft (a denoising LM)")
        ] = False,
        tokens: Annotated[
            str | None,
            Option(
                f"file of the tokens that an edit may hold, an id in each line's first column; by default all of an LM "
                f"with up to {MOST_TOKENS:,}, and else those of the training text, which training writes into the "
                f"experiment's {TOKENS_FILE}"
            ),
        ] = None,
    ) -> None:
        check_parameters(EditingOptions.__init__, locals(), WHERE)
        self.blanks_every = blanks_every
        self.text_only = text_only
        self.tokens = tokens
