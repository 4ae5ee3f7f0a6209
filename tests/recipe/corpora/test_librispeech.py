"""LibriSpeech's layout."""

from pathlib import Path

import pytest

from espnet_larm.recipe.corpora.librispeech import (
    NUM_UTTERANCES,
    Count,
    check_counts,
    count_utterances,
    read_librispeech,
)
from espnet_larm.recipe.prepare_data import main


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


def test_utterances_are_counted_beside_the_official_number(root: Path) -> None:
    assert count_utterances(root, "dev-clean") == Count("dev-clean", 2, 2703)


def test_a_split_that_is_not_whole_is_refused_with_both_numbers(root: Path) -> None:
    arguments = ["librispeech", "--root", str(root), "--output_dir", str(root / "data"), "--sets", "dev=dev-clean"]
    with pytest.raises(ValueError, match="dev-clean: 2 of LibriSpeech's 2703 utterances"):
        main(arguments)
    assert not (root / "data").exists()


def test_a_part_is_said_where_a_part_is_meant(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["librispeech", "--root", str(root), "--output_dir", str(root / "data"), "--sets", "dev=dev-clean"]
    assert main([*arguments, "--partial"]) == 0
    assert "dev-clean: 2 of LibriSpeech's 2703 utterances: a part" in capsys.readouterr().out


def test_whole_splits_and_splits_of_other_corpora_pass() -> None:
    counts = [Count(split, number, number) for split, number in NUM_UTTERANCES.items()]
    check_counts(Path("x"), [*counts, Count("train-mini", 3, None)])


def test_letters_can_be_made_small(root: Path) -> None:
    arguments = ["librispeech", "--root", str(root), "--output_dir", str(root / "data"), "--sets", "dev=dev-clean"]
    assert main([*arguments, "--partial", "--case", "lower"]) == 0
    assert (root / "data/dev/text").read_text() == "84-121123-0000 go\n84-121123-0001 do you hear\n"
