"""What a user gets wrong in a YAML or on the command line ends in one sentence that names the option."""

import argparse
import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm import registry
from espnet_larm.registry import Plugin

TOKENS = ["<blank>", "<unk>", "A", "B", "C", "<space>", "<sos/eos>"]
CONFIG = {
    "token_list": TOKENS,
    "token_type": "char",
    "decoder": None,
    "encoder": "larm",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "num_loops": 4,
        "checkpoint_period": 4,
        "subsampling_channels": 4,
    },
    "model_conf": {"ctc_weight": 1.0},
    "optim": "adam",
}


@pytest.fixture
def options(tmp_path):
    """Writes CONFIG with changes; the options of a training with it."""

    def options(*more, **changes):
        encoder_conf = changes.pop("encoder_conf", {})
        if isinstance(encoder_conf, dict):
            encoder_conf = {**CONFIG["encoder_conf"], **encoder_conf}
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, "encoder_conf": encoder_conf, **changes}))
        return ["--config", str(path), "--output_dir", str(tmp_path / "exp"), "--ngpu", "0", *more]

    return options


@pytest.fixture
def build(larm_task, options):
    """Builds model and optimiser as a training does."""

    from espnet_larm.train.refusals import without_nulls

    def build(*more, **changes):
        args = without_nulls(larm_task.get_parser().parse_args(options(*more, **changes)))
        model = larm_task.build_model(args)
        optimizers = larm_task.build_optimizers(args, model)
        larm_task.build_preprocess_fn(args, train=True)
        return model, optimizers

    return build


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"^normalize is utterance_mvn, the mean of a whole utterance, .*: global_mvn with stats_file, or null\.$"),
        (
            {"frontend": "affinity_pooling", "frontend_conf": {}, "normalize": None},
            r"^frontend is affinity_pooling, which may read the whole utterance, .*: null, default, sliding_window\.$",
        ),
        ({"preencoder": "sinc", "normalize": None, "input_size": 20}, r"^preencoder is sinc, .*: null, linear\.$"),
    ],
)
def test_parts_that_see_the_future_are_refused_around_a_streaming_encoder(changes, message):
    from espnet_larm.streaming.context import Contexts
    from espnet_larm.train.checks.streaming import check_streaming

    class Model(torch.nn.Module):
        def __init__(self, contexts):
            super().__init__()
            self.encoder = argparse.Namespace(contexts=contexts)

    args = argparse.Namespace(**{"normalize": "utterance_mvn", "frontend": "default", **changes})
    with pytest.raises(ValueError, match=message):
        check_streaming(args, Model(Contexts()))
    check_streaming(args, Model(None))
    check_streaming(argparse.Namespace(normalize="global_mvn", frontend="default", preencoder=None), Model(Contexts()))


def test_a_training_for_streaming_needs_another_normalisation_than_espnets_default(build):
    streaming = {"streaming": {"chunk_frames": [4], "left_chunks": [1]}}
    with pytest.raises(ValueError, match=r"^normalize is utterance_mvn"):
        build(encoder_conf=streaming)
    build(encoder_conf=streaming, normalize=None)


def test_options_of_a_wrapped_front_end_have_a_place_of_their_own(build):
    usual = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160}
    with pytest.raises(
        ValueError,
        match=r"hop_length.* are not options .* go into frontend_conf: frontend_conf:\.$",
    ):
        build("--frontend", "affinity_pooling", frontend_conf=usual)


