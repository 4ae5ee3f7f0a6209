"""Runs a command of a `wav.scp`, which must end: who waits for whom is said, and a limit of time ends it.

Kaldi lets whoever writes a data folder choose the commands.
"""

import contextlib
import io
import logging
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from espnet_larm.data.audio_error import AudioError

logger = logging.getLogger(__name__)

LIMIT_NAME = "ESPNET_LARM_COMMAND_SECONDS"
LIMIT_S = 300.0  # copies over slow networks take minutes
FIRST_WORD_S = 10.0  # then said at twice the time, and so on
MAX_BYTES = 1 << 30  # nine hours at 16 kHz, which memory must hold


def run_command(source: str) -> bytes:
    """Run a command and return what it writes to its output.

    Args:
        source: The command with a `|` behind it.

    Raises:
        AudioError: It failed, did not end in time, or wrote more than 1 GiB or than memory holds.
    """
    limit_s = _limit_s()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(  # noqa: S602  # a command for the shell
            source[:-1], shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        ) as process,
    ):
        try:
            data = _collect(source, process, limit_s)
        except MemoryError as error:
            what = f"there is no memory for what `{source}` writes"
            raise AudioError("unreadable-audio", what, "let it write less") from error
        finally:
            stop(process)
        if process.returncode != 0:
            said.seek(0)
            last = " ".join(said.read().decode(errors="replace").strip().splitlines()[-1:])
            what = f"`{source}` ended with status {process.returncode}: {last}"
            raise AudioError("unreadable-audio", what, "try it in a shell")
    return data


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that has not ended, and those that it started.

    They stay in our process group, so that whoever ends that ends them too.
    """
    if process.poll() is None:
        for pid in _with_descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _collect(source: str, process: "subprocess.Popen[bytes]", limit_s: float) -> bytes:
    """Read until the command ends."""
    assert process.stdout is not None
    data, start, next_word_s = io.BytesIO(), time.monotonic(), FIRST_WORD_S
    while (waited_s := time.monotonic() - start) < limit_s:
        if waited_s >= next_word_s:
            logger.warning("waiting for `%s`: %.0f s, %g s at most", source, waited_s, limit_s)
            next_word_s *= 2
        if not select.select([process.stdout], [], [], max(0.0, min(next_word_s, limit_s) - waited_s))[0]:
            continue
        block = os.read(process.stdout.fileno(), 1 << 20)
        if not block:
            return _ended(source, process, data.getvalue(), limit_s, waited_s)
        if data.tell() + data.write(block) > MAX_BYTES:
            raise AudioError("unreadable-audio", f"`{source}` writes more than {MAX_BYTES >> 30} GiB", "make it end")
    raise _late(source, limit_s)


def _ended(source: str, process: "subprocess.Popen[bytes]", data: bytes, limit_s: float, waited_s: float) -> bytes:
    """Wait for a command that has closed its output."""
    try:
        process.wait(limit_s - waited_s)
    except subprocess.TimeoutExpired as error:
        raise _late(source, limit_s) from error
    return data


def _late(source: str, limit_s: float) -> AudioError:
    what = f"`{source}` did not end within {limit_s:g} s and was stopped"
    return AudioError("unreadable-audio", what, f"try it in a shell, or wait longer: {LIMIT_NAME}={2 * limit_s:g}")


def _limit_s() -> float:
    given = os.environ.get(LIMIT_NAME, str(LIMIT_S))
    try:
        limit_s = float(given)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < float("inf"):
        raise ValueError(f"{LIMIT_NAME} is {given}; allowed: a number of seconds above 0.")
    return limit_s


def _with_descendants(pid: int) -> list[int]:
    """List a process and all below it, as Linux knows them; elsewhere it alone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in _with_descendants(int(child)))]
