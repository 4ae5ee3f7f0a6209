"""training.jsonl: what is known of a training's time, commit and machine."""

import json

import pytest
import torch

from espnet_larm.origin import commit
from espnet_larm.train import journal as module
from espnet_larm.train.journal import JOURNAL, Journal, read_journal

MODEL = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1).requires_grad_(False))


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(path, clock, epochs, seconds=10.0, is_resumed=True, broken_off=False):
    journal = Journal(path, is_resumed, 1)
    for epoch in epochs:
        journal.start_epoch(epoch, MODEL)
        clock[0] += seconds
    if not broken_off:
        journal.end_epoch()
    journal.break_off()


def test_a_session_has_a_line_at_its_start_and_one_an_epoch(tmp_path, clock):
    train(tmp_path / JOURNAL, clock, [1, 2])
    start, *epochs = lines(tmp_path / JOURNAL)
    assert (start["event"], start["epoch"], start["commit"], start["num_processes"]) == ("start", 1, commit(), 1)
    assert start["parameters"] == [
        {"part": "0", "trainable": 16, "total": 16},
        {"part": "1", "trainable": 0, "total": 5},
    ]
    assert start["machine"].keys() == {"cpu", "cores", "threads"} and "espnet" in start["versions"]
    assert [(line["event"], line["epoch"], line["seconds"]) for line in epochs] == [("epoch", 1, 10), ("epoch", 2, 10)]


def test_seconds_of_all_sessions_are_added_repeated_epochs_included(tmp_path, clock):
    path = tmp_path / JOURNAL
    train(path, clock, [1, 2], broken_off=True)
    clock[0] += 1000
    train(path, clock, [2, 3], seconds=7)
    spent = read_journal(path)
    assert lines(path)[2]["event"] == "broken off"
    assert spent.epochs == (1, 2, 3) and spent.seconds == 34 and len(spent.starts) == 2
    assert [start["epoch"] for start in spent.starts] == [1, 2]


def test_a_training_from_the_start_again_forgets_the_one_before(tmp_path, clock):
    train(tmp_path / JOURNAL, clock, [1, 2, 3])
    train(tmp_path / JOURNAL, clock, [1], is_resumed=False)
    spent = read_journal(tmp_path / JOURNAL)
    assert spent.epochs == (1,) and spent.seconds == 10 and len(spent.starts) == 1


def test_a_session_with_nothing_left_to_train_leaves_no_line(tmp_path, clock):
    train(tmp_path / JOURNAL, clock, [])
    assert not (tmp_path / JOURNAL).exists()
    assert read_journal(tmp_path / JOURNAL) is None


def test_half_a_line_of_a_power_cut_spoils_no_other(tmp_path, clock):
    path = tmp_path / JOURNAL
    train(path, clock, [1])
    path.write_text(path.read_text() + '{"event": "epo')
    train(path, clock, [2])
    spent = read_journal(path)
    assert spent.epochs == (1, 2) and len(spent.starts) == 2


def test_a_full_disk_does_not_hide_the_error_that_ended_the_training(tmp_path, clock, monkeypatch, caplog):
    journal = Journal(tmp_path / JOURNAL, True, 1)
    journal.start_epoch(1, MODEL)
    monkeypatch.setattr(module.os, "fsync", fail)
    journal.break_off()
    assert "The seconds of epoch 1 are not in" in caplog.text


def fail(_):
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_a_training_records_its_epochs_and_is_not_changed_by_it(undisturbed):
    spent = read_journal(undisturbed / JOURNAL)
    assert spent.epochs == (1, 2, 3) and len(spent.starts) == 1
    assert 0 < spent.seconds < 60 and spent.starts[0]["machine"]["threads"] == "1"


@pytest.mark.slow
def test_an_interrupted_training_records_what_it_spent_on_the_epoch(trainings, tmp_path):
    folder = tmp_path / "interrupted"
    assert trainings.run(folder, fault={"at": "forward", "nth": 10, "do": "term"}) == 75, trainings.log(folder)
    assert trainings.run(folder) == 0, trainings.log(folder)
    events = [(line["event"], line["epoch"]) for line in lines(folder / JOURNAL)]
    first = [("start", 1), ("epoch", 1), ("broken off", 2)]
    assert events == [*first, ("start", 2), ("epoch", 2), ("epoch", 3)]


@pytest.mark.slow
def test_a_killed_training_keeps_the_lines_of_its_epochs(trainings, tmp_path):
    folder = tmp_path / "killed"
    assert trainings.run(folder, fault={"at": "step", "nth": 5, "do": "kill"}) == -9, trainings.log(folder)
    assert read_journal(folder / JOURNAL).epochs == (1, 2)
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert read_journal(folder / JOURNAL).epochs == (1, 2, 3) and len(read_journal(folder / JOURNAL).starts) == 2


@pytest.mark.slow
def test_one_of_two_processes_writes_the_record(undisturbed_pair):
    spent = read_journal(undisturbed_pair / JOURNAL)
    assert len(lines(undisturbed_pair / JOURNAL)) == 4 and spent.starts[0]["num_processes"] == 2


@pytest.mark.slow
def test_a_finished_training_that_is_called_again_adds_no_line(trainings, tmp_path):
    for _ in range(2):
        assert trainings.run(tmp_path / "again", "--max_epoch", "1") == 0
    assert len(lines(tmp_path / "again" / JOURNAL)) == 2


@pytest.mark.slow
def test_a_training_whose_checkpoints_were_deleted_begins_its_record_anew(trainings, tmp_path):
    folder = tmp_path / "emptied"
    assert trainings.run(folder, "--max_epoch", "2") == 0, trainings.log(folder)
    for path in folder.rglob("*.pth"):
        path.unlink()
    assert trainings.run(folder, "--max_epoch", "1") == 0, trainings.log(folder)
    spent = read_journal(folder / JOURNAL)
    assert spent.epochs == (1,) and len(spent.starts) == 1