def test_a_wrapped_front_end_without_its_package_is_refused_with_the_pip_line(build, monkeypatch):
    from espnet_larm.train.refusals import OptionError

    monkeypatch.setitem(sys.modules, "s3prl", None)
    with pytest.raises(OptionError, match=r"^frontend_conf: frontend: s3prl needs a package .*: pip install s3prl$"):
        build("--frontend", "affinity_pooling", frontend_conf={"frontend": "s3prl", "min_frames_per_second": 0.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder_conf": {"dropout_rat": 0.1, "num_lops": 3, "zzz": 1}},
            r"dropout_rat \(did you mean dropout_rate\?\), num_lops \(did you mean num_loops\?\), zzz are not",
        ),
        ({"optim_conf": {"wieght_decay": 0.1}}, r"^optim_conf: wieght_decay .* of optim: adam\. Did you mean weight_"),
        ({"ctc_conf": {"zero_infinty": True}}, r"^ctc_conf: zero_infinty is not an option of ctc\. Did you mean zero"),
        (
            {"scheduler": "warmuplr", "scheduler_conf": {"warm_up": 3}},
            r"warm_up is not an option of scheduler: warmuplr\. Did you mean warmup_steps",
        ),
        ({"model_conf": {"lsm_wait": 0.1}}, r"lsm_wait is not an option of model: espnet\. Did you mean lsm_weight"),
    ],
)
def test_unknown_keys_of_any_section_are_named_at_once_with_the_nearest(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epoch": -30}, r"^ERROR: max_epoch is -30; allowed: a whole number, 1 to 1000000\.$"),
        ({"patience": 2.5}, r"patience is 2\.5; allowed: a whole number, 0 or more"),
        (
            {"keep_nbest_models": [3, 0]},
            r"keep_nbest_models is \[3, 0\]; allowed: a list of: a whole number, 1",
        ),
        ({"valid_batch_bins": 0}, r"valid_batch_bins is 0"),
        ({"seed": 2**40}, r"seed is 1099511627776; allowed: a whole number, 0 to 4294967295"),
        ({"train_dtype": "half"}, r"train_dtype is 'half'; allowed: float16, float32, float64"),
        ({"sort_batch": "upwards"}, r"sort_batch is 'upwards'; allowed: descending, ascending"),
        ({"use_amp": [True]}, r"use_amp is \[True\]; allowed: true or false"),
        ({"early_stopping_criterion": ["valid", "loss"]}, r"early_stopping_criterion .*; allowed: 3 of: a text"),
        (
            {"best_model_criterion": ["valid", "loss", "min"]},
            r"best_model_.*; allowed: a list of: three words",
        ),
        ({"grad_clip": float("nan")}, r"grad_clip is nan; allowed: a number"),
        ({"encoder_conf": {"dropout_rate": float("nan")}}, r"encoder_conf: dropout_rate is nan; allowed: a number"),
        ({"ctc_conf": {"dropout_rate": -0.1}}, r"ctc_conf: dropout_rate is -0\.1; allowed: 0 to 1"),
        ({"chunk_length": "300-"}, r"chunk_length is '300-'; allowed: 500, 300-400 or"),
        ({"noise_db_range": "13_15_17"}, r"noise_db_range is '13_15_17'; allowed: 13 or 13_15"),
        ({"speech_volume_normalize": 0.0}, r"speech_volume_normalize is 0\.0; allowed: a number, above 0"),
        ({"rir_scp": "gone.scp", "valid_shape_file": ["gone"]}, r"rir_scp: gone.scp, valid_shape_file: gone: no such"),
        ({"train_shape_file": ["/"], "fold_length": [1, 2]}, r"fold_length has 2 numbers .* 1 train_shape_file"),
        (
            {"preencoder": "linear", "preencoder_conf": {"input_size": 80}},
            r"linear needs output_size; set it",
        ),
        ({"frontend_conf": {"hop_length": -1}}, r"frontend: default cannot be made of hop_length: -1"),
        (
            {"specaug": "specaug", "specaug_conf": {"time_mask_width_range": [9, 3]}},
            r"width_range\[1\] > .*width_ra",
        ),
        ({"token_list": "to\0kens"}, r"^ERROR: token_list is 'to\\x00kens'; allowed: a text without null bytes"),
        ({"fold_length": 800}, r"fold_length is 800; allowed: a list of: a whole number, 1 or more"),
        ({"use_adapter": True}, r"use_adapter is true, but loralib is not installed; pip install"),
    ],
)
def test_wrong_values_of_espnets_own_options_end_the_training_before_it_begins(
    larm_task, options, monkeypatch, changes, message
):
    monkeypatch.setitem(sys.modules, "loralib", None)
    with pytest.raises(SystemExit, match=message):
        larm_task.main(cmd=options(**changes))


