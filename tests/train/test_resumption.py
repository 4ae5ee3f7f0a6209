"""A folder with checkpoints is only gone on in with the model and optimiser that are in them."""

import argparse
import contextlib
import logging

import pytest
import torch
import yaml

from espnet_larm.files.checkpoint import CHECKPOINT

TOKENS = ["<blank>", "<unk>", "A", "B", "<sos/eos>"]
CONFIG = {
    "token_list": TOKENS,
    "token_type": "char",
    "decoder": None,
    "encoder": "larm",
    "encoder_conf": {"num_loops": 4, "checkpoint_period": 4},
    "model_conf": {"ctc_weight": 1.0},
    "frontend_conf": {"fs": "16k"},
    "optim": "adam",
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 10},
    "max_epoch": 3,
}


@pytest.fixture
def parse(larm_task, tmp_path):
    """Options of a training of CONFIG with changes."""

    def parse(changes, *more):
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, **changes}))
        options = ["--config", str(path), "--output_dir", str(tmp_path), "--resume", "true", *more]
        args = larm_task.get_parser().parse_args(options)
        # ESPnet does so before it writes config.yaml.
        args.token_list = list(args.token_list)
        return args

    return parse


@pytest.fixture
def check(parse, tmp_path):
    """Checks a training against one before, in a folder with a checkpoint."""
    from espnet_larm.train.resumption import check_same_training

    def check(changes, *more, old=None, checkpoint=CHECKPOINT):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(parse(old or {}))))
        (tmp_path / checkpoint).parent.mkdir(exist_ok=True)
        (tmp_path / checkpoint).touch()
        check_same_training(parse(changes, *more))

    return check


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_conf": {"num_loops": 8, "checkpoint_period": 4}}, "encoder_conf: num_loops was 4, is 8"),
        ({"encoder": "transformer", "encoder_conf": {}}, "encoder was 'larm', is 'transformer'\n"),
        ({"frontend_conf": {"fs": "8k"}}, "frontend_conf: fs was '16k', is '8k'"),
        ({"frontend_conf": {"fs": "8000"}}, "frontend_conf: fs was '16k', is '8000'"),
        ({"normalize": None}, "normalize was 'utterance_mvn', is None"),
        ({"decoder": "transformer"}, "decoder was None, is 'transformer'"),
        ({"model_conf": {"ctc_weight": 0.5}}, "model_conf: ctc_weight was 1.0, is 0.5"),
        ({"ctc_conf": {"dropout_rate": 0.5}}, "ctc_conf: dropout_rate was 0.0, is 0.5"),
        ({"token_list": [*TOKENS[:3], "C", TOKENS[4]]}, "token_list differs from value 4 on: was 'B', is 'C'"),
        ({"token_list": TOKENS[:4]}, "token_list had 5 values, has 4"),
        ({"token_type": "word"}, "token_type was 'char', is 'word'"),
        ({"optim": "sgd"}, "optim was 'adam', is 'sgd'"),
        ({"optim_conf": {"lr": 0.1}}, "optim_conf: lr was 0.001, is 0.1"),
        ({"scheduler": "noamlr"}, "scheduler was 'warmuplr', is 'noamlr'"),
        ({"init": "chainer"}, "init was None, is 'chainer'"),
        ({"freeze_param": ["encoder"]}, r"freeze_param had 0 values, has 1"),
        ({"exclude_weight_decay": True}, "exclude_weight_decay was False, is True"),
        (
            {"exclude_weight_decay_conf": {"bias_weight_decay": True}},
            "exclude_weight_decay_conf: bias_weight_decay was not set, is True",
        ),
        ({"cleaner": "tacotron"}, "cleaner was None, is 'tacotron'"),
        ({"g2p": "g2p_en"}, "g2p was None, is 'g2p_en'"),
        ({"non_linguistic_symbols": "symbols.txt"}, "non_linguistic_symbols was None, is 'symbols.txt'"),
    ],
)
def test_another_model_or_optimiser_is_refused_with_both_values(check, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        check(changes)
    assert str(tmp_path) in str(refused.value) and "--asr_tag" in str(refused.value)


def test_every_difference_is_named_at_once(check):
    with pytest.raises(
        ValueError, match=r"num_loops was 4, is 8\n  encoder_conf: clock was True, is False\n  optim was"
    ):
        check({"encoder_conf": {"num_loops": 8, "checkpoint_period": 4, "clock": False}, "optim": "sgd"})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "max_epoch": 9, "num_workers": 3, "log_interval": 7, "batch_size": 3, "batch_bins": 99, "accum_grad": 2,
            "keep_nbest_models": 5, "patience": 3, "seed": 5, "use_amp": True, "specaug": "specaug",
        },
        {"encoder_conf": {"num_loops": 4, "checkpoint_period": 4, "clock": True}},
        {"encoder_conf": {"num_loops": 4, "checkpoint_period": 4, "activation_checkpointing": True}},
        {"model_conf": {"ctc_weight": 1.0, "report_wer": False, "report_cer": False}},
        {"model_conf": {"ctc_weight": 1.0, "extract_feats_in_collect_stats": False}},
        {"optim_conf": {"lr": 0.001, "betas": [0.9, 0.999]}},
        {"frontend_conf": {"fs": 16000}},
        {"frontend_conf": {"fs": "16000"}},
    ],
    ids=[
        "nothing", "how to train", "a default spelt out", "what changes no result", "what is reported",
        "how statistics are made", "defaults of the optimiser spelt out", "another spelling", "a quoted number",
    ],
)  # fmt: skip
def test_what_may_change_is_not_refused(check, changes):
    check(changes)


