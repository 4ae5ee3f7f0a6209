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
        self.kind, self.what = kind, what


class MissingAudioError(AudioError, FileNotFoundError):
    """Error for a file or an archive that is not there."""
