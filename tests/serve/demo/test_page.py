"""The page in a browser: Chromium on PATH, with a WAV for a microphone, driven by Playwright; minutes.

pytest -m recipe tests/serve/demo/test_page.py
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import yaml

import espnet_larm
from espnet_larm.recognize.leaving.calibration import CTC, Calibrated, write_calibration
from tests.live.conftest import live_files  # noqa: F401  # a fixture

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the extra test has it)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.recipe,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
]
ROOT = Path(__file__).parents[3]
# It knows no network, and another name of this machine, from which no page may record.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
    "--host-resolver-rules=MAP elsewhere.test 127.0.0.1",
)
DROP = """([name, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    return data;
}"""
FOCUSED = "document.activeElement.id || document.activeElement.parentElement.id"


def expect(locator):
    return playwright.expect(locator)


class Server:
    """`espnet-larm demo` in a process of its own."""

    def __init__(self, model, options=(), **environment):
        command = [sys.executable, "-m", "espnet_larm", "demo", "--model", str(model)]
        self.process = subprocess.Popen(
            [*command, "--no_vad", "--no_open", *options, "--port", "0", "--device", "cpu"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        said = []
        for line in self.process.stderr:
            said.append(line)
            if found := re.search(r"can be tried at (http://127\.0\.0\.1:\d+/); Ctrl-C ends it\.", line):
                self.address = found[1]
                return
        pytest.fail(f"no server: {''.join(said)}")

    def stop(self):
        self.process.terminate()
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def start():
    started = []

    def start(model, options=(), **environment):
        started.append(Server(model, options, **environment))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="module")
def model(tiny_experiment, tmp_path_factory):
    """An experiment of a model each of whose tokens is a word."""
    folder = tmp_path_factory.mktemp("words")
    tokens = yaml.safe_load(tiny_experiment.config.read_text())["token_list"]
    words = [token.replace("<space>", "I") for token in tokens]
    tiny_experiment.with_config(folder / "config.yaml", token_list=words, token_type="word")
    shutil.copy(tiny_experiment.model, folder / "valid.loss.ave.pth")
    return folder


@pytest.fixture(scope="module")
def server(start, model):
    return start(model)


@pytest.fixture(scope="module")
def speech(tiny_experiment):
    return tiny_experiment.data / "u1.wav"


@pytest.fixture(scope="module")
def browser(speech, tmp_path_factory):
    microphone = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    samples, rate = soundfile.read(speech)
    soundfile.write(microphone, samples, rate, subtype="PCM_16")
    with playwright.sync_playwright() as driver:
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={microphone}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


class Watch:
    """What a page may not do: complain, or ask another host."""

    def __init__(self, page):
        self.errors, self.requests = [], []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def visit(browser):
    """Opens pages; at the end, none of them may have complained or asked another host."""
    opened = []

    def visit(address, width=1100, refused=(), **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(20_000)
        opened.append((page, Watch(page), address, refused))
        page.goto(address)
        return page

    yield visit
    for page, watch, address, refused in opened:
        page.close()
        complaints = [each for each in watch.errors if not any(words in each for words in refused)]
        assert complaints == []
        here = address.partition("#")[0]
        assert [url for url in watch.requests if not url.startswith((here, f"blob:{here}"))] == []


@pytest.fixture
def page(visit, server):
    return visit(server.address)


def recognise(page, path):
    page.set_input_files("#file", path)
    expect(page.locator("#status")).to_contain_text("recognised in", timeout=30_000)


def said(page):
    """The text that is shown; each word is a button."""
    return " ".join(page.locator("#text button").all_inner_texts())


def texts_of(model, path):
    recognizer = espnet_larm.load(model)
    found = recognizer.transcribe(path, loops=recognizer.loops, vad=False)
    return {loop: at_loop.text for loop, at_loop in found.loops.items()}


def test_a_chosen_file_shows_the_texts_of_transcribe_at_all_loops(page, model, speech):
    texts = texts_of(model, speech)
    recognise(page, speech)
    rows = page.locator("#loops tbody tr")
    for row, (loop, text) in zip(rows.all(), texts.items(), strict=True):
        number, time, words = row.locator("th, td").all_inner_texts()
        assert (number, words.strip()) == (str(loop), text) and re.fullmatch(r"\d+\.\d\d s", time)
    assert said(page) == texts[4]
    assert page.locator("tr[aria-current=true] th").inner_text() == "4"


def test_the_slider_goes_to_other_loops_by_keyboard_and_changed_words_are_marked(page, model, speech):
    texts = texts_of(model, speech)
    recognise(page, speech)
    changed = page.locator("#text button.changed")
    assert changed.count() > 0 and changed.first.get_attribute("aria-label").endswith(", changed")
    assert "underline" in changed.first.evaluate("button => getComputedStyle(button).textDecorationLine")
    expect(page.locator("#changes")).to_contain_text("changed from loop 2: bold and underlined.")
    page.locator("#loop").press("ArrowLeft")
    expect(page.locator("#loop-said")).to_contain_text(re.compile(r"^2 loops, \d+\.\d\d s$"))
    assert page.locator("#loop").get_attribute("aria-valuetext").startswith("2 loops, ")
    assert said(page) == texts[2] and changed.count() == 0
    assert page.locator("tr[aria-current=true] th").inner_text() == "2"


def test_auto_is_off_with_a_reason_for_a_model_without_thresholds(page, speech):
    recognise(page, speech)
    expect(page.locator("#auto")).to_be_disabled()
    expect(page.locator("#auto-why")).to_contain_text("there is no loops_calibration.json beside the model")


def test_auto_shows_the_loops_that_were_used_and_goes_back_to_the_slider(start, visit, model, speech, tmp_path):
    for path in model.iterdir():
        shutil.copy(path, tmp_path)
    write_calibration(tmp_path, CTC, Calibrated("confidence", {"confidence": -100.0}), {})
    page, texts = visit(start(tmp_path).address), texts_of(model, speech)
    recognise(page, speech)
    page.check("#auto")
    expect(page.locator("#loop-said")).to_have_text(re.compile(r"^auto: 2 loops used, \d+\.\d\d s$"))
    assert said(page) == texts[2]
    expect(page.locator("#loop")).to_be_disabled()
    expect(page.locator("#loops")).to_be_hidden()
    page.uncheck("#auto")
    expect(page.locator("#loop-said")).to_have_text(re.compile(r"^4 loops, \d+\.\d\d s$"))
    assert said(page) == texts[4]
    expect(page.locator("#loop")).to_be_enabled()


def test_a_dropped_file_is_recognised(page, model, speech):
    data = page.evaluate_handle(DROP, ["talk.wav", list(speech.read_bytes())])
    page.dispatch_event("#give", "drop", {"dataTransfer": data})
    expect(page.locator("#status")).to_contain_text("talk.wav: 1.6 s, recognised in", timeout=30_000)
    assert said(page) == texts_of(model, speech)[4]


def test_what_the_microphone_hears_is_recorded_and_recognised(page):
    page.click("#record")
    expect(page.locator("#stop")).to_be_focused()
    expect(page.locator("#clock")).to_contain_text(re.compile(r"^1\.\d s$"))
    levels = []
    for _ in range(20):
        page.wait_for_timeout(50)
        levels.append(page.locator("#level").evaluate("meter => (meter.value)"))
    assert max(levels) > 0.02
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text(
        re.compile(r"^recording\.webm: \d\.\d s, recognised"), timeout=30_000
    )
    expect(page.locator("#record")).to_be_focused()
    assert said(page)
    expect(page.locator("#audio")).to_be_visible()


def test_a_word_plays_from_its_place_and_is_shown_in_the_picture(page, speech):
    recognise(page, speech)
    expect(page.locator("#audio")).to_be_visible()
    word = page.locator("#text button").last
    word.click()
    place = page.locator("#place").inner_text()
    start_s = float(re.fullmatch(rf"{word.inner_text()} from (\d+\.\d\d) to \d+\.\d\d s", place)[1])
    time_s = page.locator("#audio").evaluate("audio => (audio.pause(), audio.currentTime)")
    assert start_s > 0 and start_s - 0.01 <= time_s < 1.61
    page.locator("#zoom").press("End")
    word.click()
    left, right = page.locator("#scroll").evaluate("it => ([it.scrollLeft, it.scrollLeft + it.clientWidth])")
    # 600 pixels a second.
    assert 0 < left <= 600 * start_s <= right


def test_a_file_that_is_no_audio_gives_the_servers_sentence(visit, server, tmp_path):
    # Browsers log each answer that refuses.
    page = visit(server.address, refused=["400 (Bad Request)"])
    (tmp_path / "notes.mp3").write_text("no audio at all")
    page.set_input_files("#file", tmp_path / "notes.mp3")
    expect(page.locator("#error")).to_contain_text("notes.mp3 is no audio")
    expect(page.locator("#result")).to_be_hidden()
    expect(page.locator("#progress")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_nothing_to_scroll_sideways(visit, server, speech, scheme):
    page = visit(server.address, width=360, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    recognise(page, speech)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_all_controls_are_reached_by_tab_and_left_again(page, speech):
    recognise(page, speech)
    page.locator("h1").click()
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
    assert {"record", "file", "loop", "text", "audio", "scroll", "zoom"} <= set(seen)
    # From the last control on it begins anew.
    assert seen.count("record") > 1
    page.locator("#text button").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[...document.querySelectorAll('#text button')].indexOf(document.activeElement)") == 1
    page.keyboard.press("Enter")
    expect(page.locator("#place")).to_contain_text(" from ")


def test_a_page_from_elsewhere_says_that_recording_needs_https(visit, server, speech):
    page = visit(server.address.replace("127.0.0.1", "elsewhere.test"))
    expect(page.locator("#no-recording")).to_contain_text("Recording needs HTTPS")
    expect(page.locator("#record")).to_be_disabled()
    recognise(page, speech)


def test_merged_frames_are_shown_below_the_spectrogram(start, visit, tiny_experiment, speech, tmp_path):
    conf = {"frontend_conf": yaml.safe_load(tiny_experiment.config.read_text())["frontend_conf"]}
    conf |= {"tau": 0.5, "min_frames_per_second": 0.0}
    tiny_experiment.with_config(tmp_path / "config.yaml", frontend="affinity_pooling", frontend_conf=conf)
    shutil.copy(tiny_experiment.model, tmp_path / "valid.loss.ave.pth")
    page = visit(start(tmp_path).address)
    recognise(page, speech)
    expect(page.locator("#merged")).to_contain_text(re.compile(r"reads \d+ frames in place of 161 \(\d\d %\)"))


def test_a_server_with_a_key_asks_for_it_and_takes_it_from_the_address(start, visit, model, speech):
    server = start(model, ESPNET_LARM_API_KEY="secret")
    page = visit(server.address, refused=["401 (Unauthorized)"])
    expect(page.locator("#error")).to_contain_text("the key is missing or wrong")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text(re.compile("^Model: words"))
    recognise(page, speech)
    page = visit(f"{server.address}#key=secret")
    recognise(page, speech)
    assert page.url == server.address


@pytest.fixture(scope="module")
def live_model(live_files, tmp_path_factory):  # noqa: F811
    """An experiment of a model that streams."""
    folder = tmp_path_factory.mktemp("live")
    config, weights = live_files
    shutil.copy(config, folder / "config.yaml")
    shutil.copy(weights, folder / "valid.loss.ave.pth")
    return folder


@pytest.fixture
def listening(start, visit, live_model):
    """A page that listens, of a server with a key, and what the server has said to it."""
    options = ["--max_utterance_s", "2", "--hold_s", "0"]
    server = start(live_model, options, ESPNET_LARM_API_KEY="s?cret/")
    page, said = visit(f"{server.address}#key=s%3Fcret/"), []
    page.on("websocket", lambda stream: stream.on("framereceived", lambda data: said.append(json.loads(data))))
    page.click("#listen")
    expect(page.locator("#hush")).to_be_focused()
    return page, said


def grow(page, said, kind):
    """Wait until the server has said something of a kind with a text."""
    for _ in range(400):
        if any(each["type"] == kind and each["text"] for each in said):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"no {kind} text: {said[-3:]}")


def test_what_is_spoken_is_shown_while_it_is_spoken(listening):
    page, said = listening
    grow(page, said, "partial")
    grow(page, said, "final")
    expect(page.locator("#clock")).to_contain_text(re.compile(r"^\d+\.\d s$"))
    colours = [page.locator(f"#{name}").evaluate("it => getComputedStyle(it).color") for name in ("finals", "partial")]
    assert colours[0] != colours[1]
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text(re.compile(r"^\d+\.\d s heard\.$"), timeout=30_000)
    assert said[0]["type"] == "ready" and said[-1]["type"] == "done" and said[-1]["duration"] > 0.5
    finals = [each["text"] for each in said if each["type"] == "final"]
    assert page.locator("#finals").inner_text() == " ".join(finals)
    expect(page.locator("#partial")).to_have_text("")
    expect(page.locator("#listen")).to_be_focused()
    expect(page.locator("#hush")).to_be_hidden()


def test_partial_texts_are_grey_until_they_are_final(listening):
    page, said = listening
    grow(page, said, "partial")
    # The page shows the last one, whatever comes between two looks.
    page.wait_for_function("document.querySelector('#partial').textContent !== ''")
    page.click("#hush")
    expect(page.locator("#status")).to_contain_text("s heard.", timeout=30_000)
    # A second stream begins anew.
    number = len(said)
    page.click("#listen")
    expect(page.locator("#hush")).to_be_focused()
    page.click("#hush")
    expect(page.locator("#status")).to_contain_text("s heard.", timeout=30_000)
    assert said[number]["type"] == "ready" and said[-1]["type"] == "done"
    finals = [each["text"] for each in said[number:] if each["type"] == "final"]
    assert page.locator("#finals").inner_text() == " ".join(finals)


def test_a_stream_that_ends_with_its_server_is_named(start, visit, live_model):
    server = start(live_model)
    page = visit(server.address, refused=["WebSocket"])
    page.click("#listen")
    expect(page.locator("#hush")).to_be_visible()
    server.process.kill()
    server.process.communicate()
    expect(page.locator("#error")).to_contain_text("ended the stream too early")
    expect(page.locator("#listen")).to_be_visible()


def test_a_server_that_hears_as_many_streams_as_it_may_is_named(start, visit, live_model):
    server = start(live_model, options=["--max_streams", "1"])
    first, second = (visit(server.address, refused=["WebSocket"]) for _ in range(2))
    first.click("#listen")
    expect(first.locator("#hush")).to_be_visible()
    second.click("#listen")
    expect(second.locator("#error")).to_contain_text("The server does not take this stream: it may hear too many")
    expect(second.locator("#listen")).to_be_enabled()


def test_a_model_that_does_not_stream_offers_no_live_button(page, speech):
    recognise(page, speech)
    expect(page.locator("#listen")).to_be_hidden()


def test_a_server_that_is_gone_is_named(start, visit, model, speech):
    server = start(model)
    page = visit(server.address, refused=["ERR_CONNECTION_REFUSED"])
    expect(page.locator("#model")).to_have_text(re.compile("^Model: words"))
    server.stop()
    page.set_input_files("#file", speech)
    expect(page.locator("#error")).to_have_text("The server does not answer. Is espnet-larm demo still running?")
