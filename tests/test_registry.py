"""Plugins of ours and of other packages, from the table to a model that a YAML names."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml

from espnet_larm import registry
from espnet_larm.registry import Plugin

ROOT = Path(__file__).parents[1]
TINY = ROOT / "conf/tiny/train_larm.yaml"


@pytest.fixture
def token_list(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("<blank>\n<unk>\na\nb\n<sos/eos>\n")
    return path


@pytest.fixture
def arguments(tmp_path, token_list):
    return [
        *("--config", str(TINY), "--token_list", str(token_list), "--token_type", "char"),
        *("--output_dir", str(tmp_path / "exp"), "--dry_run", "true"),
    ]


def register_also(monkeypatch, *added):
    monkeypatch.setattr(registry, "PLUGINS", (*registry.PLUGINS, *added))
    registry.register()


def entry_point(name, value="average_encoder:AverageEncoder"):
    return EntryPoint(name, value, registry.ENTRY_POINT_GROUP)


def test_every_plugin_of_ours_is_in_espnets_table(larm_task):
    tables = {choices.name: choices.classes for choices in larm_task.class_choices_list}
    assert all(tables[plugin.kind][plugin.name] is registry.load(plugin) for plugin in registry.PLUGINS)


def test_registering_again_changes_nothing(encoder_choices):
    before = dict(encoder_choices)
    registry.register()
    assert encoder_choices == before


def test_tiny_yaml_builds_a_model(larm_task, arguments):
    model = larm_task.build_model(larm_task.get_parser().parse_args(arguments))
    assert type(model.encoder).__name__ == "LarmEncoder"


def test_unknown_name_is_refused_with_the_nearest(larm_task, arguments):
    args = larm_task.get_parser().parse_args([*arguments, "--encoder", "lram"])
    with pytest.raises(ValueError, match=r"encoder: lram is not known. Did you mean larm\? Allowed: .*conformer"):
        larm_task.build_model(args)


def test_unknown_key_of_our_encoder_is_refused_with_the_nearest(larm_task, arguments):
    args = larm_task.get_parser().parse_args([*arguments, "--encoder_conf", "num_loop=3"])
    message = r"encoder_conf: num_loop is not an option of encoder: larm. Did you mean num_loops.*Allowed: .*skip"
    with pytest.raises(ValueError, match=message):
        larm_task.build_model(args)


def test_unknown_key_of_espnets_encoder_is_refused_with_the_nearest(larm_task):
    with pytest.raises(ValueError, match=r"num_block is not an option of encoder: conformer. Did you mean num_blocks"):
        registry.check_conf("encoder", "conformer", {"num_block": 3})


RNN, FRONTEND, LARM = (
    "espnet2.asr.encoder.rnn_encoder:RNNEncoder",
    "espnet2.asr.frontend.default:DefaultFrontend",
    "espnet_larm.looped.encoder:LarmEncoder",
)


@pytest.mark.parametrize(
    ("name", "path", "error", "message"),
    [
        ("larm", RNN, ValueError, r"larm is espnet_larm.*LarmEncoder already; package other cannot make it .*RNNE"),
        ("conformer", RNN, ValueError, r"conformer is espnet2\..*ConformerEncoder already"),
        ("wrong", FRONTEND, TypeError, r"package other must be a subclass of .*AbsEncoder, but .*DefaultFrontend"),
        ("LARM", LARM, ValueError, "LARM of package other must be lower case"),
    ],
)
def test_a_plugin_that_cannot_be_registered_is_named(encoder_choices, monkeypatch, name, path, error, message):
    before = dict(encoder_choices)
    with pytest.raises(error, match=message):
        register_also(monkeypatch, Plugin("encoder", name, path, "other"))
    assert encoder_choices == before


def test_missing_class_names_its_package():
    missing = Plugin("encoder", "gone", "espnet_larm.looped.encoder:GoneEncoder", "other")
    with pytest.raises(ImportError, match=r"encoder: gone of package other cannot be imported .*GoneEncoder"):
        registry.load(missing)


@pytest.mark.parametrize("name", ["average", "encodr.average", "encoder."])
def test_entry_point_without_a_known_kind_is_refused(monkeypatch, name):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry_point(name)])
    with pytest.raises(ValueError, match=rf"Entry point '{name}' .* must be named <kind>.<name>, with kind one of"):
        registry.plugins()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make these modules importable and these entry points those of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(modules, **values):
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        entries = [entry_point(name.replace("__", "."), value) for name, value in values.items()]
        monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries)

    return put


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.nothing", "AttributeError: module 'sys' has no attribute 'nothing'"),
    ],
)
def test_plugin_whose_import_fails_in_any_way_is_named(larm_task, install, text, reason):
    install({"fails_at_import": text}, encoder__broken="fails_at_import:Encoder")
    with pytest.raises(ImportError, match=f"encoder: broken of package .* from fails_at_import:Encoder: {reason}"):
        registry.register()


def test_what_is_no_class_is_refused(larm_task, install):
    install({"has_a_function": "def encode(): pass"}, encoder__function="has_a_function:encode")
    with pytest.raises(
        TypeError, match=r"encoder: function of package .* must be a class, but .*:encode is a function"
    ):
        registry.register()


def test_class_that_leaves_methods_out_is_refused_with_their_names(larm_task, encoder_choices, install):
    text = "from espnet2.asr.encoder.abs_encoder import AbsEncoder\nclass Half(AbsEncoder):\n    forward = None\n"
    install({"half_an_encoder": text}, encoder__half="half_an_encoder:Half")
    with pytest.raises(TypeError, match=r"encoder: half of package .* must define output_size, but .*Half does not"):
        registry.register()
    assert "half" not in encoder_choices


def test_survey_names_every_broken_plugin_and_keeps_the_others(larm_task, encoder_choices, install):
    text = "from espnet_larm.looped.encoder import LarmEncoder\nclass Other(LarmEncoder): pass\n"
    install(
        {"has_an_encoder": text},
        **{"average": "x:Y", "encoder.gone": "nowhere:E", "encoder.larm": "has_an_encoder:Other"},
        **{"frontend.wrong": "has_an_encoder:Other", "encoder.sound": "has_an_encoder:Other"},
    )
    found = registry.survey()
    own = [f"{plugin.kind}.{plugin.name}" for plugin in registry.PLUGINS]
    assert [f"{plugin.kind}.{plugin.name}" for plugin in found.sound] == [*own, "encoder.sound"]
    assert [(broken.entry_point, broken.package) for broken in found.broken] == [
        ("average", "x:Y"),
        ("encoder.gone", "nowhere:E"),
        ("encoder.larm", "has_an_encoder:Other"),
        ("frontend.wrong", "has_an_encoder:Other"),
    ]
    name, gone, clash, wrong = [broken.reason for broken in found.broken]
    assert "must be named <kind>.<name>" in name
    assert "ModuleNotFoundError: No module named 'nowhere'" in gone
    assert "larm is espnet_larm.looped.encoder.LarmEncoder already" in clash
    assert "must be a subclass of espnet2.asr.frontend.abs_frontend.AbsFrontend" in wrong


HOSTS = """
import sys
from espnet_larm import registry

