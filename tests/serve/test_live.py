"""Streams over WebSocket: texts of the library, shared steps, limits, and clients that do what they should not."""

import base64
import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import soxr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from espnet_larm.cli.listen import serve as serve_command
from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import LiveRecognizer
from espnet_larm.recognize.config import DecodeConfig
from espnet_larm.serve import live as streams
from espnet_larm.serve.app import LIVE, build_app
from espnet_larm.serve.client import END, hear
from espnet_larm.serve.limits import Limits
from tests.live.conftest import live_files, recognizer, speech  # noqa: F401  # fixtures
from tests.serve.conftest import running

CONFIG = LiveConfig(chunk_frames=3, endpoint_s=0.2, hold_s=0.0)


@pytest.fixture(scope="module")
def model(recognizer):  # noqa: F811
    return LiveRecognizer(recognizer, CONFIG)


@pytest.fixture
def serve(make_service, model):
    """Starts a server of a live model; gives its address for streams."""
    with contextlib.ExitStack() as opened:

        def start(key=None, **options):
            service = make_service(**{"live": model, **options})
            address = opened.enter_context(running(build_app(service, key)))
            return address.replace("http", "ws") + LIVE, service

        yield start


def pcm(samples):
    return samples.astype("<i2").tobytes()


def blocks(samples, size=1600):
    data = pcm(samples)
    return [data[start : start + 2 * size] for start in range(0, len(data), 2 * size)]


def wanted(model, samples):
    """Messages of final texts that the library gives."""
    session = model.start()
    events = session.feed(samples) + session.finish()
    return [event.message() for event in events if event.is_final]


def finals(messages):
    return [message for message in messages if message["type"] == "final"]


def test_a_stream_gets_the_texts_of_the_library_while_it_is_sent(serve, model):
    url, service = serve()
    samples = speech(60_000)
    messages = list(hear(url, blocks(samples, 4000)))
    assert messages[0] == {"type": "ready", "rate": 16000, "latency": round(model.latency_s, 3)}
    assert finals(messages) == wanted(model, samples) != []
    assert any(message["type"] == "partial" and message["text"] for message in messages)
    *_, last = messages
    assert last["type"] == "done" and last["duration"] == 3.75 and 0 <= last["withdrawn"] <= last["shown"]
    assert service.live.num_streams == 0


def test_another_rate_and_pieces_of_odd_numbers_of_bytes(serve, model):
    url, _ = serve()
    samples = speech(30_000)
    data = pcm(samples)
    messages = list(hear(url, [data[:333], b"", data[333:]], rate_hz=8000))
    resampled = soxr.resample(samples.astype(np.float32) / 32768, 8000, 16000)
    assert [each["text"] for each in finals(messages)] == [each["text"] for each in wanted(model, resampled)]


def test_streams_share_steps_and_get_what_each_gets_alone(serve, model):
    url, service = serve()
    several = [speech(length, length) for length in (30_000, 20_000, 21_234, 16_000)]
    with ThreadPoolExecutor(len(several)) as threads:
        heard = list(threads.map(lambda samples: list(hear(url, blocks(samples))), several))
    for samples, messages in zip(several, heard, strict=True):
        found, alone = finals(messages), wanted(model, samples)
        assert [each["text"] for each in found] == [each["text"] for each in alone]
    num_blocks = sum(len(blocks(samples)) for samples in several)
    assert service.live.num_steps < num_blocks


@pytest.fixture
def from_options(live_files):  # noqa: F811
    """Makes a service of the options of the command."""
    config, weights = live_files
    with contextlib.ExitStack() as opened:

        def make(*words):
            named = ["--model", str(config.parent), "--asr_model_file", str(weights)]
            live = ["--chunk_frames", "3", "--endpoint_s", "0.2", "--hold_s", "0"]
            service = serve_command.make_service(serve_command.get_parser().parse_args([*named, *live, *words]))
            opened.callback(service.close)
            return service

        yield make


def test_chunks_of_streams_leave_by_a_rule_with_stream_loops_auto(from_options, recognizer):  # noqa: F811
    rule = {"loop_rule": "confidence", "loop_threshold": -0.03}
    service = from_options("--stream_loops", "auto", *(f"--{name}={value}" for name, value in rule.items()))
    samples = speech(40_000)
    with running(build_app(service, None)) as address:
        *messages, done = hear(address.replace("http", "ws") + LIVE, blocks(samples, 4000))
    model = LiveRecognizer(recognizer, CONFIG, DecodeConfig(num_loops="auto", **rule))
    found, alone = finals(messages), wanted(model, samples)
    assert [each["text"] for each in found] == [each["text"] for each in alone] != []
    assert 2 < done["mean_loops"] < 4


