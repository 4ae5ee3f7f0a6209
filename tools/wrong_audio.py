"""Damages recordings of each format and way in, and counts how our reader answers.

Example:
    PYTHONPATH=. python tools/wrong_audio.py --seed 1 --count 2100

A seed draws the same files each time. A file is `whole` if it is read as before the damage, `named` if it is refused
in a sentence, and `changed` if it is read with all its length but other samples: formats without checksums cannot
notice that. It is `lost` if it is read, but shorter than it was, `traceback` if the user would see one (or the three
ways of reading differ), and `hang` after a minute. These three are printed with their file; the status is then 1.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from wrong_values import SECONDS, Case, answer, print_counts

from espnet_larm.data.audio import FORMS, read_audio
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.stream import count_samples, stream_source

RATE = 16000
NUM_SAMPLES = 24000
MAX_LOST = 160  # 10 ms: encoders that pad, and a bit of a length that is damaged
MEMORY = 3 << 30  # bytes, those of the libraries included
SUBTYPES = ("PCM_16", "PCM_S8", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "VORBIS", "OPUS")
SUBTYPES = (*SUBTYPES, "MPEG_LAYER_III", "IMA_ADPCM", "DPCM_16")
KINDS = ("cut", "byte", "placeholder", "zeros", "rubbish", "magic")
WAYS = ("file", "file", "command", "entry")
PLACEHOLDERS = (0, 0x7FFFF000, 0x7F000000, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF)
BAD = ("lost", "traceback", "hang")


class File(NamedTuple):
    """A damaged recording.

    Attributes:
        form: Its format and encoding, for people.
        what: Its damage and the way in, for people.
        source: What `wav.scp` would say.
        expected: How it was read before the damage.
    """

    form: str
    what: str
    source: str
    expected: dict[str, Any]


class Reader:
    """Reads recordings in a process of limited time and memory, which is replaced when it has died."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process."""
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, source: str) -> dict[str, Any]:
        """How a source is answered, with length and digest of what was read."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(source), file=self.process.stdin, flush=True)
        if select.select([self.process.stdout], [], [], SECONDS + 10)[0] and (line := self.process.stdout.readline()):
            found: dict[str, Any] = json.loads(line)
            return found
        self.stop()
        said = "hang" if self.process.returncode == -9 else f"died with status {self.process.returncode}"
        self.start()
        return {"said": said}

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=1)
        self.process.kill()
        self.process.wait()


def serve() -> None:
    """Answer sources that come in lines."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # Decoders print to the standard output.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        found: dict[str, Any] = {}
        source = json.loads(line)
        found["said"] = answer(Case("audio", source, lambda source=source, found=found: found.update(read(source))))
        print(json.dumps(found), file=answers, flush=True)


def read(source: str) -> dict[str, Any]:
    """Read in the three ways of the package, which must agree."""
    try:
        header, samples = read_audio(source)
        streamed = list(stream_source(source, header.sample_rate))
        counted = count_samples(source)
    except AudioError:
        raise
    except ValueError as error:
        # Programs go on behind an AudioError alone.
        raise RuntimeError(f"no AudioError: {error}") from error
    if not np.array_equal(np.concatenate(streamed), samples) or counted != len(samples):
        raise RuntimeError(f"read {len(samples)}, streamed {sum(map(len, streamed))}, counted {counted}")
    # Of all channels, whose mean is read.
    return {"length": len(samples) * header.num_channels, "digest": hashlib.sha256(samples.tobytes()).hexdigest()}


class Recordings:
    """Draws damaged recordings.

    Args:
        folder: Where they are written.
        reader: What reads them.
    """

    def __init__(self, folder: Path, reader: Reader) -> None:
        self.folder, self.reader = folder, reader
        self.data = {f"{form} {subtype}": data for form, subtype, data in encodings()}
        self.expected: dict[tuple[str, str], dict[str, Any]] = {}

    def draw(self, generator: random.Random) -> File:
        """One damaged recording."""
        kind, container = generator.choice(KINDS), generator.choice(sorted({each.split()[0] for each in self.data}))
        form = generator.choice([each for each in self.data if each.startswith(f"{container} ")])
        way = generator.choice(WAYS)
        if (form, way) not in self.expected:
            self.expected[form, way] = self.reader.read(self._write(form, way, self.data[form]))
        damaged, what = damage(kind, self.data[form], generator)
        return File(form, f"{way} {what}", self._write(form, way, damaged), self.expected[form, way])

    def _write(self, form: str, way: str, data: bytes) -> str:
        """Write a recording; return what names it."""
        path = self.folder / "recording"
        if way == "entry":
            whole = self.data[form]
            mark = b"" if whole.startswith(b"RIFF") else b"AUDIO\x04" + len(whole).to_bytes(4, "little")
            path.write_bytes(b"utterance " + mark + data)
            return f"{path}:10"
        path.write_bytes(data)
        return f"cat {path} |" if way == "command" else str(path)


