"""Commands of a wav.scp that fail, write without end or never end."""

import time

import pytest

from espnet_larm.data import command
from espnet_larm.data.audio_error import AudioError
from espnet_larm.data.command import run_command


def test_output_is_what_the_command_writes() -> None:
    assert run_command("head -c 3000000 /dev/zero; printf x |") == bytes(3000000) + b"x"


def test_a_command_cannot_wait_for_our_input() -> None:
    assert run_command("cat |") == b""


@pytest.mark.parametrize(
    "endless", ["sleep 71.5 | cat", "exec >&-; sleep 71.5", "while :; do echo x; sleep 0.01; done"]
)
def test_a_command_that_never_ends_is_named_and_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, endless: str
) -> None:
    monkeypatch.setenv(command.LIMIT_NAME, "0.5")
    monkeypatch.setattr(command, "FIRST_WORD_S", 0.1)
    start = time.monotonic()
    with pytest.raises(AudioError, match=r"did not end within 0.5 s and was stopped; .*COMMAND_SECONDS=1\."):
        run_command(f"{endless} |")
    assert time.monotonic() - start < 10
    assert not run_command("ps -eo args | grep '[s]leep 71.5' || true |")
    if ">&-" not in endless:
        assert f"waiting for `{endless} |`: 0 s, 0.5 s at most" in caplog.text


def test_a_command_that_writes_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "MAX_BYTES", 10_000_000)
    with pytest.raises(AudioError, match=r"`yes \|` writes more than"):
        run_command("yes |")


def test_what_memory_does_not_hold_is_the_commands_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(command, "_collect", fail)
    with pytest.raises(AudioError, match=r"no memory for what `echo x \|` writes"):
        run_command("echo x |")


@pytest.mark.parametrize("limit", ["0", "nan", "inf", "soon"])
def test_a_wrong_limit_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(command.LIMIT_NAME, limit)
    with pytest.raises(ValueError, match=f"{command.LIMIT_NAME} is {limit}; allowed"):
        run_command("true |")
