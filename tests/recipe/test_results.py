"""RESULTS.md and its picture."""

import json
import shutil

import matplotlib as mpl
import pytest

from espnet_larm.origin import commit
from espnet_larm.recipe.results import duration, main
from espnet_larm.recipe.score import main as score

STATS = {
    "num_utts": 2,
    "audio_seconds": 60.0,
    "unit": "loop",
    "loops": {"2": {"seconds": 0.6}, "4": {"seconds": 1.2}},
    "peak_memory_bytes": 2**30,
    "machine": {"cpu": "Abacus", "threads": "1"},
    "skipped": {"b": "too short"},
}


@pytest.fixture
def exp_dir(tmp_path):
    """A decoded and scored experiment: 50 % at loop 2, 25 % at loop 4."""
    exp_dir = tmp_path / "exp"
    decoded = exp_dir / "decode_x" / "test"
    ref = tmp_path / "ref"
    texts = {"": "A B C X", "loop2": "A B X X", "loop4": "A B C X"}
    for folder, text in ((ref, "A B C D"), *((decoded / name, text) for name, text in texts.items())):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text").write_text(f"a {text}\nb {text}\n")
    (decoded / "stats.json").write_text(json.dumps(STATS))
    (exp_dir / "config.yaml").write_text(
        "config: conf/x.yaml\nseed: 7\ntoken_type: char\nencoder_conf: {num_loops: 4}\n"
        f"train_data_path_and_name_and_type: [[{ref}/wav.scp, speech, sound], [{ref}/text, text, text]]\n"
    )
    started = "../asr.sh --train_set t --stage train --asr_args x"
    (exp_dir / "run.sh").write_text(f'#!/bin/bash\ncd x\nexec {started} --stage train --stop_stage upload "$@"\n')
    score(["--ref_dir", str(ref), "--hyp_dir", str(decoded)])
    main(["--exp_dir", str(exp_dir)])
    return exp_dir


def test_tables_have_a_row_a_loop(exp_dir):
    lines = (exp_dir / "RESULTS.md").read_text().splitlines()
    start = lines.index("### WER")
    assert lines[start + 2].startswith("|dataset|loops|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|")
    assert lines[start + 4] == "|decode_x/test|2|2|8|50.0|50.0|0.0|0.0|50.00|100.00|50.00|50.00|0.0100|"
    assert lines[start + 5] == "|decode_x/test|4|2|8|75.0|25.0|0.0|0.0|25.00|100.00|25.00|25.00|0.0200|"
    assert "|decode_x/test|WER|2 to 4|-25.00|-25.00|-25.00|falls|" in lines


def test_one_table_comes_first(exp_dir):
    lines = (exp_dir / "RESULTS.md").read_text().splitlines()
    assert lines[2:6] == [
        "|dataset|loops|WER %|from|to|CER %|RTF|",
        "|---|---|---|---|---|---|---|",
        "|decode_x/test|2|50.00|50.00|50.00|28.57|0.0100|",
        "|decode_x/test|4|25.00|25.00|25.00|14.29|0.0200|",
    ]


def test_numbers_have_their_origin(exp_dir):
    text = (exp_dir / "RESULTS.md").read_text()
    for line in (
        f"- commit of scoring: {commit()}",
        "- configuration: conf/x.yaml",
        "- command: `../asr.sh --train_set t --stage train --asr_args x`",
        "- seed: 7",
        f"- train data: {exp_dir.parent}/ref (2 utterances)",
        (
            "- decoding of decode_x/test: 2 utterances, 1.0 min; "
            "cpu Abacus, threads 1; peak memory 1024 MiB; 1 not decoded"
        ),
    ):
        assert line in text.splitlines()


