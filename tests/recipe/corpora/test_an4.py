"""AN4's layout, imitated by a tiny corpus."""

from pathlib import Path

import pytest

from espnet_larm.recipe.corpora.an4 import read_an4


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten training speakers of one utterance, one test speaker."""
    (tmp_path / "etc").mkdir()
    for part, folder, speakers in (("train", "an4_clstk", range(10)), ("test", "an4test_clstk", range(10, 11))):
        names = [(f"spk{s:02d}", f"an{s}-spk{s:02d}-b") for s in speakers]
        marks = ("<s> ", " </s>") if part == "train" else ("", "")
        for speaker, name in names:
            audio = tmp_path / "flac" / folder / speaker / f"{name}.flac"
            audio.parent.mkdir(parents=True)
            audio.touch()
        (tmp_path / "etc" / f"an4_{part}.fileids").write_text("".join(f"{folder}/{s}/{n}\n" for s, n in names))
        text = "".join(f"{marks[0]}yes Six{marks[1]} ({n})\n" for _, n in names)
        (tmp_path / "etc" / f"an4_{part}.transcription").write_text(text)
    return tmp_path


def test_sets_are_disjoint_by_speaker_and_texts_are_plain(root: Path) -> None:
    sets = read_an4(root)
    speakers = {name: {utterance.speaker for utterance in listed} for name, listed in sets.items()}
    assert speakers["train_dev"] == {"spk09"} and speakers["test"] == {"spk10"}
    assert len(speakers["train_nodev"]) == 9 and not speakers["train_nodev"] & speakers["train_dev"]
    assert {utterance.text for listed in sets.values() for utterance in listed} == {"YES SIX"}


def test_ids_begin_with_the_speaker(root: Path) -> None:
    first = read_an4(root)["train_nodev"][0]
    assert first.id == "spk00-an0-spk00-b"
    assert first.audio == str(root / "flac/an4_clstk/spk00/an0-spk00-b.flac")


def test_sphere_files_of_the_original_archive_are_found(root: Path) -> None:
    (root / "flac").rename(root / "wav")
    for path in (root / "wav").glob("*/*/*"):
        path.rename(path.with_suffix(".sph"))
    assert read_an4(root)["test"][0].audio.endswith("wav/an4test_clstk/spk10/an10-spk10-b.sph")


def test_missing_audio_is_named_with_file_and_line(root: Path) -> None:
    (root / "flac/an4_clstk/spk03/an3-spk03-b.flac").unlink()
    with pytest.raises(FileNotFoundError, match=r"an4_train.fileids:4: none of flac/an4_clstk/spk03/an3-spk03-b.flac"):
        read_an4(root)


def test_a_bad_transcript_is_named_with_file_and_line(root: Path) -> None:
    with (root / "etc/an4_test.transcription").open("a") as file:
        file.write("no name here\n")
    with pytest.raises(ValueError, match=r"an4_test.transcription:2: got 'no name here'"):
        read_an4(root)


def test_a_folder_that_is_not_an4_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--an4_root must name the folder"):
        read_an4(tmp_path)
