"""SIGTERM, bad batches, damaged files and full disks in real trainings."""

import numpy as np
import pytest
import torch

from espnet_larm.train.checkpoints import read_states

pytestmark = pytest.mark.slow

# An epoch has 5 batches of training, 2 steps, and 2 batches of validation.
TERMS = {
    "before_any_step": {"at": "forward", "nth": 1},
    "in_the_first_epoch": {"at": "forward", "nth": 3},
    "in_the_middle_of_a_step": {"at": "forward", "nth": 10},
    "in_the_last_batch_of_training": {"at": "forward", "nth": 12},
    "in_validation": {"at": "forward", "nth": 13},
    "while_saving": {"at": "save", "file": "checkpoint.pth", "nth": 2, "when": "before"},
}


@pytest.mark.parametrize("point", TERMS)
def test_sigterm_ends_with_status_75_and_resumes_to_the_same_model(trainings, undisturbed, tmp_path, point):
    folder = tmp_path / "interrupted"
    assert trainings.run(folder, fault={**TERMS[point], "do": "term"}) == 75, trainings.log(folder)
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)


def test_sigterm_keeps_the_batches_of_the_epoch(trainings, undisturbed, tmp_path):
    folder = tmp_path / "interrupted"
    assert trainings.run(folder, fault={"at": "forward", "nth": 10, "do": "term"}) == 75
    saved = torch.load(folder / "checkpoint.interrupted.pth", weights_only=True)
    # The signal came in the third batch of epoch 2; the step of two batches is finished.
    assert saved["reporter"]["epoch"] == 1 and saved["epoch_in_progress"]["ranks"][0]["num_batches"] == 4
    assert trainings.run(folder) == 0
    assert "The epoch goes on after 4 batches" in trainings.log(folder)
    assert not (folder / "checkpoint.interrupted.pth").exists()


def test_sigterm_to_loader_workers_too_loses_nothing(trainings, tmp_path):
    folders, options = [tmp_path / "plain", tmp_path / "interrupted"], ["--num_workers", "2", "--max_epoch", "1"]
    assert trainings.run(folders[0], *options) == 0, trainings.log(folders[0])
    fault = {"at": "forward", "nth": 3, "do": "term_group"}
    assert trainings.run(folders[1], *options, fault=fault) == 75, trainings.log(folders[1])
    assert trainings.run(folders[1], *options) == 0, trainings.log(folders[1])
    assert trainings.outcome(folders[1]) == trainings.outcome(folders[0])


@pytest.mark.parametrize("nth", [9, 13], ids=["in_training", "in_validation"])
def test_sigterm_to_one_of_two_processes_ends_both(trainings, undisturbed_pair, tmp_path, nth):
    folder = tmp_path / "interrupted"
    fault = {"at": "forward", "nth": nth, "do": "term"}
    assert trainings.run(folder, fault=fault, num_processes=2) == 75, trainings.log(folder)
    assert trainings.run(folder, num_processes=2) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed_pair)


def test_two_processes_resume_to_the_same_model(trainings, undisturbed_pair, tmp_path):
    folder = tmp_path / "killed"
    # The first process, which saves, ends with an error when the other one is gone.
    fault = {"at": "forward", "nth": 9, "do": "kill"}
    assert trainings.run(folder, fault=fault, num_processes=2) == -9, trainings.log(folder)
    assert trainings.run(folder, num_processes=2) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed_pair)


def test_epoch_in_progress_of_two_processes_starts_again_with_one(trainings, tmp_path):
    folder = tmp_path / "interrupted"
    fault = {"at": "forward", "nth": 9, "do": "term"}
    assert trainings.run(folder, fault=fault, num_processes=2) == 75, trainings.log(folder)
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert "holds an epoch in progress of 2 processes; this training has 1" in trainings.log(folder)


def test_interrupted_training_that_is_killed_next_resumes_to_the_same_model(trainings, undisturbed, tmp_path):
    folder = tmp_path / "interrupted"
    assert trainings.run(folder, fault={"at": "forward", "nth": 10, "do": "term"}) == 75
    assert (
        trainings.run(folder, fault={"at": "save", "file": "2epoch.pth", "nth": 1, "when": "half", "do": "kill"}) == -9
    )
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)


def test_batch_without_finite_loss_is_skipped_named_and_counted(trainings, undisturbed, tmp_path):
    folder = tmp_path / "nan"
    assert trainings.run(folder, fault={"at": "forward", "nth": 2, "do": "nan"}) == 0
    log = trainings.log(folder)
    assert "Skipped, no parameter changed: the loss of u" in log
    assert "1 of this epoch's steps or batches were skipped" in log
    states = torch.load(folder / "3epoch.pth")
    assert all(bool(state.isfinite().all()) for state in states.values())
    optimizer = torch.load(folder / "checkpoint.pth", weights_only=False)["optimizers"][0]
    assert optimizer["state"][0]["step"] == 5, "3 epochs of 2 steps, one of them skipped"


