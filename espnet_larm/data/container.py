"""Finds out from a file's header and its bytes whether the file is whole, since libsndfile reads cut ones silently.

A length that whoever wrote to a pipe could not know is no length: 0, the largest number, or about 2 or 4 GiB.
"""

import io
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes
OGG_LAST_PAGE = 4  # flag
# sox writes 0x7ffff000 into WAV and 0x7f000000 into AIFF, arecord 0x80000000, ffmpeg 0xffffffff.
PLACEHOLDERS = (range(0x7EFFFF00, 0x80010000), range(0xFEFFFF00, 1 << 32), range((1 << 63) - 1, 1 << 64))


class Data(NamedTuple):
    """Where encoded samples lie.

    Attributes:
        start: Offset of their first byte.
        num_bytes: Their number of bytes as the header says.
    """

    start: int
    num_bytes: int


def find_cut(stream: BinaryIO) -> str:
    """Say how much of a file is there if its end is missing, otherwise ""; rewind the stream.

    Args:
        stream: The whole file, at its start.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(20)
    stream.seek(0)
    try:
        if head.startswith(b"OggS"):
            return _find_cut_of_ogg(stream, size)
        data = next((find(stream) for mark, find in FINDERS.items() if head.startswith(mark)), None)
    except (OSError, OverflowError, ValueError):  # a seek to a place that no file can have
        return "a chunk reaches behind the end"
    finally:
        stream.seek(0)
    if data is None or is_placeholder(data.num_bytes) or data.start + data.num_bytes <= size:
        return ""
    return f"{max(0, size - data.start)} of {data.num_bytes} bytes of samples"


def is_placeholder(num_bytes: int) -> bool:
    """Whether a length stands for one that was not known when the header was written."""
    return num_bytes == 0 or any(num_bytes in placeholders for placeholders in PLACEHOLDERS)


def _data_of_riff(stream: BinaryIO) -> Data | None:
    order = "big" if stream.read(12).startswith(b"RIFX") else "little"
    num_bytes_64 = 0
    for name, length in _chunks(stream, order):
        if name == b"ds64":
            num_bytes_64 = int.from_bytes(stream.read(16)[8:], "little")
            stream.seek(-16, io.SEEK_CUR)
        elif name == b"data":
            is_in_ds64 = num_bytes_64 and length == 0xFFFFFFFF
            return Data(stream.tell(), num_bytes_64 if is_in_ds64 else length)
    return None


def _data_of_iff(stream: BinaryIO) -> Data | None:
    stream.read(12)
    lengths = ((name, stream.tell(), length) for name, length in _chunks(stream, "big"))
    return next((Data(start, length) for name, start, length in lengths if name in {b"SSND", b"BODY"}), None)


def _chunks(stream: BinaryIO, order: str) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of chunks, with the stream at their first byte, to which the caller returns."""
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[4:], "big" if order == "big" else "little")
        yield head[:4], length
        stream.seek(length + length % 2, io.SEEK_CUR)


def _data_of_w64(stream: BinaryIO) -> Data | None:
    stream.read(40)
    while len(head := stream.read(24)) == 24:
        length = int.from_bytes(head[16:], "little")
        if head.startswith(b"data"):
            return Data(stream.tell(), max(0, length - 24))
        if length < 24:
            return None
        stream.seek((length + 7) // 8 * 8 - 24, io.SEEK_CUR)
    return None


def _data_of_au(stream: BinaryIO) -> Data | None:
    head = stream.read(12)
    order = "big" if head.startswith(b".snd") else "little"
    start, length = (int.from_bytes(part, "big" if order == "big" else "little") for part in (head[4:8], head[8:]))
    return Data(start, length)


def _data_of_sphere(stream: BinaryIO) -> Data | None:
    head = stream.read(1024)
    size = re.match(rb"NIST_1A\s+(\d+)", head)
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", head, re.MULTILINE))
    if size is None or not {b"sample_count", b"sample_n_bytes"} <= fields.keys() or b"shorten" in head:
        return None
    num_samples = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
    return Data(int(size[1]), num_samples * int(fields[b"sample_n_bytes"]))


def _data_of_voc(stream: BinaryIO) -> Data | None:
    stream.seek(int.from_bytes(stream.read(22)[20:], "little"))
    while len(head := stream.read(4)) == 4 and head[0] != 0:
        length = int.from_bytes(head[1:], "little")
        if head[0] in {1, 9}:  # blocks with samples
            return Data(stream.tell(), length)
        stream.seek(length, io.SEEK_CUR)
    return None


def _find_cut_of_ogg(stream: BinaryIO, size: int) -> str:
    """Look for the page that ends a stream: Opus and Vorbis do not say how long they are."""
    stream.seek(max(0, size - MAX_OGG_PAGE))
    tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 0
    num_bytes = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) > 26 and page[5] & OGG_LAST_PAGE and len(page) >= num_bytes:
        return ""
    return "the page that ends it is missing"


FINDERS: dict[bytes, Callable[[BinaryIO], Data | None]] = {
    b"RIFF": _data_of_riff,
    b"RIFX": _data_of_riff,
    b"RF64": _data_of_riff,
    b"BW64": _data_of_riff,
    b"FORM": _data_of_iff,
    b"riff\x2e\x91\xcf\x11": _data_of_w64,
    b".snd": _data_of_au,
    b"dns.": _data_of_au,
    b"NIST_1A": _data_of_sphere,
    b"Creative Voice File": _data_of_voc,
}