def test_a_tuple_that_is_a_default_may_be_spelt_out_as_a_list(check):
    rnn = {"encoder": "rnn", "encoder_conf": {}}
    check({"encoder": "rnn", "encoder_conf": {"subsample": [2, 2, 1, 1]}}, old=rnn)
    with pytest.raises(ValueError, match="encoder_conf: subsample differs from value 1 on: was 2, is 1"):
        check({"encoder": "rnn", "encoder_conf": {"subsample": [1, 1, 1, 1]}}, old=rnn)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheduler_conf": {"warmup_steps": 20}}, "scheduler_conf: warmup_steps was 10, is 20"),
        ({"init_param": ["other.pth"]}, "init_param had 0 values, has 1"),
    ],
)
def test_options_without_effect_are_named(check, caplog, changes, said):
    with caplog.at_level(logging.WARNING):
        check(changes)
    assert said in caplog.text and "without effect" in caplog.text


def test_files_are_compared_by_content(check, tmp_path):
    for name, content in (("a.model", "one"), ("b.model", "one"), ("c.model", "two")):
        (tmp_path / name).write_text(content)
    old = {"bpemodel": str(tmp_path / "a.model")}
    check({"bpemodel": str(tmp_path / "b.model")}, old=old)
    # A recipe that was moved.
    check({"bpemodel": str(tmp_path / "b.model")}, old={"bpemodel": "/elsewhere/a.model"})
    with pytest.raises(ValueError, match=r"bpemodel was '.*a.model', is '.*c.model'"):
        check({"bpemodel": str(tmp_path / "c.model")}, old=old)


def test_a_checkpoint_that_was_not_yet_published_counts(check):
    with pytest.raises(ValueError, match="optim was"):
        check({"optim": "sgd"}, checkpoint=f".staging/{CHECKPOINT}")


def test_only_a_training_that_resumes_is_compared(check, tmp_path):
    check({"optim": "sgd"}, checkpoint="other")
    check({"optim": "sgd"}, "--resume", "false")


@pytest.mark.parametrize("config", [None, "", "optim: adam\nencoder_conf: {", "optim: adam\nencoder: larm\n", b"\xff"])
def test_a_missing_or_damaged_configuration_is_refused(parse, tmp_path, config):
    from espnet_larm.train.resumption import check_same_training

    (tmp_path / CHECKPOINT).touch()
    if config is not None:
        (tmp_path / "config.yaml").write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(ValueError, match=r"holds checkpoints, but config.yaml is missing or damaged"):
        check_same_training(parse({}))


def test_epochs_without_their_checkpoint_are_not_overwritten(parse, tmp_path):
    from espnet_larm.train.resumption import check_same_training

    for epoch in (8, 9):
        (tmp_path / f"{epoch}epoch.pth").touch()
    with pytest.raises(ValueError, match=r"holds 8epoch.pth, 9epoch.pth, but no checkpoint.pth .* --init_param .*/9e"):
        check_same_training(parse({}))
    check_same_training(parse({}, "--resume", "false"))


@pytest.mark.slow
def test_a_training_with_nothing_left_to_do_changes_no_record(trainings, tmp_path):
    folder = tmp_path / "run"
    assert trainings.run(folder, "--max_epoch", "1", "--seed", "3") == 0, trainings.log(folder)
    before = (folder / "config.yaml").read_text()
    assert yaml.safe_load(before)["output_dir"] == str(folder)
    assert trainings.run(folder, "--max_epoch", "1", "--seed", "4", "--batch_size", "1") == 0, trainings.log(folder)
    assert (folder / "config.yaml").read_text() == before
    assert trainings.run(folder, "--max_epoch", "2", "--seed", "4") == 0, trainings.log(folder)
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 4