def test_statistics_for_folded_batches_need_no_fold_length(larm_task, tmp_path):
    from espnet_larm.train.checks.top_level import check_top_level

    (tmp_path / "keys").write_text("u1 1\n")
    parser = larm_task.get_parser()
    options = ["--output_dir", "x", "--batch_type", "folded", "--train_shape_file", str(tmp_path / "keys")]
    check_top_level(parser.parse_args([*options, "--collect_stats", "true"]), parser)
    with pytest.raises(ValueError, match="fold_length has 0 numbers"):
        check_top_level(parser.parse_args(options), parser)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"optim: adam\n\tmax_epoch: 3\n", r"is no YAML of options in UTF-8: .*a tab character"),
        ("optim: adam".encode("utf-16-be"), r"is no YAML of options in UTF-8: "),
        (b"optim: !!python/name:os.system\n", r"could not determine a constructor"),
        (b"max_epoch: 2020-13-01\n", r"month must be in 1\.\.12"),
        (b"optim:adam\n", r"holds a str where options should be; write a line `name: value`"),
        (b"# nothing\n", r"holds nothing where options"),
        (b"optm: adam\nencodr: larm\nzzz: 1\n", r"optm \(did you mean optim\?\), encodr .*\), zzz: no option of this"),
    ],
)
def test_a_file_of_options_that_is_none_is_said(larm_task, tmp_path, capsys, content, message):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(SystemExit):
        larm_task.main(cmd=[f"--config={tmp_path}/odd.yaml", "--output_dir", str(tmp_path / "exp")])
    assert re.search(rf"error: --config .*odd\.yaml.* ?{message}", capsys.readouterr().err)
    with pytest.raises(SystemExit):
        larm_task.main(cmd=["--config", str(tmp_path)])
    assert "a folder" in capsys.readouterr().err


