"""The copy of an LM for small letters: tokens, weights, and LMs that have none."""

import json
from pathlib import Path

import pytest

from espnet_larm.recipe.text_lm import lower_case

NOVELS = Path(__file__).parents[4] / "shared" / "data" / "llm" / "novels-3M"


def content(vocab, kind="BPE"):
    model = {
        "type": kind,
        "vocab": {token: number for number, token in enumerate(vocab)},
        "merges": [["A", "B"], "C D"],
    }
    return {"added_tokens": [{"content": "<S>"}], "model": model}


def test_tokens_and_merges_get_small_letters_and_keep_their_numbers():
    found = lower_case.lower_tokenizer(content(["<S>", "A", "B", "AB"]), "tokenizer.json")
    assert found["model"]["vocab"] == {"<S>": 0, "a": 1, "b": 2, "ab": 3}
    assert found["model"]["merges"] == [["a", "b"], "c d"]


def test_other_tokenizers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has tokens that differ in case alone"):
        lower_case.lower_tokenizer(content(["A", "a"]), "t")
    with pytest.raises(ValueError, match="is of type WordLevel; allowed: BPE"):
        lower_case.lower_tokenizer(content(["A"], "WordLevel"), "t")
    with pytest.raises(FileNotFoundError, match="has no tokenizer.json"):
        lower_case.main(["--llm", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content(["A"])))
    with pytest.raises(ValueError, match="is there already"):
        lower_case.main(["--llm", str(tmp_path), "--output_dir", str(tmp_path)])


@pytest.mark.skipif(not NOVELS.is_dir(), reason=f"{NOVELS} is not there")
def test_a_real_lm_reads_small_letters_as_it_read_capitals(tmp_path):
    from espnet_larm.llm.backbone import load_tokenizer

    assert lower_case.main(["--llm", str(NOVELS), "--output_dir", str(tmp_path / "lower")]) == 0
    capitals, small = load_tokenizer(str(NOVELS)), load_tokenizer(str(tmp_path / "lower"))
    text = "I DO NOT MEAN TO DESCRIBE MYSELF IT'S SO"
    assert small.encode(text.lower()) == capitals.encode(text) and small.decode(small.encode("it's")) == "it's"
    weights = "model.safetensors"
    assert (tmp_path / "lower" / weights).read_bytes() == (NOVELS / weights).read_bytes()
