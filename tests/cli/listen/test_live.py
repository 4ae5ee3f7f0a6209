"""transcribe --live: raw samples from a pipe to texts in each format, and what is refused."""

import io
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
import soxr

from espnet_larm.cli.listen import live
from espnet_larm.cli.listen.transcribe import main
from espnet_larm.errors import DataError
from espnet_larm.live.config import LiveConfig
from espnet_larm.live.session import LiveRecognizer
from tests.live.conftest import live_files, recognizer, speech  # noqa: F401  # fixtures
from tests.live.test_microphone import pretend

CONFIG = {"chunk_frames": 3, "endpoint_s": 0.2}


@pytest.fixture
def listen(live_files, monkeypatch, tmp_path, capsys):  # noqa: F811
    """Runs the program on bytes of stdin; gives its exit status, stdout and stderr."""

    def run(data, *options):
        path = tmp_path / "stdin"
        path.write_bytes(data)
        config, model = live_files
        named = ["--model", str(config.parent), "--asr_model_file", str(model)]
        with path.open("rb") as file:
            monkeypatch.setattr(sys, "stdin", SimpleStdin(file))
            status = main(["--live", *named, "--chunk_frames", "3", "--endpoint_s", "0.2", *options])
        return status, *capsys.readouterr()

    return run


class SimpleStdin:
    """What sys.stdin has of use here."""

    def __init__(self, buffer):
        self.buffer = buffer


@pytest.fixture(scope="module")
def wanted(recognizer):  # noqa: F811
    """Events of the library for the same samples."""
    session = LiveRecognizer(recognizer, LiveConfig(**CONFIG)).start()
    events = session.feed(speech(60_000)) + session.finish()
    finals = [event for event in events if event.is_final]
    assert len(finals) > 1
    return finals


def data(samples=None):
    return (speech(60_000) if samples is None else samples).astype("<i2").tobytes()


def test_final_texts_go_to_stdout_and_partial_ones_to_stderr(listen, wanted):
    status, out, err = listen(data(), "--hold_s", "0")
    assert status == 0 and out.splitlines() == [event.text for event in wanted]
    *partials, last = err.splitlines()
    assert partials and all(line.startswith("... ") for line in partials)
    assert last.startswith("3.8 s heard, real-time factor ") and last.endswith("shown words withdrawn")


def test_chunks_leave_by_a_rule_with_loops_auto(listen, wanted):
    rule = ("--loops", "auto", "--loop_rule", "confidence", "--loop_threshold")
    status, out, err = listen(data(), *rule, "-0.03")
    last = err.splitlines()[-1]
    assert status == 0 and out and last.endswith(" loops a frame")
    assert 2 < float(last.split()[-4]) < 4
    status, out, err = listen(data(), *rule, "1")
    assert out.splitlines() == [event.text for event in wanted] and err.endswith(", 4.00 loops a frame\n")


def test_partial_texts_of_an_early_loop_are_written_before_the_deep_loops_run(listen, wanted, monkeypatch):
    from espnet_larm.looped.encoder import LarmEncoder

    written, order, step = live.Screen._write_partial, [], LarmEncoder._step

    def logged(encoder, stack, loop, *rest):
        order.append(loop)
        return step(encoder, stack, loop, *rest)

    monkeypatch.setattr(LarmEncoder, "_step", logged)
    monkeypatch.setattr(live.Screen, "_write_partial", lambda self, text: (order.append(text), written(self, text)))
    _, out, err = listen(data(), "--partial_loop", "2", "--hold_s", "0")
    assert out.splitlines() == [event.text for event in wanted]
    early = [place for place, each in enumerate(order) if isinstance(each, str) and order[place - 1] == 2]
    assert early and all(order[place + 1] == 3 for place in early) and err.count("... ") >= len(early)


@pytest.mark.parametrize("options", [["--microphone"], ["--microphone", "Webcam", "--rate", "16000"]])
def test_a_microphone_is_heard_until_ctrl_c(listen, wanted, monkeypatch, options):
    # More than is heard before Ctrl-C comes, with the first final text.
    module = pretend(monkeypatch, np.tile(speech(60_000), 4), default=2)
    show = live.Screen.show

    def show_and_interrupt(screen, events):
        show(screen, events)
        if any(event.is_final for event in events):
            monkeypatch.setattr(live.Screen, "show", show)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(live.Screen, "show", show_and_interrupt)
    status, out, err = listen(b"RIFF is not read", *options)
    assert status == 0 and module.num_closed == 1
    assert out.splitlines()[0] == wanted[0].text and len(out.splitlines()) <= 2
    assert " s heard, real-time factor " in err


def test_a_microphone_that_stops_has_its_texts_and_a_sentence(listen, wanted, monkeypatch, capsys):
    pretend(monkeypatch, speech(60_000), default=2)
    with pytest.raises(DataError, match="the microphone has stopped"):
        listen(b"", "--microphone")
    assert capsys.readouterr().out.splitlines() == [event.text for event in wanted]


