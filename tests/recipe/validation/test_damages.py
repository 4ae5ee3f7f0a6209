"""A data folder damaged in every way that the catalogue names: each damage is found, at its place, and nothing else."""

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from omniio import kaldi

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recipe.archive import Rendering, write_archive
from espnet_larm.recipe.validation.kinds import KINDS
from espnet_larm.recipe.validation.spelling import Tokens

from .conftest import CHARACTERS, PIECES, Folder, problems

NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)


class Damage(NamedTuple):
    """A damage.

    Attributes:
        kind: That the catalogue has for it.
        place: File and line that must be named.
        what: Part of the message.
        do: Damages the folder.
        tokens: To spell with.
        others: Kinds that cannot but come with it.
    """

    kind: str
    place: str
    what: str
    do: Callable[[Folder], object]
    tokens: Tokens | None = None
    others: frozenset[str] = frozenset()


def close_off(path: str) -> Callable[[Folder], object]:
    """Make a file unreadable, for root too."""

    def do(folder: Folder) -> None:
        real = Path.open

        def opened(self: Path, *args: object, **kwargs: object) -> object:
            if str(self) == path:
                raise PermissionError(13, "Permission denied", path)
            return real(self, *args, **kwargs)

        folder.monkeypatch.setattr(Path, "open", opened)
        folder.monkeypatch.setattr(os, "access", lambda name, mode: str(name) != path)

    return do


def archive(folder: Folder, size: int | None = None) -> str:
    """ann-2 as an entry of an archive, of which `size` bytes are left."""
    (entry,) = write_archive(Path("audio/a.ark"), [Rendering("ann-2", "audio/ann-2.flac")], 16000)
    if size:
        Path("audio/a.ark").write_bytes(Path("audio/a.ark").read_bytes()[:size])
    folder.source(entry.source)
    return entry.source


def flac(start: int, stop: int | None = None) -> bytes:
    return Path("audio/ann-1.flac").read_bytes()[start:stop]


def flip_bytes() -> bytes:
    """A FLAC file with eight bytes in its middle changed."""
    data = bytearray(flac(0))
    middle = len(data) // 2
    data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
    return bytes(data)


def features(folder: Folder) -> None:
    kaldi.save_ark("audio/f.ark", {"ann-2": np.zeros((3, 2), np.float32)})
    folder.source("audio/f.ark:6")


def add_test_set(folder: Folder) -> None:
    """A second folder that has ann-2 too."""
    Path("test").mkdir()
    for name, line in (("wav.scp", "audio/ann-2.flac"), ("text", "TEN"), ("utt2spk", "ann")):
        folder.write(f"../test/{name}", f"ann-2 {line}", f"ann-3 {line}")
    folder.write("../test/spk2utt", "ann ann-2 ann-3")


