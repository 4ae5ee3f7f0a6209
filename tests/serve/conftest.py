"""Services of a model that says how long speech is, and servers of them in threads."""

import asyncio
import contextlib
import io
import threading

import httpx
import numpy as np
import pytest
import soundfile

from espnet_larm.listen.engine import WHOLE, Engine, Heard, Job, refuse_language, refuse_loops
from espnet_larm.listen.segments import spread
from espnet_larm.listen.transcriber import Transcriber
from espnet_larm.recognize.long.cutting import Cutting
from espnet_larm.serve import server
from espnet_larm.serve.app import TRANSCRIPTIONS, build_app
from espnet_larm.serve.service import Service

RATE = 16000


class Ruler(Engine):
    """Says how many samples each waveform has, once it may.

    Attributes:
        batches: Numbers of samples of each call.
        begun: Set when a call begins.
        may_go: Cleared to hold calls.
    """

    sample_rate_hz = RATE

    def __init__(self):
        self.batches = []
        self.begun, self.may_go = threading.Event(), threading.Event()
        self.may_go.set()

    def prepare(self, request):
        refuse_loops(request, "this model")
        refuse_language(request, "this model")
        return Job((WHOLE,), Cutting(40.0, 30.0, 1.0, 4.0), self.hear, lambda words: " ".join(w.text for w in words))

    def hear(self, waveforms):
        self.batches.append([len(samples) for samples in waveforms])
        self.begun.set()
        assert self.may_go.wait(60)
        if any(len(samples) == 666 for samples in waveforms):
            raise ValueError("666 samples are refused.")
        if any(len(samples) == 667 for samples in waveforms):
            raise KeyError("a mistake")
        words = [{WHOLE: spread(str(len(samples)), 0.0, len(samples) / RATE)} for samples in waveforms]
        return Heard(words, {WHOLE: 1.0})


@pytest.fixture
def ruler():
    engine = Ruler()
    yield engine
    engine.may_go.set()


@pytest.fixture
def make_service(ruler):
    """Makes services that take everything for speech."""
    made = []

    def make(limits=None, **options):
        options |= {} if limits is None else {"limits": limits}
        made.append(Service(Transcriber(ruler), "ruler", vad=False, **options))
        return made[-1]

    yield make
    ruler.may_go.set()
    for service in made:
        service.close()


@contextlib.contextmanager
def running(app):
    """A server in a thread; its address."""
    with server.open_socket("127.0.0.1", 0) as opened:
        ready = threading.Event()
        made = server.Server(app, ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(made.serve([opened])))
        address = server.address_of(opened)
        thread.start()
        try:
            assert ready.wait(60)
            yield address
        finally:
            made.should_exit = True
            thread.join()


@pytest.fixture
def start(make_service):
    """Starts a server of a service; gives a client of it."""
    with contextlib.ExitStack() as opened:

        def start(service=None, key=None, **options):
            address = opened.enter_context(running(build_app(service or make_service(**options), key)))
            return opened.enter_context(httpx.Client(base_url=address, timeout=60))

        yield start


def wav(num_samples):
    """A WAV of noise, as bytes."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.1, 0.1, num_samples), RATE, format="WAV")
    return file.getvalue()


def ask(client, content=None, name="a.wav", headers=None, **fields):
    """The response to a recording, of 1000 samples by default."""
    files = {"file": (name, wav(1000) if content is None else content)}
    return client.post(TRANSCRIPTIONS, files=files, data=fields, headers=headers)
