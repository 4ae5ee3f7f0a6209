"""Serves transcriptions over HTTP, as OpenAI's API has them: POST /v1/audio/transcriptions.

Examples:
    espnet-larm serve --model model.zip  # at http://127.0.0.1:8000
    espnet-larm serve --model openai/whisper-tiny.en --port 9000
    curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@talk.m4a
    ESPNET_LARM_API_KEY=secret espnet-larm serve --model model.zip --host 0.0.0.0  # for other machines, with a key

Clients of OpenAI's API take http://127.0.0.1:8000/v1 as base URL. Recordings of several callers are recognised
together, with the texts of `espnet-larm transcribe`. Ctrl-C and SIGTERM end the server after the requests that have
begun.
"""

import argparse
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_larm.cli.listen.model import (
    add_decoding,
    add_machine,
    add_model,
    given_decoding,
    load,
    parse_loops,
    set_log_level,
)
from espnet_larm.errors import is_stated
from espnet_larm.live.config import LiveConfig
from espnet_larm.options import Option, add_option, add_options, given_options, number
from espnet_larm.recognize.config import AUTO, DecodeConfig
from espnet_larm.serve.limits import Limits

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from espnet_larm.listen.transcriber import Transcriber
    from espnet_larm.live.session import LiveRecognizer
    from espnet_larm.serve.service import Service