order, *hosts = sys.argv[1:]
modules = [__import__(name, fromlist="x") for name in hosts] if order == "before" else []
registry.register()
assert order == "before" or not any(name.startswith("espnet2.tasks") for name in sys.modules), "tasks are imported"
modules = modules or [__import__(name, fromlist="x") for name in hosts]
for module in modules:
    for kind, attributes in registry.HOSTS[module.__name__].items():
        for attribute in attributes:
            name = "larm" if kind == "encoder" else "affinity_pooling"
            if kind in ("encoder", "frontend"):
                print(module.__name__, kind, getattr(module, attribute).classes[name].__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["before", "after"])
def test_encoders_and_front_ends_are_in_every_task_imported_before_or_after(order):
    done = subprocess.run(
        [sys.executable, "-c", HOSTS, order, *registry.HOSTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = [
        f"{module} {kind} {'LarmEncoder' if kind == 'encoder' else 'AffinityPoolingFrontend'}"
        for module, kinds in registry.HOSTS.items()
        for kind, attributes in kinds.items()
        for _ in attributes
        if kind in ("encoder", "frontend")
    ]
    assert done.stdout.splitlines()[-len(wanted) :] == wanted


def test_a_decoder_is_in_asr_alone():
    other = [kinds for module, kinds in registry.HOSTS.items() if not module.endswith(("tasks.asr", "esp2_asr.task"))]
    assert not any({"decoder", "model", "preprocessor"} & set(kinds) for kinds in other)


@pytest.mark.slow
def test_spawned_worker_sees_the_plugins(larm_task, arguments, tmp_path):
    # As ESPnet's distributed launcher starts its workers; nothing that this process registered is there.
    from espnet2.train.distributed_utils import resolve_distributed_mode

    args = larm_task.get_parser().parse_args(arguments)
    args.version = "test"
    resolve_distributed_mode(args)
    context = torch.multiprocessing.get_context("spawn")
    worker = context.Process(target=larm_task.main_worker, args=(args,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert yaml.safe_load((tmp_path / "exp/config.yaml").read_text())["encoder"] == "larm"


@pytest.mark.slow
def test_installed_package_brings_its_encoder(arguments, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in (ROOT / "tests/example_plugin").iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", site, source], check=True)
    config = yaml.safe_load(TINY.read_text()) | {
        "encoder": "average",
        "encoder_conf": {"factor": 3},
        "model_conf": {"ctc_weight": 1.0},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    path = os.pathsep.join([str(site), str(ROOT)])

    command = [sys.executable, "-m", "espnet_larm", "-m", "espnet2.bin.asr_train", *arguments]
    command += ["--config", str(tmp_path / "train.yaml")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "AverageEncoder()" in done.stderr
