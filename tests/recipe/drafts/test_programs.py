"""The programs around drafts: what they write, that they go on where they were killed, and what they refuse."""

import gzip
import json

import pytest

from espnet_larm.cli.commands import COMMANDS
from espnet_larm.data.kaldi_dir import read_dir, read_table, write_tables
from espnet_larm.recipe.drafts import compare, folds, learn_confusions, overlap, score_edits, simulate
from espnet_larm.recipe.drafts.pairs import read_pairs
from espnet_larm.recipe.drafts.shards import PARTS, Drafted, mixed

WORDS = tuple("the cat sat on a mat and the dog ate that old hat of mine while rain fell".split())  # noqa: SIM905
LINES = [" ".join(WORDS[start:] + WORDS[:start]) for start in range(len(WORDS))] * 4


def write_text(path, texts):
    write_tables(path.parent, {path.name: {f"u{number:03d}": text for number, text in enumerate(texts)}})
    return path


@pytest.fixture
def confusions(tmp_path):
    text = write_text(tmp_path / "dev" / "text", LINES)
    drafts = write_text(
        tmp_path / "dev" / "drafts", [line.replace("cat", "kat").replace("ate", "at") for line in LINES]
    )
    path = tmp_path / "confusions.json"
    assert learn_confusions.main(["--text", str(text), "--drafts", str(drafts), "--outpath", str(path)]) == 0
    return path


@pytest.fixture
def simulated(confusions, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(line.upper() for line in LINES) + "\ntoo short\n")

    def make(folder, *words, lines_per_shard=20):
        given = ["--text", str(tmp_path / "lines.txt"), "--case", "lower", "--confusions", str(confusions)]
        given += ["--wer_percent", "25", "--lines_per_shard", str(lines_per_shard), "--output_dir", str(folder)]
        assert simulate.main([*given, *words]) == 0
        return folder

    return make


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("split.*"))}


def test_shards_hold_all_lines_with_drafts_of_the_chosen_rate(simulated, tmp_path, capsys):
    folder = simulated(tmp_path / "shards")
    num_shards = -(-len(LINES) // 20)
    for part in PARTS:
        assert (folder / part / "num_splits").read_text() == f"{num_shards}\n"
    texts, drafts = ({}, {})
    for number in range(num_shards):
        one, other, shape = (read_table(folder / part / f"split.{number}") for part in PARTS)
        assert [*one] == [*other] == [*shape] and [*shape.values()] == [str(len(text)) for text in one.values()]
        texts |= one
        drafts |= other
    assert sorted(texts.values()) == sorted(LINES)
    wrong = compare.kinds_of([*texts.values()], [*drafts.values()]).words.error_percent
    assert wrong == pytest.approx(25, abs=4) and f"{num_shards} shards" in capsys.readouterr().out


def test_a_program_that_was_killed_goes_on_behind_the_last_whole_shard(simulated, tmp_path):
    whole = contents(simulated(tmp_path / "whole"))
    killed = simulated(tmp_path / "killed")
    for part in ("shape", "draft"):
        (killed / part / "split.1").unlink()
    (killed / "text" / "split.1").write_text("half a")
    stays = (killed / "text" / "split.0").stat().st_mtime_ns
    assert contents(simulated(tmp_path / "killed")) == whole
    assert (killed / "text" / "split.0").stat().st_mtime_ns == stays
    with pytest.raises(ValueError, match="holds shards of other options or texts"):
        simulated(tmp_path / "killed", "--seed", "1")


def test_real_drafts_are_mixed_in_at_their_fraction_and_in_turn(simulated, tmp_path):
    text = write_text(tmp_path / "real" / "text", ["one two", "three four", "five"])
    drafts = write_text(tmp_path / "real" / "drafts", ["one too", "", "five"])
    real = ["--real_text", str(text), "--real_drafts", str(drafts), "--real_fraction", "0.2"]
    folder = simulated(tmp_path / "mixed", *real)
    first, second = (read_table(folder / "draft" / f"split.{number}") for number in (0, 1))
    assert len(first) == 25 and sum(key.startswith("u0") for key in first) == 5
    # In turn: the second shard begins where the first ended, and no id comes twice in a shard.
    assert [key for key in first if key.startswith("u0")] == [
        *("u000-real0", "u001-real0", "u002-real0", "u000-real1", "u001-real1")
    ]
    assert next(key for key in second if key.startswith("u0")) == "u002-real1"
    assert first["u001-real0"] == "" and first["u000-real0"] == "one too"
    assert mixed([Drafted("a", "b", "c")], [], 0.5, 3) == [Drafted("a", "b", "c")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --confusions"),
        (["--confusions", "c.json"], "--confusions needs --wer_percent"),
        (["--asr_train_config", "c.yaml"], "--asr_train_config needs --asr_model_file"),
        (["--asr_train_config", "c", "--asr_model_file", "m", "--wer_percent", "3"], "are for --confusions"),
        (["--confusions", "c", "--wer_percent", "3", "--least_words", "90"], "--least_words is 90; allowed"),
        (["--confusions", "c", "--wer_percent", "3", "--least_words", "30"], "no line of 30 to 40 words"),
    ],
)
def test_simulations_that_cannot_be_are_refused(words, message, tmp_path):
    (tmp_path / "lines").write_text("a b c\n")
    with pytest.raises(ValueError, match=message):
        simulate.main(["--text", str(tmp_path / "lines"), "--output_dir", str(tmp_path / "out"), *words])


