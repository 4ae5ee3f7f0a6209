"""Whether an LM edits the CTC hypothesis in place of writing token by token, and how often."""

from typing import Any

from espnet_larm.recognize.config import AUTOREGRESSIVE, EDIT, TOKEN_OPTIONS, DecodeConfig


def passes_of(config: DecodeConfig, model: Any) -> int:
    """Calls of an LM that edits; 0 for one that writes token by token.

    Args:
        config: The options.
        model: A model with an LM.

    Raises:
        ValueError: The model does not edit, or an option means nothing beside another.
    """
    search = config.search or (EDIT if model.editing.only else AUTOREGRESSIVE)
    if search == AUTOREGRESSIVE:
        if config.edit_passes is not None:
            raise ValueError(f"edit_passes is {config.edit_passes}, but search is {search}; leave it out.")
        return 0
    if model.decoder.editor is None:
        raise ValueError(
            "search is edit, but the model does not edit; train one with decoder_conf: editing and model_conf: "
            "edit_weight, or leave search out."
        )
    if model.ctc is None:
        raise ValueError("search is edit, but the model has no CTC head whose hypothesis it edits; leave it out.")
    for name, value in config.set_options(*TOKEN_OPTIONS).items():
        raise ValueError(f"{name} is {value}: an option of search token by token, but search is edit; leave it out.")
    if model.decoder.editor.options.text_only and config.pooling is not None:
        raise ValueError("pooling is given, but the model edits without speech (text_only); leave it out.")
    return config.edit_passes or 1