def test_full_disk_leaves_the_checkpoint_and_resumes_to_the_same_model(trainings, undisturbed, tmp_path):
    folder = tmp_path / "full"
    assert trainings.run(folder, fault={"at": "save", "file": "checkpoint.pth", "nth": 2, "do": "full"}) == 1
    assert "Saving checkpoint.pth broke off" in trainings.log(folder)
    assert torch.load(folder / "checkpoint.pth", weights_only=False)["reporter"]["epoch"] == 1
    assert list((folder / ".staging").glob("checkpoint.pth")) == []
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)


def test_damaged_checkpoint_is_named_and_the_previous_taken(trainings, undisturbed, tmp_path):
    folder = tmp_path / "damaged"
    assert trainings.run(folder, fault={"at": "step", "nth": 5, "do": "kill"}) == -9
    content = bytearray((folder / "checkpoint.pth").read_bytes())
    # One bit, which torch.load would not notice.
    content[len(content) // 2] ^= 1
    (folder / "checkpoint.pth").write_bytes(content)
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert "checkpoint.pth is damaged and is passed over" in trainings.log(folder)
    assert (folder / "checkpoint.pth.damaged").read_bytes() == content
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)


def test_only_damaged_checkpoints_are_an_error(trainings, undisturbed, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((undisturbed / "config.yaml").read_bytes())
    (folder / "checkpoint.pth").write_bytes(b"half a file")
    assert trainings.run(folder) == 1
    assert "\nERROR: --resume true: every checkpoint in" in trainings.log(folder)
    assert "Traceback" not in trainings.log(folder)


@pytest.mark.parametrize("missing", ["2epoch.pth", "3epoch.pth"])
def test_missing_epoch_file_is_made_again(trainings, undisturbed, tmp_path, missing):
    folder = tmp_path / "missing"
    fault = {"at": "link", "file": "valid.loss.ave.pth", "nth": 1, "do": "kill"}
    assert trainings.run(folder, fault=fault) == -9
    # What the kill left is published by a resumed run that is killed, too.
    assert trainings.run(folder, fault=fault) == -9
    (folder / missing).unlink()
    assert trainings.run(folder) == 0, trainings.log(folder)
    assert f"{missing} was missing or damaged and was made again" in trainings.log(folder)
    assert trainings.outcome(folder) == trainings.outcome(undisturbed)


def test_lost_epoch_is_left_out_of_averaging(trainings, tmp_path):
    folder = tmp_path / "lost"
    assert trainings.run(folder, "--keep_nbest_models", "3") == 0
    (folder / "1epoch.pth").unlink()
    assert trainings.run(folder, "--keep_nbest_models", "3", "--max_epoch", "4") == 0, trainings.log(folder)
    assert "1epoch.pth is missing or damaged and cannot be made again" in trainings.log(folder)
    best = [torch.load(folder / f"{epoch}epoch.pth") for epoch in (2, 3, 4)]
    average = torch.load(folder / "valid.loss.ave.pth")
    name = "ctc.ctc_lo.weight"
    # ESPnet adds them in another order.
    torch.testing.assert_close(average[name], (best[0][name] + best[1][name] + best[2][name]) / 3)


def test_finished_training_can_be_continued_by_more_epochs(trainings, tmp_path):
    assert trainings.run(tmp_path / "at_once", "--max_epoch", "2") == 0
    for epochs in ("1", "2"):
        assert trainings.run(tmp_path / "in_two", "--max_epoch", epochs) == 0
    at_once, in_two = (trainings.outcome(tmp_path / name) for name in ("at_once", "in_two"))
    del in_two["valid.loss.ave_1best.pth"]
    assert at_once["checkpoint.pth"] == in_two["checkpoint.pth"]
    assert at_once == in_two


def test_deterministic_mode_is_said(trainings, tmp_path):
    assert trainings.run(tmp_path / "run", "--deterministic", "true", "--max_epoch", "1") == 0
    assert "Deterministic mode: torch refuses operations" in trainings.log(tmp_path / "run")


def test_pictures_and_tensorboard_are_in_the_experiments_folder(trainings, undisturbed, tmp_path):
    folder = tmp_path / "pictures"
    options = ["--use_matplotlib", "true", "--use_tensorboard", "true", "--max_epoch", "1"]
    assert trainings.run(folder, *options) == 0, trainings.log(folder)
    assert {"curves.png", "loss.png"} <= {path.name for path in (folder / "images").iterdir()}
    assert list((folder / "tensorboard/valid").glob("events.*"))
    assert not (folder / ".staging").exists()


def test_effective_batch_is_said(trainings, undisturbed):
    expected = "Effective batch: 4.0 utterances on average (batches of 2 to 2 x 1 process(es) x accum_grad 2), 2 steps"
    assert expected in trainings.log(undisturbed)


def test_a_checkpoint_that_holds_more_than_plain_values_is_refused_with_what_to_do(tmp_path):
    # As ESPnet 202511 saved its statistics.
    torch.save(
        {"reporter": {"stats": {1: {"train": {"loss": np.float64(1.0)}}}, "epoch": 1}}, tmp_path / "checkpoint.pth"
    )
    with pytest.raises(ValueError, match=r"holds more than tensors .* Begin anew from its weights.*--init_param"):
        read_states(tmp_path / "checkpoint.pth")