def test_speakers_of_a_test_set_are_not_learned_from(confusions, tmp_path, capsys):
    for name, speakers in (("train", "ab"), ("test", "bc"), ("other", "cd")):
        write_tables(tmp_path / name, {"utt2spk": {f"{each}1": each for each in speakers}})
    dev = tmp_path / "dev"
    given = ["--text", str(dev / "text"), "--drafts", str(dev / "drafts"), "--outpath", str(tmp_path / "again.json")]
    given += ["--data_dirs", str(tmp_path / "train"), "--held_out_dirs"]
    with pytest.raises(ValueError, match="1 speakers of --held_out_dirs are in --data_dirs: b"):
        learn_confusions.main([*given, str(tmp_path / "test")])
    assert learn_confusions.main([*given, str(tmp_path / "other")]) == 0
    assert "2 speakers learned from, 2 tested on, none in both" in capsys.readouterr().out
    assert json.loads((tmp_path / "again.json").read_text())["facts"]["speakers_checked"]
    with pytest.raises(ValueError, match="give both or none"):
        learn_confusions.main(given[:-1])


def test_pairs_are_of_the_same_utterances(tmp_path):
    text, drafts = write_text(tmp_path / "text", ["a b", "c"]), write_text(tmp_path / "drafts", ["a", "c", "d"])
    with pytest.raises(ValueError, match="has 1 utterances that .* lacks: u002"):
        read_pairs([text], [drafts])
    with pytest.raises(ValueError, match="1 files of references and 2 of drafts"):
        read_pairs([text], [drafts, drafts])
    assert read_pairs([drafts], [text]).drafts == ["a b", "c", ""]


def test_the_distance_is_that_of_errors(tmp_path, capsys):
    sets = {"one": ["kat", "th"], "same": ["kat", "th"], "other": ["cart", "the"], "none": ["cat", "the"]}
    text = write_text(tmp_path / "text", ["cat", "the"])
    paths = {name: write_text(tmp_path / name, texts) for name, texts in sets.items()}
    found = {}
    for name in ("same", "other", "none"):
        words = ["--text", str(text), "--drafts", str(paths["one"]), "--other_text", str(text)]
        words += ["--other_drafts", str(paths[name]), "--outpath", str(tmp_path / "out.json")]
        assert compare.main(words) == 0
        found[name] = json.loads((tmp_path / "out.json").read_text())
    assert found["same"]["distance_bits"] == 0 and found["other"]["distance_bits"] == pytest.approx(1)
    assert found["none"]["distance_bits"] != found["none"]["distance_bits"]
    assert found["other"]["test"]["insertions of characters"] == pytest.approx(100 / 6, abs=0.01)
    assert found["other"]["learned_from"]["deletions of characters"] == pytest.approx(100 / 6, abs=0.01)
    assert "c as k 50.0 beside 0.0" in capsys.readouterr().out


