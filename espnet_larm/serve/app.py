"""The application: OpenAI's endpoint of transcriptions, streams, the models, health, and errors as JSON.

    app = build_app(service, key="secret", extra_routes=[Route("/", page)], open_paths=["/"])

An endpoint of an extra route finds the service at `request.app.state.service`, and may raise `RequestError`.
"""

import asyncio
import contextlib
import hmac
from collections.abc import Collection, Coroutine, Iterator, Sequence
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from espnet_larm.data.audio_error import AudioError
from espnet_larm.errors import DataError, is_stated
from espnet_larm.serve.answers import answer
from espnet_larm.serve.errors import (
    BROKEN,
    CLIENT_GONE,
    INVALID,
    NO_MODEL,
    WRONG,
    WRONG_AUDIO,
    WRONG_KEY,
    Problem,
    RequestError,
    error_response,
)
from espnet_larm.serve.fields import ALIAS, read_fields
from espnet_larm.serve.live import key_of_protocols, live
from espnet_larm.serve.service import Service
from espnet_larm.serve.uploads import Upload, received

HEALTH, MODELS, TRANSCRIPTIONS = "/health", "/v1/models", "/v1/audio/transcriptions"
LIVE = "/v1/audio/live"


def build_app(
    service: Service,
    key: str | None = None,
    extra_routes: Sequence[BaseRoute] = (),
    open_paths: Collection[str] = (),
) -> Starlette:
    """The application of a server.

    Args:
        service: The model.
        key: What callers must send as `Authorization: Bearer KEY`, or pages as a subprotocol of a WebSocket
            (`key_of_protocols`); None lets everybody in.
        extra_routes: Further routes, a page for example.
        open_paths: Paths of these that need no key.
    """
    routes = [
        Route(HEALTH, health),
        Route(MODELS, models),
        Route(MODELS + "/{name:path}", model),
        Route(TRANSCRIPTIONS, transcriptions, methods=["POST"]),
        WebSocketRoute(LIVE, live),
        *extra_routes,
    ]
    guard = [Middleware(_Guard, key=key, open_paths={HEALTH, *open_paths})] if key is not None else []
    handlers: Any = {RequestError: _request_error, HTTPException: _http_error, Exception: _fault}
    app = Starlette(routes=routes, middleware=guard, exception_handlers=handlers)
    app.state.service = service
    return app


async def transcriptions(request: Request) -> Response:
    """Recognise a recording."""
    service: Service = request.app.state.service
    with service.place():
        async with received(request, service.limits) as upload:
            asked = read_fields(upload.fields, service.name)
            with refusals(upload):
                job = service.prepare(asked.loops, asked.language, asked.words, asked.auto)
                found = await until_gone(request, service.transcribe(job, upload.path))
            return answer(found, asked, upload.name, asked.language or service.language)


async def models(request: Request) -> Response:
    """The list of models, which is one."""
    return JSONResponse({"object": "list", "data": [_described(request.app.state.service)]})


async def model(request: Request) -> Response:
    """The model, under its own name or the one that stands for it."""
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name not in (service.name, ALIAS):
        raise RequestError(NO_MODEL, f"model is {name}; allowed: {service.name}, {ALIAS}.", "model")
    return JSONResponse(_described(service))


async def health(request: Request) -> Response:
    """Whether the server answers, and how much it has to do."""
    service: Service = request.app.state.service
    known = {"model": service.name, "requests": service.num_requests, **service.counts._asdict()}
    if service.live is not None:
        known |= {"streams": service.live.num_streams, "steps": service.live.num_steps}
    return JSONResponse({"status": "ok", **known})


async def until_gone[T](request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work for a client; it is dropped when the client goes.

    Args:
        request: The client's request, whose body has been read.
        work: What is done for it.

    Raises:
        RequestError: The client has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestError(CLIENT_GONE, "the client has gone.")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


@contextlib.contextmanager
def refusals(upload: Upload) -> Iterator[None]:
    """Turn what the package refuses into errors of the request, with the sender's name of the recording.

    Raises:
        RequestError: The recording cannot be read, or the model cannot do what is asked.
    """
    try:
        yield
    except (ValueError, ImportError) as error:
        if not is_stated(error):
            raise
        # The remedies of audio errors are for data folders.
        message = f"{error.what}." if isinstance(error, AudioError) else str(error)
        is_audio = isinstance(error, AudioError | DataError | ImportError)
        problem, param = (WRONG_AUDIO, "file") if is_audio else (WRONG, None)
        raise RequestError(problem, message.replace(str(upload.path), upload.name), param) from error


async def _leave(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _described(service: Service) -> dict[str, Any]:
    """A model as OpenAI's list has it, and the loops that can be asked for."""
    known = {"id": service.name, "object": "model", "created": service.started, "owned_by": "espnet-larm"}
    return {**known, "loops": list(service.loops)}


def _request_error(_: Request, error: RequestError) -> Response:
    return error.response()


def _http_error(request: Request, error: HTTPException) -> Response:
    """What no route answers."""
    allowed = f"allowed: POST {TRANSCRIPTIONS}, GET {MODELS}, GET {HEALTH}"
    message = f"{request.method} {request.url.path} is not here; {allowed}."
    problem = Problem(error.status_code, INVALID, HTTPStatus(error.status_code).name.lower())
    return error_response(problem, message, headers=dict(error.headers or {}))


def _fault(*_: Any) -> Response:
    """The answer to an error that nobody foresaw; the log has its traceback."""
    return error_response(BROKEN, "the server failed; its log says why.")


class _Guard:
    """Lets nobody pass without the key."""

    def __init__(self, app: ASGIApp, key: str, open_paths: Collection[str]) -> None:
        self.app, self.key, self.open_paths = app, key.encode(), open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_asked = scope["type"] in ("http", "websocket") and scope["path"] not in self.open_paths
        headers = Headers(scope=scope)
        if is_asked and not self._has_key(headers) and not self._is_key(key_of_protocols(scope, headers)):
            message = "the key is missing or wrong; send Authorization: Bearer with the server's key."
            await RequestError(WRONG_KEY, message).response()(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are Latin-1.
        return scheme.lower() == "bearer" and self._is_key(given.strip().encode("latin-1"))

    def _is_key(self, given: bytes) -> bool:
        # The time of the comparison does not tell where they differ.
        return hmac.compare_digest(given, self.key)
