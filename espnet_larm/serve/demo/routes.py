"""The demo page, and what it asks the server for: what the model offers, and the text of a recording at each loop.

The reply to a recording is a line of JSON for each thing that is known, as soon as it is: see `recording.tell`.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from espnet_larm.errors import is_stated
from espnet_larm.listen import engine
from espnet_larm.listen.transcriber import Transcriber
from espnet_larm.serve.demo.recording import Line, read_recording, tell

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
# Nothing comes from elsewhere, and nothing goes there. The page plays what it has decoded, which has a blob's address.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
NAME_CHARACTERS = 100


class Limits(NamedTuple):
    """What one recording may take.

    Attributes:
        most_bytes: Bytes of its file.
        most_s: Seconds of its sound.
    """

    most_bytes: int = 100 << 20
    most_s: float = 600.0


class _TooLargeError(Exception):
    """More was sent than is allowed."""


def demo_routes(transcriber: Transcriber, name: str, limits: Limits) -> list[Route]:
    """The routes of the page.

    Args:
        transcriber: The model.
        name: Its name for people.
        limits: What one recording may take.
    """
    demo = _Demo(transcriber, name, limits)
    return [
        Route("/", demo.page),
        Route("/demo/model", demo.model),
        Route("/demo/transcribe", demo.transcribe, methods=["POST"]),
        Route("/demo/{file}", demo.file),
    ]


class _Demo:
    """The page of one model."""

    def __init__(self, transcriber: Transcriber, name: str, limits: Limits) -> None:
        self.transcriber, self.name, self.limits = transcriber, name, limits
        most = limits.most_bytes >> 20
        self.too_large = f"is larger than {most} MiB; allowed: up to {most} MiB. Send a part of it."
        self.files = {path.name: path for path in PAGE.iterdir()}
        wanted = engine.Request(loops=transcriber.loops)
        try:
            self.job, self.has_word_times = transcriber.prepare(wanted._replace(needs_words=True)), True
        except ValueError:
            # Its words are spread over its text.
            self.job, self.has_word_times = transcriber.prepare(wanted), False

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        return FileResponse(self.files["index.html"], headers=HEADERS)

    async def file(self, request: Request) -> Response:
        path = self.files.get(request.path_params["file"])
        return _refusal(404, "There is no such file.") if path is None else FileResponse(path, headers=HEADERS)

    async def model(self, request: Request) -> Response:  # noqa: ARG002
        """What the page may offer."""
        auto = {"is_allowed": False, "why": "No model here chooses its number of loops by itself yet."}
        known = {
            "name": self.name,
            "loops": self.transcriber.loops,
            "auto": auto,
            "has_word_times": self.has_word_times,
            **self.limits._asdict(),
            "too_large": self.too_large,
        }
        return JSONResponse(known, headers=HEADERS)

    async def transcribe(self, request: Request) -> Response:
        """Recognise the file that is the request's body."""
        name = request.query_params.get("name", "recording")[-NAME_CHARACTERS:]
        with tempfile.NamedTemporaryFile(prefix="recording") as file:
            try:
                await self._receive(request, file)
                samples = await run_in_threadpool(
                    read_recording, Path(file.name), name, self.transcriber.sample_rate_hz, self.limits.most_s
                )
            except _TooLargeError:
                return _refusal(413, f"{name} {self.too_large}")
            except (ValueError, ImportError) as error:
                if not is_stated(error):
                    raise
                return _refusal(400, str(error))
        lines = tell(self.transcriber, self.job, samples)
        return StreamingResponse(_as_json(lines), media_type="application/x-ndjson", headers=HEADERS)

    async def _receive(self, request: Request, file: Any) -> None:
        num_bytes = 0
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes > self.limits.most_bytes:
                raise _TooLargeError
            file.write(chunk)
        file.flush()


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"error": {"message": sentence}}, status, headers=HEADERS)


def _as_json(lines: Iterator[Line]) -> Iterator[str]:
    """Lines of JSON; an error that stops them is the last, since the status has been sent."""
    try:
        for line in lines:
            yield json.dumps(line) + "\n"
    except (ValueError, MemoryError) as error:
        if not is_stated(error):
            logger.exception("A recording could not be recognised.")
        sentence = str(error) if is_stated(error) else "The server failed while it recognised this; its log says why."
        yield json.dumps({"kind": "error", "message": sentence}) + "\n"
