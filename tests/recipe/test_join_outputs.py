"""The outputs of parallel jobs become one folder."""

import json
from collections import Counter
from pathlib import Path

import pytest

from espnet_larm.recipe.join_outputs import join_statistics, main
from espnet_larm.recognize.output.effort import Effort, Prompts
from espnet_larm.search.hypotheses import Bounds, TokenHypothesis
from espnet_larm.search.multi_token import Found


def write_job(folder: Path, keys: list[str], loops: list[int], seconds: float) -> None:
    for name in ["1best_recog", *(f"loop{loop}" for loop in loops)]:
        (folder / name).mkdir(parents=True)
        for table in ("text", "score"):
            (folder / name / table).write_text("".join(f"{key} {name} {table}\n" for key in keys))
    stats = {"num_utts": len(keys), "unit": "loop", "peak_memory_bytes": 5 * len(keys), "skipped": {keys[0]: "short"}}
    stats["loops"] = {str(loop): {"seconds": seconds} for loop in loops}
    (folder / "stats.json").write_text(json.dumps(stats))


def join(folder: Path, num_jobs: int) -> Path:
    inputs = [str(folder / f"output.{job}") for job in range(1, num_jobs + 1)]
    assert main(["--input_dirs", *inputs, "--output_dir", str(folder / "test")]) == 0
    return folder / "test"


def test_tables_and_statistics_are_joined(tmp_path: Path) -> None:
    write_job(tmp_path / "output.1", ["b", "c"], [2, 4], 1.5)
    write_job(tmp_path / "output.2", ["a"], [2, 4], 0.5)
    out = join(tmp_path, 2)
    assert (out / "text").read_text() == "a 1best_recog text\nb 1best_recog text\nc 1best_recog text\n"
    assert (out / "loop2" / "score").read_text().splitlines()[0] == "a loop2 score"
    assert json.loads((out / "stats.json").read_text()) == {
        "num_utts": 3,
        "unit": "loop",
        "peak_memory_bytes": 10,
        "skipped": {"a": "short", "b": "short"},
        "loops": {"2": {"seconds": 2.0}, "4": {"seconds": 2.0}},
    }


def test_read_outs_of_an_earlier_decoding_go_and_other_folders_stay(tmp_path: Path) -> None:
    write_job(tmp_path / "output.1", ["a"], [2], 1.0)
    for name in ("loop6", "loops", "score_wer"):
        (tmp_path / "test" / name).mkdir(parents=True)
    out = join(tmp_path, 1)
    assert sorted(path.name for path in out.glob("*/")) == ["loop2", "loops", "score_wer"]


def test_an_utterance_decoded_twice_is_refused(tmp_path: Path) -> None:
    for job in (1, 2):
        write_job(tmp_path / f"output.{job}", ["a"], [2], 1.0)
    with pytest.raises(ValueError, match="a was decoded by another job too"):
        join(tmp_path, 2)


def test_jobs_without_a_result_are_refused(tmp_path: Path) -> None:
    (tmp_path / "output.1").mkdir()
    with pytest.raises(FileNotFoundError, match="1best_recog/text is missing"):
        join(tmp_path, 1)


def test_one_record_stays_as_it_is() -> None:
    assert join_statistics([{"a": 1, "b": {"c": "d"}}]) == {"a": 1, "b": {"c": "d"}}


def test_settings_are_not_added_up() -> None:
    part = {
        "ctc_weight": 0.3,
        "ngram_weight": 0.9,
        "ngram_file": "4gram.arpa",
        "lm_file": "lm.pth",
        "lm_weight": 0.4,
        "word_bonus": 0.5,
        "oov_penalty": 5.0,
        "num_words": 12,
        "num_hotwords": 1,
        "hotword_weight": 5.0,
        "is_open": True,
        "decoder_calls": 4,
        "peak_memory_bytes": 7,
    }
    assert join_statistics([part, part]) == {**part, "decoder_calls": 8}


def test_what_an_lm_took_is_joined_to_that_of_the_whole_set() -> None:
    settings = {
        "search": {"beam_size": 4, "nbest": 3, "beam_type": "ordinary"},
        "drafting": {"drafts": "heads", "tokens_per_call": 8, "accept": "verified", "tau": 0.5, "tau_of": "head"},
    }
    parts, whole = [], Effort()
    for proposed, accepted in (
        (Counter({0: 1, 2: 3}), Counter({0: 2, 2: 2})),
        (Counter({1: 5}), Counter({1: 4, 0: 1})),
    ):
        text = TokenHypothesis(Bounds(9))
        text.add(4, -0.1, -3.0, 2)
        text.add(2, -0.1, -0.1, 2)
        found = Found([text], 4, 5, 9, proposed, accepted)
        part = Effort.of(found, [text], ["one two"], Prompts())
        whole = whole.plus(part)
        parts.append({**settings, **part.stats()})
    assert join_statistics(parts) == {**settings, **whole.stats()}


def test_times_of_words_are_joined_by_utterance(tmp_path):
    from espnet_larm.recipe.join_outputs import join_ctm

    for job, lines in (("1", "b 1 0.0 0.1 X 1\nb 1 0.2 0.1 A 1\n"), ("2", "a 1 0.3 0.1 Y 1\n")):
        (tmp_path / job).mkdir()
        (tmp_path / job / "ctm").write_text(lines)
    jobs = [tmp_path / "1", tmp_path / "2"]
    join_ctm(jobs, tmp_path)
    assert (tmp_path / "ctm").read_text() == "a 1 0.3 0.1 Y 1\nb 1 0.0 0.1 X 1\nb 1 0.2 0.1 A 1\n"
    for job in jobs:
        (job / "ctm").unlink()
    join_ctm(jobs, tmp_path)
    assert not (tmp_path / "ctm").exists()


def test_loops_of_utterances_are_joined_and_their_mean_is_that_of_all(tmp_path: Path) -> None:
    for job, (keys, used) in enumerate(((["a"], {"2": 1}), (["b", "c", "d"], {"2": 1, "6": 2})), 1):
        folder = tmp_path / f"output.{job}"
        for name in ("1best_recog", "auto"):
            (folder / name).mkdir(parents=True)
            for table in ("text", "loops"):
                (folder / name / table).write_text("".join(f"{key} {table}\n" for key in keys))
        leaving = {"rule": "confidence", "threshold": -0.1, "floor": 2}
        stats = {"leaving": leaving, "loops_used": used, "mean_loops": 9.0, "loops": {"auto": {"seconds": 1.0}}}
        (folder / "stats.json").write_text(json.dumps(stats))
    out = join(tmp_path, 2)
    assert (out / "loops").read_text() == (out / "auto/loops").read_text() == "a loops\nb loops\nc loops\nd loops\n"
    assert json.loads((out / "stats.json").read_text()) == {
        "leaving": {"rule": "confidence", "threshold": -0.1, "floor": 2},
        "loops_used": {"2": 2, "6": 2},
        "mean_loops": 4.0,
        "loops": {"auto": {"seconds": 2.0}},
    }
    for job in (1, 2):
        (tmp_path / f"output.{job}/1best_recog/loops").unlink()
    join(tmp_path, 2)
    assert not (out / "loops").exists()
