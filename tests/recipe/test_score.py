"""Scoring of a decoded set: files, table, and what is odd about a set."""

import json

import pytest
import sentencepiece

from espnet_larm.recipe.score import main, split_tokens

REFERENCES = {f"s{index % 5}-{index}": text for index, text in enumerate(["A B C", "D E", "F", "A A", "B B B B"])}


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {value}\n" for key, value in table.items()))


@pytest.fixture
def folders(tmp_path):
    """References, and hypotheses at loops 2 (an error each) and 4 (none)."""
    ref, hyp = tmp_path / "ref", tmp_path / "exp" / "tag" / "test"
    write(ref / "text", REFERENCES)
    write(ref / "utt2spk", {key: key.partition("-")[0] for key in REFERENCES})
    write(hyp / "loop2" / "text", {key: f"X {text}" for key, text in REFERENCES.items()})
    for folder in (hyp, hyp / "loop4"):
        write(folder / "text", REFERENCES)
    (tmp_path / "exp" / "config.yaml").write_text("token_type: char\n")
    return ref, hyp


def run(folders, *options):
    return main(["--ref_dir", str(folders[0]), "--hyp_dir", str(folders[1]), *options])


def scores(folder, unit="wer"):
    return json.loads((folder / f"score_{unit}" / "scores.json").read_text())


def test_every_read_out_gets_every_measure(folders):
    assert run(folders) == 0
    hyp = folders[1]
    for folder, errors in ((hyp, 0), (hyp / "loop2", 5), (hyp / "loop4", 0)):
        assert scores(folder)["insertions"] == errors
        assert scores(folder)["units"] == 12
        assert (folder / "score_cer" / "result.txt").is_file() and (folder / "score_ter" / "result.txt").is_file()


def test_differences_between_loops_are_paired_and_said(folders, capsys):
    run(folders)
    (difference,) = scores(folders[1])["differences"]
    assert (difference["from"], difference["to"]) == ("loop2", "loop4")
    assert difference["points"] == pytest.approx(-100 * 5 / 12, abs=1e-3) and difference["verdict"] == "falls"
    assert "loop2 -> loop4: -41.67 points" in capsys.readouterr().out


def test_symbols_are_no_words_and_no_characters(folders, tmp_path):
    ref, hyp = folders
    for folder, odd in ((ref, "A [laugh] B C"), (hyp, "A B C [um]"), (hyp / "loop2", "A[um] B C")):
        write(folder / "text", {**REFERENCES, "s0-0": odd})
    (tmp_path / "symbols").write_text("[laugh]\n[um]\n")
    assert run(folders, "--nlsyms", str(tmp_path / "symbols")) == 0
    for unit, units, errors in (("wer", 12, 0), ("cer", 19, 0), ("ter", 27, 11)):
        found = scores(hyp, unit)
        total = found["insertions"] + found["deletions"] + found["substitutions"]
        assert (found["units"], total) == (units, errors)
        assert found.get("left_out", []) == ([] if unit == "ter" else ["[laugh]", "[um]"])
    assert "WER, without [laugh] [um]" in (hyp / "score_wer/result.txt").read_text()
    assert scores(hyp / "loop2", "cer")["substitutions"] == 0


def test_table_has_a_line_a_loop(folders, capsys):
    run(folders)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("loop")]
    assert lines[0].split()[:9] == ["loop2", "5", "12", "100.00", "0.00", "0.00", "41.67", "41.67", "100.00"]


def test_missing_hypotheses_are_deletions_and_named(folders, capsys):
    write(folders[1] / "loop4" / "text", {key: text for key, text in REFERENCES.items() if key != "s4-4"})
    run(folders)
    assert scores(folders[1] / "loop4")["deletions"] == 4
    assert scores(folders[1] / "loop4")["missing_hypotheses"] == ["s4-4"]
    assert "loop4: 1 of 5 utterances have no hypothesis and count as deletions: s4-4" in capsys.readouterr().err


def test_extra_hypotheses_are_refused_and_named(folders):
    write(folders[1] / "loop4" / "text", {**REFERENCES, "zz": "A"})
    with pytest.raises(ValueError, match="1 hypotheses have no reference: zz"):
        run(folders)


def test_empty_reference_is_said_and_its_words_are_insertions(folders, capsys):
    write(folders[0] / "text", {**REFERENCES, "s2-2": ""})
    run(folders)
    assert scores(folders[1])["insertions"] == 1 and scores(folders[1])["units"] == 11
    assert (
        "1 references are empty, so that every word recognised there is an insertion: s2-2" in capsys.readouterr().err
    )


@pytest.mark.parametrize("texts", [{}, dict.fromkeys(REFERENCES, ""), dict.fromkeys(REFERENCES, "[um]")])
def test_references_without_words_are_refused(folders, tmp_path, texts):
    write(folders[0] / "text", texts)
    for folder in (folders[1], folders[1] / "loop2", folders[1] / "loop4"):
        write(folder / "text", texts)
    (tmp_path / "symbols").write_text("[um]\n")
    with pytest.raises(ValueError, match="/text: (no reference holds a word, so that there is no WER|.* empty)"):
        run(folders, "--nlsyms", str(tmp_path / "symbols"))
    assert not (folders[1] / "score_wer").exists()


