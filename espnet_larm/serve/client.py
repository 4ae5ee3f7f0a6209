"""A client of streams: sends samples while it receives texts.

    for message in hear("ws://127.0.0.1:8000/v1/audio/live", blocks):
        print(message["type"], message.get("text", ""))

It needs `websockets` alone, and can be copied into other programs.
"""

import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

# What the server says last.
LAST = ("done", "error")
END = json.dumps({"type": "end"})
CLOSE_S = 5.0


def hear(url: str, blocks: Iterable[bytes], rate_hz: int = 16000, key: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield what the server says, as soon as it does; `done` or `error` is the last of it.

    Args:
        url: Address of streams, `ws://host:port/v1/audio/live`.
        blocks: Raw samples, 16 bits, little-endian, one channel; they are sent as fast as they come and the server
            hears, so that a microphone need not be waited for here.
        rate_hz: Their rate.
        key: The server's key.

    Raises:
        websockets.exceptions.InvalidStatus: The server lets nobody in; `error.response.body` says why.
        websockets.exceptions.ConnectionClosed: The connection broke, or a message was too long.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with connect(f"{url}?rate={rate_hz}", additional_headers=headers, close_timeout=CLOSE_S) as connection:
        threading.Thread(target=_send, args=(connection, blocks), daemon=True).start()
        for message in connection:
            said = json.loads(message)
            yield said
            if said["type"] in LAST:
                return


def _send(connection: ClientConnection, blocks: Iterable[bytes]) -> None:
    # Whoever receives learns why the server has closed the connection.
    with contextlib.suppress(ConnectionClosed):
        for block in blocks:
            connection.send(block)
        connection.send(END)
