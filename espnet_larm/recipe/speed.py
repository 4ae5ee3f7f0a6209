"""Speed perturbation: copies of a set, faster and slower, each by a speaker of its own.

Source: Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015: factors 0.9, 1.0 and 1.1.
"""

from collections.abc import Sequence
from pathlib import Path

from espnet_larm.data.kaldi_dir import Utterance
from espnet_larm.recipe.archive import Rendering
from espnet_larm.recipe.formatting import write_archives

MIN_FACTOR, MAX_FACTOR = 0.5, 2.0


def perturb_speed(
    utterances: Sequence[Utterance], factors: Sequence[str], archive_dir: Path, sample_rate: int, num_jobs: int
) -> list[Utterance]:
    """Write the perturbed audio; factor 1 keeps its path and id.

    Args:
        utterances: The set.
        factors: Numbers as the user wrote them: "0.9" gives ids `sp0.9-...`.
        archive_dir: For the perturbed audio.
        sample_rate: Of the perturbed audio, in Hz.
        num_jobs: Processes.

    Returns:
        The set once a factor.

    Raises:
        ValueError: A factor is no number from 0.5 to 2, or comes twice; or as `write_archives`.
    """
    speeds = {factor: _speed(factor) for factor in factors}
    if len(set(speeds.values())) < len(factors):
        raise ValueError(f"--speed_perturb_factors has a factor twice: {' '.join(factors)}; name each once.")
    copies, renderings = [], []
    for factor, speed in speeds.items():
        for utterance in utterances:
            copy = utterance if speed == 1.0 else rename(utterance, factor)
            copies.append(copy)
            if speed != 1.0:
                renderings.append(Rendering(copy.id, copy.audio, speed))
    sources = {entry.id: entry.source for entry in write_archives(archive_dir, renderings, sample_rate, num_jobs)}
    return [copy._replace(audio=sources.get(copy.id, copy.audio)) for copy in copies]


def rename(utterance: Utterance, factor: str) -> Utterance:
    """The utterance under the ids of its perturbed copy, its audio unchanged."""
    prefix = f"sp{factor}-"
    return utterance._replace(id=prefix + utterance.id, speaker=prefix + utterance.speaker)


def _speed(factor: str) -> float:
    try:
        speed = float(factor)
    except ValueError:
        speed = 0.0
    if not MIN_FACTOR <= speed <= MAX_FACTOR:
        raise ValueError(f"--speed_perturb_factors: {factor} must be a number from {MIN_FACTOR} to {MAX_FACTOR}.")
    return speed
