"""Forms with a recording, read from a connection no farther than is allowed."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from espnet_larm.serve.errors import CLIENT_GONE, STALLED, TOO_LARGE, WRONG, WRONG_BODY, RequestError
from espnet_larm.serve.limits import MEGABYTE, Limits

FORM = "multipart/form-data"
FILE = "file"
# What a form has beside the recording: boundaries, headers, fields.
MOST_REST_BYTES, MOST_FIELD_BYTES, MOST_FIELDS = 1 << 16, 1 << 14, 32
# A connection that brings nothing for so long would hold its place for ever.
STALLED_S = 30.0
NAME_CHARACTERS = 80


class Upload(NamedTuple):
    """A form that was received.

    Attributes:
        path: A file with the recording, which is there as long as the form is open.
        name: Name of the recording, from its sender, for messages.
        fields: Names and values of the other fields, in their order.
    """

    path: Path
    name: str
    fields: Sequence[tuple[str, str]]


@contextlib.asynccontextmanager
async def received(request: Request, limits: Limits) -> AsyncIterator[Upload]:
    """Receive a form, and delete its recording at the end of the block.

    Args:
        request: A request whose body has not been read.
        limits: How much is read.

    Raises:
        RequestError: The body is too large, no form, or has no recording; or nothing comes any more.
    """
    form = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form != FORM:
        raise RequestError(WRONG_BODY, f"Content-Type is {form or 'missing'}; allowed: {FORM}.")
    body = _Body(request, limits)
    body.check(int(request.headers.get("content-length", 0)))
    try:
        fields = await Request(request.scope, body.receive).form(
            max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES
        )
    except HTTPException as error:
        raise RequestError(WRONG, f"the form cannot be read: {error.detail}") from error
    except ClientDisconnect as error:
        raise RequestError(CLIENT_GONE, "the client has gone.") from error
    file = fields.get(FILE)
    if not isinstance(file, UploadFile):
        await fields.close()
        raise RequestError(WRONG, "file is missing; send the recording as a file in this field.", FILE)
    rest = [(name, value) for name, value in fields.multi_items() if isinstance(value, str)]
    with tempfile.NamedTemporaryFile(prefix="recording") as copy:
        # Readers of audio open paths.
        await run_in_threadpool(_move, file.file, copy)
        await fields.close()
        yield Upload(Path(copy.name), _shown(file.filename or "recording"), rest)


class _Body:
    """The body of a request, which counts its bytes as they come."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._receive, self._limits, self._num_bytes = request.receive, limits, 0

    async def receive(self) -> Message:
        """The next message of the server.

        Raises:
            RequestError: There is too much, or nothing comes.
        """
        try:
            async with asyncio.timeout(STALLED_S):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestError(STALLED, f"nothing came for {STALLED_S:g} s; send the recording again.") from error
        self._num_bytes += len(message.get("body", b""))
        self.check(self._num_bytes)
        return message

    def check(self, num_bytes: int) -> None:
        """Refuse a body of so many bytes if it is too large."""
        if num_bytes > self._limits.max_upload_bytes + MOST_REST_BYTES:
            size = f"{num_bytes / MEGABYTE:.1f}"
            allowed = f"allowed: up to {self._limits.max_upload_mb:g} MB; send a compressed format, or parts"
            raise RequestError(TOO_LARGE, f"the upload has {size} MB or more; {allowed}.", FILE)


def _move(source: IO[bytes], target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target)
    target.flush()


def _shown(name: str) -> str:
    """A sender's file name as messages may have it: its last part, printable, not long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:NAME_CHARACTERS] or "recording"
