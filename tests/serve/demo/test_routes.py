"""The page's routes, without a browser: its files, what it may offer, texts, and sentences of refusal."""

import json
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from espnet_larm.cli.listen import serve as serve_command
from espnet_larm.cli.listen.demo import get_parser
from espnet_larm.errors import DataError
from espnet_larm.live.session import LiveRecognizer
from espnet_larm.serve.app import TRANSCRIPTIONS, build_app
from espnet_larm.serve.demo.routes import OPEN_PATHS, PATHS, demo_routes
from espnet_larm.serve.limits import Limits
from tests.live.conftest import live_files, recognizer  # noqa: F401  # fixtures


@pytest.fixture
def browse(serve):
    """Makes clients of a server with the page."""

    def browse(transcriber, key=None, live=None, **limits):
        service = serve(transcriber, limits=Limits(**limits), live=live)
        return TestClient(build_app(service, key, demo_routes(service), OPEN_PATHS))

    return browse


@pytest.fixture
def client(browse, transcriber):
    return browse(transcriber)


def send(client, path, name="talk.wav", **options):
    return client.post("/demo/transcribe", files={"file": (name, path.read_bytes())}, **options)


def lines_of(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_page_and_all_that_it_names_are_there_with_a_policy_of_its_own_files_alone(client):
    page = client.get("/")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {f"/{name}" for name in named} == {"/demo/icon.svg", "/demo/page.css", "/demo/page.js"}
    for path in PATHS:
        answer = client.get(path)
        assert answer.status_code == 200 and answer.text == PATHS[path].read_text(encoding="utf-8")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in answer.headers["content-security-policy"]
        imported = re.findall(r'from "\./([^"]+)"', answer.text)
        assert {f"/demo/{name}" for name in imported} <= PATHS.keys()
        # What is named elsewhere would not be there without a network.
        assert not re.search(r"https?://(?!localhost|www\.w3\.org/2000/svg)", answer.text)
    assert not re.search(r"<script>|\son\w+=|\sstyle=", page.text)


def test_the_page_learns_what_the_model_offers(client, browse, transcriber):
    known = client.get("/demo/model").json()
    assert known["name"] == "tiny" and known["loops"] == [2, 4] and known["has_word_times"]
    assert not known["auto"]["is_allowed"]
    assert known["auto"]["why"].startswith("loops is auto, but there is no loops_calibration.json beside the model")
    limited = browse(transcriber, max_upload_mb=0.5, max_seconds=7.0).get("/demo/model").json()
    assert limited["most_bytes"] == 500_000 and limited["most_s"] == 7.0 and "0.5 MB" in limited["too_large"]


def test_live_recognition_is_offered_where_the_model_streams(client, browse, transcriber, recognizer):  # noqa: F811
    assert client.get("/demo/model").json()["live"] is None
    hears = browse(transcriber, live=LiveRecognizer(recognizer))
    assert hears.get("/demo/model").json()["live"] == {"rate": 16000}


def test_texts_of_all_loops_are_those_of_transcribe(client, transcriber, tiny_experiment):
    path = tiny_experiment.data / "u1.wav"
    wanted = transcriber.transcribe(path, loops=transcriber.loops, vad=False)
    answer = send(client, path)
    assert answer.headers["content-type"] == "application/x-ndjson"
    sound, *progress, result = lines_of(answer)
    assert sound["kind"] == "sound" and sound["seconds"] == 1.6 and sound["num_columns"] == 161
    assert {line["kind"] for line in progress} == {"progress"} and progress[-1]["end_s"] == 1.6
    assert {each["loop"]: each["text"] for each in result["loops"]} == {
        loop: at_loop.text for loop, at_loop in wanted.loops.items()
    }
    for each in result["loops"]:
        words = [word for segment in wanted.loops[each["loop"]].segments for word in segment.words]
        assert [(word["text"], word["start_s"]) for word in each["words"]] == [
            (word.text, round(word.start_s, 3)) for word in words
        ]
        assert each["seconds"] > 0
    assert result["merged"] == []


def test_auto_gives_one_text_and_the_loops_that_were_used(browse, adaptive, tiny_experiment):
    client, path = browse(adaptive), tiny_experiment.data / "u1.wav"
    assert client.get("/demo/model").json()["auto"] == {"is_allowed": True, "why": ""}
    result = lines_of(send(client, path, data={"auto": "true"}))[-1]
    (only,) = result["loops"]
    wanted = adaptive.transcribe(path, loops=2, vad=False)
    assert result["mean_loops"] == 2.0 and only["text"] == wanted.text and only["seconds"] > 0
    fixed = lines_of(send(client, path))[-1]
    assert fixed["mean_loops"] is None and [each["loop"] for each in fixed["loops"]] == [2, 4]


def test_the_rule_of_the_command_line_holds_for_auto_alone(transcriber, tiny_experiment, monkeypatch):
    """A rule that stops at once, of a model that nobody has calibrated."""
    path = tiny_experiment.data / "u1.wav"
    monkeypatch.setattr(serve_command, "load", lambda _: transcriber)
    words = ["--model", "tiny", "--no_vad", "--loop_rule", "confidence", "--loop_threshold", "-100"]
    service = serve_command.make_service(get_parser().parse_args(words))
    client = TestClient(build_app(service, None, demo_routes(service), OPEN_PATHS))
    two, four = (transcriber.transcribe(path, loops=loop, vad=False).text for loop in (2, 4))
    assert two != four
    assert client.get("/demo/model").json()["auto"]["is_allowed"]
    result = lines_of(send(client, path, data={"auto": "true"}))[-1]
    assert result["mean_loops"] == 2.0 and result["loops"][0]["text"] == two
    fixed = lines_of(send(client, path))[-1]
    assert fixed["mean_loops"] is None and [each["text"] for each in fixed["loops"]] == [two, four]

    def ask(**fields):
        return client.post(TRANSCRIPTIONS, files={"file": ("a.wav", path.read_bytes())}, data=fields).json()

    assert ask(loops="auto") == {"text": two, "mean_loops": 2.0}
    assert ask() == {"text": four}
    service.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loop_threshold", "-1"], "loop_threshold is -1.0, but of which rule is not said; set loop_rule, too"),
        (["--loop_rule", "state"], "loop_rule is state, and its threshold is not known; set loop_threshold"),
    ],
)
def test_a_rule_that_no_caller_could_use_is_refused_at_the_start(transcriber, monkeypatch, words, message):
    monkeypatch.setattr(serve_command, "load", lambda _: transcriber)
    with pytest.raises(ValueError, match=message):
        serve_command.make_service(get_parser().parse_args(["--model", "tiny", *words]))
    monkeypatch.setattr(serve_command, "load", lambda _: SimpleNamespace(loops=()))
    with pytest.raises(ValueError, match=f"{words[0][2:]} is .*, but the model has no loops; leave it out"):
        serve_command.make_service(get_parser().parse_args(["--model", "tiny", *words]))