def encodings() -> Iterator[tuple[str, str, bytes]]:
    """A short recording in each format that libsndfile writes and our reader takes."""
    seconds = np.arange(NUM_SAMPLES) / RATE
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, NUM_SAMPLES)
    samples = 0.3 * np.sin(2 * np.pi * 300 * seconds) + noise
    for form in sorted(FORMS & set(soundfile.available_formats())):
        for subtype in [each for each in SUBTYPES if each in soundfile.available_subtypes(form)]:
            stream = io.BytesIO()
            try:
                soundfile.write(stream, samples, RATE, format=form, subtype=subtype)
            except soundfile.LibsndfileError:
                continue  # formats of other rates
            yield form, subtype, stream.getvalue()


def damage(kind: str, data: bytes, generator: random.Random) -> tuple[bytes, str]:
    """Damage a file; return it with a description."""
    changed = bytearray(data)
    place = generator.randrange(len(data))
    if kind == "cut":
        return data[:place], f"cut at {place} of {len(data)}"
    if kind == "byte":
        place, value = generator.randrange(min(len(data), 128)), generator.randrange(256)
        changed[place] = value
        return bytes(changed), f"byte {place}: {data[place]} -> {value}"
    if kind == "placeholder":
        return _put_placeholder(data, generator)
    if kind == "zeros":
        length = min(generator.choice((1, 16, 256, 4096)), len(data) - place)
        changed[place : place + length] = bytes(length)
        return bytes(changed), f"{length} zeros at {place}"
    if kind == "rubbish":
        rubbish = generator.randbytes(generator.choice((1, 128, 5000)))
        return data + rubbish, f"{len(rubbish)} bytes of rubbish behind {len(data)}"
    other = generator.choice(
        [b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b"riff", b".snd", b"NIST", b"caff", b"ID3\x03"]
    )
    changed[:4] = other
    return bytes(changed), f"begins with {other!r}"


def _put_placeholder(data: bytes, generator: random.Random) -> tuple[bytes, str]:
    """Replace a length in the header, or any four bytes if none is found."""
    lengths = [
        (place, order)
        for place in range(min(len(data), 200) - 4)
        for order in ("little", "big")
        if 0 <= len(data) - int.from_bytes(data[place : place + 4], "big" if order == "big" else "little") < 300
    ]
    place, order = generator.choice(lengths or [(4, "little")])
    value = generator.choice(PLACEHOLDERS)
    number = value.to_bytes(4, "big" if order == "big" else "little")
    return data[:place] + number + data[place + 4 :], f"length {value:#x} at {place}"


def judge(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Say how an answer counts."""
    if found["said"] in ("named", "hang"):
        return str(found["said"])
    if found["said"] != "taken":
        return "traceback"
    if expected["said"] != "taken" or found["digest"] == expected["digest"]:
        return "whole"
    return "lost" if found["length"] < expected["length"] - MAX_LOST else "changed"


@contextlib.contextmanager
def made_recordings() -> Iterator[Recordings]:
    """Recordings in a temporary folder, with a process that reads them."""
    reader = Reader()
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Recordings(Path(folder), reader)
    finally:
        reader.stop()


def main() -> int:
    """Draw files, count the answers, print those that are wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the files (0)")
    parser.add_argument("--count", type=int, default=2100, help="number of files (2100)")
    parser.add_argument("--serve", action="store_true", help="read what the standard input names")
    args = parser.parse_args()
    if args.serve:
        serve()
        return 0
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with made_recordings() as recordings:
        generator = random.Random(args.seed)  # no secret
        for _ in range(args.count):
            file = recordings.draw(generator)
            found = recordings.reader.read(file.source)
            kind = judge(file.expected, found)
            counts[file.form][kind] += 1
            if kind in BAD:
                print(f"{kind}: {file.form}: {file.what}: {dict(found, digest='')}"[:300], flush=True)
    print_counts("format", ("whole", "named", "changed", *BAD), counts)
    return int(any(found[kind] for found in counts.values() for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
