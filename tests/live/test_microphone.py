"""A microphone: blocks of a pretended sounddevice, and sentences where there is no package, library or device."""

import builtins
import sys
import threading
import types

import pytest

from espnet_larm.errors import OptionError
from espnet_larm.live import microphone as microphones
from espnet_larm.live.microphone import Microphone
from tests.live.conftest import speech

DEVICES = [
    {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 44100.0},
    {"name": "USB Audio", "max_input_channels": 1, "default_samplerate": 48000.0},
    {"name": "Webcam", "max_input_channels": 2, "default_samplerate": 16000.0},
]


class PortAudioError(Exception):
    pass


class Stream:
    """What RawInputStream is: it calls back from a thread of its own, and stops when its samples are over."""

    def __init__(self, sounddevice, callback, finished_callback, blocksize, **options):
        self.sounddevice, self.callback, self.finished = sounddevice, callback, finished_callback
        self.blocksize = blocksize
        sounddevice.opened.append({**options, "blocksize": blocksize})

    def __enter__(self):
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.sounddevice.num_closed += 1

    def run(self):
        data, size = self.sounddevice.data, 2 * self.blocksize
        for start in range(0, len(data), size):
            block = data[start : start + size]
            status = types.SimpleNamespace(input_overflow=start == self.sounddevice.overflow_at)
            self.callback(memoryview(block), len(block) // 2, None, status)
        self.sounddevice.at_end()
        self.finished()


def pretend(monkeypatch, samples=None, devices=DEVICES, default=1):
    """Put a pretended sounddevice in the place of the package, which hears these samples."""
    module = types.ModuleType("sounddevice")

    def query_devices(device=None, kind=None):
        if kind is None:
            return devices
        found = default if device is None else device
        if isinstance(found, str):
            found = next((number for number, each in enumerate(devices) if found in each["name"]), None)
        if found is None:
            raise ValueError(f"No input device matching {device!r}")
        if not 0 <= found < len(devices) or devices[found]["max_input_channels"] == 0:
            raise PortAudioError(f"Error querying device {found}")
        return devices[found]

    def check_input_settings(device, channels, dtype, samplerate):
        assert (channels, dtype) == (1, "int16")
        if samplerate == 12345:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    module.query_devices, module.check_input_settings = query_devices, check_input_settings
    module.PortAudioError = PortAudioError
    module.data = b"" if samples is None else samples.astype("<i2").tobytes()
    module.opened, module.num_closed, module.overflow_at, module.at_end = [], 0, None, lambda: None
    module.RawInputStream = lambda **options: Stream(module, **options)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


@pytest.mark.parametrize(
    ("device", "rate", "opened"),
    [
        (None, None, (None, 48000)),
        ("2", None, (2, 16000)),
        ("USB", None, ("USB", 48000)),
        ("Webcam", 8000, ("Webcam", 8000)),
    ],
)
def test_blocks_of_a_device_come_as_they_are_heard(monkeypatch, device, rate, opened):
    module = pretend(monkeypatch, speech(20_000))
    microphone = Microphone(device, rate)
    blocks = list(microphone.blocks())
    assert b"".join(blocks) == module.data and len(blocks) > 1
    (options,) = module.opened
    assert (options["device"], options["samplerate"]) == opened and microphone.rate_hz == opened[1]
    assert (options["channels"], options["dtype"], options["blocksize"]) == (1, "int16", opened[1] // 10)
    assert module.num_closed == 1 and microphone.lost_s == 0.0


def test_what_nobody_takes_is_lost_and_counted(monkeypatch):
    monkeypatch.setattr(microphones, "WAITS_S", 1.0)
    module = pretend(monkeypatch, speech(32_000))
    all_called = threading.Event()
    module.at_end, module.overflow_at = all_called.set, 0
    microphone = Microphone("Webcam")
    blocks = microphone.blocks()
    kept = [next(blocks)]
    assert all_called.wait(20)
    kept += blocks
    # Ten blocks of 20 could wait, and one more if it was taken in time; PortAudio had dropped one itself.
    assert len(kept) in (10, 11) and b"".join(kept[:10]) == module.data[:32_000]
    assert microphone.lost_s == pytest.approx((20 - len(kept) + 1) / 10)


def test_a_reader_that_leaves_closes_the_device(monkeypatch):
    module = pretend(monkeypatch, speech(20_000))
    blocks = Microphone().blocks()
    next(blocks)
    blocks.close()
    assert module.num_closed == 1


@pytest.mark.parametrize(
    ("device", "rate", "message"),
    [
        ("Bluetooth", None, r"^microphone is Bluetooth, which cannot be used: No input device matching 'Bluetooth'; "),
        ("0", None, r"^microphone is 0, .*: Error querying device 0; allowed: 1 \(USB Audio\), 2 \(Webcam\)\.$"),
        ("9", None, r"^microphone is 9, which cannot be used: Error querying device 9; allowed: 1 "),
        (None, 12345, r"^microphone, which cannot be used at 12345 Hz \(rate\): Invalid sample rate \[PaError"),
    ],
)
def test_a_device_that_is_none_is_refused(monkeypatch, device, rate, message):
    pretend(monkeypatch)
    with pytest.raises(OptionError, match=message):
        Microphone(device, rate)


def test_a_machine_without_a_microphone_says_so(monkeypatch):
    pretend(monkeypatch, devices=DEVICES[:1], default=-1)
    with pytest.raises(OptionError, match="Error querying device -1; this machine has no input device"):
        Microphone()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'sounddevice'"), r'pip install "espnet-larm\[microphone\]"\.$'),
        (OSError("PortAudio library not found"), r"needs PortAudio, .*apt-get install libportaudio2\)\.$"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, error, message):
    plain = builtins.__import__

    def refuse(name, *rest):
        if name == "sounddevice":
            raise error
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=message):
        Microphone()
