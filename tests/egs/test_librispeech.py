"""egs/librispeech: splits are downloaded, checked, resumed and unpacked, and sets are made of the right ones."""

import hashlib
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCAL = ROOT / "egs/librispeech/local"
Download = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror with one split of one utterance, and its list of archives."""
    chapter = tmp_path / "source/LibriSpeech/dev-clean/84/1"
    chapter.mkdir(parents=True)
    (chapter / "84-1.trans.txt").write_text("84-1-0000 GO\n")
    (chapter / "84-1-0000.flac").write_bytes(bytes(range(256)) * 40)
    archive = tmp_path / "mirror/12/dev-clean.tar.gz"
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source/LibriSpeech", "LibriSpeech")
    write_sums(tmp_path, hashlib.sha256(archive.read_bytes()).hexdigest())
    return archive


def write_sums(folder: Path, checksum: str) -> None:
    (folder / "archives.txt").write_text(f"# Split\ndev-clean 12/dev-clean.tar.gz {checksum}\n")


@pytest.fixture
def download(mirror: Path, tmp_path: Path) -> Download:
    """Download a split from the mirror into d/."""

    def run(split: str = "dev-clean") -> subprocess.CompletedProcess[str]:
        command = [str(LOCAL / "download_split.sh"), split, f"file://{tmp_path}/mirror", "archives.txt", "d"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_a_split_is_downloaded_and_unpacked_and_its_archive_removed(download: Download, tmp_path: Path) -> None:
    done = download()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d/LibriSpeech/dev-clean/84/1/84-1.trans.txt").read_text() == "84-1-0000 GO\n"
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["LibriSpeech"]


def test_a_split_that_is_there_is_not_downloaded_again(download: Download, mirror: Path) -> None:
    assert download().returncode == 0
    mirror.unlink()
    assert download().returncode == 0


def test_an_interrupted_download_is_resumed(download: Download, mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    half = mirror.read_bytes()[: mirror.stat().st_size // 2]
    (tmp_path / "d/dev-clean.tar.gz.part").write_bytes(half)
    mirror.write_bytes(b"x" * len(half) + mirror.read_bytes()[len(half) :])
    # The mirror's first half is wrong by now, so the sum is right only if it was not fetched again.
    assert download().returncode == 0


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_ends_with_both_sums(download: Download, tmp_path: Path, kind: str) -> None:
    wrong = hashlib.new(kind, b"other").hexdigest()
    write_sums(tmp_path, wrong)
    done = download()
    assert done.returncode == 2 and f"has {kind} " in done.stderr and f"expected {wrong}" in done.stderr
    assert not (tmp_path / "d/LibriSpeech").exists()


def test_an_unknown_split_is_named(download: Download) -> None:
    done = download("dev-dirty")
    assert done.returncode == 2 and "archives.txt does not list dev-dirty" in done.stderr


def test_every_official_split_has_its_sum() -> None:
    lines = [line.split() for line in (LOCAL / "archives.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 9 and all(len(checksum) in {32, 64} for _, _, checksum in lines)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of tmp_path/mirror that breaks off the first answer at its half, and the ranges it was asked for."""
    ranges: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            ranges.append(asked)
            data = (tmp_path / "mirror" / self.path.lstrip("/")).read_bytes()
            start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : len(data) // 2 if len(ranges) == 1 else None])

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", ranges
        running.shutdown()
        thread.join()


