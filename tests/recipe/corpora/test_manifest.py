"""Manifests of one's own recordings become data folders."""

import json

import pytest

from espnet_larm.data.kaldi_dir import read_dir
from espnet_larm.recipe.prepare_data import main


@pytest.fixture
def folder(tmp_path, make_audio):
    for name in ("one", "two"):
        make_audio(f"{name}.flac")
    return tmp_path


def prepare(folder, text, name="train.tsv"):
    (folder / name).write_text(text, encoding="utf-8")
    assert (
        main(["manifest", "--root", str(folder), "--output_dir", str(folder / "data"), "--sets", f"train={name}"]) == 0
    )
    return read_dir(folder / "data/train")


def test_a_table_with_tabs(folder):
    found = prepare(folder, 'audio\ttext\tspeaker\none.flac\tHE SAID "NO"\tann\ntwo.flac\tYES  SIR\tbob b\n')
    assert [(each.id, each.speaker, each.text) for each in found] == [
        ("ann-one", "ann", 'HE SAID "NO"'),
        ("bob_b-two", "bob_b", "YES SIR"),
    ]
    assert found[0].audio == str(folder / "one.flac")


def test_lines_of_json_without_speakers(folder):
    rows = [{"audio": str(folder / "two.flac"), "text": "YES", "id": "b"}, {"text": "NO", "audio": "one.flac"}]
    found = prepare(folder, "\n".join(map(json.dumps, rows)), "train.jsonl")
    assert [(each.id, each.speaker) for each in found] == [("b", "b"), ("one", "one")]


def test_a_manifest_of_nemos_form(folder):
    row = {"audio_filepath": str(folder / "two.flac"), "duration": 1.0, "text": "YES"}
    assert [each.audio for each in prepare(folder, json.dumps(row), "train.jsonl")] == [str(folder / "two.flac")]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("path\ttext\na.flac\tA\n", "a.tsv", "a.tsv:1: no column audio; the first line names the columns"),
        ("audio\ttext\n\tA\n", "a.tsv", "a.tsv:2: no audio; leave the line out"),
        ("audio\ttext\na.flac\n", "a.tsv", "a.tsv:2: no text"),
        ("audio\ttext\na.flac\tA\na.wav\tB\n", "a.tsv", "a.tsv:3: the id a is that of .*a.flac, too; give both an id"),
        ('{"audio": "a.flac"', "a.jsonl", "a.jsonl:1: no JSON"),
        ("[1]", "a.jsonl", "a.jsonl:1: no JSON object"),
        ("audio\ttext\na.flac\tA\tB\n", "a.tsv", "a.tsv:2: more fields than columns; a text must not have tabs"),
        ("audio\ttext\ttext\na.flac\tA\tB\n", "a.tsv", "a.tsv:1: 2 columns are called text; keep one"),
        ('{"audio": "a.flac", "text": 0}', "a.jsonl", "a.jsonl:1: text is 0; allowed: a text in quotation marks"),
        ('{"audio": ["a.wav"], "text": "A"}', "a.jsonl", 'a.jsonl:1: audio is \\["a.wav"\\]; allowed: a text'),
        ("", "a.csv", "a.csv is neither .tsv nor .jsonl"),
    ],
)
def test_wrong_lines_are_named(folder, text, name, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, text, name)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl"])
def test_other_encodings_are_named(folder, name, encoding):
    (folder / name).write_text("audio\ttext\none.flac\tÜ\n", encoding=encoding)
    with pytest.raises(ValueError, match=f"{name} is not in UTF-8 .*; save it as UTF-8"):
        main(["manifest", "--root", str(folder), "--output_dir", str(folder / "data"), "--sets", f"train={name}"])


def test_numbers_are_ids_and_speakers(folder):
    (found,) = prepare(folder, '{"audio": "one.flac", "text": "A", "id": 0, "speaker": 7}', "train.jsonl")
    assert (found.id, found.speaker) == ("7-0", "7")
