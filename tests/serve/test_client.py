"""OpenAI's own client on a server of a looped model, whose texts are those of `espnet-larm transcribe`."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import espnet_larm
from espnet_larm.cli.listen import transcribe
from espnet_larm.serve.app import build_app
from espnet_larm.serve.limits import Limits
from espnet_larm.serve.service import Service
from tests.serve.conftest import running

KEY = "s3cret"


@pytest.fixture(scope="module")
def transcriber(tiny_pack):
    return espnet_larm.load(tiny_pack)


@pytest.fixture
def service(transcriber):
    # The recordings are noise.
    service = Service(transcriber, "tiny", Limits(max_upload_mb=0.2, batch_wait_ms=100.0), vad=False)
    yield service
    service.close()


@pytest.fixture
def client(service):
    with running(build_app(service, KEY)) as address, openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        yield client


@pytest.fixture
def paths(tiny_experiment):
    """Recordings of 0.4 to 1.6 s."""
    return sorted(tiny_experiment.data.glob("*.wav"))


def ask(client, path, **options):
    with path.open("rb") as file:
        return client.audio.transcriptions.create(file=file, model="whisper-1", **options)


def test_concurrent_callers_get_the_texts_of_transcribe_in_fewer_batches(client, service, paths, tiny_pack, capsys):
    assert transcribe.main(["--model", str(tiny_pack), "--no_vad", *map(str, paths)]) == 0
    wanted = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    with ThreadPoolExecutor(14) as pool:
        found = [each.text for each in pool.map(lambda path: ask(client, path), [*paths, *paths])]
    assert found == [*wanted, *wanted] and any(wanted)
    assert service.counts.stretches == 14 > service.counts.batches


def test_segments_words_and_subtitles_are_those_of_python(client, transcriber, paths):
    wanted = transcriber.transcribe(paths[1], vad=False)
    found = ask(client, paths[1], response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert found.text == wanted.text and found.duration == wanted.duration_s
    assert [each.text for each in found.segments] == [each.text for each in wanted.segments]
    words = [word for each in wanted.segments for word in each.words]
    assert [each.word for each in found.words] == [word.text for word in words]
    assert [each.start for each in found.words] == [round(word.start_s, 3) for word in words]
    assert ask(client, paths[1], response_format="srt").startswith("1\n00:00:0")


def test_loops_are_a_field_of_our_own(client, transcriber, paths):
    wanted = transcriber.transcribe(paths[1], loops=[2, 4], vad=False)
    assert ask(client, paths[1], extra_body={"loops": "2"}).text == wanted.loops[2].text
    found = ask(client, paths[1], extra_body={"loops": "2,4"})
    assert found.text == wanted.text
    assert {int(loop): each["text"] for loop, each in found.loops.items()} == {
        loop: each.text for loop, each in wanted.loops.items()
    }
    # The encoder could go on, for as long as a caller likes.
    with pytest.raises(openai.BadRequestError, match="loops is 1000; allowed: 2, 4"):
        ask(client, paths[1], extra_body={"loops": "1000"})


def test_the_client_raises_its_own_errors(client, paths, tmp_path):
    assert [each.id for each in client.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError, match="response_format is xml"):
        ask(client, paths[0], response_format="xml")
    with pytest.raises(openai.NotFoundError, match="model is other"):
        client.models.retrieve("other")
    with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
        ask(client.with_options(api_key="wrong"), paths[0])
    (tmp_path / "large.wav").write_bytes(bytes(5_000_000))
    with pytest.raises(openai.APIStatusError, match="allowed: up to 0.2 MB") as caught:
        ask(client, tmp_path / "large.wav")
    assert caught.value.status_code == 413
