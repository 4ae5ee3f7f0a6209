"""Progress of stages in numbers, and what a recipe says at its end."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Bash = Callable[[str], subprocess.CompletedProcess[str]]


def test_decoding_counts_utterances_of_all_jobs_by_lines_or_by_what_was_told(bash: Bash, tmp_path: Path) -> None:
    hypothesis = "[vm] 2026-01-01 (decoding:217) INFO: best hypo: A\n"
    (tmp_path / "x.1.log").write_text(hypothesis + "[vm] (decoding:82) INFO: 5 of 9 utterances in 3 s\n")
    (tmp_path / "x.2.log").write_text(hypothesis * 2)
    (tmp_path / "x.3.log").touch()
    assert bash("counted_decoding x.@JOB@.log; counted_decoding none.@JOB@.log").stdout == "7\n0\n"


def test_statistics_count_the_lengths_that_are_written(bash: Bash, tmp_path: Path) -> None:
    for path, number in (("stats.1/train", 3), ("stats.1/valid", 1), ("stats.2/train", 2)):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "speech_shape").write_text("u 1\n" * number)
    assert bash("counted_stats ./stats.@JOB@.log").stdout == "6\n"


def test_a_stage_that_counts_shows_utterances_and_the_time_left(bash: Bash) -> None:
    assert bash("share_done 3 90 100; share_done 3 9 10; share_done 9 9 3; share_done 0 9 10").stdout.splitlines() == [
        "3 of 90 utterances, about 48 min left",
        "3 of 9 utterances, about 20 s left",
        "9 of 9 utterances, about 0 s left",
    ]
    counted = "count() { echo 4; }; counts_done=count counts_of=8 run_jobs title 1 0 d/x.@JOB@.log sleep 0.7"
    told = bash(f"job_seconds_between_reports=0.3; {counted}").stderr
    # A busy machine takes longer.
    assert re.search(r" s, 4 of 8 utterances, about \d+ s left\n", told)


def test_training_shows_progress_within_an_epoch_and_says_what_an_error_rate_of_one_is(
    bash: Bash, tmp_path: Path
) -> None:
    step = "step 2/40 of epoch 3: loss 1.5, learning rate 0.002, 6.00 s a step; the epoch takes about 4 minutes more"
    results = "epoch results: [train] loss=8.2, time=5 seconds, [valid] cer_ctc={}, loss=7.6, time=1 second"
    lines = [step, "3" + results.format("1.000"), "4" + results.format("0.523")]
    (tmp_path / "lines").write_text("".join(f"[vm] INFO: {line}\n" for line in lines))
    found = bash("run_training 0 1 t.log bash -c 'sleep 0.5; cat lines'").stderr
    assert f"  {step}\n" in found
    assert "valid cer_ctc 1.000 (nothing is recognised: still on the blank plateau); 5 seconds\n" in found
    assert "valid cer_ctc 0.523; 5 seconds\n" in found


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Run asr.sh to a stage where everything is skipped, and return what it says."""

    def run(stop_stage: str, *options: str) -> str:
        sets = ["--train_set", "train", "--valid_set", "dev", "--test_sets", "test", "--ngpu", "0", "--asr_tag", "x"]
        skipped = ["--skip_stages", "data speed format filter tokens stats train decode score pack"]
        command = [str(ROOT / "egs/asr.sh"), *sets, *skipped, "--python", "true", "--stop_stage", stop_stage, *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stderr

    return run


def test_the_end_says_where_things_lie_and_what_is_next(run: Callable[..., str], tmp_path: Path) -> None:
    assert run("tokens").endswith("next: the same command with --stage lm_stats --stop_stage score\n")
    files = ["dump/raw/train/wav.scp", "data/token_list/char/tokens.txt", "exp/asr_stats_raw_char/train/speech_shape"]
    files += ["exp/asr_x/config.yaml", "exp/asr_x/train.log", "exp/asr_x/valid.loss.ave.pth"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x\n")
    shown = run("train")
    table = shown.partition("what ")[2].partition("\n\n")[0].splitlines()[1:]
    assert [line.split("  ")[0] for line in table] == [
        "data of train", "tokens", "statistics", "experiment", "log of training", "weights to decode",
    ]  # fmt: skip
    assert [line.split()[-1] for line in table[-3:]] == ["exp/asr_x", *files[-2:]]
    assert shown.endswith("next: the same command with --stage decode --stop_stage score\n")


def test_after_scoring_a_pack_is_next_and_then_its_use(run: Callable[..., str], tmp_path: Path) -> None:
    assert "--stage pack --stop_stage pack puts the model into one file" in run("score").splitlines()[-1]
    (tmp_path / "exp/asr_x").mkdir(parents=True)
    (tmp_path / "exp/asr_x/RESULTS.md").write_text("x")
    (tmp_path / "exp/asr_x/asr_x_valid.loss.ave.zip").write_text("x")
    shown = run("score")
    assert "error rates          exp/asr_x/RESULTS.md\n" in shown
    assert shown.splitlines()[-1] == (
        f"next: in {tmp_path}: espnet-larm transcribe --model exp/asr_x/asr_x_valid.loss.ave.zip RECORDING"
    )
