"""Models behind the demo page: the looped encoder with random weights, with and without merged frames."""

from collections.abc import Callable, Iterator

import pytest

import espnet_larm
from espnet_larm.listen.transcriber import Transcriber
from espnet_larm.recognize.leaving.calibration import CTC, Calibrated, write_calibration


@pytest.fixture(scope="session")
def transcriber(tiny_experiment) -> Transcriber:
    """A model with loops 2 and 4."""
    return espnet_larm.load(tiny_experiment.config.parent, asr_model_file="model.pth")


@pytest.fixture
def pooled(tiny_experiment, tmp_path) -> Transcriber:
    """The same with a front end that merges frames."""
    plain = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160}
    conf = {"frontend_conf": plain, "tau": 0.5, "min_frames_per_second": 0.0}
    tiny_experiment.with_config(tmp_path / "config.yaml", frontend="affinity_pooling", frontend_conf=conf)
    return espnet_larm.load(tmp_path, asr_model_file=tiny_experiment.model)


@pytest.fixture
def adaptive(tiny_experiment, tmp_path) -> Transcriber:
    """The same, of which every utterance leaves at loop 2."""
    tiny_experiment.with_config(tmp_path / "config.yaml")
    write_calibration(tmp_path, CTC, Calibrated("confidence", {"confidence": -100.0}), {})
    return espnet_larm.load(tmp_path, asr_model_file=tiny_experiment.model)


@pytest.fixture
def serve() -> Iterator[Callable]:
    """Makes services of the page, and ends them."""
    from espnet_larm.serve.service import Service

    made = []

    def serve(transcriber, **options):
        made.append(Service(transcriber, "tiny", vad=False, **options))
        return made[-1]

    yield serve
    for service in made:
        service.close()
