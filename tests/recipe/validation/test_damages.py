"""A data folder damaged in every way that the catalogue names: each damage is found, at its place, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from omniio import kaldi

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recipe.archive import Rendering, write_archive
from espnet_larm.recipe.validation.report import KINDS
from espnet_larm.recipe.validation.text import Tokens

from .conftest import CHARACTERS, PIECES, TEXTS, Folder, problems

NOISE = np.random.default_rng(1).uniform(-0.5, 0.5, 16000)


class Damage(NamedTuple):
    """A damage.

    Attributes:
        kind: Kind of problem that must be found.
        place: File and line that must be named.
        what: Part of the message.
        do: Damages the folder.
        tokens: Tokens to spell with.
        others: Kinds that cannot but come with it.
    """

    kind: str
    place: str
    what: str
    do: Callable[[Folder], object]
    tokens: Tokens | None = None
    others: frozenset[str] = frozenset()


def archive(folder: Folder, size: int | None = None) -> str:
    """ann-2 as an entry of an archive, of which `size` bytes are left."""
    (entry,) = write_archive(Path("audio/a.ark"), [Rendering("ann-2", "audio/ann-2.flac")], 16000)
    if size:
        os.truncate("audio/a.ark", size)
    folder.source(entry.source)
    return entry.source


def flip_bytes() -> bytes:
    """A FLAC file with eight bytes in its middle changed."""
    data = bytearray(Path("audio/ann-1.flac").read_bytes())
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


def sort_by_number(folder: Folder) -> None:
    for name, value in (("text", "ONE"), ("wav.scp", "audio/ann-1.flac"), ("utt2spk", "ann")):
        order = (1, 2, 10) if name == "text" else (1, 10, 2)
        folder.write(name, *(f"ann-{number} {value}" for number in order))
    folder.write("spk2utt", "ann ann-1 ann-10 ann-2")


def lengths(*values: object) -> Callable[[Folder], None]:
    return lambda folder: folder.write("utt2num_samples", *(f"{k} {v}" for k, v in zip(TEXTS, values, strict=False)))


def segments(ann_2: str) -> Callable[[Folder], None]:
    """All utterances as parts of one recording of a second; without ann-2 where its line cannot be read."""

    def do(folder: Folder) -> None:
        folder.write("wav.scp", "tape audio/ann-1.flac")
        parts = {key: f"tape {index / 8} {index / 8 + 0.5}" for index, key in enumerate(TEXTS)} | {"ann-2": ann_2}
        folder.write("segments", *(f"{key} {part}" for key, part in parts.items()))
        if "tape9" in ann_2:
            for name in ("text", "utt2spk"):
                folder.drop(name, 2)
            folder.line("spk2utt", 1, "ann ann-1")

    return do


FILES = [
    Damage("missing-file", "set", "there is no such folder", lambda f: f.path("").rename("gone")),
    Damage("missing-file", "set/text", "it is missing", lambda f: f.path("text").unlink()),
    Damage("missing-file", "set/utt2spk", "it is empty", lambda f: f.write("utt2spk")),
    Damage(
        "missing-file", "tokens/tokens.txt", "it is missing", lambda _: Path("tokens/tokens.txt").unlink(), CHARACTERS
    ),
    Damage("missing-file", "tokens/bpe.model", "it is missing", lambda _: Path("tokens/bpe.model").unlink(), PIECES),
    Damage("bad-segment", "set/segments:2", "the recording tape9 is not in wav.scp", segments("tape9 0 1")),
    Damage("bad-segment", "set/segments:2", "begins behind the end of the recording", segments("tape 2 2.5")),
    Damage("bad-segment", "set/segments:2", "ends 0.80 s behind the end", segments("tape 0.5 1.8")),
    Damage("segment-past-end", "set/segments:2", "ends 0.250 s behind the end", segments("tape 0.5 1.25")),
    Damage("windows-text", "set/text:1", "byte order mark", lambda f: f.swap("text", b"ann-1", b"\xef\xbb\xbfann-1")),
    Damage("windows-text", "set/text:1", "here on end with CR LF", lambda f: f.swap("text", b"\n", b"\r\n")),
    Damage("not-utf-8", "set/text:3", "byte 8 of the line (0xC9)", lambda f: f.swap("text", b"FIVE", b"F\xc9VE")),
    Damage(
        "unsorted",
        "set/text:3",
        "ann-2 stands after bob-1",
        lambda f: f.write("text", *(f.lines("text")[i] for i in (0, 2, 1, 3))),
    ),
    Damage("sorted-by-number", "set/text:3", "ann-10 stands after ann-2, as its number is", sort_by_number),
    Damage("repeated-id", "set/text:3", "ann-2 stands in line 2 too", lambda f: f.text("THREE FOUR\nann-2 THREE")),
    Damage("missing-line", "set/wav.scp:2", "ann-2 is not in text", lambda f: f.drop("text", 2)),
    Damage("missing-line", "set/text:2", "ann-2 is not in wav.scp", lambda f: f.drop("wav.scp", 2)),
    Damage("missing-line", "set/wav.scp:4", "bob-2 is not in utt2num_samples", lengths(16000, 16000, 16000)),
    Damage("in-two-folders", "test/wav.scp:1", "ann-2 stands in set/wav.scp:2 too", add_test_set),
    Damage("no-value", "set/wav.scp:2", "ann-2 has no value", lambda f: f.line("wav.scp", 2, "ann-2")),
    Damage("wrong-length", "set/utt2num_samples:2", "'1.0' is no number of samples", lengths(16000, 1.0, 16000, 16000)),
    Damage("wrong-length", "set/wav.scp:2", "16000 samples, utt2num_samples says 8", lengths(16000, 8, 16000, 16000)),
]

SPEAKERS = [
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
        "spk2utt-disagrees",
        "set/utt2spk:2",
        "ann-2 of ann is not in spk2utt",
        lambda f: f.line("spk2utt", 1, "ann ann-1"),
    ),
    Damage(
        "spk2utt-disagrees",
        "set/spk2utt:1",
        "ann-3 is listed for ann",
        lambda f: f.line("spk2utt", 1, "ann ann-1 ann-2 ann-3"),
    ),
    Damage(
        "spk2utt-disagrees",
        "set/utt2spk:2",
        "ann-2 is of ann here, of bob in spk2utt:2",
        lambda f: f.write("spk2utt", "ann ann-1", "bob ann-2 bob-1 bob-2"),
    ),
]

AUDIO = [
    Damage("missing-audio", "set/wav.scp:2", "here.flac is missing (paths count from", lambda f: f.source("here.flac")),
    Damage("missing-audio", "set/wav.scp:2", "audio is no regular file", lambda f: f.source("audio")),
    Damage("missing-audio", "set/wav.scp:2", "audio/a.ark is missing", lambda f: f.source("audio/a.ark:12")),
    Damage("missing-audio", "set/wav.scp:2", "cannot be reached (File name too long)", lambda f: f.source("x" * 999)),
    Damage("unknown-program", "set/wav.scp:2", "no program 'sph2pipe_9'", lambda f: f.source("sph2pipe_9 -f wav a |")),
    Damage("empty-audio", "set/wav.scp:2", "audio/other.flac has 0 bytes", lambda f: f.content(b"")),
    Damage("empty-audio", "set/wav.scp:2", "begin at 9999", lambda f: (archive(f, 99), f.source("audio/a.ark:9999"))),
    Damage("empty-audio", "set/wav.scp:2", "audio/other.wav holds no samples", lambda f: f.audio([])),
    Damage("unreadable-audio", "set/wav.scp:2", "with status 1: cat: no.flac", lambda f: f.source("cat no.flac |")),
    Damage(
        "unreadable-audio",
        "set/wav.scp:2",
        "audio/a.ark:3 holds no encoded audio",
        lambda f: (archive(f), f.source("audio/a.ark:3")),
    ),
    Damage("unreadable-audio", "set/wav.scp:2", "holds a matrix of features", features),
    Damage("unreadable-audio", "set/wav.scp:2", "is truncated or damaged", lambda f: f.content(flip_bytes())),
    Damage("unreadable-audio", "set/wav.scp:2", "a web page", lambda f: f.content(b"<!DOCTYPE html><p>404")),
    Damage("unreadable-audio", "set/wav.scp:2", "Git LFS", lambda f: f.content(b"version https://git-lfs.github.com")),
    Damage("unreadable-audio", "set/wav.scp:2", "with gzip", lambda f: f.content(b"\x1f\x8b" + bytes(99))),
    Damage("unreadable-audio", "set/wav.scp:2", "M4A", lambda f: f.content(b"\0\0\0\x20ftypM4A " + bytes(99), "a.m4a")),
    Damage(
        "unreadable-audio",
        "set/wav.scp:2",
        "it is SPHERE packed with shorten",
        lambda f: f.content(b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n" + bytes(999), "a.sph"),
    ),
    Damage("unreadable-audio", "set/wav.scp:2", "it is text", lambda f: f.content(b"THREE FOUR\n" * 50)),
    Damage("unreadable-audio", "set/wav.scp:2", "is no audio (", lambda f: f.content(bytes(range(256)))),
    Damage("truncated-audio", "set/wav.scp:2", "is truncated: ", lambda f: archive(f, 5000)),
    Damage(
        "bad-samples",
        "set/wav.scp:2",
        "sample 5 for one",
        lambda f: f.audio([0.1] * 5 + [np.nan] + [0.2] * 9000, subtype="FLOAT"),
    ),
    Damage("bad-samples", "set/wav.scp:2", "full scale is 1", lambda f: f.audio(32768 * NOISE, subtype="FLOAT")),
    Damage("silence", "set/wav.scp:2", "all 16000 samples are 0", lambda f: f.audio(0 * NOISE)),
    Damage(
        "silence",
        "set/wav.scp:2",
        "0 (the sum of 2 channels)",
        lambda f: f.audio(np.stack([NOISE, -NOISE], 1), subtype="FLOAT"),
        others=frozenset(["wrong-format"]),
    ),
    Damage("clipped", "set/wav.scp:2", "% of the samples are at full", lambda f: f.audio(np.clip(5 * NOISE, -1, 1))),
    Damage("wrong-format", "set/wav.scp:2", "8000 Hz, wanted are 16000 Hz", lambda f: f.audio(NOISE, 8000)),
    Damage("wrong-format", "set/wav.scp:2", "2 channels, wanted is 1", lambda f: f.audio(np.stack([NOISE, NOISE], 1))),
    Damage("odd-duration", "set/wav.scp:2", "0.050 s, below 0.1", lambda f: (f.audio(NOISE[:800]), f.text("A"))),
    Damage("odd-duration", "set/wav.scp:2", "25.00 s, above 20", lambda f: f.audio(np.tile(NOISE, 25))),
    Damage("too-much-text", "set/wav.scp:2", "59 characters in 1.00 s", lambda f: f.text(" ".join(["FOUR"] * 12))),
]

TEXT = [
    Damage("empty-text", "set/text:2", "ann-2 has no text", lambda f: f.line("text", 2, "ann-2")),
    Damage("odd-spacing", "set/wav.scp:3", "line is blank", lambda f: f.swap("wav.scp", b"\nbob-1", b"\n\nbob-1")),
    Damage("odd-spacing", "set/text:2", "stand between words", lambda f: f.text("THREE  FOUR")),
    Damage("odd-spacing", "set/text:2", "or a tab", lambda f: f.text("THREE\tFOUR")),
    Damage("odd-character", "set/text:3", "U+0000", lambda f: f.swap("text", b"FIVE", b"FI\0VE")),
    Damage("odd-character", "set/text:2", "U+200B ZERO WIDTH SPACE is char", lambda f: f.text("THREE\u200b FOUR")),
    Damage("odd-character", "set/text:2", "U+00A0 NO-BREAK SPACE", lambda f: f.text("THREE\xa0FOUR")),
    Damage("odd-character", "set/text:2", "U+FFFD REPLACEMENT CHARACTER", lambda f: f.text("CAF\ufffd")),
    Damage("odd-character", "set/text:2", "U+2028", lambda f: f.swap("text", b"THREE ", "THREE\u2028".encode())),
    Damage("odd-character", "set/text:2", "E) has its mark behind it; one char", lambda f: f.text("CAFE\u0301")),
    Damage("odd-character", "set/text:2", "'ᄒ' (U+1112", lambda f: f.text("ড় 한")),
    Damage("not-normal", "set/text:2", "RRA) is one character, which", lambda f: f.text("ড়")),
    Damage("not-normal", "set/text:2", "U+FB2A HEBREW LETTER SHIN WITH SHIN", lambda f: f.text("אשׁ")),
    Damage("not-normal", "set/text:2", "SHADDA) is a mark in another", lambda f: f.text("مَّ")),
    Damage("not-normal", "set/text:2", "ANGSTROM SIGN) is another", lambda f: f.text("Å")),
    Damage(
        "odd-character",
        "set/wav.scp:2",
        "the id 'ann-2\\u200b' holds U+200B ZERO WIDTH SPACE",
        lambda f: f.swap("wav.scp", b"ann-2 ", "ann-2\u200b ".encode()),
        others=frozenset(["missing-line"]),
    ),
    Damage("mark-in-text", "set/text:2", "the id stands in the text again", lambda f: f.text("ann-2 THREE FOUR")),
    Damage("mark-in-text", "set/text:2", "the id stands in the text again", lambda f: f.text("THREE FOUR (ann-2)")),
    Damage("mark-in-text", "set/text:2", "the text holds </s>", lambda f: f.text("<s> THREE </s>")),
]

SPELLING = [
    Damage(
        "bad-token-list",
        "tokens/tokens.txt:1",
        "<blank> belongs here, the token is '<pad>'",
        lambda f: f.tokens("<pad>", *f.token_list()[1:]),
        CHARACTERS,
    ),
    Damage(
        "bad-token-list",
        "tokens/tokens.txt:16",
        "<sos/eos> belongs here",
        lambda f: f.tokens(*f.token_list()[:-1]),
        CHARACTERS,
    ),
    Damage(
        "bad-token-list",
        "tokens/tokens.txt:6",
        "stands in line 5 too",
        lambda f: f.tokens(*f.token_list()[:5], *f.token_list()[4:]),
        CHARACTERS,
    ),
    Damage(
        "bad-token-list",
        "tokens/tokens.txt:6",
        "the line is blank",
        lambda f: f.tokens(*f.token_list()[:5], "", *f.token_list()[5:]),
        CHARACTERS,
    ),
    Damage(
        "bad-token-list",
        "tokens/tokens.txt",
        "<space> is not in the list",
        lambda f: (
            f.tokens(*(token for token in f.token_list() if token != "<space>")),
            f.write("text", *(f"{key} FIVE" for key in TEXTS)),
        ),
        CHARACTERS,
    ),
    Damage(
        "bad-token-list",
        "tokens/bpe.model",
        "sentencepiece cannot read this model",
        lambda _: Path("tokens/bpe.model").write_bytes(b"ONE" * 99),
        PIECES,
    ),
    Damage(
        "bad-token-list",
        "tokens/bpe.model",
        "1 of its pieces are not in the token list",
        lambda _: Path("tokens/bpe.txt").write_text(
            "".join(Path("tokens/bpe.txt").read_text().splitlines(True)[:-2]) + "<sos/eos>\n"
        ),
        PIECES,
    ),
    Damage("cannot-spell", "set/text:2", "no token, its other case has one", lambda f: f.text("three"), CHARACTERS),
    Damage("cannot-spell", "set/text:2", "LETTER E WITH ACUTE) has no token", lambda f: f.text("THREÉ"), CHARACTERS),
]

DAMAGES = [*FILES, *SPEAKERS, *AUDIO, *TEXT, *SPELLING]


def test_a_sound_folder_has_no_problems(folder: Folder) -> None:
    assert problems() == problems(CHARACTERS) == problems(PIECES) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=[f"{damage.kind}: {damage.what}" for damage in DAMAGES])
def test_a_damage_is_found_at_its_place_and_nothing_else(folder: Folder, damage: Damage) -> None:
    damage.do(folder)
    found = problems(damage.tokens, *(("set", "test") if Path("test").exists() else ("set",)))
    ours = [problem for problem in found if problem.kind == damage.kind]
    assert len(ours) == 1, found
    assert str(ours[0]).startswith(f"{damage.place}: ") and damage.what in ours[0].what, found
    assert {problem.kind for problem in found} - {damage.kind} == damage.others, found


@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk"])
def test_white_space_that_every_reader_passes_over_is_no_problem(folder: Folder, name: str) -> None:
    before = read_dir(Path("set"))
    folder.swap(name, b"bob-1 ", b"bob-1\t")
    folder.swap(name, b"\n", b" \n")
    assert problems() == [] and read_dir(Path("set")) == before


def test_joiners_between_letters_and_letters_that_unicode_never_composes_are_no_problem(folder: Folder) -> None:
    folder.text("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u09a1\u09bc")
    assert problems() == []


def test_compounds_of_two_scripts_are_no_problem(folder: Folder) -> None:
    folder.text("GPS-НАВИГАТОР β-GLUCAN")
    assert problems() == []


def test_what_cannot_be_read_is_an_error(folder: Folder) -> None:
    folder.path("text").write_bytes(b"\xef\xbb\xbf" + folder.path("text").read_bytes())
    assert [problem.kind for problem in problems()] == ["windows-text"] and KINDS["windows-text"].is_error
    with pytest.raises(ValueError, match="byte order mark"):
        read_dir(Path("set"))


def test_every_kind_of_the_catalogue_has_its_damage() -> None:
    assert {damage.kind for damage in DAMAGES} == KINDS.keys()
