"""LibriSpeech's layout."""

from pathlib import Path

import pytest

from espnet_larm.data.librispeech import read_librispeech


@pytest.fixture
def root(tmp_path: Path) -> Path:
    chapter = tmp_path / "dev-clean" / "84" / "121123"
    chapter.mkdir(parents=True)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO\n84-121123-0001 DO YOU HEAR\n")
    for number in range(2):
        (chapter / f"84-121123-{number:04d}.flac").touch()
    return tmp_path


def test_utterances_are_read(root: Path) -> None:
    first, second = read_librispeech(root, ["dev-clean"])
    assert (first.id, first.speaker, first.text) == ("84-121123-0000", "84", "GO")
    assert second.audio == str(root / "dev-clean/84/121123/84-121123-0001.flac")


def test_missing_audio_is_named_with_file_and_line(root: Path) -> None:
    (root / "dev-clean/84/121123/84-121123-0001.flac").unlink()
    with pytest.raises(FileNotFoundError, match=r"84-121123.trans.txt:2: .*0001.flac is missing"):
        read_librispeech(root, ["dev-clean"])


def test_a_missing_split_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="test-clean holds no"):
        read_librispeech(root, ["test-clean"])


def test_a_bad_line_is_named_with_file_and_line(root: Path) -> None:
    (root / "dev-clean/84/121123/84-121123.trans.txt").write_text("GO\n")
    with pytest.raises(ValueError, match=r"84-121123.trans.txt:1: got 'GO'"):
        read_librispeech(root, ["dev-clean"])
