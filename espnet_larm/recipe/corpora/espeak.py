"""eSpeak NG through ctypes: text to samples, offline.

The `espeakng-loader` wheel brings library and voices, licensed GPL-3.0-or-later. Nothing else of this package loads
them; `egs/mini` does, to make its corpus.
"""

import ctypes
import threading
from typing import Any, NamedTuple

import numpy as np

MAX_AMPLITUDE = 32768.0
RANDOM_SEED = 1

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Voice(NamedTuple):
    """A voice with its rate and pitch.

    Attributes:
        name: `language+variant`, such as `en-us+f3`.
        rate_wpm: Rate in words a minute, 80 to 450.
        pitch: Pitch, 0 to 99.
        pitch_range: Range of the pitch, 0 (monotonous) to 99.
    """

    name: str
    rate_wpm: int = 175
    pitch: int = 50
    pitch_range: int = 50


class Espeak:
    """The synthesiser. The library keeps its state in globals: one object a process.

    Attributes:
        sample_rate: Sampling rate in Hz.

    Raises:
        ImportError: The wheel is not installed.
        OSError: The library does not start.
    """

    _in_use = threading.Lock()

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError as error:
            raise ImportError("Speech synthesis needs eSpeak NG; install it: pip install espeakng-loader") from error
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data_path = str(espeakng_loader.get_data_path()).encode()
        arguments = (_OUTPUT_SYNCHRONOUS, 0, data_path, _INITIALIZE_DONT_EXIT)
        self.sample_rate = int(self._library.espeak_Initialize(*arguments))
        if self.sample_rate <= 0:
            raise OSError(f"eSpeak NG does not start with the data in {data_path.decode()}; reinstall espeakng-loader.")
        self._parts: list[np.ndarray] = []
        # ctypes frees a callback that nobody refers to, while the library would still call it.
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """Synthesise a text; a process that repeats the calls of another gets the same samples.

        Args:
            text: English text.
            voice: How to speak it.

        Returns:
            Samples (N,), float32 in [-1, 1].

        Raises:
            ValueError: There is no such voice, or nothing was spoken.
        """
        with self._in_use:
            self._parts.clear()
            # Breathy voices draw noise, which the library seeds with the time of day.
            self._library.espeak_ng_SetRandSeed(ctypes.c_long(RANDOM_SEED))
            self._set_voice(voice)
            data = text.encode()
            position = (0, _POSITION_CHARACTER, 0)
            self._library.espeak_Synth(data, len(data) + 1, *position, _CHARS_UTF8, None, None)
            self._library.espeak_Synchronize()
            if not self._parts:
                raise ValueError(f"voice {voice.name} said nothing for {text!r}; give it words.")
            return np.concatenate(self._parts).astype(np.float32) / MAX_AMPLITUDE

    def _set_voice(self, voice: Voice) -> None:
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"voice {voice.name} is not known to eSpeak NG; a voice is language+variant (en-us+f3).")
        for parameter, value in (
            (_PARAMETER_RATE, voice.rate_wpm),
            (_PARAMETER_PITCH, voice.pitch),
            (_PARAMETER_RANGE, voice.pitch_range),
        ):
            self._library.espeak_SetParameter(parameter, value, 0)

    def _collect(self, samples: Any, num_samples: int, _events: Any) -> int:
        """Called by the library with each piece of speech; 0 means go on."""
        if samples and num_samples > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0
