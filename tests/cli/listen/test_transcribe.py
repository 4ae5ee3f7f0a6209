"""The command transcribe: what it prints and writes, what it names, and its exit status."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_larm.cli.listen import transcribe, transcripts

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def model(tiny_experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asr")
    config = tiny_experiment.with_config(folder / "config.yaml")
    assert config.is_file()
    shutil.copy(tiny_experiment.model, folder / "valid.loss.ave.pth")
    return str(folder)


@pytest.fixture
def recordings(tiny_experiment, tmp_path, monkeypatch):
    """A folder with two recordings and a text, and the working folder above it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talks/day").mkdir(parents=True)
    shutil.copy(tiny_experiment.data / "u1.wav", "talks/one.wav")
    shutil.copy(tiny_experiment.data / "u5.wav", "talks/day/two.wav")
    Path("talks/notes.txt").write_text("no recording\n")
    return tmp_path / "talks"


@pytest.fixture
def run(model, capsys):
    """Runs the command; gives status, stdout and stderr."""

    def run(*words):
        status = transcribe.main(["--model", model, "--no_vad", *map(str, words)])
        return status, *capsys.readouterr()

    return run


def texts(model, *paths, **options):
    import espnet_larm

    transcriber = espnet_larm.load(model)
    return [transcriber.transcribe(path, vad=False, **options).text for path in paths]


def test_one_recording_is_its_text_and_nothing_else(run, model, recordings):
    status, out, err = run("talks/one.wav")
    assert (status, out, err) == (0, texts(model, "talks/one.wav")[0] + "\n", "")


def test_a_folder_is_searched_and_each_text_has_its_name(run, model, recordings):
    one, two = texts(model, "talks/one.wav", "talks/day/two.wav")
    assert run("talks") == (0, f"talks/day/two.wav: {two}\ntalks/one.wav: {one}\n", "")


def test_what_cannot_be_read_is_named_and_the_others_are_done(run, model, recordings):
    Path("empty.wav").touch()
    Path("noise.m4a").write_bytes(np.random.default_rng(0).bytes(5000))
    Path("nothing").mkdir()
    status, out, err = run("empty.wav", "gone.wav", "talks/one.wav", "noise.m4a", "nothing")
    assert status == 1 and out == f"talks/one.wav: {texts(model, 'talks/one.wav')[0]}\n"
    assert err.splitlines() == [
        "ERROR: gone.wav is missing; name a file, a folder, or - for stdin.",
        err.splitlines()[1],
        "ERROR: empty.wav is empty.",
        "ERROR: noise.m4a is no audio, or damaged (Invalid data found when processing input).",
    ]
    assert err.splitlines()[1].startswith("ERROR: nothing holds no recordings, that is no files that end in .3gp, ")


def test_weights_of_a_folder_without_an_average_are_named(recordings, tiny_experiment, capsys):
    folder = str(tiny_experiment.config.parent)
    words = ["--model", folder, "--no_vad", "talks/one.wav"]
    with pytest.raises(FileNotFoundError, match="name one with asr_model_file: model.pth"):
        transcribe.main(words)
    for name in ("model.pth", str(tiny_experiment.model)):
        assert transcribe.main([*words, "--asr_model_file", name]) == 0
        assert capsys.readouterr().out.strip()
    with pytest.raises(FileNotFoundError, match="other.pth"):
        transcribe.main([*words, "--asr_model_file", "other.pth"])


def test_stdin_is_a_recording_of_any_container(run, model, recordings, monkeypatch):
    data = Path("talks/one.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run("-")[:2] == (0, texts(model, "talks/one.wav")[0] + "\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data[:9000])))
    status, out, err = run("-")
    assert (status, out) == (1, "") and err.startswith("ERROR: stdin is truncated: ")


def test_formats_are_files_whose_names_do_not_meet(run, recordings, tmp_path):
    shutil.copy("talks/one.wav", "talks/one.flac")
    shutil.copy("talks/one.wav", "one.wav")
    status, out, _ = run("--format", "txt,srt,vtt,tsv,json", "--words", "--output_dir", "out", "talks", "one.wav")
    assert (status, out) == (0, "")
    stems = ("day/two", "one", "one.wav", "one.wav_2")
    written = {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}
    assert written == {f"{stem}.{form}" for stem in stems for form in ("txt", "srt", "vtt", "tsv", "json")}
    known = json.loads(Path("out/one.json").read_text())
    assert known["audio"] == "talks/one.flac" and known["loop"] == 4
    assert [word["word"] for each in known["segments"] for word in each["words"]] == known["text"].split()


def test_loops_have_a_line_or_a_file_each(run, model, recordings):
    (two,), (four,) = (texts(model, "talks/one.wav", loops=loop) for loop in (2, 4))
    assert run("--loops", "2", "talks/one.wav")[1] == f"{two}\n"
    assert run("--loops", "4,2", "talks/one.wav")[1] == f"loop 2: {two}\nloop 4: {four}\n"
    assert run("--loops", "2,4", "--output_dir", "out", "talks/one.wav")[0] == 0
    assert Path("out/one.loop2.txt").read_text() == f"{two}\n"
    assert Path("out/one.loop4.txt").read_text() == f"{four}\n"
    assert run("--loops", "2,4", "--format", "json", "--output_dir", "out", "talks/one.wav")[0] == 0
    assert json.loads(Path("out/one.loop2.json").read_text())["text"] == two
    assert json.loads(run("--loops", "2", "--format", "json", "talks/one.wav")[1])["text"] == two


