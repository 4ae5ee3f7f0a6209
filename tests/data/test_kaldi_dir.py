"""Reading and writing Kaldi folders; each damage has its message."""

import re
from pathlib import Path

import pytest

from espnet_larm.data.kaldi_dir import Utterance, read_dir, read_table, write_dir, write_tables


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    utterances = [Utterance("a-1", "a", "x.flac", "HELLO THERE"), Utterance("b-1", "b", "cat y |", "")]
    write_dir(tmp_path / "set", reversed(utterances))
    assert read_dir(tmp_path / "set") == utterances
    assert (tmp_path / "set" / "spk2utt").read_text() == "a a-1\nb b-1\n"


def test_lines_are_sorted_by_code_point(tmp_path: Path) -> None:
    write_tables(tmp_path, {"t": {"b": 1, "a-1": 2, "B": 3, "é": 4, "a1": 5}})
    assert list(read_table(tmp_path / "t")) == ["B", "a-1", "a1", "b", "é"]


def test_other_files_of_the_folder_stay(data_dir: Path) -> None:
    (data_dir / "notes").write_text("mine")
    write_dir(data_dir, [Utterance("z-1", "z", "z.flac", "Z")])
    assert (data_dir / "notes").read_text() == "mine"
    assert len(read_dir(data_dir)) == 1


def test_a_failed_write_leaves_the_earlier_files(data_dir: Path) -> None:
    before = read_dir(data_dir)
    with pytest.raises(ValueError, match="two utterances are called z-1"):
        write_dir(data_dir, [Utterance("z-1", "z", "z.flac", "Z")] * 2)
    assert read_dir(data_dir) == before


def test_a_duplicate_is_named_with_file_and_line(data_dir: Path) -> None:
    append(data_dir / "text", "ann-1 AGAIN")
    with pytest.raises(ValueError, match=r"set/text:4: ann-1 was there before"):
        read_dir(data_dir)


def test_a_blank_line_is_named_with_file_and_line(data_dir: Path) -> None:
    append(data_dir / "wav.scp", "")
    with pytest.raises(ValueError, match=r"set/wav.scp:4: the line is blank"):
        read_dir(data_dir)


def test_tabs_separate_as_in_kaldi(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a-1\tONE\tTWO\na-2 \t THREE\na-3\t\n")
    assert read_table(tmp_path / "t") == {"a-1": "ONE\tTWO", "a-2": "THREE", "a-3": ""}


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a-1 ONE\n", encoding="utf-8-sig")
    with pytest.raises(ValueError, match=r"t:1: .* byte order mark .* sed -i"):
        read_table(tmp_path / "t")


def test_a_transcript_without_audio_is_named_with_file_and_line(data_dir: Path) -> None:
    append(data_dir / "text", "cid-1 WORD")
    with pytest.raises(ValueError, match=r"set/text:4: cid-1 not in .*wav.scp"):
        read_dir(data_dir)


def test_audio_without_transcript_is_named(data_dir: Path) -> None:
    append(data_dir / "wav.scp", "cid-1 c.flac")
    with pytest.raises(ValueError, match=r"set/text lacks cid-1"):
        read_dir(data_dir)


def test_a_path_that_is_missing_is_named_with_file_and_line(data_dir: Path) -> None:
    for name, value in (("wav.scp", ""), ("text", " X"), ("utt2spk", " cid")):
        append(data_dir / name, f"cid-1{value}")
    with pytest.raises(ValueError, match=r"set/wav.scp:4: cid-1 has no value"):
        read_dir(data_dir)


def test_an_empty_transcript_is_read_as_empty(data_dir: Path) -> None:
    lines = (data_dir / "text").read_text().replace("ann-2 WORD 2", "ann-2")
    (data_dir / "text").write_text(lines)
    assert [utterance.text for utterance in read_dir(data_dir)] == ["WORD 1", "", "WORD 1"]


def test_a_missing_file_is_named(data_dir: Path) -> None:
    (data_dir / "utt2spk").unlink()
    with pytest.raises(FileNotFoundError, match=r"set/utt2spk is missing"):
        read_dir(data_dir)


def test_segments_name_parts_of_recordings(data_dir: Path) -> None:
    (data_dir / "wav.scp").write_text("r1 cat a.wav |\nr2 b.flac\n")
    (data_dir / "segments").write_text("ann-1 r2 0.5 1.25\nann-2 r1 3 4.0\nbob-1 r2 2 -1\n")
    assert [utterance.audio for utterance in read_dir(data_dir)] == [
        "b.flac[0.500000:1.250000]",
        "cat a.wav |[3.000000:4.000000]",
        "b.flac[2.000000:inf]",
    ]


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ("r1 0 1 2", "ann-1: 'r1 0 1 2' is no segment"),
        ("r1 0 nan", "is no segment"),
        ("r1 2 1.5", "the segment from 2 to 1.5 s is empty"),
        ("r9 0 1", "the recording r9 is not in wav.scp"),
    ],
)
def test_a_wrong_segment_is_named(data_dir: Path, segment: str, message: str) -> None:
    (data_dir / "wav.scp").write_text("r1 a.wav\n")
    (data_dir / "segments").write_text(f"ann-1 {segment}\n")
    with pytest.raises(ValueError, match=f"segments:1: .*{re.escape(message)}"):
        read_dir(data_dir)


@pytest.mark.parametrize("bad", ["", "a b", "a\t"])
def test_ids_with_white_space_are_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ValueError, match="cannot be an id"):
        write_dir(tmp_path, [Utterance(bad, "s", "a.flac", "X")])


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no utterances to write"):
        write_dir(tmp_path, [])
