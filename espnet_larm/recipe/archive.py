"""Writes audio as FLAC into Kaldi archives (`flac.ark`), at one rate, mono, optionally faster or slower.

ESPnet reads an entry as data type `kaldi_ark`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
from omniio import kaldi

from espnet_larm.data.audio import Audio, AudioError, is_command, read_audio
from espnet_larm.recipe.validation.content import check_samples
from espnet_larm.recipe.validation.report import Finding


class Rendering(NamedTuple):
    """Audio to be made.

    Attributes:
        id: Of the utterance.
        source: As in `wav.scp`.
        speed: Factor; 0.9 is slower, longer and lower.
    """

    id: str
    source: str
    speed: float = 1.0


class Rendered(NamedTuple):
    """What became of a Rendering.

    Attributes:
        id: Of the utterance.
        source: `archive:offset`, or "" after an error.
        num_samples: At the rate of the archive.
        findings: What is wrong with it; after an error the reason.
    """

    id: str
    source: str
    num_samples: int
    findings: tuple[Finding, ...] = ()


def render(rendering: Rendering, audio: Audio, sample_rate: int) -> np.ndarray:
    """Resample and change speed in one step.

    Args:
        rendering: What to make.
        audio: Its source, decoded.
        sample_rate: Of the result, in Hz.

    Returns:
        (N,) float32.

    Raises:
        AudioError: Nothing is left after resampling.
    """
    in_rate = audio.header.sample_rate * rendering.speed
    if in_rate == sample_rate:
        return audio.samples
    samples = soxr.resample(audio.samples, in_rate, sample_rate)
    if len(samples) == 0:
        what = f"{rendering.source} is shorter than one sample at {sample_rate} Hz"
        raise AudioError("no-samples", what, "remove its line")
    return samples


def write_archive(path: Path, renderings: Sequence[Rendering], sample_rate: int) -> list[Rendered]:
    """Write an archive; utterances that cannot be read are left out and reported.

    Args:
        path: Of the archive, overwritten.
        renderings: In the order of the archive.
        sample_rate: Of the archive, in Hz.

    Returns:
        One a rendering, same order.
    """
    done = []
    with path.open("wb") as archive:
        for rendering in renderings:
            try:
                audio = read_audio(rendering.source)
                samples = render(rendering, audio, sample_rate)
            except AudioError as error:
                done.append(Rendered(rendering.id, "", 0, (finding_of(rendering.id, error),)))
                continue
            # A command runs only here; everything else was looked at before.
            findings = check_samples(rendering.id, audio.header, audio.samples) if is_command(rendering.source) else ()
            offset = archive.tell() + len(f"{rendering.id} ".encode())
            clipped = np.clip(samples, -1.0, 1.0)
            kaldi.save_ark(
                archive,
                {rendering.id: (clipped, sample_rate)},
                write_function="soundfile",
                write_kwargs={"format": "flac", "subtype": "PCM_16"},
            )
            done.append(Rendered(rendering.id, f"{path}:{offset}", len(samples), tuple(findings)))
    return done


def finding_of(key: str, error: AudioError) -> Finding:
    """An error as the report shows it."""
    return Finding(error.kind, f"{key}: {error.what}")
