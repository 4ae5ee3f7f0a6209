"""Finds out from a file's header and its bytes whether the file is whole, since libsndfile reads cut ones silently.

A length that whoever wrote to a pipe could not know is no length: 0, the largest number, or about 2 or 4 GiB.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, NamedTuple

type Order = Literal["big", "little"]

OGG_LAST_PAGE = 4  # flag
# sox writes 0x7ffff000 into WAV and 0x7f000000 into AIFF, arecord 0x80000000, ffmpeg 0xffffffff.
PLACEHOLDERS = (range(0x7EFFFF00, 0x80010000), range(0xFEFFFF00, 1 << 32), range((1 << 63) - 1, 1 << 64))
SMALL_REST = 256  # bytes; tags that are appended to any file have 128
PLAIN_SAMPLES = (1, 3, 0xFFFE)  # of fmt: integers, floats, either with a longer header
TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")
CHUNK_NAME = re.compile(rb"[ -~]{4}")
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Data(NamedTuple):
    """Where encoded samples lie.

    Attributes:
        start: Offset of their first byte.
        num_bytes: Their number of bytes as the header says.
        end: Where the file ends as its header says; 0 if it does not.
    """

    start: int
    num_bytes: int
    end: int = 0


class _DamagedHeaderError(ValueError):
    """Numbers of a header contradict each other; the message says which."""


def find_damage(stream: BinaryIO) -> str:
    """Say what is wrong with a file whose end is missing or whose lengths are wrong, otherwise ""; rewind the stream.

    Args:
        stream: The whole file, at its start.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(20)
    stream.seek(0)
    try:
        if head.startswith(b"OggS"):
            return _find_damage_of_ogg(stream)
        data = next((find(stream) for mark, find in FINDERS.items() if head.startswith(mark)), None)
        return "" if data is None or is_placeholder(data.num_bytes) else _compare(stream, data, size)
    except _DamagedHeaderError as error:
        return f"is damaged: {error}"
    except (OSError, OverflowError, ValueError):  # a seek to a place that no file can have
        return "is truncated: a chunk reaches behind the end"
    finally:
        stream.seek(0)


def find_rest(stream: BinaryIO, place: int, num_before: int = 0) -> str:
    """Say how many bytes follow the last sample that a header promises, if they may be samples, otherwise "".

    Args:
        stream: The whole file.
        place: Offset behind the last sample.
        num_before: By how many bytes, at most, a decoder may have read too far.
    """
    num_bytes = stream.seek(0, io.SEEK_END) - place
    if num_bytes <= SMALL_REST:
        return ""
    stream.seek(place - num_before)
    read_too_far, head = stream.read(num_before), stream.read(64)
    stream.seek(place)
    # Bytes that pad a chunk are zero.
    if _is_chunk(head.lstrip(b"\0"), num_bytes) or _has_tag(read_too_far, head) or _holds_zeros(stream):
        return ""
    return f"is damaged: {num_bytes} bytes follow the last sample that its header promises"


def _compare(stream: BinaryIO, data: Data, size: int) -> str:
    """Compare lengths of the header with the file."""
    end = data.start + data.num_bytes
    if end > size:
        return f"is truncated: {max(0, size - data.start)} of {data.num_bytes} bytes of samples"
    return "" if end <= data.end <= end + 1 else find_rest(stream, end)


def _has_tag(read_too_far: bytes, head: bytes) -> bool:
    return head.lstrip(b"\0").startswith(TAGS) or any(tag in read_too_far for tag in TAGS)


def _is_chunk(head: bytes, num_bytes: int) -> bool:
    """Whether bytes begin with name and length of a chunk of WAV, AIFF, CAF or W64 that ends in a file."""
    lengths = (head[4:8], head[7:3:-1], head[11:3:-1], head[16:24])
    return bool(CHUNK_NAME.match(head)) and min(int.from_bytes(each, "little") for each in lengths) <= num_bytes


def _holds_zeros(stream: BinaryIO) -> bool:
    return all(not block.strip(b"\0") for block in iter(lambda: stream.read(1 << 20), b""))


def is_placeholder(num_bytes: int) -> bool:
    """Whether a length stands for one that was not known when the header was written."""
    return num_bytes == 0 or any(num_bytes in placeholders for placeholders in PLACEHOLDERS)


def _data_of_riff(stream: BinaryIO) -> Data | None:
    head = stream.read(12)
    order: Order = "big" if head.startswith(b"RIFX") else "little"
    num_bytes_64 = 0
    for name, length in _chunks(stream, order):
        if name == b"ds64":
            num_bytes_64 = int.from_bytes(_peek(stream, 16)[8:], "little")
        elif name == b"fmt ":
            _check_format(_peek(stream, 16), order)
        elif name == b"data":
            is_in_ds64 = num_bytes_64 and length == 0xFFFFFFFF
            end = int.from_bytes(head[4:8], order) + 8
            return Data(stream.tell(), num_bytes_64 if is_in_ds64 else length, end)
    return None


