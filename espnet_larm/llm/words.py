"""How messages and packs speak of the pre-trained models that a model may be made of: an LM and a speech encoder."""

from typing import NamedTuple


class Words(NamedTuple):
    """How to speak of a pre-trained model.

    Attributes:
        kind: What it is.
        argument: Option of programs, and argument in Python, that says where it is; also its kind in packs.
        section: Section of the YAML that names it.
        name: Option there that names it.
        method: Option there that says what learns.
        all_learn: Its value with which all weights go into checkpoints.
        parts: What its SHA-256 counts.
    """

    kind: str
    argument: str
    section: str
    name: str
    method: str
    all_learn: str
    parts: str

    @property
    def option(self) -> str:
        """The YAML option that names it."""
        return f"{self.section}: {self.name}"

    @property
    def learning(self) -> str:
        """The YAML option under which all weights go into checkpoints."""
        return f"{self.method}: {self.all_learn}"

    @property
    def by_argument(self) -> str:
        """The option that says where it is, of programs and in Python."""
        return f"--{self.argument} ({self.argument}= in Python)"


LM = Words("LM", "llm", "decoder_conf", "llm", "adaptation", "full", "weights")
SPEECH_ENCODER = Words("speech encoder", "encoder", "frontend_conf", "model", "train", "all", "weights or settings")


# What is said of a model whose file transformers does not unpickle.
NO_TENSORS = "its weights are damaged, or hold more than tensors, which are not unpickled; take a model in safetensors."


def words_of(name: str) -> Words:
    """How to speak of the model whose fingerprint, or its place in a whole ASR model, has this name."""
    return SPEECH_ENCODER if name.startswith("frontend.") else LM
