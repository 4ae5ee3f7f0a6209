"""Set-up of our programs' own process, before slow imports.

Only programs call it: `import espnet_larm` changes nothing in another program's process.
"""

import contextlib
import ctypes
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# A package whose modules may print while they are imported.
UPSTREAM = "espnet2"
# It prints at its import that flash_attn is missing, which trainings alone have a use for.
REMARKING = f"{UPSTREAM}.legacy.nets.pytorch_backend.transformer.attention"
# Rounds for which a thread spins before it sleeps. With none, steps of small models take 2.5 times as long alone, since
# waking a thread takes longer than what it then does; with libgomp's 300,000, up to 50 times as long in company.
SPIN_COUNT = "10000"
# Exit status of a program that a closed pipe ended: 128 + SIGPIPE.
PIPE_CLOSED = 141


def set_up() -> None:
    """Let waiting threads sleep, and keep stdout for the program's own output; repeated calls change nothing.

    OpenMP's threads spin while they wait for each other. Where another process holds a core, they spin for its whole
    time slice: tools/bench/RESULTS.md has what a training step takes then. libgomp reads these variables when torch is
    loaded, so this must run before. A policy that the user has set is kept; processes started from here inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if not any(isinstance(finder, _UpstreamFinder) for finder in sys.meta_path):
        # Right before Python's own finder: other finders are still asked first.
        sys.meta_path.insert(_position_of_path_finder(), _UpstreamFinder())


def hide_remarks() -> None:
    """Let ESPnet not say at its import that flash_attn is missing, for programs that do not train."""
    for finder in sys.meta_path:
        if isinstance(finder, _UpstreamFinder):
            finder.hides_remarks = True


def stdout_aside() -> contextlib.AbstractContextManager[object]:
    """Send printed text to stderr in a block, for imports of packages that are not ours."""
    return contextlib.redirect_stdout(sys.stderr)


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End the program silently when its stdout has no reader any more, as in `espnet-larm list | head -3`.

    The default of SIGPIPE would also end a training when one of its workers dies.

    Raises:
        SystemExit: The reader is gone; the status is PIPE_CLOSED.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not _has_lost_its_reader(sys.stdout):
            raise
        _drop_output()
        raise SystemExit(PIPE_CLOSED) from None


def drop_output_without_room() -> None:
    """Drop what stdout holds if the disk that it goes to is full."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _drop_output()


def _drop_output() -> None:
    """Send what stdout holds, and all that follows, nowhere: the interpreter flushes again when it ends."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _has_lost_its_reader(stream: Any) -> bool:
    """Whether a stream is a pipe without a reader; False if it is no file."""
    try:
        number = stream.fileno()
    except (AttributeError, OSError):
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _position_of_path_finder() -> int:
    return sys.meta_path.index(importlib.machinery.PathFinder) if importlib.machinery.PathFinder in sys.meta_path else 0


class _UpstreamFinder(importlib.abc.MetaPathFinder):
    """Finds ESPnet's modules as Python does, and sends the output of their import to stderr.

    A module that is run as a program (runpy) is not imported, and keeps its stdout.
    """

    def __init__(self) -> None:
        self._sought: set[str] = set()
        self.hides_remarks = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  # Python's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != UPSTREAM or fullname in self._sought:
            return None
        self._sought.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._sought.discard(fullname)
        if spec is not None and spec.loader is not None:
            # On the object: the loader must stay what inspect and runpy know.
            spec.loader.exec_module = functools.partial(self._run_aside, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _run_aside(self, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
        with stdout_aside(), contextlib.ExitStack() as opened:
            if self.hides_remarks and module.__name__ == REMARKING:
                opened.enter_context(contextlib.redirect_stderr(io.StringIO()))
            exec_module(module)


def give_memory_back() -> None:
    """Give freed pages of the heap back to the system, where the C library is able to (glibc): 10 ms or more."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