def test_few_speakers_fall_back_to_utterances(folders, capsys):
    (folders[0] / "utt2spk").unlink()
    run(folders)
    assert scores(folders[1])["resampled"] == "5 utterances"
    assert "over utterances, since there are fewer than 4 speakers" in capsys.readouterr().err


def test_without_a_config_there_are_no_token_error_rates(folders, capsys):
    (folders[1].parents[1] / "config.yaml").unlink()
    run(folders)
    assert not (folders[1] / "score_ter").exists()
    assert "No token error rates" in capsys.readouterr().err


def test_named_config_must_be_there(folders):
    with pytest.raises(FileNotFoundError, match="none.yaml is missing"):
        run(folders, "--asr_train_config", "none.yaml")


def test_set_without_loops_is_scored(folders, capsys):
    ref, hyp = folders
    write(hyp.parent / "plain" / "text", REFERENCES)
    run((ref, hyp.parent / "plain"))
    assert scores(hyp.parent / "plain")["differences"] == []
    assert "last " in capsys.readouterr().out


def test_a_tokenizer_that_has_moved_is_named_with_the_option(folders, save_lm, capsys):
    config = folders[1].parents[1] / "config.yaml"
    config.write_text(f"token_type: hugging_face\nbpemodel: {folders[1]}/gone\n")
    assert run(folders) == 0
    assert f"No token error rates: bpemodel {folders[1]}/gone (hugging_face) cannot be" in capsys.readouterr().err
    assert scores(folders[1])["units"] == 12 and not (folders[1] / "score_ter").exists()
    run(folders, "--bpemodel", save_lm(folders[0].parent / "llm"))
    assert scores(folders[1], "ter")["units"] == 12


def test_a_missing_sentencepiece_model_leaves_token_error_rates_out(folders, capsys):
    assert run(folders, "--token_type", "bpe", "--bpemodel", "gone.model") == 0
    assert "No token error rates: bpemodel gone.model (bpe) cannot be loaded; name it with" in capsys.readouterr().err
    assert scores(folders[1])["units"] == 12


def test_tokens_of_an_lm_are_those_of_the_revision_that_it_was_trained_with(folders, monkeypatch):
    from espnet_larm.llm import backbone

    asked = []

    class Tokenizer:
        tokenize = staticmethod(str.split)

    monkeypatch.setattr(backbone, "load_tokenizer", lambda *names: asked.append(names) or Tokenizer())
    decoder = "decoder: speech_llm\ndecoder_conf: {llm: org/lm, revision: r1}\n"
    (folders[1].parents[1] / "config.yaml").write_text(f"token_type: hugging_face\nbpemodel: org/lm\n{decoder}")
    run(folders)
    run(folders, "--bpemodel", "org/other")
    assert asked == [("org/lm", "r1"), ("org/other", None)]


def test_characters_and_words_need_no_model():
    assert split_tokens("char", None, {})("A B") == ["A", "<space>", "B"]
    assert split_tokens("word", None, {})("A B") == ["A", "B"]


def test_bpe_splits_as_sentencepiece(tmp_path):
    text = tmp_path / "text"
    text.write_text("THE CAT SAT ON THE MAT\nTHE DOG SAT ON THE LOG\n" * 5)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "bpe"), vocab_size=18, minloglevel=2
    )
    split = split_tokens("bpe", str(tmp_path / "bpe.model"), {})
    assert "".join(split("THE CAT")) == "▁THE▁CAT" and len(split("THE CAT")) > 1


@pytest.mark.parametrize(
    ("token_type", "bpemodel", "error", "message"),
    [
        ("phn", None, ValueError, "token_type is phn; allowed for token error rates: char, bpe, word"),
        ("bpe", None, ValueError, "needs a sentencepiece model"),
        ("bpe", "none.model", FileNotFoundError, "none.model is missing"),
    ],
)
def test_unknown_tokens_are_refused(token_type, bpemodel, error, message):
    with pytest.raises(error, match=message):
        split_tokens(token_type, bpemodel, {})


def test_where_nothing_was_recognised_a_sentence_stands_for_the_table(folders, capsys):
    hyp = folders[1]
    for folder in (hyp, hyp / "loop2", hyp / "loop4"):
        write(folder / "text", dict.fromkeys(REFERENCES, ""))
    write(hyp / "loop4" / "text", {**dict.fromkeys(REFERENCES, ""), "s0-0": "Z"})
    assert run(folders) == 0
    out = capsys.readouterr().out
    assert "nothing was recognised: 0 words were written where 12 were said" in out and "blank plateau" in out
    assert "95 % interval" not in out and len(out.splitlines()) == 1
    assert scores(hyp)["error_percent"] == 100 and scores(hyp, "cer")["deletions"] > 0
    write(hyp / "loop4" / "text", {**dict.fromkeys(REFERENCES, ""), "s0-0": "A"})
    run(folders)
    assert "95 % interval" in capsys.readouterr().out, "a word is right"
    write(hyp / "loop4" / "text", dict.fromkeys(REFERENCES, "Z"))
    run(folders)
    assert "95 % interval" in capsys.readouterr().out, "many are written"