def test_training_that_was_resumed_says_how_long_where_and_by_which_commits(exp_dir):
    start = {"event": "start", "time": "T1", "resume": True, "epoch": 1, "commit": "aaa", "versions": {"torch": "2"}}
    start |= {"machine": {"cpu": "Abacus"}, "num_processes": 1, "seconds": 0.0}
    epochs = [{"event": "epoch", "epoch": epoch, "seconds": 2000.0} for epoch in (1, 2)]
    lines = [start, epochs[0], {**start, "time": "T2", "epoch": 2, "commit": "bbb"}, epochs[1]]
    (exp_dir / "training.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    main(["--exp_dir", str(exp_dir)])
    text = (exp_dir / "RESULTS.md").read_text().splitlines()
    assert "- training: 2 epochs in 1 h 6 min; 2 sessions, resumed 1 time; began T1" in text
    assert "- trainable: not recorded" in text
    assert "- commits of training: aaa; bbb" in text
    assert "- machines of training: cpu Abacus, processes 1" in text


def test_what_learned_is_said_by_part(exp_dir):
    start = {"event": "start", "time": "T1", "resume": False, "epoch": 1, "commit": "aaa", "versions": {"torch": "2"}}
    start |= {"machine": {"cpu": "Abacus"}, "num_processes": 1, "seconds": 0.0}
    parts = [("encoder", 600_000, 600_000), ("projector", 300_000, 300_000), ("LM", 0, 3_500_000)]
    start["parameters"] = [dict(zip(("part", "trainable", "total"), part, strict=True)) for part in parts]
    (exp_dir / "training.jsonl").write_text(f"{json.dumps(start)}\n")
    main(["--exp_dir", str(exp_dir)])
    text = (exp_dir / "RESULTS.md").read_text().splitlines()
    shown = "encoder 0.60 M of 0.60 M, projector 0.30 M of 0.30 M, LM 0.00 M of 3.50 M"
    assert f"- trainable: 0.90 M of 4.40 M (20.5 %): {shown}" in text


def test_training_without_a_record_is_said(exp_dir):
    assert "- training: not recorded" in (exp_dir / "RESULTS.md").read_text().splitlines()


@pytest.mark.parametrize(("seconds", "text"), [(59.4, "59 s"), (725, "12 min 5 s"), (12000, "3 h 20 min")])
def test_duration_is_for_people(seconds, text):
    assert duration(seconds) == text


def test_text_of_espnets_own_program_is_that_of_the_last_read_out(exp_dir):
    # It writes neither folders of loops nor statistics.
    (exp_dir / "decode_x" / "test" / "stats.json").unlink()
    for name in ("loop2", "loop4"):
        (exp_dir / "decode_x" / "test" / name).rename(exp_dir / name)
    main(["--exp_dir", str(exp_dir)])
    assert "|decode_x/test|last|2|8|75.0|" in (exp_dir / "RESULTS.md").read_text()


def test_picture_is_drawn_and_shown(exp_dir):
    assert "(images/wer_by_loops.png)" in (exp_dir / "RESULTS.md").read_text()
    picture = mpl.image.imread(exp_dir / "images" / "wer_by_loops.png")
    assert picture.shape[1] > 1000 and picture.std() > 0.05


def test_unscored_experiment_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing is scored yet; run --stage score first"):
        main(["--exp_dir", str(tmp_path)])


def test_results_without_decoding_statistics_have_no_factor(exp_dir):
    (exp_dir / "decode_x" / "test" / "stats.json").unlink()
    main(["--exp_dir", str(exp_dir)])
    assert "|decode_x/test|4|2|8|75.0|25.0|0.0|0.0|25.00|100.00|25.00|25.00|-|" in (exp_dir / "RESULTS.md").read_text()


def test_loops_of_their_own_have_a_row_with_their_mean(exp_dir):
    decoded = exp_dir / "decode_x" / "test"
    (decoded / "loop2").rename(decoded / "auto")
    shutil.rmtree(decoded / "loop4")
    leaving = {"rule": "confidence", "threshold": -0.1, "floor": 2}
    own = {"loops": {"auto": {"seconds": 0.6}}, "leaving": leaving, "loops_used": {"2": 1, "4": 1}, "mean_loops": 3.0}
    (decoded / "stats.json").write_text(json.dumps({**STATS, **own}))
    main(["--exp_dir", str(exp_dir)])
    text = (exp_dir / "RESULTS.md").read_text()
    assert "|decode_x/test|auto, mean 3.00|2|8|50.0|50.0|0.0|0.0|50.00|100.00|50.00|50.00|0.0100|" in text
    assert "mean loops 3.00 (rule confidence -0.1, from loop 2 on; utterances by loops 2: 1, 4: 1)" in text


def test_a_set_in_which_nothing_was_recognised_has_a_sentence_and_no_row(exp_dir):
    silent = exp_dir / "decode_x" / "silent"
    shutil.copytree(exp_dir / "decode_x" / "test", silent)
    for folder in (silent, silent / "loop2", silent / "loop4"):
        (folder / "text").write_text("a\nb\n")
    score(["--ref_dir", str(exp_dir.parent / "ref"), "--hyp_dir", str(silent)])
    main(["--exp_dir", str(exp_dir)])
    text = (exp_dir / "RESULTS.md").read_text()
    assert "decode_x/silent: nothing was recognised: 0 words were written where 8 were said." in text
    assert "|decode_x/silent" not in text and "|decode_x/test|2|50.00|" in text