FILES = [
    Damage("no-folder", "set", "it is missing", lambda f: shutil.rmtree("set")),
    Damage("folder-is-a-file", "set", "it is a file", lambda f: (shutil.rmtree("set"), Path("set").touch())),
    Damage("no-wav-scp", "set/wav.scp", "it is missing", lambda f: f.path("wav.scp").unlink()),
    Damage("no-text", "set/text", "it is missing", lambda f: f.path("text").unlink()),
    Damage("no-utt2spk", "set/utt2spk", "it is missing", lambda f: f.path("utt2spk").unlink()),
    Damage("no-spk2utt", "set/spk2utt", "it is missing", lambda f: f.path("spk2utt").unlink()),
    Damage(
        "broken-file-link",
        "set/text",
        "a link to elsewhere, which is missing",
        lambda f: (f.path("text").unlink(), f.path("text").symlink_to("elsewhere")),
    ),
    Damage(
        "file-is-a-folder", "set/text", "it is a folder", lambda f: (f.path("text").unlink(), f.path("text").mkdir())
    ),
    Damage("unreadable-file", "set/text", "you may not read it", close_off("set/text")),
    Damage("segments", "set/segments:1", "cut out of recordings", lambda f: f.write("segments", "ann-1 rec 0 1")),
    Damage("empty-file", "set/text", "it is empty", lambda f: f.write("text")),
    Damage(
        "compressed-file",
        "set/text",
        "packed with gzip",
        lambda f: f.path("text").write_bytes(gzip.compress(f.path("text").read_bytes())),
    ),
    Damage(
        "lfs-pointer-file",
        "set/wav.scp",
        "a Git LFS pointer",
        lambda f: f.write("wav.scp", "version https://git-lfs.github.com/spec/v1", "oid sha256:00", "size 9"),
    ),
    Damage(
        "utf-16",
        "set/text",
        "written in UTF-16",
        lambda f: f.path("text").write_bytes(f.path("text").read_text().encode("utf-16")),
    ),
    Damage(
        "byte-order-mark",
        "set/text:1",
        "begins with a byte order mark",
        lambda f: f.swap("text", b"ann-1", b"\xef\xbb\xbfann-1"),
    ),
    Damage(
        "windows-line-ends",
        "set/text:1",
        "4 line(s) from here on end with CR LF",
        lambda f: f.swap("text", b"\n", b"\r\n"),
    ),
    Damage(
        "old-mac-line-ends",
        "set/spk2utt:1",
        "end with CR alone",
        lambda f: f.swap("spk2utt", b"ann-2\n", b"ann-2\r"),
        others=frozenset(["speaker-not-in-spk2utt", "utterance-not-in-utt2spk"]),
    ),
    Damage(
        "no-final-newline", "set/text:4", "does not end with a newline", lambda f: f.swap("text", b"SEVEN\n", b"SEVEN")
    ),
]

