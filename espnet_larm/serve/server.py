"""The process of a server: its socket, its signals, and its end."""

import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL

import uvicorn
from starlette.types import ASGIApp

BACKLOG = 2048
# The longest message of a stream: 32 s at 16 kHz. A client that sends a longer one is cut off before it is read.
MOST_MESSAGE_BYTES = 1 << 20
# Exit status of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130


def open_socket(host: str, port: int) -> socket.socket:
    """Take an address, so that nobody else gets it; `serve` listens at it.

    Args:
        host: A name or an IP address of this machine.
        port: 1 to 65535, or 0 for one that is free.

    Raises:
        OSError: It is taken, not of this machine, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(address)
            opened.listen(BACKLOG)
        except OSError:
            opened.close()
            raise
    except socket.gaierror as error:
        raise OSError(f"host is {host}, which is no address of this machine ({error.strerror}).") from error
    except OSError as error:
        raise OSError(_why(error, host, port)) from error
    return opened


def address_of(opened: socket.socket) -> str:
    """The address of a socket as browsers take it."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(opened: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def serve(app: ASGIApp, opened: socket.socket, announce: Callable[[], None]) -> int:
    """Answer requests until SIGINT or SIGTERM; those that have begun are answered, unless Ctrl-C comes a second time.

    Args:
        app: The application.
        opened: Where it listens.
        announce: Called when it does.

    Returns:
        The exit status: 0, or INTERRUPTED if requests were dropped.
    """
    server = Server(app, announce)
    server.run([opened])
    return INTERRUPTED if server.force_exit else 0


class Server(uvicorn.Server):
    """A server for which a signal is no error: uvicorn's own raises it again at its end.

    Args:
        app: The application.
        announce: Called when the server listens.
    """

    def __init__(self, app: ASGIApp, announce: Callable[[], None]) -> None:
        # One implementation of HTTP, whatever else is installed: not all bound what they read in the same way.
        super().__init__(
            uvicorn.Config(
                app, http="h11", ws="websockets-sansio", ws_max_size=MOST_MESSAGE_BYTES, ws_per_message_deflate=False,
                lifespan="off", log_config=None, server_header=False,
            )
        )  # fmt: skip
        self.announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        self.announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server during the block; only the main thread can hear them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == EADDRINUSE:
        return f"port is {port}, at which another program listens; choose another, or 0 for one that is free."
    if error.errno == EACCES:
        return f"port is {port}, which only root may take; allowed: 1024 to 65535, or 0 for one that is free."
    if error.errno == EADDRNOTAVAIL:
        return f"host is {host}, which is no address of this machine."
    return f"{host}:{port} cannot be listened at: {error.strerror}."