def test_formats_go_on_from_text_to_text(listen, wanted):
    _, out, _ = listen(data(), "--words")
    words = [word for event in wanted for word in event.words]
    assert out.splitlines() == [f"{word.start_s:.2f}\t{word.end_s:.2f}\t{word.text}" for word in words]
    _, out, _ = listen(data(), "--format", "json", "--words")
    assert [json.loads(line) for line in out.splitlines()] == [event.message() for event in wanted]
    _, out, _ = listen(data(), "--format", "tsv", "--words")
    head, *rows = out.splitlines()
    assert head == "start\tend\ttext" and [row.split("\t")[2] for row in rows] == [word.text for word in words]
    _, out, _ = listen(data(), "--format", "srt")
    cues = out.split("\n\n")
    assert [cue.split("\n")[0] for cue in cues] == [str(number + 1) for number in range(len(cues))]
    assert len(cues) >= len(wanted) and all(" --> " in cue.split("\n")[1] for cue in cues)
    _, out, _ = listen(data(), "--format", "vtt")
    assert out.startswith("WEBVTT\n\n00:") and out.count("WEBVTT") == 1
    assert out.count(" --> ") == len(cues)


def test_another_rate_and_depth(listen, recognizer):  # noqa: F811
    samples = speech(60_000)
    _, out, _ = listen(data(samples), "--rate", "8000", "--loops", "2")
    from espnet_larm.recognize.config import DecodeConfig

    session = LiveRecognizer(recognizer, LiveConfig(**CONFIG), DecodeConfig(num_loops=2)).start()
    resampled = soxr.resample(samples.astype(np.float32) / 32768, 8000, 16000)
    events = session.feed(resampled) + session.finish()
    assert out.splitlines() == [event.text for event in events if event.is_final]


def test_what_was_heard_is_written_before_the_error_of_half_a_sample(listen, wanted, capsys):
    with pytest.raises(ValueError, match="ended within a sample"):
        listen(data() + b"x")
    assert capsys.readouterr().out.splitlines() == [event.text for event in wanted]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", ["talk.wav"], "recordings are talk.wav; --live reads stdin alone"),
        (b"", ["--format", "srt,txt"], "format is srt,txt; --live writes one format"),
        (b"", ["--format", "srt", "--words"], "words is true with format srt"),
        (b"", ["--loops", "2,4"], "loops is 2,4; --live gives final texts of one loop"),
        (b"", ["--loops", "auto"], "loops is auto, but there is no loops_calibration.json beside the model"),
        (b"", ["--no_vad"], "no_vad is True, which has no effect on --live"),
        (b"", ["--overlap", "3"], "overlap is 3.0, which has no effect on --live"),
        (b"", ["--loop_rule", "state"], "loop_rule is state, which needs loops auto; set it, or leave"),
        (b"", ["--partial_loop", "3"], "partial_loop is 3; allowed: 2, 4"),
        (b"RIFF....WAVE", [], "begins as a WAV file"),
    ],
)
def test_what_live_use_cannot_do_is_refused(listen, content, options, message):
    with pytest.raises(ValueError, match=message):
        listen(content, *options)


def test_options_of_live_use_need_it(tmp_path):
    given = (["--rate", "8000"], "rate is 8000"), (["--endpoint_s", "2"], "endpoint_s is 2.0")
    given += (["--microphone"], "microphone is given"), (["--microphone", "USB"], "microphone is USB")
    for options, name in given:
        with pytest.raises(ValueError, match=f"{name}, which needs --live"):
            main(["talk.wav", *options])
    with pytest.raises(SystemExit):
        main([])


def test_a_pipe_is_heard_as_it_comes(live_files, wanted, monkeypatch):  # noqa: F811
    config, model = live_files
    options = ["--asr_model_file", str(model), "--chunk_frames", "3", "--endpoint_s", "0.2"]
    reader, writer = os.pipe()
    out, statuses = io.StringIO(), []
    monkeypatch.setattr(sys, "stdout", out)
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleStdin(source))
        program = ["--live", "--model", str(config.parent), *options]
        thread = threading.Thread(target=lambda: statuses.append(main(program)))
        thread.start()
        pipe.write(data())
        pipe.flush()
        # Texts come while the pipe is open.
        deadline = time.monotonic() + 120
        while wanted[0].text not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        said = out.getvalue()
        pipe.close()
        thread.join()
    assert said.startswith(f"{wanted[0].text}\n")
    assert out.getvalue().splitlines() == [event.text for event in wanted] and statuses == [0]


def test_ctrl_c_ends_it_with_what_was_heard(listen, wanted, monkeypatch):
    def interrupted(stdin):
        yield stdin.read()
        raise KeyboardInterrupt

    monkeypatch.setattr(live, "_blocks", interrupted)
    status, out, _ = listen(data())
    assert status == 130 and out.splitlines() == [event.text for event in wanted]
