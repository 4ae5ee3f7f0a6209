"""An epoch's batches: skipped, stopped between, and counted."""

import logging
from types import SimpleNamespace

import pytest
import torch

from espnet2.train.reporter import SubReporter

from espnet_larm.errors import OptionError
from espnet_larm.train.batches.epoch import TrainingBatches, check_steps, describe_batches


def batch(name, value=1.0):
    return [f"{name}1", f"{name}2"], {"speech": torch.tensor([[1.0, 2.0], [3.0, value]])}


def through(batches, reporter, losses=(), norms=()):
    """What ESPnet's loop gets; it registers a loss for every batch and a norm for every step."""
    given = []
    for (utt_ids, _), loss, norm in zip(batches, losses, norms, strict=False):
        given.append(utt_ids[0])
        reporter.register({"loss": loss}, 1)
        reporter.register({} if norm is None else {"grad_norm": norm})
        reporter.next()
    return given


@pytest.fixture
def reporter():
    return SubReporter("train", 1, 0)


def build(loader, reporter, accum_grad=1, **options):
    return TrainingBatches(loader, reporter, accum_grad, options.pop("between_steps", lambda: None), **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batch_of_audio_that_is_not_finite_never_reaches_the_model(reporter, caplog, value):
    batches = build([batch("a"), batch("b", value), batch("c")], reporter)
    assert through(batches, reporter, [1.0] * 4, [1.0] * 4) == ["a1", "c1"]
    assert batches.num_taken == 3 and batches.skipped[0].utt_ids == ["b1", "b2"]
    assert "the input of b2 is not finite. Utterances: b1 b2" in caplog.text


def test_step_without_finite_gradient_names_the_batch_with_the_bad_loss(reporter, caplog):
    batches = build([batch(name) for name in "abcd"], reporter, accum_grad=2)
    nan = float("nan")
    through(batches, reporter, [1.0, 1.0, 1.0, nan], [None, 1.0, None, None])
    assert [skipped.utt_ids for skipped in batches.skipped] == [["c1", "c2", "d1", "d2"]]
    assert "the loss of d1 d2 is not finite. Utterances: c1 c2 d1 d2" in caplog.text


def test_finite_loss_with_a_bad_gradient_is_said(reporter, caplog):
    through(build([batch("a"), batch("b")], reporter), reporter, [1.0, 1.0], [None, 1.0])
    assert "the loss is finite, its gradient is not. Utterances: a1 a2" in caplog.text


def test_steps_that_are_made_are_not_named(reporter, caplog):
    with caplog.at_level(logging.INFO):
        through(build([batch("a"), batch("b")], reporter), reporter, [1.0, 1.0], [1.0, 2.0])
    assert caplog.text == ""


def test_no_forward_run_skips_nothing(reporter):
    batches = build([batch("a"), batch("b")], reporter)
    assert len(list(batches)) == 2 and batches.skipped == []


def test_used_batches_are_loaded_and_not_given(reporter):
    called = []
    batches = build(
        [batch(name) for name in "abc"], reporter, num_used=2, after_skipping=lambda: called.append("random states")
    )
    assert [utt_ids[0] for utt_ids, _ in batches] == ["c1"]
    assert called == ["random states"] and batches.num_taken == 3 and batches.num_given == 1


def test_training_stops_only_between_steps(reporter):
    taken = []
    batches = build(
        [batch(name) for name in "abcde"], reporter, 2, between_steps=lambda: taken.append(batches.num_taken)
    )
    list(batches)
    assert taken == [0, 2, 4]


def test_length_is_the_loaders(reporter):
    assert len(build([batch("a")], reporter)) == 1
    with pytest.raises(TypeError, match="generator has no length"):
        len(build((batch(name) for name in "a"), reporter))


def factory(batches, num_iters_per_epoch=None):
    return SimpleNamespace(sampler=SimpleNamespace(batches=batches), num_iters_per_epoch=num_iters_per_epoch)


def processes(count):
    return SimpleNamespace(distributed=count > 1, dist_world_size=count if count > 1 else None)


def test_effective_batch_counts_processes_and_accumulation():
    said = describe_batches(factory([["a"], ["b", "c", "d"]] * 4), 2, processes(3))
    assert said == (
        "Effective batch: 12.0 utterances on average (batches of 1 to 3 x 3 process(es) x accum_grad 2), "
        "4 steps an epoch"
    )


def test_steps_follow_the_iterations_of_an_epoch():
    assert describe_batches(factory([["a"]] * 100, 10), 2, processes(1)).endswith("5 steps an epoch")


def test_iterator_without_a_list_of_batches_is_described_in_words():
    said = describe_batches(SimpleNamespace(), 4, processes(1))
    assert said == "Effective batch: 1 process(es) x accum_grad 4 x the iterator's batch"


@pytest.mark.parametrize(
    ("num_batches", "num_iters_per_epoch", "accum_grad", "message"),
    [
        (5, None, 6, r"accum_grad is 6, but an epoch has 5 batches .* Set accum_grad to 5 or less"),
        (1, 0, 1, r"an epoch has 0 batches \(num_iters_per_epoch is 0, the training set has 1\): .* Leave num_iters"),
        (90, 3, 8, r"an epoch has 3 batches .* Leave num_iters_per_epoch out, or set it to 8 or more"),
        (90, None, 0, r"accum_grad is 0; allowed: 1 or more"),
    ],
)
def test_epochs_without_a_step_are_refused(num_batches, num_iters_per_epoch, accum_grad, message):
    with pytest.raises(OptionError, match=message):
        check_steps(factory([["a"]] * num_batches, num_iters_per_epoch), accum_grad)


@pytest.mark.parametrize("iter_factory", [factory([["a"]] * 6), factory([["a"]], 7), SimpleNamespace()])
def test_epochs_with_a_step_are_taken(iter_factory):
    check_steps(iter_factory, 6)


@pytest.mark.slow
def test_a_training_without_a_step_ends_with_the_true_reason(trainings, tmp_path):
    folder = tmp_path / "refused"
    assert trainings.run(folder, "--accum_grad", "6") == 1
    assert "ERROR: accum_grad is 6, but an epoch has 5 batches" in trainings.log(folder)
    # The weights overflow in the first epoch.
    options = ["--optim_conf", "lr=1.0e+30"]
    assert trainings.run(folder, *options) == 1
    assert "ERROR: valid loss, by which epochs are compared, is not a number" in trainings.log(folder)
    assert trainings.run(folder, *options, "--best_model_criterion", "train,iter_time,min") == 1
    assert "ERROR: No step was made in epoch 2: it had 5 usable batches" in trainings.log(folder)
    assert not (folder / "2epoch.pth").exists() and (folder / "1epoch.pth").exists()