def test_fixed_and_broken_words_are_counted(tmp_path, capsys):
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        write_text(folder / "text", ["one two three", "four five"])
        write_tables(folder, {"utt2spk": {"u000": "s1", "u001": "s2"}})
        write_text(folder / "drafts", ["won two three more", "four five"])
        write_text(folder / "edits", ["one too three", "four five"])
        folders.append(folder)
    words = ["--data_dirs", *map(str, folders), "--drafts", *(str(each / "drafts") for each in folders)]
    assert score_edits.main([*words, "--edits", *(str(each / "edits") for each in folders)]) == 0
    rows = [row.strip("| ").split(" | ") for row in capsys.readouterr().out.splitlines()]
    assert rows[2][:5] == ["a", "5", "40.00", "20.00", "-20.00"] and rows[2][7:] == ["1", "1", "1", "1 of 2"]
    assert rows[4][0] == "all" and rows[4][7:] == ["2", "2", "2", "2 of 4"]
    with pytest.raises(ValueError, match="give as many of each"):
        score_edits.main([*words, "--edits", str(folders[0] / "edits")])


def test_lines_of_test_sets_and_their_books_go(tmp_path, capsys):
    test = tmp_path / "test" / "text"
    shared = [
        "she said that it was a very fine day",
        "he did not know what to say to her",
        "then rain fell on all of us",
    ]
    write_text(test, shared)
    filler = [f"line number {number} has words of its own" for number in range(60)]
    book = [*filler[:10], shared[0].upper(), filler[10], shared[1].upper(), shared[2].upper(), *filler[11:20]]
    lines = [*filler[20:40], *book, *filler[40:60], f"but {shared[0]}"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    path = tmp_path / "left.txt.gz"
    words = ["--text", str(tmp_path / "lines.txt"), "--held_out_text", str(test), "--outpath", str(path)]
    assert overlap.main([*words, "--book_lines", "5"]) == 0
    left = gzip.decompress(path.read_bytes()).decode().splitlines()
    out = capsys.readouterr().out
    # The book goes with 5 lines around, the last line for itself.
    assert left == [*filler[20:40], *filler[:5], *filler[16:20], *filler[40:60]]
    assert "4 share 6 words in a row" in out and "100.00 % | 0.00 %" in out
    assert overlap.main([*words, "--book_hits", "90"]) == 0
    assert len(gzip.decompress(path.read_bytes()).decode().splitlines()) == len(lines) - 4


def test_folds_have_whole_speakers_and_all_utterances_once(tmp_path, capsys):
    ids = [f"s{number % 5}-{number:02d}" for number in range(23)]
    tables = {"text": "a b", "wav.scp": "x.wav", "utt2spk": None}
    data = {name: {key: value or key.split("-")[0] for key in ids} for name, value in tables.items()}
    write_tables(tmp_path / "data", data)
    assert folds.main(["--data_dir", str(tmp_path / "data"), "--num_folds", "3", "--output_dir", str(tmp_path)]) == 0
    found = [read_dir(tmp_path / f"fold{fold}") for fold in (1, 2, 3)]
    assert sorted(each.id for fold in found for each in fold) == sorted(ids)
    speakers = [{each.speaker for each in fold} for fold in found]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 5
    assert all(5 <= len(fold) <= 10 for fold in found)
    rest = {each.id for each in read_dir(tmp_path / "rest1")}
    assert rest == {*ids} - {each.id for each in found[0]} and (tmp_path / "rest1" / "spk2utt").is_file()
    with pytest.raises(ValueError, match="--num_folds is 6; allowed: 2 to 5"):
        folds.main(["--data_dir", str(tmp_path / "data"), "--num_folds", "6", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["simulate-drafts", "draft-speech", "score-edits", "remove-overlap"])
def test_their_help_is_formatted(name, capsys):
    from importlib import import_module

    import_module(COMMANDS[name].module).get_parser().print_help()
    assert "Examples:" in capsys.readouterr().out
