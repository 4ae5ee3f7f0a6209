"""Plugins for ESPnet2 that make speech recognition spend its compute where it pays.

import espnet_larm
recognizer = espnet_larm.load("model.zip")
print(recognizer.transcribe("speech.m4a").text)
"""

from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.version import __version__

if TYPE_CHECKING:
    from espnet_larm.listen.transcriber import Transcriber

__all__ = ["__version__", "load", "unpack"]


def load(
    source: str | Path,
    device: str = "cpu",
    dtype: str = "float32",
    asr_model_file: str | Path | None = None,
    llm: str | None = None,
    encoder: str | None = None,
) -> "Transcriber":
    """Load a recogniser; the first call imports for 10 s.

    Args:
        source: A pack (`model.zip`), which is checked and cannot run code; an experiment's folder, with `config.yaml`;
            the name of a model that comes with the package; or a recogniser of transformers, Whisper or one with a CTC
            head, by its folder or by its id on the hub (`openai/whisper-tiny.en`).
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `bfloat16`, `float16`, `float32` or `float64`.
        asr_model_file: Weights in the folder; its only `*.ave.pth` by default.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Raises:
        FileNotFoundError: There is no such model, the folder lacks a file, or the LM or speech encoder is not there.
        ValueError: The pack is damaged or refused, or its weights are not those of its configuration.
    """
    from espnet_larm.listen import models

    return models.load(source, device, dtype, asr_model_file, llm, encoder)


def unpack(pack: str | Path, folder: str | Path, llm: str | None = None, encoder: str | None = None) -> dict[str, str]:
    """Unpack a checked pack for ESPnet: `Speech2Text(**espnet_larm.unpack("model.zip", "model"), ctc_weight=1.0)`.

    Args:
        pack: Path of the pack, or the name of a model that comes with the package.
        folder: Folder to unpack into, made if missing; files of the same names are replaced.
        llm: Folder or hub id of the model's LM, where it is another place than in training.
        encoder: Folder or hub id of its pre-trained speech encoder, likewise.

    Returns:
        Paths under the names `asr_train_config` and `asr_model_file`.

    Raises:
        FileNotFoundError: There is no such pack, or its LM or speech encoder is not there.
        ValueError: The pack is damaged or refused.
    """
    from espnet_larm.listen import models
    from espnet_larm.recognize import packs

    return packs.unpack(models.pack_of(pack), folder, llm, encoder)


def __dir__() -> list[str]:
    return __all__
