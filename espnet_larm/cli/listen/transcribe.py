"""Writes down what is said in recordings, of any format and length.

Examples:
    espnet-larm transcribe --model model.zip talk.m4a            # text on stdout
    espnet-larm transcribe --model model.zip --loops 4 talk.m4a  # with fewer loops
    espnet-larm transcribe --model model.zip --compare_loops talk.m4a  # what each loop says, and its seconds
    espnet-larm transcribe --model model.zip --format srt,json --output_dir out talks/  # all recordings of a folder
    espnet-larm transcribe --model openai/whisper-tiny.en talk.m4a  # a recogniser of transformers
    ffmpeg -i rtsp://camera -t 60 -f matroska - | espnet-larm transcribe --model model.zip -
    arecord -t raw -f S16_LE -r 16000 | espnet-larm transcribe --live --model model.zip  # while somebody speaks
    espnet-larm transcribe --live --microphone --model model.zip  # the same with the extra `microphone`

Silence, noise and music are left out (--no_vad recognises them, too). A recording that cannot be read is named, the
others are written, and the exit status is 1.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.cli.listen.live import add_live, refuse_live_options, transcribe_live
from espnet_larm.cli.listen.model import (
    add_decoding,
    add_machine,
    add_model,
    given_decoding,
    load,
    parse_loops,
    set_log_level,
)
from espnet_larm.cli.listen.recordings import Recording, find_recordings
from espnet_larm.cli.listen.transcripts import Printer, Progress, Writer, parse_formats
from espnet_larm.data.audio_error import AudioError
from espnet_larm.errors import is_stated
from espnet_larm.listen.formats import FORMATS, WITH_WORDS
from espnet_larm.recognize.config import AUTO, DecodeConfig

if TYPE_CHECKING:
    from espnet_larm.listen.engine import Job
    from espnet_larm.listen.transcriber import Transcriber


_FOLDER = "name a folder for the files with --output_dir"


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "recordings", nargs="*", metavar="RECORDING", help="a file, a folder that is searched, or - for stdin"
    )
    add_model(parser)
    loops_help = (
        "loops to give a text of, 2,4,6 for example, or auto for as many as each piece needs, of models of ours "
        "(default: as trained)"
    )
    parser.add_argument("--loops", type=parse_loops, default=(), metavar="N[,N...]", help=loops_help)
    compare_help = (
        "print the texts of all loops, or of --loops, under each other, with the seconds that each takes: a CTC "
        "model's of one pass up to each loop, an LM's of a run a loop"
    )
    parser.add_argument("--compare_loops", action="store_true", help=compare_help)
    format_help = "txt, srt, vtt, tsv, json; several with commas (default: txt)"
    parser.add_argument(
        "--format", type=parse_formats, default=("txt",), metavar="FORMAT[,FORMAT...]", help=format_help
    )
    parser.add_argument("--words", action="store_true", help="give times of words, in txt, tsv and json")
    parser.add_argument("--output_dir", type=Path, help="folder of the files (default: stdout, for one format)")
    parser.add_argument(
        "--language", help="code of the spoken language, for a multilingual Whisper (default: detected)"
    )
    parser.add_argument("--no_vad", action="store_true", help="recognise silence, noise and music, too")
    add_machine(parser)
    add_decoding(parser)
    add_live(parser)
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Transcribe.

    Returns:
        The exit status; 1 if a recording could not be read.

    Raises:
        ValueError: An option is wrong, or does not go with the model.
        FileNotFoundError: There is no such model.
    """
    parser = get_parser()
    args = parser.parse_args(cmd)
    set_log_level(args)
    if args.live:
        _check_words(args)
        return transcribe_live(args, sys.stdin.buffer)
    refuse_live_options(args)
    if not args.recordings:
        parser.error("the following arguments are required: RECORDING")
    recordings, missing = find_recordings(args.recordings)
    _check(args, len(recordings) + len(missing))
    for sentence in missing:
        print(f"ERROR: {sentence}", file=sys.stderr)
    if not recordings:
        return 1
    transcriber = load(args)
    job = prepare(args, transcriber)
    printer = Printer(args.format[0], len(recordings) + len(missing) > 1, args.compare_loops)
    writer = Writer(args.output_dir, args.format, args.words, str(args.model or "default"), args.language)
    num_failed = len(missing)
    progress = Progress()
    for recording in recordings:
        num_failed += not _transcribe(recording, transcriber, job, args, printer, writer, progress)
    progress.sum_up()
    return 1 if num_failed else 0


