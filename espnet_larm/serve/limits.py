"""What a server takes on: sizes, lengths, numbers, and how long a batch waits."""

from dataclasses import dataclass

from espnet_larm.options import check_options, option

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Raises:
        ValueError: An option is out of its range.
    """

    max_upload_mb: float = option(25.0, "largest recording that is taken, in MB", above=0.0)
    max_seconds: float = option(3600.0, "longest recording that is taken, in seconds", above=0.0)
    max_requests: int = option(64, "requests that are recognised or wait at once", least=1, most=1000)
    max_streams: int = option(16, "live streams at once", least=1, most=1000)
    batch_wait_ms: float = option(5.0, "how long a batch waits for other callers, in ms", least=0.0, most=1000.0)
    batch_seconds: float = option(30.0, "padded audio in a batch, in seconds", above=0.0)
    batch_size: int = option(32, "most stretches of speech in a batch", least=1)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def max_upload_bytes(self) -> int:
        """Largest recording in bytes."""
        return int(self.max_upload_mb * MEGABYTE)
