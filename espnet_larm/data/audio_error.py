"""Errors for audio that cannot be used."""


class AudioError(ValueError):
    """Error for audio that cannot be used.

    Args:
        kind: Name of the problem in recipe/validation/report.py.
        what: Sentence without its stop, naming the source.
        remedy: What to do.
    """

    def __init__(self, kind: str, what: str, remedy: str = "replace it, or remove its line") -> None:
        super().__init__(f"{what}; {remedy}.")
        self.kind, self.what, self.remedy = kind, what, remedy

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str, str]]:
        """Let other processes raise it."""
        return type(self), (self.kind, self.what, self.remedy)


class MissingAudioError(AudioError, FileNotFoundError):
    """Error for a file or an archive that is not there."""
