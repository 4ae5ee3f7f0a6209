"""The microphone of this machine, as raw samples: sounddevice, with the system's PortAudio."""

import queue
from collections.abc import Generator
from typing import Any

from espnet_larm.errors import OptionError

# Seconds of a block, and of what may wait while the model is slower than speech.
BLOCK_S, WAITS_S = 0.1, 60.0


class Microphone:
    """One channel of an input device, 16 bits, little-endian.

    Args:
        device: Its number or a part of its name; None for the system's default.
        rate_hz: The rate that it shall have; None for its own.

    Attributes:
        rate_hz: The rate that it has.
        lost_s: Seconds that were lost because nobody took them in time.

    Raises:
        ImportError: sounddevice or PortAudio is not installed.
        OptionError: There is no such device, or it cannot have the rate.
    """

    def __init__(self, device: str | None = None, rate_hz: int | None = None) -> None:
        self._sounddevice = _import_sounddevice()
        self._device = int(device) if device is not None and device.isdecimal() else device
        self.lost_s = 0.0
        try:
            found = self._sounddevice.query_devices(self._device, "input")
            self.rate_hz = round(found["default_samplerate"]) if rate_hz is None else rate_hz
            self._sounddevice.check_input_settings(self._device, 1, "int16", samplerate=self.rate_hz)
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise OptionError(self._refusal(rate_hz, error)) from error

    def blocks(self) -> Generator[bytes]:
        """Yield what is heard, as soon as it is; it ends if the device stops, when it is unplugged for example."""
        heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

        def take(data: Any, num_samples: int, _: Any, status: Any) -> None:
            is_full = heard.qsize() >= WAITS_S / BLOCK_S
            if not is_full:
                heard.put(bytes(data))
            # PortAudio does not tell how much it had to drop: about a block.
            self.lost_s += (is_full + bool(status.input_overflow)) * num_samples / self.rate_hz

        stream = self._sounddevice.RawInputStream(
            samplerate=self.rate_hz, blocksize=round(BLOCK_S * self.rate_hz), device=self._device, channels=1,
            dtype="int16", callback=take, finished_callback=lambda: heard.put(None),
        )  # fmt: skip
        with stream:
            while (block := heard.get()) is not None:
                yield block

    def _refusal(self, rate_hz: int | None, error: Exception) -> str:
        given = "" if self._device is None else f" is {self._device}"
        rate = "" if rate_hz is None else f" at {rate_hz} Hz (rate)"
        inputs = [
            f"{number} ({each['name']})"
            for number, each in enumerate(self._sounddevice.query_devices())
            if each["max_input_channels"] > 0
        ]
        listed = f"allowed: {', '.join(inputs)}" if inputs else "this machine has no input device"
        why = " ".join(str(error).split()).rstrip(".")
        return f"microphone{given}, which cannot be used{rate}: {why}; {listed}."


def _import_sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        raise ImportError('a microphone needs sounddevice: pip install "espnet-larm[microphone]".') from error
    except OSError as error:
        raise ImportError(
            "a microphone needs PortAudio, which the system has not (Debian and Ubuntu: apt-get install libportaudio2)."
        ) from error
    return sounddevice