def test_streams_run_the_loops_that_stream_loops_names(from_options):
    for words, loops in (([], 4), (["--stream_loops", "2"], 2)):
        recognizer = from_options(*words).live.recognizer  # noqa: F811
        session = recognizer.start()
        session.feed(speech(8000))
        assert session.heard.mean_loops == loops and not recognizer.lets_chunks_leave
        assert "mean_loops" not in streams._summed_up(session)


@pytest.mark.parametrize(
    ("loops", "message"),
    [
        ("2,4", "stream_loops is 2,4; streams have final texts of one loop: name one, or auto"),
        ("3", "num_loops is 3; allowed: 2, 4"),
        ("auto", "num_loops is auto, but there is no loops_calibration.json beside the model"),
    ],
)
def test_stream_loops_that_the_model_cannot_run_are_refused_at_the_start(from_options, loops, message):
    with pytest.raises(ValueError, match=message):
        from_options("--stream_loops", loops)


def refusal(url, **options):
    """The response to a client that is not let in."""
    with pytest.raises(InvalidStatus) as refused, connect(url, **options):
        pass
    return refused.value.response


def closed(connection, seconds=20):
    """What the server says until it closes the connection, and the code with which it does."""
    said = []
    try:
        while True:
            said.append(json.loads(connection.recv(timeout=seconds)))
    except ConnectionClosed as error:
        return said, error.rcvd.code if error.rcvd else None


@pytest.mark.parametrize(
    ("message", "said", "code"),
    [
        ("hello", 'a message is text; allowed: binary messages of samples, and {"type": "end"}', 1003),
        ('{"type": "stop"}', "a message is text", 1003),
        ("[" * 100_000, "a message is text", 1003),
        (b"RIFF....WAVEfmt ", "the stream begins as a WAV file", 1003),
        (bytes(10_000_000), None, 1009),
    ],
)
def test_a_client_that_sends_something_else_is_told_and_costs_nobody_anything(serve, model, message, said, code):
    url, service = serve()
    samples = speech(20_000)
    parts = blocks(samples, 2000)

    def slowly():
        yield from parts[:5]
        with connect(url) as other:
            other.recv()
            # It may be cut off while it sends.
            with contextlib.suppress(ConnectionClosed):
                other.send(message)
            found, rest = closed(other)
            # Where bytes are on their way that nobody reads, the system may drop what the server said last.
            assert rest == code or (said is None and rest is None)
            assert said is None or (found[-1]["type"] == "error" and found[-1]["message"].startswith(said))
            checked.append(True)
        yield from parts[5:]

    checked = []
    assert finals(list(hear(url, slowly()))) == wanted(model, samples)
    assert checked == [True]
    assert service.live.num_streams == 0


def test_noise_and_half_a_sample(serve, model):
    url, _ = serve()
    noise = np.random.default_rng(0).integers(0, 256, 60_001, dtype=np.uint8).tobytes()
    *_, last = hear(url, [noise])
    assert last["type"] == "error" and last["message"].startswith("the stream ended within a sample")
    *_, last = hear(url, [noise[:-1]])
    assert last["type"] == "done"


def test_a_client_that_dies_leaves_its_place(serve, model):
    url, service = serve(limits=Limits(max_streams=1))
    with connect(url) as connection:
        connection.recv()
        connection.send(pcm(speech(20_000)))
        response = refusal(url)
        assert response.status_code == 503 and b"1 streams are heard, and no more may be" in response.body
        # Without a word, as a process that is killed.
        connection.socket.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 60
    while service.live.num_streams and time.monotonic() < deadline:
        time.sleep(0.05)
    samples = speech(30_000)
    assert finals(list(hear(url, blocks(samples)))) == wanted(model, samples)


def test_a_client_that_sends_much_at_once_is_read_as_fast_as_it_is_heard(serve, model, monkeypatch):
    url, service = serve()
    may_go, begun = threading.Event(), threading.Event()
    step = service.live._step

    def held(feeds):
        begun.set()
        assert may_go.wait(60)
        return step(feeds)

    monkeypatch.setattr(service.live, "_step", held)
    sent = []

    def send(connection):
        with contextlib.suppress(ConnectionClosed, OSError):
            for _ in range(400):
                connection.send(bytes(1 << 17))
                sent.append(True)

    with connect(url) as connection:
        connection.recv()
        sender = threading.Thread(target=send, args=(connection,), daemon=True)
        sender.start()
        assert begun.wait(60)
        time.sleep(1.0)
        # 52 MB are on their way; what is not read waits at the client.
        assert len(sent) < 200
        connection.socket.shutdown(socket.SHUT_RDWR)
        may_go.set()
        sender.join(60)


def test_a_long_message_gives_way_to_others(model, serve):
    url, service = serve()
    lengths = []
    step = service.live._step
    service.live._step = lambda waiting: (lengths.extend(len(each.feed.samples) for each in waiting), step(waiting))[1]
    list(hear(url, [pcm(speech(80_000))]))
    assert max(lengths) == 16_000 and sum(lengths) == 80_000