@pytest.mark.slow
def test_a_run_that_trains_nothing_changes_no_record(trainings, tmp_path):
    folder = tmp_path / "run"
    assert trainings.run(folder, "--dry_run", "true", "--seed", "2") == 0, trainings.log(folder)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]
    record = yaml.safe_load((folder / "config.yaml").read_text())
    assert (record["seed"], record["output_dir"]) == (2, str(folder))
    assert trainings.run(folder, "--max_epoch", "1", "--seed", "3") == 0, trainings.log(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert trainings.run(folder, "--dry_run", "true", "--seed", "4") == 0, trainings.log(folder)
    assert trainings.run(folder, "--collect_stats", "true") == 1
    assert f"would overwrite config.yaml of the training in {folder}; name another" in trainings.log(folder)
    assert "Traceback" not in trainings.log(folder)
    assert trainings.run(folder, "--print_config") == 0, trainings.log(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"encoder.weight": torch.zeros(1)}, "is no checkpoint of a training: it lacks model, reporter"),
        ([torch.zeros(1)], "is no checkpoint of a training"),
        (
            {"model": {}, "reporter": {"epoch": 1, "stats": {}}, "optimizers": []},
            "is not a checkpoint of this training",
        ),
    ],
)
def test_a_checkpoint_of_another_kind_ends_with_a_sentence(trainings, undisturbed, tmp_path, states, said):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((undisturbed / "config.yaml").read_bytes())
    torch.save(states, folder / CHECKPOINT)
    assert trainings.run(folder) == 1
    assert said in trainings.log(folder) and "Traceback" not in trainings.log(folder)


def test_the_files_of_wandb_and_the_record_of_a_training_do_not_meet(larm_task, parse, tmp_path):
    from espnet_larm.train.record import put_config_aside

    args = parse({}, "--use_wandb", "true")
    put_config_aside(args)
    assert args.output_dir == str(tmp_path / "wandb")
    (tmp_path / "wandb/wandb/run-1").mkdir(parents=True)
    (tmp_path / "wandb/config.yaml").write_text("half")
    options = larm_task.trainer.build_options(args)
    assert options.output_dir == args.output_dir == str(tmp_path)
    assert (tmp_path / "wandb/wandb/run-1").is_dir() and not (tmp_path / "wandb/config.yaml").exists()


def test_wandb_that_is_not_installed_is_refused_with_the_pip_line(parse, monkeypatch):
    from espnet_larm.train import record

    monkeypatch.setattr(record.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="wandb is not installed; pip install wandb"):
        record.check_record(parse({}, "--use_wandb", "true"))
    record.check_record(parse({}))


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_training_with_another_model_ends_before_anything_is_written(trainings, tmp_path, num_processes):
    folder = tmp_path / "run"
    assert trainings.run(folder, "--max_epoch", "1", num_processes=num_processes) == 0, trainings.log(folder)
    before = (folder / "config.yaml").read_text(), (folder / CHECKPOINT).read_bytes()
    options = ["--max_epoch", "2", "--encoder_conf", "linear_units=24"]
    assert trainings.run(folder, *options, num_processes=num_processes) == 1
    assert "encoder_conf: linear_units was 16, is 24" in trainings.log(folder)
    assert "Traceback" not in trainings.log(folder)
    assert ((folder / "config.yaml").read_text(), (folder / CHECKPOINT).read_bytes()) == before
    assert trainings.run(folder, "--max_epoch", "2", num_processes=num_processes) == 0, trainings.log(folder)


@pytest.fixture
def moved(build_speech_llm, larm_task, tmp_path):
    """Options and model of a training that goes on with its LM in another folder, or with another LM."""

    def moved(other=None, conf=None, **changes):
        conf = {"resume": True, **(conf or {})}
        model = build_speech_llm(**conf)
        args = argparse.Namespace(**vars(model.args))
        larm_task.build_optimizers(args, model)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(model.args)))
        torch.save({"model": model.state_dict(), "reporter": {}}, tmp_path / CHECKPOINT)
        if other is None:
            (tmp_path / "llm").rename(tmp_path / "moved")
        folder = other or str(tmp_path / "moved")
        conf["decoder_conf"] = {**conf.get("decoder_conf", {}), "llm": folder, **changes}
        resumed = build_speech_llm(**conf)
        larm_task.build_optimizers(resumed.args, resumed)

    return moved


@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": True}])
def test_an_lm_that_was_moved_goes_on_also_with_activation_checkpointing(moved, changes):
    moved(**changes)


def test_another_lm_is_refused_before_anything_is_written(moved, save_lm, tmp_path):
    other = save_lm(tmp_path / "other", initializer_range=0.4)
    with pytest.raises(ValueError, match=r"--resume true: .* their weights differ \(SHA-256 .*, the checkpoint's"):
        moved(other)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_lm_that_learns_as_a_whole_may_be_another_unless_it_is_drawn_to_it(moved, save_lm, tmp_path, weight):
    other = save_lm(tmp_path / "other", initializer_range=0.4)
    (tmp_path / "lines.txt").write_text("A B\n")
    kl = {"text_kl_weight": weight, "text_kl_text": str(tmp_path / "lines.txt")}
    refused = pytest.raises(ValueError, match=r"--resume true: .* their weights differ")
    with refused if weight else contextlib.nullcontext():
        moved(other, {"decoder_conf": {"adaptation": "full"}, "model_conf": kl})


def test_an_lm_with_another_tokenizer_is_refused(moved, save_lm, tmp_path):
    other = save_lm(tmp_path / "other")
    tokenizer = tmp_path / "other/tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("WhitespaceSplit", "Whitespace"))
    with pytest.raises(ValueError, match="decoder_conf: llm was .*/llm', is .*/other'"):
        moved(other)
