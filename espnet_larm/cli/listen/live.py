"""`transcribe --live`: raw PCM of stdin or a microphone to texts, partial ones on stderr, final ones on stdout."""

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from espnet_larm.cli.listen.model import given_decoding, load
from espnet_larm.cli.listen.transcripts import CLEAR
from espnet_larm.errors import DataError
from espnet_larm.live.config import LEAST_HZ, MOST_HZ, LiveConfig
from espnet_larm.options import Option, add_options, given_options, number
from espnet_larm.recognize.config import AUTO, DecodeConfig

if TYPE_CHECKING:
    from espnet_larm.live.session import Heard, LiveRecognizer
    from espnet_larm.live.utterances import Event

RATE = 16000
RATE_OPTION = Option("rate of the samples in Hz", least=LEAST_HZ, most=MOST_HZ)
# The system's default microphone, in place of a name.
DEFAULT = ""
# What one read takes at most; a pipe gives what it has.
BLOCK_BYTES = 1 << 14
# Exit status of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130
# What a table and subtitles of the web begin with, once.
HEADS = {"tsv": "start\tend\ttext\n", "vtt": "WEBVTT\n\n"}
CUTTING = ("long_seconds", "longest_piece", "shortest_piece", "overlap")


def add_live(parser: argparse.ArgumentParser) -> None:
    """Add the options of live use."""
    live_help = (
        "read raw samples from stdin (16 bits, little-endian, one channel), and write what is said while it is heard: "
        "partial texts to stderr, final ones to stdout"
    )
    parser.add_argument("--live", action="store_true", help=live_help)
    rate_help = f"with --live, {RATE_OPTION.sentence} (default: {RATE}, a microphone's own)"
    microphone_help = (
        "with --live, hear this machine's microphone in place of stdin, or the device of this name or number; Ctrl-C "
        "ends it (the extra `microphone`)"
    )
    parser.add_argument("--microphone", nargs="?", const=DEFAULT, metavar="DEVICE", help=microphone_help)
    parser.add_argument("--rate", type=number(int, RATE_OPTION), metavar="HZ", help=rate_help)
    add_options(parser, LiveConfig, "live use, with --live")


