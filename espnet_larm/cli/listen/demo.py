"""Opens a page in the browser: record or drop a file, and see its text at each loop.

Examples:
    espnet-larm demo --model model.zip                        # at http://127.0.0.1:8000
    espnet-larm demo --model model.zip --port 9000 --no_open  # without opening a browser
    ESPNET_LARM_API_KEY=secret espnet-larm demo --model model.zip --host 0.0.0.0  # for others, who need the key

The same server answers clients of OpenAI's API, as `espnet-larm serve` does. It deletes a recording once it is
recognised. Browsers give the microphone to this machine's own pages and to HTTPS alone; files can be dropped from
anywhere.
"""

import argparse
import os
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from espnet_larm.cli.listen.serve import add_server, check_packages, read_key, run

if TYPE_CHECKING:
    from espnet_larm.serve.service import Service

# Where no display is, a browser of the terminal would take this program's place on it.
DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
# A server that listens at all addresses is opened at the one from which browsers allow recording.
ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104  # not listened at


def get_parser() -> argparse.ArgumentParser:
    """The parser of this program's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_server(parser)
    parser.add_argument("--no_open", action="store_true", help="do not open the page in a browser")
    return parser


def main(cmd: list[str] | None = None) -> int:
    """Serve the page.

    Returns:
        The exit status; 130 if Ctrl-C came twice and requests were dropped.

    Raises:
        ValueError: An option is wrong, or does not go with the model.
        OSError: The address is taken, or there is no such model.
        ImportError: The extra `serve` is not installed.
    """
    args = get_parser().parse_args(cmd)
    check_packages()
    key = read_key()

    from espnet_larm.serve.demo.routes import OPEN_PATHS, demo_routes

    def announce(service: "Service", address: str) -> None:
        page = _page_of(address)
        print(f"{service.name} can be tried at {page}; Ctrl-C ends it.", file=sys.stderr, flush=True)
        if not args.no_open and any(map(os.environ.get, DISPLAYS)):
            # What follows the # goes to no server. Some browsers return only when they are closed.
            address = page if key is None else f"{page}#key={key}"
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    return run(args, announce, demo_routes, OPEN_PATHS)


def _page_of(address: str) -> str:
    """Where a browser on this machine finds the page of a server at an address."""
    parts = urlsplit(address)
    host = f"localhost:{parts.port}" if parts.hostname in ALL_ADDRESSES else parts.netloc
    return f"http://{host}/"