def prepare(args: argparse.Namespace, transcriber: "Transcriber") -> "Job":
    """The options of recognition, checked against the model.

    Raises:
        ValueError: The model cannot do what is asked.
    """
    from espnet_larm.listen.engine import Request

    given, leaving = given_decoding(args)
    if args.loops == AUTO:
        if args.compare_loops:
            raise ValueError("loops is auto, and compare_loops compares fixed numbers; leave one of both out.")
        if not transcriber.loops:
            raise ValueError("loops is auto, but the model has no loops; leave the option out.")
        config = DecodeConfig(**given, **leaving, num_loops=AUTO)
        return transcriber.prepare(Request((), args.language, args.words, config))
    if leaving:
        name, value = next(iter(leaving.items()))
        raise ValueError(f"{name} is {value}, which needs loops auto; set it, or leave {name} out.")
    if args.compare_loops and not transcriber.loops:
        raise ValueError("compare_loops is true, but the model has no loops; leave the option out.")
    loops = args.loops or (transcriber.loops if args.compare_loops else ())
    config = DecodeConfig(**given)
    return transcriber.prepare(Request(loops, args.language, args.words, config))


def _check(args: argparse.Namespace, num_recordings: int) -> None:
    _check_words(args)
    if args.output_dir is None:
        _check_stdout(args, num_recordings)
    elif args.output_dir.exists() and not args.output_dir.is_dir():
        raise NotADirectoryError(f"output_dir is {args.output_dir}, which is a file; name a folder.")


def _check_words(args: argparse.Namespace) -> None:
    if args.words and not WITH_WORDS.intersection(args.format):
        raise ValueError(
            f"words is true with format {','.join(args.format)}, which has no place for them; allowed: "
            f"{', '.join(name for name in FORMATS if name in WITH_WORDS)}."
        )


def _check_stdout(args: argparse.Namespace, num_recordings: int) -> None:
    """Refuse what stdout cannot hold."""
    if args.compare_loops:
        # They say what files look like; stdout has the comparison.
        without_effect = {"format": ",".join(args.format) if args.format != ("txt",) else "", "words": args.words}
        for name, value in without_effect.items():
            if value:
                said = str(value).lower()
                raise ValueError(f"{name} is {said}, but compare_loops prints plain text; leave it out, or {_FOLDER}.")
    elif len(args.format) > 1 or (num_recordings > 1 and args.format != ("txt",)):
        number = "1 recording" if num_recordings == 1 else f"{num_recordings} recordings"
        raise ValueError(
            f"format is {','.join(args.format)}, of {number}; stdout takes txt, or one format of one recording: "
            f"{_FOLDER}."
        )
    elif args.loops != AUTO and len(args.loops) > 1 and args.format != ("txt",):
        # One after the other they would be neither JSON nor subtitles.
        raise ValueError(
            f"loops is {','.join(map(str, args.loops))} with format {args.format[0]}, which holds one loop's text; "
            f"name one loop, or {_FOLDER}."
        )


def _transcribe(
    recording: Recording,
    transcriber: "Transcriber",
    job: "Job",
    args: argparse.Namespace,
    printer: Printer,
    writer: Writer,
    progress: Progress,
) -> bool:
    """Whether a recording could be read."""
    from espnet_larm.listen.transcriber import collect

    try:
        with recording.opened() as path:
            following = transcriber.follow(job, path, vad=not args.no_vad)
            found = collect(job, progress.shown(recording.name, following))
    except (OSError, ValueError, ImportError) as error:
        progress.clear()
        if not is_stated(error):
            raise
        # The remedies of audio errors are for data folders.
        what = f"{error.what}." if isinstance(error, AudioError) else str(error)
        print(f"ERROR: {what}", file=sys.stderr)
        return False
    progress.clear()
    written = writer.write(recording, found)
    if args.compare_loops or args.output_dir is None:
        printer.show(recording.name, found, written)
    return True