def test_a_partial_text_is_sent_while_the_deep_loops_run(serve, recognizer, monkeypatch):  # noqa: F811
    early = LiveRecognizer(recognizer, replace(CONFIG, partial_loop=2))
    url, _ = serve(live=early)
    may_go, step = threading.Event(), recognizer.model.encoder._step

    def held(stack, loop, *rest):
        assert loop < 3 or may_go.wait(60)
        return step(stack, loop, *rest)

    samples = speech(30_000)
    with connect(url) as connection:
        assert json.loads(connection.recv(timeout=20))["type"] == "ready"
        monkeypatch.setattr(recognizer.model.encoder, "_step", held)
        connection.send(pcm(samples))
        said = json.loads(connection.recv(timeout=20))
        assert said["type"] == "partial" and said["text"]
        may_go.set()
        connection.send(END)
        rest, code = closed(connection)
    assert code == 1000 and finals(rest) == wanted(early, samples)


def test_a_stream_that_brings_nothing_is_ended(serve, monkeypatch):
    monkeypatch.setattr(streams, "STALLED_S", 0.2)
    url, _ = serve()
    with connect(url) as connection:
        said, code = closed(connection)
    assert said[-1] == {"type": "error", "message": "nothing came for 0.2 s; connect again."} and code == 1008


def test_a_fault_of_the_model_ends_its_stream_alone(serve, model, monkeypatch, caplog):
    url, _ = serve()
    feed = model.feed

    def faulty(feeds, on_partial):
        if any(len(each.samples) == 666 for each in feeds):
            raise KeyError("a mistake")
        return feed(feeds, on_partial)

    monkeypatch.setattr(model, "feed", faulty)
    samples = speech(30_000)
    with ThreadPoolExecutor(1) as threads:
        good = threads.submit(lambda: list(hear(url, blocks(samples, 800))))
        *_, last = hear(url, [bytes(2 * 666)] * 3)
        assert last == {"type": "error", "message": "the server failed; its log says why."}
        monkeypatch.undo()
        assert finals(good.result()) == wanted(model, samples)
    assert "a mistake" in caplog.text


def test_who_may_not_is_not_let_in(serve):
    url, _ = serve(key="secret")
    samples = speech(20_000)
    for options in ({}, {"additional_headers": {"Authorization": "Bearer other"}}):
        assert refusal(url, **options).status_code == 401
    assert list(hear(url, blocks(samples), key="secret"))[-1]["type"] == "done"
    response = refusal(url, origin="http://elsewhere.example", additional_headers={"Authorization": "Bearer secret"})
    assert response.status_code == 403 and b"another site" in response.body


def as_protocol(key):
    return "bearer." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


@pytest.mark.parametrize("key", ["secret", "s?cr/t+~", "s"])
def test_a_page_offers_the_key_as_a_subprotocol(serve, key):
    url, _ = serve(key=key)
    with connect(url, subprotocols=["live", as_protocol(key)]) as connection:
        assert connection.subprotocol == "live"
        assert json.loads(connection.recv(timeout=20))["type"] == "ready"
    wrong = (as_protocol(f"{key}x"), as_protocol(key[:-1]), "bearer.", "bearer.x", "secret")
    for protocols in (*(["live", each] for each in wrong), ["live"]):
        assert refusal(url, subprotocols=protocols).status_code == 401


def test_a_subprotocol_is_chosen_only_where_one_is_offered(serve):
    url, _ = serve()
    for offered, chosen in ((["live"], "live"), (["other"], None), (None, None)):
        with connect(url, subprotocols=offered) as connection:
            assert connection.subprotocol == chosen


def test_the_key_of_a_websocket_opens_nothing_else(serve):
    url, _ = serve(key="secret")
    address = url.replace("ws", "http", 1).removesuffix(LIVE) + "/v1/models"
    assert httpx.get(address, headers={"Sec-WebSocket-Protocol": as_protocol("secret")}).status_code == 401


def test_wrong_rates_and_models_that_hear_no_streams_are_refused(serve):
    url, _ = serve()
    for rate in ("16", "fast"):
        response = refusal(f"{url}?rate={rate}")
        assert response.status_code == 400
        assert json.loads(response.body)["error"]["message"].startswith(f"rate is {rate}; allowed: ")
    other, _ = serve(live=None, why_not_live="it is a ruler.")
    response = refusal(other)
    assert response.status_code == 404 and b"hears no streams: it is a ruler." in response.body


def test_health_counts_streams(serve):
    url, _ = serve()
    with connect(url) as connection:
        connection.recv()
        found = httpx.get(url.replace("ws://", "http://").removesuffix(LIVE) + "/health").json()
        assert (found["streams"], found["steps"]) == (1, 0)
        connection.send(END)
        assert json.loads(connection.recv())["type"] == "done"