LINES = [
    Damage(
        "not-utf-8",
        "set/text:3",
        "byte 8 of the line (0xC9) is no UTF-8",
        lambda f: f.swap("text", b"FIVE", b"F\xc9VE"),
    ),
    Damage("nul-byte", "set/text:3", "byte 9 of the line is 0", lambda f: f.swap("text", b"FIVE", b"FI\0VE")),
    Damage("blank-line", "set/wav.scp:3", "the line is blank", lambda f: f.swap("wav.scp", b"\nbob-1", b"\n\nbob-1")),
    Damage("leading-space", "set/text:3", "before the id", lambda f: f.swap("text", b"bob-1", b" bob-1")),
    Damage("trailing-space", "set/text:3", "at the end of the line", lambda f: f.swap("text", b"FIVE", b"FIVE ")),
    Damage("tab-after-id", "set/text:3", "a tab stands after the id", lambda f: f.swap("text", b"bob-1 ", b"bob-1\t")),
    Damage("tab-in-text", "set/text:2", "U+0009", lambda f: f.text("THREE\tFOUR")),
    Damage("double-space", "set/text:2", "two spaces stand together", lambda f: f.text("THREE  FOUR")),
    Damage(
        "control-character",
        "set/text:2",
        "U+0007 a character without a name is character 6",
        lambda f: f.text("THREE\a FOUR"),
    ),
    Damage("invisible-character", "set/text:2", "U+200B ZERO WIDTH SPACE", lambda f: f.text("THREE\u200b FOUR")),
    Damage("odd-space", "set/text:2", "U+00A0 NO-BREAK SPACE", lambda f: f.text("THREE\xa0FOUR")),
    Damage(
        "line-separator",
        "set/text:2",
        "U+2028 LINE SEPARATOR",
        lambda f: f.swap("text", b"THREE FOUR", "THREE\u2028FOUR".encode()),
    ),
    Damage("replacement-character", "set/text:2", "U+FFFD REPLACEMENT CHARACTER", lambda f: f.text("CAF\ufffd")),
    Damage("private-character", "set/text:2", "U+E000", lambda f: f.text("THREE \ue000")),
    Damage(
        "decomposed-letter",
        "set/text:2",
        "'É' (U+00C9 LATIN CAPITAL LETTER E WITH ACUTE)",
        lambda f: f.text("CAFE\u0301"),
    ),
    Damage(
        "odd-id",
        "set/wav.scp:2",
        "the utterance's id 'ann-2\\u200b' holds U+200B ZERO WIDTH SPACE",
        lambda f: f.rename("ann-2 ", "ann-2\u200b ", "wav.scp"),
        others=frozenset(["no-transcript", "no-audio-line"]),
    ),
    Damage(
        "unsorted",
        "set/text:3",
        "ann-2 stands after bob-1",
        lambda f: f.write("text", *(f.lines("text")[i] for i in (0, 2, 1, 3))),
    ),
    Damage(
        "sorted-by-locale",
        "set/text:3",
        "Bob-1 stands after ann-2, as in a locale that ignores case",
        lambda f: (
            f.rename("bob-1", "Bob-1", "text", "wav.scp", "utt2spk", "spk2utt"),
            f.write("wav.scp", *sorted(f.lines("wav.scp"))),
            f.write("utt2spk", "Bob-1 Bob", "ann-1 ann", "ann-2 ann", "bob-2 bob"),
            f.write("spk2utt", "Bob Bob-1", "ann ann-1 ann-2", "bob bob-2"),
            f.source("audio/ann-1.flac"),
            f.write("wav.scp", *(f"{key} audio/ann-1.flac" for key in ("Bob-1", "ann-1", "ann-2", "bob-2"))),
        ),
    ),
    Damage(
        "sorted-by-number",
        "set/text:3",
        "ann-10 stands after ann-2, as its number is",
        lambda f: (
            f.write("text", "ann-1 ONE", "ann-2 TWO", "ann-10 TEN"),
            f.write("wav.scp", *(f"{key} audio/ann-1.flac" for key in ("ann-1", "ann-10", "ann-2"))),
            f.write("utt2spk", "ann-1 ann", "ann-10 ann", "ann-2 ann"),
            f.write("spk2utt", "ann ann-1 ann-10 ann-2"),
        ),
    ),
    Damage(
        "repeated-line",
        "set/text:3",
        "ann-2 stands in line 2 too, with the same value",
        lambda f: f.line("text", 2, "ann-2 THREE FOUR\nann-2 THREE FOUR"),
    ),
    Damage(
        "repeated-id",
        "set/text:3",
        "ann-2 stands in line 2 too, with another value",
        lambda f: f.line("text", 2, "ann-2 THREE FOUR\nann-2 THREE"),
    ),
]

FOLDER = [
    Damage(
        "no-common-ids",
        "set",
        "they begin with ann-1 in wav.scp, x-1 in text",
        lambda f: f.write("text", "x-1 ONE", "x-2 TWO"),
    ),
    Damage("no-transcript", "set/wav.scp:2", "ann-2 is not in text", lambda f: f.drop("text", 2)),
    Damage("no-audio-line", "set/text:2", "ann-2 is not in wav.scp", lambda f: f.drop("wav.scp", 2)),
    Damage(
        "no-speaker-line",
        "set/wav.scp:2",
        "ann-2 is not in utt2spk",
        lambda f: (f.drop("utt2spk", 2), f.line("spk2utt", 1, "ann ann-1")),
    ),
    Damage(
        "speaker-of-nothing",
        "set/utt2spk:3",
        "ann-3 is not in wav.scp",
        lambda f: (f.line("utt2spk", 2, "ann-2 ann\nann-3 ann"), f.line("spk2utt", 1, "ann ann-1 ann-2 ann-3")),
    ),
    Damage("in-two-folders", "test/wav.scp:1", "ann-2 stands in set/wav.scp:2 too", add_test_set),
    Damage(
        "no-length",
        "set/wav.scp:4",
        "bob-2 is not in utt2num_samples",
        lambda f: f.write("utt2num_samples", "ann-1 16000", "ann-2 16000", "bob-1 16000"),
    ),
    Damage(
        "odd-length",
        "set/utt2num_samples:2",
        "ann-2: '1.0' is no number of samples",
        lambda f: f.write("utt2num_samples", "ann-1 16000", "ann-2 1.0", "bob-1 16000", "bob-2 16000"),
    ),
    Damage(
        "length-of-nothing",
        "set/utt2num_samples:5",
        "cid-1 is not in wav.scp",
        lambda f: f.write(
            "utt2num_samples", *(f"{key} 16000" for key in ("ann-1", "ann-2", "bob-1", "bob-2", "cid-1"))
        ),
    ),
    Damage("odd-audio-format", "set/audio_format:1", "'tape' is not known", lambda f: f.write("audio_format", "tape")),
]

