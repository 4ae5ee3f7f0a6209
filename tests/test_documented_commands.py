"""Commands of the README and the tutorials: each is run here, or is marked as long with the date it was run."""

import datetime as dt
import functools
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import av
import numpy as np
import pytest

from espnet_larm.__main__ import main
from espnet_larm.cli.commands import COMMANDS
from espnet_larm.listen import models
from tests.listen.test_hugging_face import save_ctc
from tests.recordings import write_tables

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/tutorial").glob("*.md"))]
EVERY_PAGE = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"# .*\blong, (?:run on (\d{4}-\d\d-\d\d)|not run yet)")
# What needs more than a page's own files: the file that runs it, and words that it runs it by.
RUN_ELSEWHERE = {
    "tools/check.sh": (".ci/run", "tools/check.sh"),
    "espnet-larm doctor": ("tests/cli/test_doctor.py", "def test_this_environment_has_what_is_needed"),
    "espnet-larm serve --model model.zip": (
        "tests/cli/listen/test_serve.py",
        '"espnet_larm", "serve", "--model", str(tiny_pack)',
    ),
    "espnet-larm demo --model model.zip": (
        "tests/serve/demo/test_page.py",
        '"espnet_larm", "demo", "--model", str(model)',
    ),
    './run.sh --python "python3 -m espnet_larm" --asr_config conf/train_larm.yaml '
    "--inference_asr_model valid.loss.ave.pth": (
        "tests/stock/test_asr_sh.py",
        "def test_ctc_alone_with_pieces_is_decoded_by_ours_at_all_loops",
    ),
}
EXPERIMENT = "egs/mini/exp/asr_train_larm_raw_char_sp"
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands_of(page):
    """(command, comment) of each command of a page, continued lines joined."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command, mark, comment = line.partition(" #")
            if command.strip() and not command.startswith("#"):
                yield " ".join(command.split()), f"#{comment}" if mark else ""


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_experiment, tiny_pack):
    """A folder that holds what the pages take for granted, as the working folder."""
    monkeypatch.chdir(tmp_path)
    samples = (np.random.default_rng(0).standard_normal(32000) * 3000).astype(np.int16)
    Path("talks").mkdir()
    for path in ("talk.m4a", "talks/one.m4a", "talks/two.m4a"):
        write_m4a(path, samples)
    write_tables(Path("my_recordings"))
    shutil.copy(tiny_pack, "model.zip")
    Path("models").mkdir()
    shutil.copy(tiny_pack, "models/default.zip")
    monkeypatch.setattr(models, "PACKAGED", tmp_path / "models")
    Path("openai").mkdir()
    # A folder is taken before the hub is asked.
    save_ctc(Path("openai/whisper-tiny.en"), "Wav2Vec2")
    Path(EXPERIMENT).mkdir(parents=True)
    tiny_experiment.with_config(Path(EXPERIMENT) / "config.yaml")
    shutil.copy(tiny_experiment.model, f"{EXPERIMENT}/valid.loss.ave.pth")
    recording = Path("egs/mini/downloads/synthetic/test-mini/301/1/301-1-0001.flac")
    recording.parent.mkdir(parents=True)
    shutil.copy(tiny_experiment.data / "u1.wav", recording)
    Path(".venv/bin").mkdir(parents=True)
    Path(".venv/bin/activate").touch()
    return tmp_path


def write_m4a(path, samples):
    with av.open(path, "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for packet in (*sound.encode(frame), *sound.encode(None)):
            container.mux(packet)


def run(command, monkeypatch):
    """The exit status of a command in the working folder; ours run in this process."""
    words = shlex.split(command)
    if words[0] == "cd":
        monkeypatch.chdir(words[1])
        return 0
    if words[0] != "espnet-larm":
        return subprocess.run(["bash", "-c", command], check=False, timeout=300).returncode
    if words[1] not in COMMANDS:
        return main(words[1:])
    monkeypatch.setattr(sys, "argv", [f"espnet-larm {words[1]}"])
    return import_module(COMMANDS[words[1]].module).main(words[2:])


@pytest.mark.slow
@each_page
def test_commands_that_are_not_long_do_what_they_are_shown_for(page, place, monkeypatch):
    left = [(command, comment) for command, comment in commands_of(page) if command not in RUN_ELSEWHERE]
    for command, comment in left:
        if not MARK.search(comment):
            assert run(command, monkeypatch) == 0, command
    if page.stem == "own_recordings":
        written = sorted(path.name for path in (place / "out").rglob("*") if path.is_file())
        assert written == ["one.txt", "talk.json", "talk.srt", "two.txt"]


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_what_is_run_elsewhere_is_in_a_page_and_run_there(command):
    file, words = RUN_ELSEWHERE[command]
    assert words in (ROOT / file).read_text(encoding="utf-8")
    assert command in [shown for page in PAGES for shown, _ in commands_of(page)]


@each_page
def test_marks_have_dates_that_have_been(page):
    for command, comment in commands_of(page):
        found = MARK.search(comment)
        assert "long" not in comment or found, f"{command} {comment}"
        if found and found[1]:
            assert dt.date.fromisoformat(found[1]) <= dt.datetime.now(dt.UTC).date(), command


@functools.cache
def help_of(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300).stdout


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.stem)
def test_options_that_are_shown_exist(page):
    for command, _ in commands_of(page):
        # What stands in quotes goes to another program.
        words = re.sub(r"\"[^\"]*\"|'[^']*'", "VALUE", command)
        options = re.findall(r"(?<=\s)--[a-z]\w*", words)
        name = re.search(r"(?:espnet-larm|-m espnet_larm) ([a-z][a-z-]+)\b", words)
        script = re.search(r"\b(egs/\w+|tools)/\w+\.sh", words)
        if name and name[1] in COMMANDS:
            every = "--help_all" if name[1] == "decode" else "--help"
            known = help_of(sys.executable, "-m", "espnet_larm", name[1], every)
        elif script:
            known = help_of(str(ROOT / script[0]), "--help")
        elif words.startswith("./run.sh"):
            known = help_of(str(ROOT / "egs/read_speech/run.sh"), "--help")
        else:
            continue
        missing = [option for option in options if option not in (*re.findall(r"--\w+", known), "--help", "--help_all")]
        assert not missing, command