def test_a_section_that_is_no_yaml_is_said(larm_task, capsys):
    with pytest.raises(SystemExit):
        larm_task.main(cmd=["--encoder_conf", "\x07num_loops"])
    assert "error: a section is no YAML: unacceptable character" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "option", "package"),
    [
        ({"decoder": "transducer", "model_conf": {"ctc_weight": 0.3}}, "decoder: transducer", "warprnnt_pytorch"),
        ({"ctc_conf": {"ctc_type": "gtnctc"}}, "ctc_conf: ctc_type: gtnctc", "gtn"),
        ({"encoder": "longformer", "encoder_conf": {}}, "encoder: longformer", "longformer"),
    ],
)
def test_a_part_of_espnet_without_its_package_is_a_sentence_with_the_option(
    larm_task, options, monkeypatch, changes, option, package
):
    monkeypatch.setitem(CONFIG, "encoder_conf", {} if "encoder" in changes else CONFIG["encoder_conf"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match=rf"^ERROR: {option}.*{package}"):
        larm_task.main(cmd=options(**changes))


def test_null_options_are_no_options(build):
    # An empty list of options under its name is null in YAML.
    model, optimizers = build(
        frontend_conf=None, ctc_conf=None, specaug_conf=None, optim_conf=None, scheduler_conf=None
    )
    assert model.frontend.hop_length == 128 and optimizers[0].param_groups[0]["lr"] == 0.001


def test_null_encoder_conf_takes_the_encoders_own_values(larm_task, options):
    from espnet_larm.train.refusals import without_nulls

    given = larm_task.get_parser().parse_args(options(encoder_conf=None, encoder="rnn"))
    args = without_nulls(given)
    larm_task.build_model(args)
    assert args.encoder_conf == {} and given.encoder_conf is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheduler": "warmuplrs"}, r"^scheduler: warmuplrs is not known\. Did you mean warmuplr"),
        ({"scheduler": 3}, r"^scheduler is 3; allowed: the name of a class"),
        ({"optim": "adamm"}, r"^optim: adamm is not known\. Did you mean adam"),
        ({"optim": None}, r"^optim is null; allowed: "),
        ({"model": None}, r"^model is null; allowed: espnet"),
        ({"scheduler": "steplr"}, r"^scheduler_conf: scheduler: steplr needs step_size; set it\.$"),
        ({"scheduler": "cycliclr"}, r"needs base_lr, max_lr; set them\.$"),
        ({"scheduler": "warmuplr", "scheduler_conf": {"warmup_steps": "many"}}, r"warmup_steps is 'many'; allowed: "),
        ({"scheduler": "steplr", "scheduler_conf": {"step_size": 0}}, r"^scheduler: steplr cannot be made of step_siz"),
        ({"scheduler": "exponentiallr", "scheduler_conf": {"gamma": "x"}}, r"^scheduler_conf: gamma is 'x'|gamma: 'x'"),
        (
            {"scheduler": "exponentiallr", "scheduler_conf": {"gamma": float("nan")}},
            r"^scheduler_conf: exponentiallr with gamma: nan gives a learning rate of nan after 1 steps; allowed: num",
        ),
        ({"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": 1.0}}, r"^scheduler: onecyclelr: You must define"),
        ({"scheduler": "lambdalr", "scheduler_conf": {"lr_lambda": "x"}}, r"^scheduler: lambdalr cannot be made of"),
        ({"optim_conf": {"lr": float("inf")}}, r"^optim_conf: a step of adam with lr: inf ends at infinity; choose"),
        ({"optim_conf": {"betas": 3}}, r"^optim_conf: betas is 3; allowed: tuple"),
        ({"optim": "lbfgs"}, r"^optim: lbfgs computes the loss several times a step"),
        ({"init": "xavier"}, r"^init: xavier: Unknown initialization"),
        ({"encoder_conf": {"input_size": 80}}, r"^encoder_conf: input_size is filled by ESPnet itself; leave it out"),
        ({"preprocessor_conf": {"noise_scp": "x"}}, r"noise_scp is filled by .* an option of its own, outside"),
        ({"preprocessor_conf": {"data_aug_effects": "x"}}, r"^preprocessor: default cannot be made of data_aug_eff"),
        ({"preprocessor_conf": {"delimiter": [1]}}, r"^preprocessor_conf: delimiter is \[1\]; allowed: "),
        (
            {"preprocessor_conf": {"use_lang_promt": True, "zz": 1}},
            r"use_lang_promt \(did you mean use_lang_prompt\?\)",
        ),
    ],
)
def test_wrong_values_beside_the_model_are_named_before_training(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_a_trial_leaves_the_optimiser_as_it_is(build):
    _, (optimizer,) = build(scheduler="onecyclelr", scheduler_conf={"max_lr": 0.1, "total_steps": 10})
    assert optimizer.state_dict()["state"] == {} and "initial_lr" not in optimizer.param_groups[0]
    assert optimizer.param_groups[0]["lr"] == 0.001


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_conf": {"num_loops": "6"}}, "encoder_conf: num_loops is '6'; allowed: int."),
        ({"encoder_conf": {"dropout_rate": [0.1]}}, "encoder_conf: dropout_rate is \\[0.1\\]; allowed: float."),
        ({"encoder_conf": {"feedback_top_k": "all"}}, "feedback_top_k is 'all'; allowed: int | None."),
        ({"model_conf": {"ctc_weight": "one"}}, "model_conf: ctc_weight is 'one'; allowed: float."),
        (
            {"model_conf": {"interctc_weight": 1.5, "ctc_weight": 1.0}},
            "interctc_weight is 1.5; .*0.0 <= interctc_weigh",
        ),
        ({"encoder_conf": [1]}, "encoder_conf is \\[1\\]; allowed: options, a line `name: value` each"),
        ({"optim_conf": {"lr": "1e-3"}}, "optim_conf: lr is '1e-3', which YAML reads as text; .* 1.0e-3"),
        (
            {
                "optim_conf": {"betas": [0.9, 0.98]},
                "scheduler": "piecewiselinearwarmuplr",
                "scheduler_conf": {"warmup_steps_list": [0, 10], "warmup_lr_list": [0.0, "1e-3"]},
            },
            "scheduler_conf: warmup_lr_list has '1e-3', which YAML reads as text",
        ),
    ],
)
def test_values_of_the_wrong_kind_are_named(build, changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_parameters_that_the_model_does_not_have_are_refused(build, tmp_path):
    torch.save({"module.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="--init_param .*/other.pth would change no parameter"):
        build("--init_param", str(tmp_path / "other.pth"), "--ignore_init_mismatch", "true")


def test_weights_of_a_part_that_the_model_lacks_are_refused_with_what_to_leave_out(build, tmp_path):
    model, _ = build()
    states = {**model.state_dict(), "encoder.more.a.weight": torch.zeros(1), "encoder.more.a.bias": torch.zeros(1)}
    torch.save(states, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="the model has no encoder.more.a.weight.*leave them out: .*other.pth:::encod"):
        build("--init_param", str(tmp_path / "other.pth"))
    build("--init_param", f"{tmp_path / 'other.pth'}:::encoder.more.a")


def test_a_wrong_option_ends_the_program_with_one_sentence(larm_task, options, tmp_path):
    with pytest.raises(SystemExit) as stop:
        larm_task.main(cmd=options(encoder_conf={"num_loops": "6"}))
    assert stop.value.code == "ERROR: encoder_conf: num_loops is '6'; allowed: int."
    assert not (tmp_path / "exp").exists()


def test_a_bug_keeps_its_traceback(larm_task, options, monkeypatch):
    from espnet_larm.looped.encoder import LarmEncoder

    def fail(self):
        assert self.num_loops == 5

    monkeypatch.setattr(LarmEncoder, "output_size", fail)
    with pytest.raises(AssertionError):
        larm_task.main(cmd=options())


@pytest.mark.parametrize(
    "bug",
    [lambda _: int("x"), lambda _: Path("a").relative_to("b"), lambda _: importlib.import_module("no_such_module")],
)
def test_an_error_that_no_check_made_keeps_its_traceback(larm_task, options, monkeypatch, bug):
    from espnet_larm.looped.encoder import LarmEncoder

    monkeypatch.setattr(LarmEncoder, "output_size", bug)
    with pytest.raises((ValueError, ImportError)):
        larm_task.main(cmd=options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "rnn", "encoder_conf": {"rnn_type": "x"}}, "Not supported rnn_type=x"),
        ({"optim_conf": {"lr": -1.0}}, "Invalid learning rate: -1.0"),
        ({"token_list": "/no/tokens.txt"}, "No such file or directory: '/no/tokens.txt'"),
    ],
    ids=["ESPnet", "torch's optimiser", "the system"],
)
def test_what_others_refuse_is_a_sentence(larm_task, options, monkeypatch, changes, message):
    monkeypatch.setitem(CONFIG, "encoder_conf", {} if "encoder" in changes else CONFIG["encoder_conf"])
    with pytest.raises(SystemExit, match=f"^ERROR: .*{message}$"):
        larm_task.main(cmd=options(**changes))