SPEAKERS = [
    Damage(
        "no-speaker",
        "set/utt2spk:2",
        "ann-2 has no speaker",
        lambda f: (f.line("utt2spk", 2, "ann-2"), f.line("spk2utt", 1, "ann ann-1")),
    ),
    Damage(
        "two-speakers",
        "set/utt2spk:2",
        "ann-2: 'ann bob' is more than one word",
        lambda f: (f.line("utt2spk", 2, "ann-2 ann bob"), f.line("spk2utt", 1, "ann ann-1")),
        others=frozenset(["speaker-not-in-spk2utt"]),
    ),
    Damage(
        "speaker-order",
        "set/utt2spk:3",
        "speaker abe of bob-1 comes after speaker ann of ann-2",
        lambda f: (
            f.write("utt2spk", "ann-1 ann", "ann-2 ann", "bob-1 abe", "bob-2 abe"),
            f.write("spk2utt", "abe bob-1 bob-2", "ann ann-1 ann-2"),
        ),
    ),
    Damage(
        "speaker-not-in-spk2utt",
        "set/utt2spk:3",
        "bob (2 utterance(s)) has no line in spk2utt",
        lambda f: f.drop("spk2utt", 2),
    ),
    Damage(
        "speaker-not-in-utt2spk",
        "set/spk2utt:3",
        "cid is the speaker of no utterance",
        lambda f: f.append("spk2utt", "cid cid-1"),
    ),
    Damage(
        "utterance-not-in-spk2utt",
        "set/utt2spk:2",
        "ann-2 is not in spk2utt's line of ann",
        lambda f: f.line("spk2utt", 1, "ann ann-1"),
    ),
    Damage(
        "utterance-not-in-utt2spk",
        "set/spk2utt:1",
        "ann-3 is listed for ann",
        lambda f: f.line("spk2utt", 1, "ann ann-1 ann-2 ann-3"),
    ),
    Damage(
        "speakers-disagree",
        "set/utt2spk:2",
        "ann-2 is of ann here, of bob in spk2utt:2",
        lambda f: f.write("spk2utt", "ann ann-1", "bob ann-2 bob-1 bob-2"),
    ),
    Damage(
        "speaker-without-utterances",
        "set/spk2utt:2",
        "abe has no utterances",
        lambda f: f.write("spk2utt", "ann ann-1 ann-2", "abe", "bob bob-1 bob-2"),
        others=frozenset(["unsorted"]),
    ),
    Damage(
        "repeated-in-spk2utt",
        "set/spk2utt:1",
        "ann: ann-2 is listed twice",
        lambda f: f.line("spk2utt", 1, "ann ann-1 ann-2 ann-2"),
    ),
    Damage(
        "unsorted-in-spk2utt",
        "set/spk2utt:1",
        "ann: ann-1 stands after ann-2",
        lambda f: f.line("spk2utt", 1, "ann ann-2 ann-1"),
    ),
]