def _check_format(numbers: bytes, order: Order) -> None:
    """Compare numbers that say the same twice in WAV of plain samples."""
    kind, num_channels, frame_bytes, num_bits = (
        int.from_bytes(numbers[place : place + 2], order) for place in (0, 2, 12, 14)
    )
    sample_bytes = 4 if num_bits == 24 and frame_bytes == 4 * num_channels else (num_bits + 7) // 8
    if kind in PLAIN_SAMPLES and frame_bytes != num_channels * sample_bytes:
        raise _DamagedHeaderError(f"{num_channels} channels of {num_bits} bits are not {frame_bytes} bytes")


def _data_of_iff(stream: BinaryIO) -> Data | None:
    end = int.from_bytes(stream.read(12)[4:8], "big") + 8
    for name, length in _chunks(stream, "big"):
        if name == b"SSND":
            _check_offset(stream, length)
        if name in {b"SSND", b"BODY"}:
            return Data(stream.tell(), length, end)
    return None


def _check_offset(stream: BinaryIO, length: int) -> None:
    """Look at what AIFF skips before its first sample, to align it: zeros, unless the offset is damaged."""
    offset = int.from_bytes(_peek(stream, 4), "big")
    if offset and _peek(stream, 8 + min(offset, length))[8:].strip(b"\0"):
        raise _DamagedHeaderError(f"{offset} bytes that hold samples are skipped before the first")


def _peek(stream: BinaryIO, num_bytes: int) -> bytes:
    """The next bytes, with the stream left where it is."""
    place = stream.tell()
    found = stream.read(num_bytes)
    stream.seek(place)
    return found


def _chunks(stream: BinaryIO, order: Order) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of chunks, with the stream at their first byte, to which the caller returns."""
    while len(head := stream.read(8)) == 8:
        length = int.from_bytes(head[4:], order)
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
    order: Order = "big" if head.startswith(b".snd") else "little"
    start, length = (int.from_bytes(part, order) for part in (head[4:8], head[8:]))
    return Data(start, length)


def _data_of_sphere(stream: BinaryIO) -> Data | None:
    head = stream.read(1024)
    size = re.match(rb"NIST_1A\s+(\d+)", head)
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", head, re.MULTILINE))
    if size is None or b"sample_count" not in fields or b"shorten" in head:
        return None
    num_samples = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
    # Whoever writes mu-law may leave the one byte out.
    return Data(int(size[1]), num_samples * int(fields.get(b"sample_n_bytes", 1)))


def _data_of_caf(stream: BinaryIO) -> Data | None:
    stream.read(8)
    while len(head := stream.read(12)) == 12:
        length = int.from_bytes(head[4:], "big")
        if head.startswith(b"data"):
            return Data(stream.tell() + 4, max(0, length - 4))  # behind the count of edits
        stream.seek(length, io.SEEK_CUR)
    return None


def _data_of_voc(stream: BinaryIO) -> Data | None:
    stream.seek(int.from_bytes(stream.read(22)[20:], "little"))
    while len(head := stream.read(4)) == 4 and head[0] != 0:
        length = int.from_bytes(head[1:], "little")
        if head[0] in {1, 9}:  # blocks with samples
            return Data(stream.tell(), length)
        stream.seek(length, io.SEEK_CUR)
    return None


def _find_damage_of_ogg(stream: BinaryIO) -> str:
    """Look at each page: Opus and Vorbis do not say how long they are, and decoders skip damaged pages silently."""
    flags, place = 0, 0
    while (head := stream.read(27)).startswith(b"OggS"):
        lengths = stream.read(head[26]) if len(head) == 27 else b""
        page = head + lengths + stream.read(sum(lengths))
        if len(head) < 27 or len(page) < 27 + head[26] + sum(lengths):
            return "is truncated: its last page is cut"
        if int.from_bytes(head[22:26], "little") != _checksum_of_ogg(page):
            return f"is damaged: the page at byte {place} is not what its checksum says"
        flags, place = head[5], stream.tell()
    return find_rest(stream, place) if flags & OGG_LAST_PAGE else "is truncated: the page that ends it is missing"


def _checksum_of_ogg(page: bytes) -> int:
    """Ogg's checksum: that of zlib over bytes with their bits reversed, without its inversions."""
    plain = page[:22] + bytes(4) + page[26:]
    checksum = zlib.crc32(plain.translate(REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{checksum:032b}"[::-1], 2)


FINDERS: dict[bytes, Callable[[BinaryIO], Data | None]] = {
    b"RIFF": _data_of_riff,
    b"RIFX": _data_of_riff,
    b"RF64": _data_of_riff,
    b"BW64": _data_of_riff,
    b"FORM": _data_of_iff,
    b"riff\x2e\x91\xcf\x11": _data_of_w64,
    b".snd": _data_of_au,
    b"dns.": _data_of_au,
    b"caff": _data_of_caf,
    b"NIST_1A": _data_of_sphere,
    b"Creative Voice File": _data_of_voc,
}
