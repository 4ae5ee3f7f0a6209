"""The endpoints: what a form may ask for, what is refused with which status, keys, and limits."""

import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from espnet_larm.serve import uploads
from espnet_larm.serve.app import TRANSCRIPTIONS, build_app
from espnet_larm.serve.limits import Limits
from tests.serve.conftest import ask, running, wav


def error(response):
    """Status and error of a response, which has all that OpenAI's have."""
    said = response.json()["error"]
    assert said.keys() == {"message", "type", "param", "code"}
    return response.status_code, said["param"], said["message"]


def test_a_recording_is_answered_with_its_text_in_each_form(start):
    client = start()
    assert ask(client).json() == {"text": "1000"}
    assert ask(client, model="whisper-1", temperature="0", language="", stream="false").json() == {"text": "1000"}
    assert ask(client, model="ruler", response_format="text").text == "1000\n"
    srt = ask(client, response_format="srt")
    assert srt.text == "1\n00:00:00,000 --> 00:00:01,000\n1000\n"
    assert srt.headers["content-type"] == "application/x-subrip"
    assert ask(client, response_format="vtt").text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n1000")
    verbose = ask(client, response_format="verbose_json").json()
    assert verbose | {"segments": []} == {
        "task": "transcribe", "language": "unknown", "duration": 0.062, "text": "1000", "segments": [],
    }  # fmt: skip
    (segment,) = verbose["segments"]
    assert (segment["start"], segment["end"], segment["text"]) == (0.0, 1.0, "1000")
    words = ask(client, **{"response_format": "verbose_json", "timestamp_granularities[]": "word"}).json()
    assert "segments" not in words
    assert [(word["word"], word["start"], word["end"]) for word in words["words"]] == [("1000", 0.0, 0.062)]


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"response_format": "xml"}, 400, "response_format", "response_format is xml; allowed: json, text, srt"),
        ({"model": "gpt-4o"}, 404, "model", "model is gpt-4o; allowed: ruler, or whisper-1, which stands for it"),
        ({"language": "en"}, 400, None, "language is en, but this model has no choice of languages"),
        ({"prompt": "Hm."}, 400, "prompt", "prompt is Hm.; this server takes none, leave it out"),
        ({"temperature": "0.2"}, 400, "temperature", "temperature is 0.2; allowed: 0"),
        ({"temperature": "nan"}, 400, "temperature", "temperature is nan; allowed: 0"),
        ({"stream": "true"}, 400, "stream", "stream is true; allowed: false"),
        ({"loops": "2"}, 400, None, "loops is 2, but this model has no loops"),
        ({"loops": "auto"}, 400, None, "loops is auto, but this model has no loops"),
        (
            {"loops": "auto,2"},
            400,
            "loops",
            "loops is auto,2; allowed: whole numbers from 1 on, 2,4,6 for example, or auto.",
        ),
        ({"loops": "x"}, 400, "loops", "loops is x; allowed: whole numbers from 1 on"),
        ({"loops": "2,4", "response_format": "srt"}, 400, "loops", "loops is 2,4 with response_format srt; allowed"),
        ({"beam": "4"}, 400, "beam", "beam is no field here; allowed: file, model, response_format"),
        ({"model": ["ruler", "ruler"]}, 400, "model", "model is there twice"),
        (
            {"timestamp_granularities[]": "word"},
            400,
            "timestamp_granularities",
            "timestamp_granularities is word with response_format json; allowed: with verbose_json alone",
        ),
        (
            {"timestamp_granularities[]": "phone", "response_format": "verbose_json"},
            400,
            "timestamp_granularities",
            "timestamp_granularities is phone; allowed: segment, word",
        ),
    ],
)
def test_what_a_form_may_not_ask_is_refused_with_its_field(start, ruler, fields, status, param, message):
    found = error(ask(start(), **fields))
    assert found[:2] == (status, param) and found[2].startswith(message), found
    assert ruler.batches == []


def test_recordings_that_cannot_be_read_are_named_as_their_sender_does(start):
    client = start()
    truncated = "../etc/talk.flac"
    assert error(ask(client, b"", truncated)) == (400, "file", "talk.flac is empty.")
    assert error(ask(client, b"hello world\n", "a.txt")) == (400, "file", "a.txt is no audio: it is text.")
    noise = np.random.default_rng(0).bytes(5000)
    assert error(ask(client, noise, "a.m4a"))[2].startswith("a.m4a is no audio, or damaged")
    assert error(ask(client, wav(1000)[:900], "a.wav"))[2].startswith("a.wav is truncated")


def test_what_is_no_form_with_a_file_is_refused(start):
    client = start()
    assert error(client.post(TRANSCRIPTIONS, json={"file": "a"}))[0] == 415
    assert error(client.post(TRANSCRIPTIONS, data={"file": "a"}))[0] == 415
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert error(client.post(TRANSCRIPTIONS, content=b"aaa", headers=form))[2].startswith("the form cannot be read")
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nruler\r\n--b--\r\n'
    assert error(client.post(TRANSCRIPTIONS, content=body, headers=form))[:2] == (400, "file")
    two = [("file", ("a.wav", wav(10))), ("file", ("b.wav", wav(10)))]
    assert "Maximum number of files is 1" in error(client.post(TRANSCRIPTIONS, files=two))[2]


def test_other_addresses_are_errors_in_the_same_form(start):
    client = start()
    assert error(client.get("/v1/nothing"))[::2] == (
        404,
        "GET /v1/nothing is not here; allowed: POST /v1/audio/transcriptions, GET /v1/models, GET /health.",
    )
    assert error(client.get(TRANSCRIPTIONS))[0] == 405
    assert error(client.get("/v1/models/other"))[:2] == (404, "model")