def refuse_live_options(args: argparse.Namespace) -> None:
    """Refuse options of live use without it.

    Raises:
        ValueError: One was given.
    """
    given = given_options(LiveConfig, args)
    given |= {name: value for name in ("rate", "microphone") if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        raise ValueError(
            f"{name} is {'given' if value == DEFAULT else value}, which needs --live; set it, or leave {name} out."
        )


def transcribe_live(args: argparse.Namespace, stdin: BinaryIO) -> int:
    """Write what is said in the samples on stdin until they end, or in those of a microphone until Ctrl-C.

    Returns:
        The exit status; 130 if Ctrl-C ended stdin. What was heard before it is written.

    Raises:
        ValueError: An option is wrong, does not go with live use or with the model, stdin has no raw samples, or the
            microphone stops.
        FileNotFoundError: There is no such model.
        ImportError: A microphone's packages are not installed.
    """
    _check(args, stdin)

    from espnet_larm.live.microphone import Microphone
    from espnet_larm.live.pcm import PcmReader

    microphone = None if args.microphone is None else Microphone(args.microphone or None, args.rate)
    recognizer = _recognizer(args)
    session = recognizer.start()
    rate = args.rate or RATE if microphone is None else microphone.rate_hz
    reader = PcmReader(rate, recognizer.sample_rate_hz)
    screen = Screen(args.format[0], args.words, recognizer)
    status, is_stopped = 0, microphone is not None
    try:
        with contextlib.closing(_blocks(stdin) if microphone is None else microphone.blocks()) as blocks:
            for data in blocks:
                screen.show(session.feed(reader.read(data), lambda event: screen.show([event])))
    except KeyboardInterrupt:
        # A microphone has no other end.
        status, is_stopped = INTERRUPTED if microphone is None else 0, False
    try:
        screen.show(session.feed(reader.finish()))
    finally:
        screen.show(session.finish())
        screen.sum_up(session.heard)
    if microphone is not None and microphone.lost_s:
        print(f"WARNING: {microphone.lost_s:.1f} s were lost: the model is slower than speech.", file=sys.stderr)
    if is_stopped:
        raise DataError("the microphone has stopped; it may have been unplugged.")
    return status


class Screen:
    """Writes events: partial texts to stderr, on a terminal over each other, and final ones to stdout.

    Args:
        form: The format of final texts.
        words: Whether to write times of words.
        recognizer: What makes the events.
    """

    def __init__(self, form: str, words: bool, recognizer: "LiveRecognizer") -> None:
        self.form, self.words, self.recognizer = form, words, recognizer
        self.is_terminal = sys.stderr.isatty()
        self.num_cues = 0

    def show(self, events: "Iterable[Event]") -> None:
        """Write some events."""
        for event in events:
            if not event.is_final:
                self._write_partial(event.text)
                continue
            if self.is_terminal:
                print(CLEAR, end="", file=sys.stderr, flush=True)
            # A reader of a pipe sees each text as soon as it is there.
            print(self._formatted(event), end="", flush=True)

    def sum_up(self, heard: "Heard") -> None:
        """Write what was heard, how fast, and how steady partial texts were."""
        factor = f", real-time factor {heard.seconds / heard.audio_s:.2f}" if heard.audio_s else ""
        shown = f"{heard.shown.withdrawn} of {heard.shown.words} shown words withdrawn"
        loops = f", {heard.mean_loops:.2f} loops a frame" if self.recognizer.lets_chunks_leave else ""
        clear = CLEAR if self.is_terminal else ""
        print(f"{clear}{heard.audio_s:.1f} s heard{factor}, {shown}{loops}", file=sys.stderr, flush=True)

    def _write_partial(self, text: str) -> None:
        if self.is_terminal:
            # The end of a long text, in one line.
            shown = text[-max(1, shutil.get_terminal_size().columns - 1) :]
            print(f"{CLEAR}{shown}", end="", file=sys.stderr, flush=True)
        else:
            print(f"... {text}", file=sys.stderr, flush=True)

    def _formatted(self, event: "Event") -> str:
        """A final text in the format, which goes on from those before."""
        from espnet_larm.listen.formats import FORMATS, Written, as_srt
        from espnet_larm.listen.segments import Phrases

        if self.form == "json":
            said = event.message()
            return json.dumps(said if self.words else {**said, "words": []}, ensure_ascii=False) + "\n"
        phrases = Phrases(self.recognizer.text_of, 0.0)
        segments = phrases.add(event.words, event.start_s, 0.0, event.end_s) + phrases.finish()
        written = Written("-", "", None, event.end_s, None, event.text, tuple(segments), self.words)
        is_first, self.num_cues = not self.num_cues, self.num_cues + len(segments)
        if self.form == "srt":
            first = self.num_cues - len(segments) + 1
            return ("" if is_first else "\n") + as_srt(written, first)
        text = FORMATS[self.form](written)
        if self.form in HEADS and not is_first:
            text = text.removeprefix(HEADS[self.form])
        return ("\n" if self.form == "vtt" and not is_first else "") + text


def _check(args: argparse.Namespace, stdin: BinaryIO) -> None:
    if args.recordings not in ([], ["-"]):
        raise ValueError(f"recordings are {' '.join(args.recordings)}; --live reads stdin alone: leave them out.")
    if args.microphone is None and stdin.isatty():
        raise ValueError(
            f"stdin is a terminal; pipe samples into it: arecord -t raw -f S16_LE -r {RATE} | espnet-larm transcribe "
            "--live, or give --microphone"
        )
    if len(args.format) > 1:
        raise ValueError(f"format is {','.join(args.format)}; --live writes one format, to stdout.")
    if args.loops != AUTO and len(args.loops) > 1:
        raise ValueError(f"loops is {','.join(map(str, args.loops))}; --live gives final texts of one loop: name one.")
    without_effect: dict[str, Any] = {
        "compare_loops": args.compare_loops, "output_dir": args.output_dir, "language": args.language,
        "no_vad": args.no_vad, **{name: getattr(args, name) for name in CUTTING},
    }  # fmt: skip
    for name, value in without_effect.items():
        if value not in (None, False):
            raise ValueError(f"{name} is {value}, which has no effect on --live; leave it out.")


def _recognizer(args: argparse.Namespace) -> "LiveRecognizer":
    from espnet_larm.live.session import LiveRecognizer

    given, leaving = given_decoding(args)
    if args.loops == AUTO:
        given |= leaving
    else:
        for name, value in leaving.items():
            raise ValueError(f"{name} is {value}, which needs loops auto; set it, or leave {name} out.")
    if args.loops:
        given["num_loops"] = args.loops if args.loops == AUTO else args.loops[0]
    config, decoding = LiveConfig(**given_options(LiveConfig, args)), DecodeConfig(**given)
    try:
        recognizer = load(args).recognizer
    except TypeError as error:
        raise ValueError(f"model is {args.model}, which cannot be used live; allowed: models of ours.") from error
    return LiveRecognizer(recognizer, config, decoding)


def _blocks(stdin: BinaryIO) -> Generator[bytes]:
    """What comes, as soon as it comes."""
    while data := os.read(stdin.fileno(), BLOCK_BYTES):
        yield data