SOURCES = [
    Damage("no-path", "set/wav.scp:2", "ann-2 has no path", lambda f: f.line("wav.scp", 2, "ann-2")),
    Damage("output-pipe", "set/wav.scp:2", "begins with |", lambda f: f.source("| cat")),
    Damage(
        "empty-command",
        "set/wav.scp:2",
        "nothing stands before the |",
        lambda f: f.source("|"),
    ),
    Damage(
        "unknown-program",
        "set/wav.scp:2",
        "there is no program sph2pipe_9",
        lambda f: f.source("sph2pipe_9 -f wav a.sph |"),
    ),
    Damage(
        "quoted-path", "set/wav.scp:2", '"audio/ann-2.flac" stands in quotes', lambda f: f.source('"audio/ann-2.flac"')
    ),
    Damage("tilde-path", "set/wav.scp:2", "~/ann-2.flac begins with ~", lambda f: f.source("~/ann-2.flac")),
    Damage("variable-in-path", "set/wav.scp:2", "names a shell variable", lambda f: f.source("${CORPUS}/ann-2.flac")),
    Damage("wildcard-path", "set/wav.scp:2", "holds a wildcard", lambda f: f.source("audio/*-2.flac")),
    Damage("file-url", "set/wav.scp:2", "is a URL of a file", lambda f: f.source("file:///audio/ann-2.flac")),
    Damage("url", "set/wav.scp:2", "is on another machine", lambda f: f.source("https://example.org/ann-2.flac")),
    Damage("windows-path", "set/wav.scp:2", "is a path of Windows", lambda f: f.source("C:\\audio\\ann-2.flac")),
    Damage(
        "words-after-path",
        "set/wav.scp:2",
        "audio/ann-2.flac is there, but more words follow",
        lambda f: f.source("audio/ann-2.flac 16000"),
    ),
    Damage(
        "relative-to-folder",
        "set/wav.scp:2",
        "here.flac is in set, but paths count from",
        lambda f: (shutil.copy("audio/ann-2.flac", "set/here.flac"), f.source("here.flac")),
    ),
    Damage(
        "broken-link",
        "set/wav.scp:2",
        "audio/l.flac is a link to gone.flac, which is missing",
        lambda f: (Path("audio/l.flac").symlink_to("gone.flac"), f.source("audio/l.flac")),
    ),
    Damage(
        "other-extension",
        "set/wav.scp:2",
        "audio/ann-2.wav is missing, ann-2.flac is there",
        lambda f: f.source("audio/ann-2.wav"),
    ),
    Damage(
        "missing-audio",
        "set/wav.scp:2",
        "ann-2: audio/ann-2.flac is missing",
        lambda f: Path("audio/ann-2.flac").unlink(),
    ),
    Damage(
        "missing-audio-folder",
        "set/wav.scp:2",
        "the folder of /mnt/nowhere/ann-2.flac is missing",
        lambda f: f.source("/mnt/nowhere/ann-2.flac"),
    ),
    Damage("audio-is-a-folder", "set/wav.scp:2", "audio is a folder", lambda f: f.source("audio")),
    Damage(
        "audio-is-no-file",
        "set/wav.scp:2",
        "is a pipe, a socket or a device",
        lambda f: (os.mkfifo("audio/fifo"), f.source("audio/fifo")),
    ),
    Damage("unreadable-audio", "set/wav.scp:2", "you may not read audio/ann-2.flac", close_off("audio/ann-2.flac")),
    Damage("empty-audio-file", "set/wav.scp:2", "audio/other.flac has 0 bytes", lambda f: f.content(b"")),
    Damage(
        "missing-archive", "set/wav.scp:2", "the archive audio/a.ark is missing", lambda f: f.source("audio/a.ark:12")
    ),
    Damage(
        "beyond-archive",
        "set/wav.scp:2",
        "the offset is 99999999",
        lambda f: (archive(f), f.source("audio/a.ark:99999999")),
    ),
    Damage(
        "archive-without-offset",
        "set/wav.scp:2",
        "audio/a.ark is a Kaldi archive",
        lambda f: (archive(f), f.source("audio/a.ark")),
    ),
]

