"""Files of sentences."""

import gzip

import pytest

from espnet_larm.data.text import fingerprint, on_one_line, read_sentences, visible


def test_plain_packed_and_kaldi_files_give_their_sentences(tmp_path):
    (tmp_path / "a.txt").write_text(" ONE  TWO\n\nTHREE\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("FOUR\n")
    (tmp_path / "text").write_text("u1 FIVE SIX\nu2\nu3 SEVEN\n")
    paths = [tmp_path / name for name in ("a.txt", "b.txt.gz", "text")]
    assert read_sentences(paths) == ["ONE TWO", "THREE", "FOUR", "FIVE SIX", "SEVEN"]


def test_files_without_sentences_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt is missing; name a file of one sentence a line"):
        read_sentences([tmp_path / "nowhere.txt"])
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty.txt has no words; expected one sentence a line"):
        read_sentences([tmp_path / "empty.txt"])
    (tmp_path / "latin").write_bytes("CAF\u00c9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin is not in UTF-8 \(.*\); convert it"):
        read_sentences([tmp_path / "latin"])


@pytest.mark.parametrize("damage", [lambda packed: packed[:-12], lambda packed: b"ONE TWO\n"])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    (tmp_path / "x.gz").write_bytes(damage(gzip.compress(b"ONE TWO\n" * 100)))
    with pytest.raises(ValueError, match="x.gz is no whole gzip file; copy it again"):
        read_sentences([tmp_path / "x.gz"])


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"A\n")
    digest = "06f961b802bc46ee168555f066d28f4f0e9afdf3f88174c1ee6f9de004fc30a0"
    assert fingerprint(tmp_path / "a") == {"name": "a", "bytes": 2, "sha256": digest}


def test_a_hypothesis_stands_on_a_line_and_moves_no_terminal():
    assert on_one_line(" go\n\x1b[2J  left\u202e\t") == "go [2J left"
    assert on_one_line("na\u200dme\x00s") == "na\u200dmes"
    assert visible("\x1b[2J") == "\\x1b[2J" and visible("\n") == "\\n" and visible("▁é\u200d") == "▁é\u200d"