PLUGIN = """
from espnet2.asr.encoder.rnn_encoder import RNNEncoder


class Theirs(RNNEncoder):
    def __init__(self, input_size: int, factor: int = 4) -> None:
        if factor < 1:
            raise ValueError(f"encoder_conf: factor is {factor}; allowed: 1 or more.")
        super().__init__(input_size, num_layers=int("x"))
"""


def test_what_another_package_checks_is_a_sentence_and_its_bug_is_none(
    larm_task, options, monkeypatch, tmp_path, encoder_choices
):
    (tmp_path / "their_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PLUGINS", (*registry.PLUGINS, Plugin("encoder", "theirs", "their_plugin:Theirs")))
    monkeypatch.setitem(CONFIG, "encoder_conf", {})
    registry.register()
    with pytest.raises(SystemExit, match="factor is 0; allowed: 1 or more"):
        larm_task.main(cmd=options(encoder="theirs", encoder_conf={"factor": 0}))
    with pytest.raises(ValueError, match="invalid literal for int"):
        larm_task.main(cmd=options(encoder="theirs"))


@pytest.mark.parametrize(("amp", "dtype"), [("bfloat16", "float16"), ("float16", "bfloat16")])
def test_an_lm_in_another_half_type_than_autocast_is_refused(monkeypatch, amp, dtype):
    from espnet_larm.train import refusals

    monkeypatch.setattr(refusals, "autocast_args", {"dtype": getattr(torch, amp)})
    options = {"use_amp": True, "ngpu": 1, "decoder": "speech_llm", "decoder_conf": {"dtype": dtype}}
    with pytest.raises(ValueError, match=f"dtype is {dtype}, but use_amp computes in {amp} .* dtype: {amp} or float32"):
        refusals.check_half_types(argparse.Namespace(**options))
    for changes in ({"use_amp": False}, {"ngpu": 0}, {"decoder_conf": {"dtype": amp}}, {"decoder_conf": {}}):
        refusals.check_half_types(argparse.Namespace(**{**options, **changes}))


def test_gpus_that_are_not_there_are_refused(larm_task, options, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SystemExit, match=r"--ngpu is 2, but torch sees 0 GPUs.* --ngpu 0 trains on the CPU"):
        larm_task.main(cmd=options("--ngpu", "2"))