AUDIO = [
    Damage(
        "command-failed",
        "set/wav.scp:2",
        "ended with status 1: cat: nowhere.flac",
        lambda f: f.source("cat nowhere.flac |"),
    ),
    Damage(
        "not-an-entry",
        "set/wav.scp:2",
        "audio/a.ark:3 holds no encoded audio",
        lambda f: (archive(f), f.source("audio/a.ark:3")),
    ),
    Damage("features-not-audio", "set/wav.scp:2", "holds a matrix of features", features),
    Damage(
        "damaged-audio", "set/wav.scp:2", "audio/other.flac is truncated or damaged", lambda f: f.content(flip_bytes())
    ),
    Damage("truncated-audio", "set/wav.scp:2", "is truncated: ", lambda f: archive(f, 5000)),
    Damage(
        "web-page",
        "set/wav.scp:2",
        "is no audio: it is a web page",
        lambda f: f.content(b"<!DOCTYPE html><title>404 Not Found</title>"),
    ),
    Damage(
        "lfs-pointer",
        "set/wav.scp:2",
        "it is a Git LFS pointer",
        lambda f: f.content(b"version https://git-lfs.github.com/spec/v1\n"),
    ),
    Damage(
        "packed-audio",
        "set/wav.scp:2",
        "it is packed with gzip, bzip2 or zip",
        lambda f: f.content(gzip.compress(flac(0)), "a.flac.gz"),
    ),
    Damage(
        "other-codec",
        "set/wav.scp:2",
        "it is M4A, WMA, WebM or AMR",
        lambda f: f.content(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100), "a.m4a"),
    ),
    Damage(
        "shortened-sphere",
        "set/wav.scp:2",
        "it is SPHERE packed with shorten",
        lambda f: f.content(
            b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(1024)
            + b"ajkg\2"
            + bytes(500),
            "a.sph",
        ),
    ),
    Damage("text-not-audio", "set/wav.scp:2", "it is text", lambda f: f.content(b"THREE FOUR\n" * 50)),
    Damage("no-audio", "set/wav.scp:2", "is no audio (", lambda f: f.content(bytes(range(256)))),
    Damage("no-samples", "set/wav.scp:2", "audio/other.wav holds no samples", lambda f: f.audio([])),
    Damage(
        "not-a-number",
        "set/wav.scp:2",
        "sample 5 for one",
        lambda f: f.audio([0.1] * 5 + [np.nan] + [0.2] * 9000, subtype="FLOAT"),
    ),
    Damage(
        "infinite-sample",
        "set/wav.scp:2",
        "sample 7 for one",
        lambda f: f.audio([0.1] * 7 + [-np.inf] + [0.2] * 9000, subtype="FLOAT"),
    ),
    Damage("beyond-full-scale", "set/wav.scp:2", "full scale is 1", lambda f: f.audio(32768 * NOISE, subtype="FLOAT")),
    Damage("silence", "set/wav.scp:2", "all 16000 samples are 0", lambda f: f.audio(0 * NOISE)),
    Damage(
        "silent-mix",
        "set/wav.scp:2",
        "its 2 channels add up to silence",
        lambda f: f.audio(np.stack([NOISE, -NOISE], 1), subtype="FLOAT"),
        others=frozenset(["several-channels"]),
    ),
    Damage("constant-audio", "set/wav.scp:2", "all 16000 samples are 0.25", lambda f: f.audio(0 * NOISE + 0.25)),
    Damage("quiet", "set/wav.scp:2", "of full scale, below 0.001", lambda f: f.audio(NOISE / 1000)),
    Damage(
        "clipped", "set/wav.scp:2", "% of the samples are at full scale", lambda f: f.audio(np.clip(5 * NOISE, -1, 1))
    ),
    Damage("offset", "set/wav.scp:2", "the mean of the samples is +0.30", lambda f: f.audio(NOISE + 0.3)),
    Damage("wrong-rate", "set/wav.scp:2", "8000 Hz, wanted are 16000 Hz", lambda f: f.audio(NOISE, 8000)),
    Damage(
        "several-channels", "set/wav.scp:2", "2 channels, wanted is 1", lambda f: f.audio(np.stack([NOISE, NOISE], 1))
    ),
    Damage("too-short", "set/wav.scp:2", "0.050 s, below 0.1", lambda f: (f.audio(NOISE[:800]), f.text("A"))),
    Damage(
        "too-long",
        "set/wav.scp:2",
        "25.00 s, above 20",
        lambda f: (f.audio(np.tile(NOISE, 25)), f.text("THREE FOUR FIVE")),
    ),
    Damage(
        "length-differs",
        "set/wav.scp:2",
        "16000 samples, utt2num_samples says 8000",
        lambda f: f.write("utt2num_samples", "ann-1 16000", "ann-2 8000", "bob-1 16000", "bob-2 16000"),
    ),
    Damage("too-much-text", "set/wav.scp:2", "59 characters in 1.00 s", lambda f: f.text(" ".join(["FOUR"] * 12))),
    Damage(
        "too-little-text",
        "set/wav.scp:2",
        "1 characters in 15.00 s",
        lambda f: (f.audio(np.tile(NOISE, 15)), f.text("A")),
    ),
]