def test_an_ngram_is_downloaded_resumed_and_checked(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, ranges = server
    data = bytes(range(256)) * 400
    (tmp_path / "mirror/11").mkdir(parents=True)
    (tmp_path / "mirror/11/3-gram.arpa.gz").write_bytes(data)
    table = tmp_path / "ngrams.txt"
    table.write_text(f"# N-gram\n3-gram 11/3-gram.arpa.gz {hashlib.sha256(data).hexdigest()}\n")

    def run(name: str) -> subprocess.CompletedProcess[str]:
        command = [str(LOCAL / "download_ngram.sh"), name, address, str(table), "lm"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    broken = run("3-gram")
    assert broken.returncode == 2 and "the same command goes on from there" in broken.stderr
    assert not (tmp_path / "lm/3-gram.arpa.gz").exists()
    done = run("3-gram")
    assert (done.returncode, done.stdout) == (0, "lm/3-gram.arpa.gz\n"), done.stderr
    assert (tmp_path / "lm/3-gram.arpa.gz").read_bytes() == data
    assert ranges == ["", f"bytes={len(data) // 2}-"]
    assert run("3-gram").returncode == 0 and len(ranges) == 2
    table.write_text(f"3-gram 11/3-gram.arpa.gz {'0' * 64}\n")
    wrong = run("3-gram")
    assert wrong.returncode == 2 and not wrong.stdout and f"expected {'0' * 64}" in wrong.stderr
    unknown = run("5-gram")
    assert unknown.returncode == 2 and "--ngram 5-gram is not known; allowed: 3-gram" in unknown.stderr


def test_every_ngram_has_its_sum() -> None:
    lines = [line.split() for line in (LOCAL / "ngrams.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 3 and all(len(checksum) == 64 for _, _, checksum in lines)


def run_recipe(*options: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "egs/librispeech/run.sh"), "--python", f"{sys.executable} -m espnet_larm", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--subset", "50"], "--subset 50 is not known; allowed: 100, 460, 960, mini"),
        (["--subset", "mini", "--libri", "x"], "unknown option --libri"),
        (["--case", "upper"], "--case upper is not known; allowed: keep, lower"),
        (["--librispeech"], "--librispeech needs a value"),
        (["--ngram", "5-gram"], "--ngram 5-gram is not known; allowed: 3-gram.pruned.1e-7 3-gram 4-gram"),
        (["--stage", "trian"], "--stage trian is no stage; nearest: train"),
    ],
)
def test_misuse_of_the_recipe_ends_with_status_2(options: list[str], message: str) -> None:
    done = run_recipe(*options)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize(
    ("options", "wanted", "sets"),
    [
        (
            ["--subset", "460"],
            "--train_set train_clean_460 --valid_set dev --test_sets dev_clean dev_other test_clean test_other --token",
            "train_clean_460=train-clean-100,train-clean-360 dev=dev-clean,dev-other dev_clean=dev-clean ",
        ),
        (
            ["--subset", "mini", "--case", "lower"],
            "--train_set train_clean_5_lower --valid_set dev_clean_2_lower --test_sets test_clean_lower test_other_lo",
            "train_clean_5_lower=train-clean-5 dev_clean_2_lower=dev-clean-2 test_clean_lower=test-clean ",
        ),
    ],
)
def test_transcripts_in_small_letters_have_sets_of_their_own(
    tmp_path: Path, options: list[str], wanted: str, sets: str
) -> None:
    (tmp_path / "librispeech").mkdir()
    (tmp_path / "librispeech/run.sh").write_bytes((ROOT / "egs/librispeech/run.sh").read_bytes())
    (tmp_path / "utils").symlink_to(ROOT / "egs/utils")
    (tmp_path / "asr.sh").write_text('#!/usr/bin/env bash\necho "$* | $LIBRISPEECH_SETS"\n')
    (tmp_path / "asr.sh").chmod(0o755)
    command = ["bash", tmp_path / "librispeech/run.sh", *options]
    given = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert wanted in given and given.partition(" | ")[2].startswith(sets)
    config = "train_larm_mini" if "mini" in options else "train_larm_960h"
    assert f"--asr_config conf/librispeech/{config}.yaml " in given


@pytest.mark.parametrize("inner", [".", "LibriSpeech"])
def test_the_sets_are_made_of_the_splits(tmp_path: Path, inner: str) -> None:
    for split, number in (("dev-clean", 1), ("dev-other", 2)):
        chapter = tmp_path / "corpus" / inner / split / f"8{number}" / "1"
        chapter.mkdir(parents=True)
        (chapter / f"8{number}-1.trans.txt").write_text(f"8{number}-1-0000 GO\n")
        (chapter / f"8{number}-1-0000.flac").touch()
    (tmp_path / "egs/recipe").mkdir(parents=True)
    (tmp_path / "egs/utils").symlink_to(ROOT / "egs/utils")
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "python": f"{sys.executable} -m espnet_larm",
        "LIBRISPEECH": str(tmp_path / "corpus"),
        "LIBRISPEECH_SUBSET": "mini",
        "LIBRISPEECH_SETS": "dev=dev-clean,dev-other dev_other=dev-other",
    }
    done = subprocess.run(
        [str(LOCAL / "data.sh")],
        cwd=tmp_path / "egs/recipe",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = {path.parent.name: path.read_text() for path in (tmp_path / "egs/recipe/data").glob("*/text")}
    assert texts == {"dev": "81-1-0000 GO\n82-1-0000 GO\n", "dev_other": "82-1-0000 GO\n"}