def test_one_of_several_processes_that_ended_gives_its_status_without_a_traceback(larm_task, monkeypatch, options):
    from torch.multiprocessing.spawn import ProcessExitedException

    def end(*_, **__):
        raise ProcessExitedException("process 0 ended", error_index=0, error_pid=1, exit_code=1)

    monkeypatch.setattr(larm_task.__base__, "main", end)
    with pytest.raises(SystemExit) as stop:
        larm_task.main(cmd=options())
    assert stop.value.code == 1


def test_what_fails_at_the_first_batch_alone_is_said_with_its_part(larm_task, build, options):
    from espnet_larm.train.refusals import OptionError, traced_to_first_batch

    conf = {"time_warp_window": 7, "apply_freq_mask": False, "apply_time_mask": False}
    changes = {"specaug": "specaug", "specaug_conf": conf}
    model, _ = build(**changes)
    args = larm_task.get_parser().parse_args(options(**changes))
    sentence = r"^specaug: specaug fails at the first batch with .*time_warp_window: 7"
    with pytest.raises(OptionError, match=sentence), traced_to_first_batch(args):
        model.specaug(torch.zeros(3), None)
    # Later it is the data's fault, or ours.
    with pytest.raises(IndexError), traced_to_first_batch(args, lambda: False):
        model.specaug(torch.zeros(3), None)


def test_a_process_that_was_killed_is_said(larm_task, monkeypatch, options):
    from torch.multiprocessing.spawn import ProcessExitedException

    def end(args):
        args.dist_world_size = 2
        raise ProcessExitedException("process 0 ended", error_index=0, error_pid=1, exit_code=-9, signal_name="SIGKILL")

    monkeypatch.setattr(larm_task.__base__, "main", end)
    with pytest.raises(SystemExit, match=r"ERROR: rank 0 of 2 \(process 1\) was ended by SIGKILL.* command resumes"):
        larm_task.main(cmd=options())


CTC_TOKENS = ["<blank>", "<unk>", "a", "b", "<space>", "<sos/eos>"]


@pytest.fixture
def write(tmp_path):
    def write(name, tokens=CTC_TOKENS):
        (tmp_path / name).write_text("".join(f"{token}\n" for token in tokens))
        return {"ctc_token_list": str(tmp_path / name)}

    return write


def test_lists_of_one_size_with_other_tokens_are_refused(build_speech_llm, write):
    head, texts = write("head.txt"), write("texts.txt", [*CTC_TOKENS[:2], "b", "a", *CTC_TOKENS[4:]])
    with pytest.raises(ValueError, match=r"list is .*head.txt, but preprocessor_conf: .*texts.txt, which holds other"):
        build_speech_llm(model_conf=head, preprocessor="speech_llm", preprocessor_conf=texts)
    build_speech_llm(model_conf=head, preprocessor="speech_llm", preprocessor_conf=write("copy.txt"))


@pytest.fixture
def optimise(build_speech_llm, larm_task):
    """What training does with a model before its first step."""

    def optimise(**changes):
        model = build_speech_llm(token_type="hugging_face", **changes)
        larm_task.build_optimizers(model.args, model)

    return optimise


def test_another_tokenizer_for_the_texts_than_the_decoders_is_refused(optimise, save_lm, tmp_path):
    other = save_lm(tmp_path / "other", ["<unk>", "<s>", "</s>", "B", "A", "C", "D"])
    with pytest.raises(ValueError, match="bpemodel is .*/other, .* its tokens are not those of the decoder"):
        optimise(bpemodel=other)
    shutil.copytree(tmp_path / "llm", tmp_path / "copy")
    optimise(bpemodel=str(tmp_path / "copy"))


def test_a_revision_whose_tokens_are_not_the_newest_is_refused(optimise, save_lm, tmp_path, monkeypatch):
    from espnet_larm.llm import backbone

    llm, loaded = str(tmp_path / "llm"), backbone.load_tokenizer
    optimise(bpemodel=llm, decoder_conf={"revision": "r1"})
    newest = loaded(save_lm(tmp_path / "newest", ["<unk>", "<s>", "</s>", "B", "A", "C", "D"]))
    monkeypatch.setattr(backbone, "load_tokenizer", lambda *_: newest)
    with pytest.raises(ValueError, match="/llm, revision r1, tokenizer None.. Put the one that is meant into a folder"):
        optimise(bpemodel=llm, decoder_conf={"revision": "r1"})
    # Without a revision both are the newest.
    optimise(bpemodel=llm)