KEY = "ESPNET_LARM_API_KEY"
PACKAGES = ("starlette", "uvicorn", "websockets", "python_multipart")
PORT = number(int, Option("port", least=0, most=65535))
LIMITS = ("max_upload_mb", "max_seconds", "max_requests", "max_streams", "batch_wait_ms", "batch_seconds", "batch_size")


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_server(parser)
    return parser


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the options of a server."""
    add_model(parser)
    parser.add_argument("--model_name", help="what clients know the model by (default: the name of its file)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=PORT, default=8000, help="its port; 0 for one that is free (default: 8000)")
    _add_serving(parser)
    add_machine(parser)
    add_decoding(parser)


def _add_serving(parser: argparse.ArgumentParser) -> None:
    """Add the options of a service: what it takes on, and what it makes of all recordings."""
    language_help = (
        "code of the spoken language: the one that a multilingual Whisper expects where a client names none, or the "
        "only one that another model knows and clients may name"
    )
    parser.add_argument("--language", help=language_help)
    parser.add_argument("--no_vad", action="store_true", help="recognise silence, noise and music, too")
    group = parser.add_argument_group("limits and batches")
    for name in LIMITS:
        add_option(group, Limits, name)
    group = add_options(parser, LiveConfig, "live streams, of models that were trained for streaming")
    loops_help = (
        "loop of final texts of streams, or auto, with which a chunk leaves by --loop_rule when its frames are clear "
        "(default: as trained)"
    )
    group.add_argument("--stream_loops", type=parse_loops, default=(), metavar="N", help=loops_help)


def main(cmd: list[str] | None = None) -> int:
    """Serve.

    Returns:
        The exit status; 130 if Ctrl-C came twice and requests were dropped.

    Raises:
        ValueError: An option is wrong, or does not go with the model.
        OSError: The address is taken, or there is no such model.
        ImportError: The extra `serve` is not installed.
    """

    def announce(service: "Service", address: str) -> None:
        from espnet_larm.serve.app import TRANSCRIPTIONS

        print(f"{service.name} is served at {address}{TRANSCRIPTIONS}; Ctrl-C ends it.", file=sys.stderr, flush=True)

    return run(get_parser().parse_args(cmd), announce)


def run(
    args: argparse.Namespace,
    announce: Callable[["Service", str], None],
    routes_of: Callable[["Service"], Sequence["BaseRoute"]] = lambda _: (),
    open_paths: Collection[str] = (),
) -> int:
    """Serve what the options of `add_server` say.

    Args:
        args: They.
        announce: Called when the server listens, with its address.
        routes_of: Makes further routes, a page for example.
        open_paths: Paths of these that need no key.

    Returns:
        The exit status; 130 if Ctrl-C came twice and requests were dropped.

    Raises:
        ValueError: An option is wrong, or does not go with the model.
        OSError: The address is taken, or there is no such model.
        ImportError: The extra `serve` is not installed.
    """
    check_packages()
    set_log_level(args)
    # It warns of each form that a client got wrong.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    key = read_key()

    from espnet_larm.serve import server
    from espnet_larm.serve.app import build_app

    with server.open_socket(args.host, args.port) as opened:
        address = server.address_of(opened)
        if key is None and not server.is_local(opened):
            print(f"WARNING: whoever reaches {address} can use the model; set {KEY} to ask for a key.", file=sys.stderr)
        service = make_service(args)

        try:
            app = build_app(service, key, routes_of(service), open_paths)
            return server.serve(app, opened, lambda: announce(service, address))
        finally:
            service.close()


def check_packages() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        ImportError: One is missing.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ImportError(f'a server needs {", ".join(missing)}: pip install "espnet-larm[serve]".')


def read_key() -> str | None:
    """The key that clients must send, of the environment; None if there is none.

    Raises:
        ValueError: No client could send it.
    """
    key = os.environ.get(KEY)
    if key is not None and (not key.isascii() or not key.isprintable() or not key or " " in key):
        raise ValueError(f"{KEY} is empty, or has spaces or other letters than ASCII's; set another, or unset it.")
    return key


def make_service(args: argparse.Namespace) -> "Service":
    """The service that the options of `add_model`, `_add_serving`, `add_machine` and `add_decoding` name.

    Raises:
        ValueError: The model is refused, or an option does not go with it.
        FileNotFoundError: It is not there.
    """
    limits = Limits(**given_options(Limits, args))
    given, leaving = given_decoding(args)
    config = DecodeConfig(**given)
    auto = DecodeConfig(**given, **leaving, num_loops=AUTO) if leaving else None
    streams = config
    if args.stream_loops == AUTO:
        streams = auto or DecodeConfig(**given, num_loops=AUTO)
    elif args.stream_loops:
        streams = DecodeConfig(**given, num_loops=_only(args.stream_loops))
    transcriber = load(args)
    if leaving and not transcriber.loops:
        name, value = next(iter(leaving.items()))
        raise ValueError(f"{name} is {value}, but the model has no loops; leave it out.")

    from espnet_larm.serve.service import Service

    name = args.model_name or _name_of(args.model)
    live, why_not = _live(args, transcriber, streams)
    return Service(transcriber, name, limits, config, args.language, not args.no_vad, auto, live, why_not)


def _only(loops: Sequence[int]) -> int:
    """The loop of final texts.

    Raises:
        ValueError: There are several.
    """
    if len(loops) > 1:
        raise ValueError(
            f"stream_loops is {','.join(map(str, loops))}; streams have final texts of one loop: name one, or auto."
        )
    return loops[0]


def _live(
    args: argparse.Namespace, transcriber: "Transcriber", config: DecodeConfig
) -> tuple["LiveRecognizer | None", str]:
    """The model for streams, or why there is none.

    Raises:
        ValueError: Options of streams were given, and the model hears none, or they do not go with it.
    """
    from espnet_larm.live.session import LiveRecognizer

    given = given_options(LiveConfig, args)
    is_asked = bool(given or args.stream_loops)
    try:
        return LiveRecognizer(transcriber.recognizer, LiveConfig(**given), config), ""
    except (ValueError, TypeError) as error:
        if is_asked or not is_stated(error):
            raise
        return None, str(error)


def _name_of(model: str | None) -> str:
    """What a model is known by: an id of the hub, or the name of its file or folder."""
    if model is None:
        return "default"
    path = Path(model)
    return path.resolve().name.removesuffix(".zip") if path.exists() else model