TRANSCRIPTS = [
    Damage("empty-text", "set/text:2", "ann-2 has no text", lambda f: f.line("text", 2, "ann-2")),
    Damage("id-in-text", "set/text:2", "ann-2: the id stands in the text again", lambda f: f.text("ann-2 THREE FOUR")),
    Damage("id-at-end", "set/text:2", "the text ends with (ann-2)", lambda f: f.text("THREE FOUR (ann-2)")),
    Damage("sentence-marks", "set/text:2", "</s> and <s> in the text", lambda f: f.text("<s> THREE </s>")),
    Damage("special-token", "set/text:2", "the token <blank> in the text", lambda f: f.text("THREE <blank>")),
    Damage("mojibake", "set/text:2", "looks like UTF-8 that was read as Latin-1", lambda f: f.text("caf\u00c3\u00a9")),
    Damage("html-entity", "set/text:2", "&amp; in the text", lambda f: f.text("THREE &amp; FOUR")),
    Damage("placeholder", "set/text:2", "the whole text is 'nan'", lambda f: f.text("nan")),
    Damage("no-letters", "set/text:2", "'...' holds neither letters nor digits", lambda f: f.text("...")),
    Damage(
        "mixed-scripts",
        "set/text:2",
        "'\u0410NNA' is written in CYRILLIC and LATIN letters",
        lambda f: f.text("\u0410NNA"),
    ),
    Damage(
        "very-long-word",
        "set/text:2",
        "a word of 70 characters",
        lambda f: (f.audio(np.tile(NOISE, 5)), f.text("FOUR" * 17 + "TH")),
    ),
    Damage(
        "very-long-text",
        "set/text:2",
        "5999 characters, more than 5000",
        lambda f: f.text(" ".join(["FIVE6"] * 1000)),
        others=frozenset(["too-much-text"]),
    ),
]

