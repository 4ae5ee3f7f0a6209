"""Stage 9: n-grams over characters, pieces and an LM's tokens, by numpy or by lmplz."""

import pytest

from espnet_larm.recipe import make_tokens
from espnet_larm.recipe.ngram import train as train_ngram

TEXT = "".join(f"u{number} {words}\n" for number, words in enumerate(["CALL ANNA", "CALL HANNAH", "ALL CAN"] * 20))


@pytest.fixture
def run(larm_task, tmp_path, save_lm):
    """Runs the program on TEXT with a token list of a type."""
    pytest.importorskip("kenlm")
    (tmp_path / "text").write_text(TEXT)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/text").write_text("v1 CALL ANNA\n")

    def run(token_type, *options):
        made = {"text": tmp_path / "text", "token_type": token_type, "output_dir": tmp_path / "tokens", "nbpe": 12}
        model = tmp_path / "tokens/bpe.model"
        if token_type == "hugging_face":
            made["llm"] = model = save_lm(tmp_path / "llm", ["<unk>", "<s>", "</s>", "CALL", "ANNA", "HANNAH", "ALL"])
        assert make_tokens.main([word for item in made.items() for word in (f"--{item[0]}", str(item[1]))]) == 0
        files = ["--text", str(tmp_path / "text"), "--dev_text", str(tmp_path / "dev/text")]
        files += ["--token_list", str(tmp_path / "tokens/tokens.txt"), "--outpath", str(tmp_path / "out/3gram.arpa")]
        files += [] if token_type == "char" else ["--bpemodel", str(model)]
        return train_ngram.main([*files, "--token_type", token_type, "--ngram_num", "3", *options])

    return run


def knows(path, words):
    import kenlm

    model = kenlm.Model(str(path))
    return [word in model for word in words]


@pytest.mark.parametrize("token_type", ["char", "bpe"])
def test_an_ngram_knows_all_tokens_and_its_perplexity_is_printed(run, tmp_path, capsys, token_type):
    assert run(token_type, "--estimator", "numpy") == 0
    printed = capsys.readouterr().out
    assert "60 sentences, " in printed and "perplexity: " in printed and " 3-grams" in printed
    tokens = (tmp_path / "tokens/tokens.txt").read_text().split()
    assert all(knows(tmp_path / "out/3gram.arpa", ["</s>", *(token for token in tokens[:-1] if token != "<unk>")]))
    # ESPnet's end is the n-gram's.
    assert tokens[-1] == "<sos/eos>" and knows(tmp_path / "out/3gram.arpa", ["<sos/eos>"]) == [False]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["3gram.arpa"]


def test_an_lms_tokens_are_taken_and_sentences_without_them_left_out(run, tmp_path, monkeypatch, capsys):
    # The LM of this test knows no CAN, which stage 5 would refuse.
    monkeypatch.setattr("espnet_larm.llm.tokens.check_spelling", lambda *_: None)
    assert run("hugging_face", "--estimator", "numpy") == 0
    printed = capsys.readouterr().out
    assert "text: 40 sentences, 80 tokens, 20 left out that the tokens cannot spell" in printed
    assert all(knows(tmp_path / "out/3gram.arpa", ["CALL", "ANNA", "ALL", "</s>"]))


