"""The demo page, and what it asks the server for: what the model offers, and the text of a recording at each loop.

    app = build_app(service, key, demo_routes(service), OPEN_PATHS)

A recording is answered with a line of JSON for each thing that is known of it, as soon as it is (`recording.py`).
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from espnet_larm.listen.engine import Job
from espnet_larm.serve.app import refusals
from espnet_larm.serve.batching import Caller, CallerGoneError
from espnet_larm.serve.demo.recording import Line, picture_line, text_lines
from espnet_larm.serve.errors import WRONG, RequestError
from espnet_larm.serve.service import Service
from espnet_larm.serve.uploads import Upload, received

FOLDER = Path(__file__).parent / "page"
PAGE = "index.html"
PATHS = {"/": FOLDER / PAGE, **{f"/demo/{path.name}": path for path in FOLDER.iterdir() if path.name != PAGE}}
# The page itself holds no secret: it asks for the key, and sends it with what it asks for.
OPEN_PATHS = frozenset(PATHS)
# Nothing comes from elsewhere, and nothing goes there. The page plays what it has decoded, which has a blob's address.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
# A field of the form: each piece of the recording shall have as many loops as it needs.
AUTO_FIELD = ("auto", "true")


def demo_routes(service: Service) -> list[Route]:
    """The routes of the page.

    Args:
        service: The model.
    """
    demo = _Demo(service)
    return [
        *(Route(path, demo.file) for path in PATHS),
        Route("/demo/model", demo.model),
        Route("/demo/transcribe", demo.transcribe, methods=["POST"]),
    ]


class _Demo:
    """The page of one model."""

    def __init__(self, service: Service) -> None:
        self.service, self.has_word_times = service, True
        try:
            self.job = service.prepare(service.loops, words=True)
        except ValueError:
            # Its words are spread over its text.
            self.job, self.has_word_times = service.prepare(service.loops), False
        self.auto_job: Job | None = None
        self.why_no_auto = ""
        try:
            self.auto_job = service.prepare(words=self.has_word_times, auto=True)
        except ValueError as error:
            self.why_no_auto = str(error)

    async def file(self, request: Request) -> Response:
        return FileResponse(PATHS[request.url.path], headers=HEADERS)

    async def model(self, request: Request) -> Response:  # noqa: ARG002
        """What the page may offer."""
        limits, hears = self.service.limits, self.service.live
        return JSONResponse(
            {
                "name": self.service.name,
                "loops": self.service.loops,
                "auto": {"is_allowed": self.auto_job is not None, "why": self.why_no_auto},
                "has_word_times": self.has_word_times,
                "most_bytes": limits.max_upload_bytes,
                "too_large": f"has more than {limits.max_upload_mb:g} MB; send a compressed format, or a part of it.",
                "most_s": limits.max_seconds,
                "live": None if hears is None else {"rate": hears.recognizer.sample_rate_hz},
            }
        )

    async def transcribe(self, request: Request) -> Response:
        """Recognise the file of a form."""
        service = self.service
        async with contextlib.AsyncExitStack() as held:
            held.enter_context(service.place())
            upload = await held.enter_async_context(received(request, service.limits))
            with refusals(upload):
                picture = await run_in_threadpool(
                    picture_line, upload.path, service.sample_rate_hz, service.limits.max_seconds
                )
            caller = Caller()
            job = self._job_for(upload)
            texts = text_lines(job, service.follow(job, upload.path, caller))
            # The place is held, and the file kept, until all is said.
            return _Lines(held.pop_all(), caller, _as_json(upload, [picture], texts))

    def _job_for(self, upload: Upload) -> Job:
        """What the fields of a form ask for."""
        if AUTO_FIELD not in upload.fields:
            return self.job
        if self.auto_job is None:
            raise RequestError(WRONG, self.why_no_auto, AUTO_FIELD[0])
        return self.auto_job


class _Lines(StreamingResponse):
    """Lines of JSON as they come, while something is held for them."""

    media_type = "application/x-ndjson"

    def __init__(self, held: contextlib.AsyncExitStack, caller: Caller, lines: Iterator[str]) -> None:
        super().__init__(lines)
        self._held, self._caller = held, caller

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Wait until the client has gone, for whom nothing more is recognised."""
        await super().listen_for_disconnect(receive)
        self._caller.leave()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._caller.leave()


def _as_json(upload: Upload, *parts: Iterable[Line]) -> Iterator[str]:
    """Lines of JSON; a refusal is told in the last of them, since the status has been sent."""
    try:
        with refusals(upload):
            for lines in parts:
                yield from (json.dumps(line) + "\n" for line in lines)
    except CallerGoneError:
        return
    except RequestError as error:
        yield json.dumps({"kind": "error", "message": error.message}) + "\n"