def test_auto_is_refused_with_its_reason_where_the_model_cannot(client, tiny_experiment):
    answer = send(client, tiny_experiment.data / "u1.wav", data={"auto": "true"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("loops is auto, but there is no loops_calibration.json")
    assert client.app.state.service.num_requests == 0


def test_merged_frames_are_told(browse, pooled, tiny_experiment):
    (merged,) = lines_of(send(browse(pooled), tiny_experiment.data / "u1.wav"))[-1]["merged"]
    assert len(merged["edges_s"]) - 1 < merged["num_frames"] == 161


def test_a_file_that_is_no_audio_is_refused_in_a_sentence_with_its_name(client, tmp_path):
    (tmp_path / "x").write_bytes(b"\x00\x01 no audio" * 100)
    answer = send(client, tmp_path / "x", "notes.bin")
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("notes.bin is no audio") and message.endswith(".") and "/tmp" not in message


def test_a_recording_that_is_too_long_or_too_large_is_refused(browse, transcriber, tiny_experiment, tmp_path):
    path = tiny_experiment.data / "u1.wav"
    answer = send(browse(transcriber, max_seconds=1.5), path)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "talk.wav lasts 2 s; allowed: up to 1.5 s."
    (tmp_path / "large").write_bytes(bytes(300_000))
    answer = send(browse(transcriber, max_upload_mb=0.1), tmp_path / "large")
    assert answer.status_code == 413 and "allowed: up to 0.1 MB" in answer.json()["error"]["message"]


def test_what_goes_wrong_while_it_is_recognised_is_the_last_line(client, monkeypatch, tiny_experiment):
    def fail(_, following):
        yield {"kind": "progress", "end_s": next(following).end_s}
        raise DataError("the model's scores are no finite numbers.")

    monkeypatch.setattr("espnet_larm.serve.demo.routes.text_lines", fail)
    *_, progress, error = lines_of(send(client, tiny_experiment.data / "u1.wav"))
    assert progress["kind"] == "progress"
    assert error == {"kind": "error", "message": "the model's scores are no finite numbers."}
    assert client.app.state.service.num_requests == 0


def test_a_key_is_asked_for_what_computes_but_not_for_the_page(browse, transcriber, tiny_experiment):
    client = browse(transcriber, key="secret")
    assert all(client.get(path).status_code == 200 for path in PATHS)
    assert client.get("/demo/model").status_code == 401
    assert send(client, tiny_experiment.data / "u1.wav").status_code == 401
    key = {"Authorization": "Bearer secret"}
    assert client.get("/demo/model", headers=key).json()["name"] == "tiny"
    assert send(client, tiny_experiment.data / "u1.wav", headers=key).status_code == 200


def test_each_recording_takes_a_place_while_it_is_recognised_and_leaves_no_file(
    browse, transcriber, tiny_experiment, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client = browse(transcriber, max_requests=1)
    for _ in range(2):
        assert lines_of(send(client, tiny_experiment.data / "u1.wav"))[-1]["kind"] == "result"
    assert client.app.state.service.num_requests == 0 and list(tmp_path.iterdir()) == []
    with client.app.state.service.place():
        answer = send(client, tiny_experiment.data / "u1.wav")
    assert answer.status_code == 503 and answer.json()["error"]["message"].endswith("try again in a moment.")