def test_text_of_the_other_case_is_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / "dev/text").write_text("v1 call ann\n")
    with pytest.raises(ValueError, match="--text is in capitals .* --dev_text are in small letters"):
        run("char")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ngram_num", "1"], "--ngram_num 1; allowed: 2 to 6"),
        (["--ngram_num", "7"], "--ngram_num 7; allowed: 2 to 6"),
        (["--token_type", "bpe"], "--token_type bpe needs --bpemodel"),
        (["--token_list", "nowhere/tokens.txt"], "--token_list nowhere/tokens.txt is missing; stage 5 makes it"),
        (["--text", "/dev/zero"], "/dev/zero is no regular file; name a file of one sentence a line"),
        (["--outpath", "/"], "/ is a folder; name a file to write"),
        (["--estimator", "lmplz"], "--estimator lmplz: no program lmplz is on PATH"),
    ],
)
def test_misuse_is_refused(run, options, message, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises((ValueError, FileNotFoundError, IsADirectoryError), match=message):
        run("char", *options)


def test_an_unknown_cleaner_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        run("char", "--cleaner", "tacotro")
    assert "--cleaner: invalid choice: 'tacotro' (choose from" in capsys.readouterr().err


def test_a_token_list_of_another_kind_is_refused(run, tmp_path):
    (tmp_path / "list").write_text("<unk>\nA\n")
    with pytest.raises(ValueError, match="ends with A; expected <sos/eos>, as stage 5 has it"):
        run("char", "--token_list", str(tmp_path / "list"))


@pytest.fixture
def lmplz(tmp_path, monkeypatch):
    """A program in its place: it writes the file that is beside it, or fails as it does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "lmplz").write_text(
        '#!/usr/bin/env bash\necho "$@" > "${0%/*}/called"\n'
        'for word; do [ "$last" != --text ] || cp "$word" "${0%/*}/text"; last=$word; done\n'
        '[ -f "${0%/*}/arpa" ] || { echo "Not enough n-grams" >&2; exit 1; }\ncp "${0%/*}/arpa" "$word"\n'
    )
    (folder / "lmplz").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_lmplz_is_taken_where_it_is_and_tokens_that_it_leaves_out_are_added(run, lmplz, tmp_path, capsys):
    (lmplz / "arpa").write_text(
        "\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-1\t<unk>\t0\n0\t<s>\t-0.3\n-0.5\t</s>\t0\n-0.5\tA\t-0.1\n"
        "-0.5\tC\t0\n\n\\2-grams:\n-0.1\t<s> C\n-0.2\tC A\n\n\\end\\\n"
    )
    assert run("char") == 0
    assert "tokens that the text lacks were added" in capsys.readouterr().out
    assert (lmplz / "called").read_text().startswith("-o 3 --discount_fallback ")
    assert (lmplz / "text").read_text().splitlines()[0] == "C A L L <space> A N N A"
    assert all(knows(tmp_path / "out/3gram.arpa", ["H", "N", "<space>", "<blank>"]))
    assert knows(lmplz / "arpa", ["H"]) == [False]


def test_what_lmplz_says_when_it_fails_is_said(run, lmplz, tmp_path):
    with pytest.raises(ValueError, match=r"lmplz ended with status 1: Not enough n-grams .--estimator numpy does"):
        run("char")
    assert not (tmp_path / "out/3gram.arpa").exists()


def run_words(tmp_path, *options):
    (tmp_path / "lines.txt").write_text("CALL ANNA\nCALL HANNAH\nALL CAN\nCALL ANNA\n")
    (tmp_path / "dev.txt").write_text("CALL ANNA\n")
    files = ["--text", str(tmp_path / "lines.txt"), "--dev_text", str(tmp_path / "dev.txt")]
    files += ["--outpath", str(tmp_path / "word.arpa"), "--token_type", "word", "--ngram_num", "2"]
    return train_ngram.main([*files, *options])


def test_words_are_those_of_the_text_and_rare_ones_are_unknown(tmp_path, capsys):
    kenlm = pytest.importorskip("kenlm")
    assert run_words(tmp_path, "--estimator", "numpy") == 0
    assert "words: 5 known; 0 of 8 in the text are not" in capsys.readouterr().out
    assert all(knows(tmp_path / "word.arpa", ["CALL", "ANNA", "HANNAH", "ALL", "CAN", "</s>"]))
    assert run_words(tmp_path, "--min_count", "2") == 0
    assert "words: 2 known; 3 of 8 in the text are not" in capsys.readouterr().out
    assert knows(tmp_path / "word.arpa", ["CALL", "ANNA", "HANNAH", "ALL"]) == [True, True, False, False]
    model = kenlm.Model(str(tmp_path / "word.arpa"))
    # All that may come after CALL, the unknown word among it, is as probable together as anything.
    after = kenlm.State()
    model.BeginSentenceWrite(before := kenlm.State())
    model.BaseScore(before, "CALL", after)
    words = ("CALL", "ANNA", "<unk>", "</s>")
    assert sum(10 ** model.BaseScore(after, word, kenlm.State()) for word in words) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min_count", "0"], "--min_count 0; allowed: 1 or more"),
        (["--bpemodel", "x"], "--bpemodel does not go with --token_type word"),
        (["--min_count", "2", "--estimator", "lmplz"], "--min_count 2 makes words <unk>, which lmplz refuses"),
        (["--token_type", "char"], "--token_type char needs --token_list"),
        (["--token_type", "char", "--token_list", "x", "--min_count", "2"], "--min_count 2 is for --token_type word"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_words(tmp_path, *options)
