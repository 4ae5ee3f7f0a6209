"""Streams over WebSocket: binary PCM in, partial and final texts out as JSON; all streams share the model's steps.

A client connects to /v1/audio/live?rate=16000 and sends messages of raw samples (16 bits, little-endian, one channel).
It gets `{"type": "ready", ...}`, then `partial` and `final` with text, start and end. It sends `{"type": "end"}` as
text, and gets the last texts, `{"type": "done", ...}` and the end of the connection. What it does wrong is said as
`{"type": "error", "message": ...}` before the connection is closed. A page, which cannot send headers, offers the key
as a subprotocol beside `live`: `bearer.` and its base64url.

A partial text of an early loop is sent before the deeper loops of its step have run. A client that sends faster than
the model hears is not read from meanwhile. Nobody waits for more than a second of another's audio.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from espnet_larm.errors import is_stated
from espnet_larm.live.pcm import PcmReader
from espnet_larm.live.session import Feed, LiveRecognizer, LiveSession
from espnet_larm.live.utterances import Event
from espnet_larm.serve.errors import FULL, NO_STREAMS, WRONG, WRONG_ORIGIN, RequestError
from espnet_larm.serve.limits import Limits
from espnet_larm.serve.uploads import STALLED_S

logger = logging.getLogger(__name__)

RATE = 16000
# Subprotocols that a page offers: one that is chosen, and one that holds the key.
PROTOCOL, BEARER = "live", "bearer."
# What is heard of one stream in a step.
PIECE_S = 1.0
MOST_END = 1000
# Codes of RFC 6455: what a message holds cannot be taken; a rule is broken; the server failed.
NORMAL, UNSUPPORTED, POLICY, FAILED = 1000, 1003, 1008, 1011


class LiveService:
    """A live recogniser that many clients share.

    Args:
        recognizer: The model.
        limits: How many streams are taken on.

    Attributes:
        num_streams: Streams that are open.
        num_steps: Steps of the model so far.
    """

    def __init__(self, recognizer: LiveRecognizer, limits: Limits) -> None:
        self.recognizer = recognizer
        self.num_streams = self.num_steps = 0
        self._most = limits.max_streams
        self._thread = ThreadPoolExecutor(1, "live")
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for streams during a block.

        Raises:
            RequestError: All are taken.
        """
        if self.num_streams >= self._most:
            raise RequestError(FULL, f"{self._most} streams are heard, and no more may be; try again in a moment.")
        self.num_streams += 1
        try:
            yield
        finally:
            self.num_streams -= 1

    async def hear(self, feed: Feed) -> AsyncGenerator[Event]:
        """Let a session hear something, in one step with all others that wait; closing it drops what waits.

        Yields:
            What is said, partial texts of an early loop before the step has ended.

        Raises:
            ValueError: What `LiveRecognizer.feed` raises.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(feed, loop.create_future(), asyncio.Queue(), loop)
        waiting.found.add_done_callback(lambda _: waiting.early.put_nowait(None))
        self._waiting.append(waiting)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        try:
            while (event := await waiting.early.get()) is not None:
                yield event
            for event in await waiting.found:
                yield event
        finally:
            waiting.found.cancel()

    def close(self) -> None:
        """End the thread after its step."""
        self._thread.shutdown(cancel_futures=True)

    async def _run(self) -> None:
        """Steps, one after the other, as long as somebody waits."""
        while self._waiting:
            waiting = [each for each in self._waiting if not each.found.cancelled()]
            self._waiting = []
            results: list[list[Event] | Exception]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._step, waiting)
            except RuntimeError as error:
                # The service was closed.
                results = [error for _ in waiting]
            for each, result in zip(waiting, results, strict=True):
                if each.found.done():
                    continue
                if isinstance(result, Exception):
                    each.found.set_exception(result)
                else:
                    each.found.set_result(result)

    def _step(self, waiting: Sequence["_Waiting"]) -> list[list[Event] | Exception]:
        """The events of each; where a step fails, each is tried alone, and an error is given to whom it belongs.

        A partial text may then be told twice, which changes nothing.
        """
        self.num_steps += 1
        try:
            feeds = [each.feed for each in waiting]
            return list(self.recognizer.feed(feeds, lambda place, event: waiting[place].tell(event)))
        except Exception as error:  # noqa: BLE001  # the streams' handlers raise it
            if len(waiting) == 1:
                return [error]
        return [result for each in waiting for result in self._step([each])]


class _Waiting(NamedTuple):
    """A stream that waits for a step.

    Attributes:
        feed: What it hears.
        found: The events that the step ends with.
        early: Events before that; None when there are no more.
        loop: Where both are waited for.
    """

    feed: Feed
    found: asyncio.Future[list[Event]]
    early: asyncio.Queue[Event | None]
    loop: asyncio.AbstractEventLoop

    def tell(self, event: Event) -> None:
        """Tell an event while the step runs, from its thread."""
        self.loop.call_soon_threadsafe(self.early.put_nowait, event)


def key_of_protocols(scope: Scope, headers: Headers) -> bytes:
    """The key that a page offers as a subprotocol of a WebSocket; empty if there is none."""
    if scope["type"] != "websocket":
        return b""
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    word = next((each.removeprefix(BEARER) for each in offered if each.startswith(BEARER)), "")
    try:
        return base64.urlsafe_b64decode(word.encode("latin-1") + b"=" * (-len(word) % 4))
    except binascii.Error:
        return b""


async def live(websocket: WebSocket) -> None:
    """Hear a stream."""
    service: LiveService | None = websocket.app.state.service.live
    try:
        _check_origin(websocket)
        if service is None:
            raise RequestError(NO_STREAMS, f"this model hears no streams: {websocket.app.state.service.why_not_live}")
        reader = _reader(websocket, service)
        with service.place():
            await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope["subprotocols"] else None)
            await _serve(websocket, service, reader)
    except RequestError as error:
        await websocket.send_denial_response(error.response())
    except WebSocketDisconnect:
        logger.debug("a stream's client has gone")


async def _serve(websocket: WebSocket, service: LiveService, reader: PcmReader) -> None:
    """Hear a stream whose client was let in; what goes wrong is said before the end."""
    session = service.recognizer.start()
    recognizer = service.recognizer
    ready = {"rate": recognizer.sample_rate_hz, "latency": round(recognizer.latency_s, 3)}
    await websocket.send_json({"type": "ready", **ready})
    try:
        while (data := await _next(websocket)) is not None:
            # A long message gives way to other streams between its pieces.
            for piece in _pieces(data, recognizer.sample_rate_hz):
                await _hear(websocket, service, Feed(session, reader.read(piece)))
        await _hear(websocket, service, Feed(session, reader.finish(), True))
        await websocket.send_json({"type": "done", **_summed_up(session)})
        code = NORMAL
    except WebSocketDisconnect:
        raise
    except (ValueError, TimeoutError) as error:
        if not isinstance(error, TimeoutError) and not is_stated(error):
            raise
        await websocket.send_json({"type": "error", "message": str(error)})
        code = POLICY if isinstance(error, TimeoutError) else UNSUPPORTED
    except Exception:
        logger.exception("a stream failed")
        await websocket.send_json({"type": "error", "message": "the server failed; its log says why."})
        code = FAILED
    await websocket.close(code)


async def _hear(websocket: WebSocket, service: LiveService, feed: Feed) -> None:
    async with contextlib.aclosing(service.hear(feed)) as events:
        async for event in events:
            await websocket.send_json(event.message())


async def _next(websocket: WebSocket) -> bytes | None:
    """The next message of samples; None at the end of the stream.

    Raises:
        WebSocketDisconnect: The client has gone.
        ValueError: It sends something else.
        TimeoutError: It sends nothing.
    """
    try:
        async with asyncio.timeout(STALLED_S):
            message = await websocket.receive()
    except TimeoutError as error:
        raise TimeoutError(f"nothing came for {STALLED_S:g} s; connect again.") from error
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", NORMAL))
    if (data := message.get("bytes")) is not None:
        return bytes(data)
    if not _is_end(message.get("text", "")):
        raise ValueError('a message is text; allowed: binary messages of samples, and {"type": "end"} at the end.')
    return None


def _is_end(text: str) -> bool:
    try:
        # A long text could nest deeper than Python does.
        said: Any = json.loads(text) if len(text) < MOST_END else None
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("type") == "end"


def _pieces(data: bytes, rate_hz: int) -> Iterable[bytes]:
    size = int(PIECE_S * rate_hz) * 2
    return (data[start : start + size] for start in range(0, len(data), size))


def _summed_up(session: LiveSession) -> dict[str, Any]:
    heard = session.heard
    loops = {"mean_loops": round(heard.mean_loops, 3)} if session.recognizer.lets_chunks_leave else {}
    return {
        "duration": round(heard.audio_s, 3),
        "seconds": round(heard.seconds, 3),
        "shown": heard.shown.words,
        "withdrawn": heard.shown.withdrawn,
        **loops,
    }


def _reader(websocket: WebSocket, service: LiveService) -> PcmReader:
    """The reader of a stream of the rate that its address names.

    Raises:
        RequestError: It is no rate.
    """
    word = websocket.query_params.get("rate", str(RATE))
    try:
        return PcmReader(int(word), service.recognizer.sample_rate_hz)
    except ValueError as error:
        message = str(error) if is_stated(error) else f"rate is {word}; allowed: a whole number of Hz."
        raise RequestError(WRONG, message, "rate") from error


def _check_origin(websocket: WebSocket) -> None:
    """Refuse pages of other sites: a browser lets them connect to any server that its user reaches.

    Raises:
        RequestError: The page is of another site.
    """
    origin = websocket.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != websocket.headers.get("host"):
        raise RequestError(WRONG_ORIGIN, f"the page is of {origin}, another site; open the stream from this server's.")
