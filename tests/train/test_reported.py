"""What a training reports: numbers alone, and what decides which epoch is best is one of them."""

import dataclasses
import logging
import math
from types import SimpleNamespace

import pytest
import torch

from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.asr import ASRTask
from espnet2.train.reporter import SubReporter
from espnet2.train.trainer import Trainer

from espnet_larm.errors import OptionError
from espnet_larm.train.reported import DEFAULT, ReportedValues, check_numbers, checked_criteria, only_numbers

VALUES = {"train": ["loss", "loss_ctc"], "valid": ["loss", "loss_ctc", "cer_ctc"]}


@pytest.fixture(scope="module")
def espnets_options():
    args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--max_epoch", "1"])
    return Trainer.build_options(args)


@pytest.fixture
def check(espnets_options):
    def check(*schedulers, **changes):
        return checked_criteria(dataclasses.replace(espnets_options, **changes), schedulers, VALUES.__getitem__)

    return check


class Reporting(torch.nn.Module):
    """A model by CTC alone, in ESPnet's form."""

    frontend = preencoder = None

    def __init__(self, as_dict=False):
        super().__init__()
        self.as_dict = as_dict
        self.norm = torch.nn.BatchNorm1d(1)

    def forward(self, speech, **_):
        loss = self.norm(speech).mean()
        stats = {"loss": loss, "acc": None, "cer_ctc": None if self.training else torch.tensor(0.1)}
        weight = torch.tensor(2.0)
        return {"loss": loss, "stats": stats, "weight": weight} if self.as_dict else (loss, stats, weight)


def batches():
    yield ["a", "b"], {"speech": torch.randn(2, 1, 8), "speech_lengths": torch.tensor([8, 8])}


def test_espnets_default_is_what_is_taken_for_it(espnets_options):
    assert tuple(tuple(criterion) for criterion in espnets_options.best_model_criterion) == DEFAULT


def test_the_default_keeps_what_is_there_and_says_so_once(check, caplog):
    with caplog.at_level(logging.INFO):
        assert check() == [("train", "loss", "min"), ("valid", "loss", "min")]
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "this training compares epochs by what it has of it, train loss and valid loss."
    )


def test_the_default_stays_as_it_is_where_all_is_there(espnets_options, caplog):
    with caplog.at_level(logging.INFO):
        assert checked_criteria(espnets_options, [], lambda _: ["loss", "acc"]) == list(DEFAULT)
    assert not caplog.records


def test_a_criterion_that_is_there_is_taken(check):
    assert check(best_model_criterion=[["valid", "cer_ctc", "min"]]) == [("valid", "cer_ctc", "min")]


def test_a_criterion_that_is_never_a_number_is_refused_with_those_that_are(check):
    sentence = (
        r"^best_model_criterion is \[valid, acc, max\], but valid acc is never a number in this training; "
        r"allowed of valid: cer_ctc, loss, loss_ctc\.$"
    )
    with pytest.raises(OptionError, match=sentence):
        check(best_model_criterion=[["valid", "loss", "min"], ["valid", "acc", "max"]])


@pytest.mark.parametrize("criterion", [("dev", "loss", "min"), ("valid", "loss", "least")])
def test_a_misspelt_phase_or_mode_is_refused(check, criterion):
    with pytest.raises(OptionError, match="allowed: train or valid, the name of a value, min or max"):
        check(best_model_criterion=[criterion])


def test_early_stopping_is_looked_at_where_there_is_patience(check):
    wrong = {"early_stopping_criterion": ("valid", "acc", "max")}
    assert check(**wrong)
    with pytest.raises(OptionError, match=r"^early_stopping_criterion is \[valid, acc, max\], but"):
        check(patience=3, **wrong)


def test_a_scheduler_that_waits_for_a_value_is_looked_at(check):
    class Waiting(AbsValEpochStepScheduler):
        def step(self, val, epoch=None):
            pass

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    wrong = {"val_scheduler_criterion": ("valid", "acc")}
    assert check(None, **wrong)
    with pytest.raises(OptionError, match=r"^val_scheduler_criterion is \[valid, acc\], but"):
        check(Waiting(), **wrong)


def test_what_espnets_loop_measures_is_a_number_in_training_alone(check):
    assert check(best_model_criterion=[["train", "grad_norm", "min"]])
    with pytest.raises(OptionError, match="valid grad_norm is never a number"):
        check(best_model_criterion=[["valid", "grad_norm", "min"]])


@pytest.mark.parametrize("as_dict", [False, True])
def test_none_is_left_out_of_what_is_reported_while_asked_for(as_dict):
    model, (_, given) = Reporting(as_dict).train(), next(batches())

    def stats():
        output = model(**given)
        return list(output["stats"] if as_dict else output[1])

    with only_numbers(model):
        assert stats() == ["loss"]
    assert stats() == ["loss", "acc", "cer_ctc"]


def test_a_batch_tells_what_is_reported_in_each_phase_and_moves_nothing():
    model = Reporting()
    values = ReportedValues(model, batches, ngpu=0)
    assert values("valid") == ["loss", "cer_ctc"] and values("train") == ["loss"]
    assert model.norm.num_batches_tracked == 0


def test_without_a_batch_nothing_is_refused(espnets_options):
    values = ReportedValues(Reporting(), lambda: iter(()), ngpu=0)
    options = dataclasses.replace(espnets_options, best_model_criterion=[("valid", "acc", "max")])
    assert checked_criteria(options, [], values) == [("valid", "acc", "max")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_in_any_batch_decides_nothing(value):
    reporter = SubReporter("valid", 7, 0)
    options = SimpleNamespace(
        best_model_criterion=[("valid", "loss", "min")], patience=2, early_stopping_criterion=("valid", "cer", "min")
    )
    for number in (value, 1.0):
        reporter.register({"loss": 1.0, "cer": number, "other": value}, 2)
        reporter.next()
    # One batch alone is left out of the mean by ESPnet.
    check_numbers(reporter, options)
    reporter.stats["cer"] = reporter.stats["cer"][:1]
    with pytest.raises(OptionError, match="valid cer, by which epochs are compared, is not a number .* epoch 7"):
        check_numbers(reporter, options)
    options.patience = None
    check_numbers(reporter, options)


@pytest.mark.slow
def test_a_training_by_ctc_alone_says_nothing_of_acc(trainings, tmp_path):
    folder = tmp_path / "default"
    criteria = [",".join(criterion) for criterion in DEFAULT]
    options = ["--best_model_criterion", *criteria, "--use_matplotlib", "true", "--max_epoch", "1"]
    assert trainings.run(folder, *options) == 0, trainings.log(folder)
    log = trainings.log(folder)
    assert log.count("compares epochs by what it has of it") == 1 and "acc=" not in log and "=nan" not in log
    assert (folder / "images/loss.png").is_file() and not (folder / "images/acc.png").exists()
    assert not (folder / "valid.acc.best.pth").exists()


@pytest.mark.slow
def test_a_criterion_without_numbers_ends_the_training_before_its_first_step(trainings, tmp_path):
    folder = tmp_path / "refused"
    assert trainings.run(folder, "--best_model_criterion", "valid,acc,max") == 1
    log = trainings.log(folder)
    assert "ERROR: best_model_criterion is [valid, acc, max], but valid acc is never a number" in log
    assert "Traceback" not in log and "epoch started" not in log