def test_auto_runs_as_many_loops_as_a_recording_needs(run, model, recordings):
    (two,), (four,) = (texts(model, "talks/one.wav", loops=loop) for loop in (2, 4))
    by_confidence = ("--loops", "auto", "--loop_rule", "confidence", "talks/one.wav", "--loop_threshold")
    assert run(*by_confidence, "-100") == (0, f"{two}\n", "")
    assert run(*by_confidence, "1") == (0, f"{four}\n", "")
    known = json.loads(run(*by_confidence, "-100", "--format", "json")[1])
    assert known["mean_loops"] == 2.0 and "loop" not in known and known["text"] == two


def test_compare_loops_prints_each_loops_seconds_and_text(run, model, recordings):
    head, *lines = run("--compare_loops", "talks/one.wav")[1].splitlines()
    assert head == "talks/one.wav: 1.6 s"
    wanted = [texts(model, "talks/one.wav", loops=loop)[0] for loop in (2, 4)]
    found = [line.split(" s  ", 1) for line in lines]
    assert [text for _, text in found] == wanted
    assert [start.split()[:2] for start, _ in found] == [["loop", "2"], ["loop", "4"]]
    assert 0 <= float(found[0][0].split()[2]) <= float(found[1][0].split()[2])
    compared = run("--compare_loops", "--words", "--format", "json,srt", "--output_dir", "out", "talks/one.wav")
    assert compared[0] == 0 and compared[1].splitlines()[0] == head
    known = json.loads(Path("out/one.loop2.json").read_text())
    assert known["segments"][0]["words"] and Path("out/one.loop4.srt").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loops", "auto", "talks/one.wav"], "^loops is auto, but there is no loops_calibration.json beside the"),
        (["--loops", "auto", "--compare_loops", "talks/one.wav"], "loops is auto, and compare_loops compares fixed"),
        (["--loops", "3", "talks/one.wav"], "^loops is 3; allowed: 2, 4"),
        (
            ["--loop_rule", "unchanged", "talks/one.wav"],
            "loop_rule is unchanged, which needs loops auto; set it, or leave",
        ),
        (["--language", "en", "talks/one.wav"], "language is en, but this model has no choice of languages"),
        (["--format", "srt", "talks"], "format is srt, of 2 recordings; stdout takes txt"),
        (
            ["--format", "srt,txt", "talks/one.wav"],
            "format is srt,txt, of 1 recording; stdout takes txt, .* --output_dir",
        ),
        (
            ["--loops", "2,4", "--format", "json", "talks/one.wav"],
            "loops is 2,4 with format json, which holds one loop's",
        ),
        (["--loops", "2,4", "--format", "srt", "talks/one.wav"], "one loop, or name a folder for the files with --out"),
        (
            ["--compare_loops", "--format", "json", "talks/one.wav"],
            "format is json, but compare_loops prints plain text",
        ),
        (
            ["--compare_loops", "--words", "talks/one.wav"],
            "words is true, but compare_loops prints plain text; leave it",
        ),
        (["--words", "--format", "srt", "talks/one.wav"], "words is true with format srt, which has no place for them"),
        (
            ["--words", "--format", "srt,vtt", "--output_dir", "out", "talks"],
            "words is true with format srt,vtt, which has no place for them; allowed: txt, tsv, json",
        ),
        (["--output_dir", "talks/one.wav", "talks"], "output_dir is talks/one.wav, which is a file"),
        (["--device", "cuda:77", "talks"], "device is cuda:77, but torch sees . GPUs here"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_recognised(run, recordings, words, message):
    with pytest.raises((ValueError, OSError), match=message):
        run(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "txt,doc"], "argument --format: doc; allowed: txt, srt, vtt, tsv, json"),
        (["--loops", "2,x"], "argument --loops: 2,x; allowed: whole numbers from 1 on"),
        (["--loops", "0"], "argument --loops: 0; allowed: whole numbers from 1 on"),
        (["--device", "gpu"], "argument --device: gpu; allowed: auto, cpu, cuda, cuda:N"),
    ],
)
def test_words_that_no_option_takes_say_what_is_allowed(words, message, capsys):
    with pytest.raises(SystemExit):
        transcribe.get_parser().parse_args([*words, "a.wav"])
    assert message in capsys.readouterr().err


def test_progress_is_for_terminals(capsys, monkeypatch):
    from espnet_larm.listen.transcriber import Progress

    steps = [Progress(30.0, {}, {}), Progress(60.0, {}, {})]
    assert list(transcripts.Progress().shown("a.wav", steps)) == steps
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = transcripts.Progress()
    assert list(shown.shown("a.wav", steps)) == steps
    shown.clear()
    shown.sum_up()
    err = capsys.readouterr().err
    assert "\r\x1b[Ka.wav: 30 s of audio in 0 s, real-time factor 0.00" in err
    assert err.endswith("\r\x1b[K60 s of audio in 0 s, real-time factor 0.00\n")


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_program_quietly(model, recordings):
    command = [sys.executable, "-m", "espnet_larm", "transcribe", "--model", model, "--no_vad", "talks"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_memory_holds_no_whole_recording(model, tmp_path, monkeypatch):
    """Ten minutes of silence are read in pieces."""
    from espnet_larm.listen import transcriber

    longest = []
    cut = transcriber.cut
    monkeypatch.setattr(
        transcriber, "cut", lambda *args: (longest.append(len(piece.samples)) or piece for piece in cut(*args))
    )
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 600, np.int16), 16000)
    assert transcribe.main(["--model", model, str(tmp_path / "a.wav")]) == 0
    assert max(longest) <= 40 * 16000