SPELLING = [
    Damage(
        "no-token-list", "tokens/tokens.txt", "it is missing", lambda f: Path("tokens/tokens.txt").unlink(), CHARACTERS
    ),
    Damage(
        "blank-not-first",
        "tokens/tokens.txt:1",
        "the token is '<pad>', <blank> belongs here",
        lambda f: f.tokens("<pad>", *f.token_list()[1:]),
        CHARACTERS,
    ),
    Damage(
        "unk-not-second",
        "tokens/tokens.txt:2",
        "the token is '<oov>', <unk> belongs here",
        lambda f: f.tokens("<blank>", "<oov>", *f.token_list()[2:]),
        CHARACTERS,
    ),
    Damage(
        "sos-eos-not-last",
        "tokens/tokens.txt:16",
        "<sos/eos> belongs here",
        lambda f: f.tokens(*f.token_list()[:-1]),
        CHARACTERS,
    ),
    Damage(
        "repeated-token",
        "tokens/tokens.txt:6",
        "stands in line 5 too",
        lambda f: f.tokens(*f.token_list()[:5], *f.token_list()[4:]),
        CHARACTERS,
    ),
    Damage(
        "blank-token",
        "tokens/tokens.txt:6",
        "the line is blank",
        lambda f: f.tokens(*f.token_list()[:5], "", *f.token_list()[5:]),
        CHARACTERS,
    ),
    Damage(
        "no-space-token",
        "tokens/tokens.txt",
        "<space> is not in the list",
        lambda f: (
            f.tokens(*(t for t in f.token_list() if t != "<space>")),
            f.write("text", *(f"{k} FIVE" for k in ("ann-1", "ann-2", "bob-1", "bob-2"))),
        ),
        CHARACTERS,
    ),
    Damage("no-bpe-model", "tokens/bpe.model", "it is missing", lambda f: Path("tokens/bpe.model").unlink(), PIECES),
    Damage(
        "damaged-bpe-model",
        "tokens/bpe.model",
        "sentencepiece cannot read it",
        lambda f: Path("tokens/bpe.model").write_bytes(b"ONE" * 99),
        PIECES,
    ),
    Damage(
        "other-bpe-model",
        "tokens/bpe.model",
        "1 of its pieces are not in the token list",
        lambda f: Path("tokens/bpe.txt").write_text(
            "".join(Path("tokens/bpe.txt").read_text().splitlines(True)[:-2]) + "<sos/eos>\n"
        ),
        PIECES,
    ),
    Damage(
        "other-case",
        "set/text:2",
        "'t' (U+0074 LATIN SMALL LETTER T) has no token, its other case has one",
        lambda f: f.text("three four"),
        CHARACTERS,
    ),
    Damage(
        "cannot-spell",
        "set/text:2",
        "'É' (U+00C9 LATIN CAPITAL LETTER E WITH ACUTE) has no token",
        lambda f: f.text("THREÉ"),
        CHARACTERS,
    ),
]

DAMAGES = [*FILES, *LINES, *FOLDER, *SPEAKERS, *SOURCES, *AUDIO, *TRANSCRIPTS, *SPELLING]


def test_a_sound_folder_has_no_problems(folder: Folder) -> None:
    assert problems() == problems(CHARACTERS) == problems(PIECES) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.kind for damage in DAMAGES])
def test_a_damage_is_found_at_its_place_and_nothing_else(folder: Folder, damage: Damage) -> None:
    damage.do(folder)
    folders = ("set", "test") if Path("test").exists() else ("set",)
    found = problems(damage.tokens, *folders)
    ours = [problem for problem in found if problem.kind == damage.kind]
    assert len(ours) >= 1, found
    assert str(ours[0]).startswith(f"{damage.place}: ") and damage.what in ours[0].what, found
    assert len(ours) == 1, found
    assert {problem.kind for problem in found} - {damage.kind} == damage.others, found


@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk"])
def test_what_can_be_read_in_spite_of_it_is_a_warning_only(folder: Folder, name: str) -> None:
    before = read_dir(Path("set"))
    folder.swap(name, b"bob-1 ", b"bob-1\t")
    assert [problem.kind for problem in problems()] == ["tab-after-id"] and not KINDS["tab-after-id"].is_error
    assert read_dir(Path("set")) == before


def test_what_cannot_be_read_is_an_error(folder: Folder) -> None:
    folder.path("text").write_bytes(b"\xef\xbb\xbf" + folder.path("text").read_bytes())
    assert [problem.kind for problem in problems()] == ["byte-order-mark"] and KINDS["byte-order-mark"].is_error
    with pytest.raises(ValueError, match="byte order mark"):
        read_dir(Path("set"))


def test_every_kind_of_the_catalogue_has_its_damage() -> None:
    assert sorted(damage.kind for damage in DAMAGES) == sorted(KINDS) and len(DAMAGES) > 100