def test_models_and_health_say_what_is_served(start):
    client = start()
    ask(client)
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["loops"]) == ("ruler", "model", [])
    assert client.get("/v1/models/ruler").json() == model == client.get("/v1/models/whisper-1").json()
    assert client.get("/health").json() == {
        "status": "ok", "model": "ruler", "requests": 0, "batches": 1, "stretches": 1,
    }  # fmt: skip


def test_a_language_that_the_server_names_may_be_named_by_clients(start):
    client = start(language="en")
    assert ask(client, language="en", response_format="verbose_json").json()["language"] == "en"
    assert error(ask(client, language="de"))[0] == 400


def test_without_the_key_only_health_answers(start):
    client = start(key="s3cret")
    assert client.get("/health").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
        response = ask(client, headers=headers)
        assert error(response)[0] == 401 and response.headers["www-authenticate"] == "Bearer"
        assert error(client.get("/v1/models", headers=headers))[0] == 401
    assert ask(client, headers={"Authorization": "bearer s3cret"}).json() == {"text": "1000"}


def test_extra_routes_are_behind_the_key_but_those_that_are_open(make_service):
    import httpx

    def page(request):
        return PlainTextResponse(request.app.state.service.name)

    app = build_app(make_service(), "s3cret", [Route("/", page), Route("/more", page)], ["/"])
    with running(app) as address:
        assert httpx.get(address).text == "ruler"
        assert httpx.get(f"{address}/more").status_code == 401


def test_a_body_that_is_too_large_is_not_read_to_its_end(start, ruler):
    client = start(limits=Limits(max_upload_mb=0.2))
    message = "the upload has 0.4 MB or more; allowed: up to 0.2 MB; send a compressed format, or parts."
    assert error(ask(client, bytes(400_000))) == (413, "file", message)

    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while True:
            yield bytes(10_000)

    # No length was said; who sent all of it first would never end.
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert error(client.post(TRANSCRIPTIONS, content=endless(), headers=form))[:2] == (413, "file")
    assert ask(client, wav(90_000)).json() == {"text": "90000"}
    assert ruler.batches == [[90_000]]


def test_an_upload_that_stalls_gives_its_place_back(start, monkeypatch):
    monkeypatch.setattr(uploads, "STALLED_S", 0.05)
    client = start(limits=Limits(max_requests=1))
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert ask(client).status_code == 200


def test_recordings_that_last_too_long_are_refused(start, ruler):
    client = start(limits=Limits(max_seconds=0.5))
    assert ask(client, wav(8000)).json() == {"text": "8000"}
    assert error(ask(client, wav(16000))) == (400, "file", "a.wav lasts 1 s; allowed: up to 0.5 s.")
    assert ruler.batches == [[8000]]


def test_more_requests_than_allowed_are_told_to_come_again(start, ruler):
    client = start(limits=Limits(max_requests=2))
    ruler.may_go.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, client)
        assert ruler.begun.wait(60)
        second = pool.submit(ask, client, wav(2000))
        while client.get("/health").json()["requests"] < 2:
            pass
        third = ask(client)
        assert error(third)[::2] == (503, "2 requests are at work or wait, and no more may; try again in a moment.")
        assert third.headers["retry-after"] == "1"
        ruler.may_go.set()
        assert [first.result().json(), second.result().json()] == [{"text": "1000"}, {"text": "2000"}]
    assert ask(client).status_code == 200


def test_a_client_that_has_gone_is_dropped_before_its_turn(start, ruler):
    client = start()
    ruler.may_go.clear()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, client)
        assert ruler.begun.wait(60)
        request = client.build_request("POST", TRANSCRIPTIONS, files={"file": ("b.wav", wav(2000))})
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        content = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\n{head}\r\n".encode() + request.read()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(content)
            while client.get("/health").json()["requests"] < 2:
                pass
        while client.get("/health").json()["requests"] > 1:
            pass
        ruler.may_go.set()
        assert first.result().json() == {"text": "1000"}
    ask(client, wav(3000))
    assert [2000] not in ruler.batches and ruler.batches[-1] == [3000]


def test_a_refusal_of_the_model_is_that_of_its_caller_and_a_mistake_is_500(start, caplog):
    client = start()
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda number: ask(client, wav(number)), (600, 666, 670)))
    assert [each.status_code for each in answers] == [200, 500, 200]
    assert error(ask(client, wav(667)))[2] == "the server failed; its log says why."
    # It is logged after the answer, and before the next one.
    client.get("/health")
    assert "a mistake" in caplog.text


def test_callers_share_batches_and_get_what_each_gets_alone(start, ruler):
    client = start(limits=Limits(max_requests=16, batch_wait_ms=500.0))
    ruler.may_go.clear()
    with ThreadPoolExecutor(17) as pool:
        first = pool.submit(ask, client)
        assert ruler.begun.wait(60)
        asked = [pool.submit(ask, client, wav(number)) for number in range(1001, 1012)]
        waiting = threading.Event()
        while client.get("/health").json()["requests"] < 12:
            waiting.wait(0.01)
        ruler.may_go.set()
        assert [each.result().json()["text"] for each in asked] == [str(number) for number in range(1001, 1012)]
        assert first.result().status_code == 200
    assert sorted(itertools.chain(*ruler.batches)) == list(range(1000, 1012))
    assert len(ruler.batches) < 12
