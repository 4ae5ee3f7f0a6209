"""What learns is told, what is declared frozen is checked, and a frozen weight that changes stops the training."""

import json
import logging
import re
from argparse import Namespace

import pytest
import torch

from espnet_larm.train.journal import JOURNAL
from espnet_larm.train.learning import FrozenWeights, check_frozen, format_parts, learning_parts, leave_frozen_out

LORA = {"adaptation": "lora", "lora_conf": {"r": 2}}
UPSCALED = {"adaptation": "depth_upscaling", "depth_upscaling_conf": {"gate_kernel": 5, "placement": "bottom"}}


def half_frozen():
    model = torch.nn.ModuleDict({"first": torch.nn.Linear(3, 3), "second": torch.nn.Linear(3, 3)})
    model["first"].requires_grad_(False)
    return model


def new_optimizer(model):
    return torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)


def test_learning_parts_are_encoder_head_projector_lm_and_lora(build_speech_llm):
    model = build_speech_llm(decoder_conf=LORA)
    found = {part.part: part for part in learning_parts(model)}
    assert sorted(found) == ["LM", "LoRA", "ctc", "encoder", "projector"]
    sizes = {"encoder": model.encoder, "ctc": model.ctc, "projector": model.decoder.projector}
    for part, module in sizes.items():
        size = sum(each.numel() for each in module.parameters())
        assert found[part] == (part, size, size)
    # 7 tokens, 2 layers: attention 4 x 16 x 16, feed-forward 3 x 16 x 24, two norms; the last norm, and an untied head.
    assert found["LM"] == ("LM", 0, 2 * 7 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 16)
    assert found["LoRA"].trainable == found["LoRA"].total == 2 * 2 * (4 * (16 + 16) + 3 * (16 + 24))


def test_added_layers_are_counted_apart(build_speech_llm):
    found = {part.part: part for part in learning_parts(build_speech_llm(decoder_conf=UPSCALED))}
    assert sorted(found) == ["LM", "added layers", "ctc", "encoder", "projector"]
    assert found["LM"].trainable == 0
    # A layer as above; cgMLP 16 x 16 and 8 x 16 with biases, norm 2 x 8, gate 8 x (5 + 1); merge 3 x 32 and 32 x 16.
    layer, local = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16, 16 * 17 + 16 * 9 + 2 * 8 + 8 * 6 + 3 * 32 + 32 * 16
    assert found["added layers"].trainable == found["added layers"].total == layer + local


def test_weights_that_parts_share_are_counted_once():
    model = half_frozen()
    model["third"] = torch.nn.Linear(3, 3)
    model["third"].weight = model["second"].weight
    assert learning_parts(model) == [("first", 0, 12), ("second", 12, 12), ("third", 3, 3)]


def test_table_has_a_row_a_part_and_their_sum():
    rows = [re.split(r"  +", line.strip()) for line in format_parts(learning_parts(half_frozen())).splitlines()]
    assert rows == [
        ["part", "trainable", "total", "%"],
        ["first", "0", "12", "0.0"],
        ["second", "12", "12", "100.0"],
        ["all", "12", "24", "50.0"],
    ]
    assert format_parts([]).splitlines()[-1].split() == ["all", "0", "0", "0.0"]


@pytest.mark.parametrize(
    "conf", [{}, LORA, UPSCALED, {"adaptation": "full"}], ids=["frozen", "lora", "upscaled", "full"]
)
def test_optimiser_has_what_learns_and_nothing_else(build_speech_llm, larm_task, conf):
    model = build_speech_llm(decoder_conf=conf, freeze_param=["ctc"])
    model.ctc.requires_grad_(False)  # as ESPnet's main_worker does it
    (optimizer,) = larm_task.build_optimizers(model.args, model)
    held = sum(each.numel() for group in optimizer.param_groups for each in group["params"])
    assert held == sum(part.trainable for part in learning_parts(model))
    (lm,) = (part for part in learning_parts(model) if part.part == "LM")
    assert lm.trainable == (lm.total if conf == {"adaptation": "full"} else 0)


@pytest.mark.parametrize("conf", [{}, LORA, UPSCALED], ids=["frozen", "lora", "upscaled"])
def test_an_lm_that_shall_be_frozen_and_is_not_is_refused(build_speech_llm, larm_task, conf):
    model = build_speech_llm(decoder_conf=conf)
    model.decoder.backbone.model.model.norm.requires_grad_(True)
    with pytest.raises(ValueError, match="would learn: decoder.backbone.model.model.norm.weight. Name"):
        larm_task.build_optimizers(model.args, model)
    model.decoder.backbone.model.model.layers.requires_grad_(True)
    number = r"would learn: decoder.backbone.model.model.layers.0.self_attn.q_proj.\S*weight, \S+ and \d\d more. Name"
    with pytest.raises(ValueError, match=number):
        larm_task.build_optimizers(model.args, model)


def test_a_decoder_that_unfreezes_the_lm_stops_the_program(build_speech_llm, larm_task, monkeypatch):
    from espnet_larm.speech_llm.decoder import SpeechLlmDecoder
    from espnet_larm.train.refusals import OptionError

    build = SpeechLlmDecoder.__init__

    def build_and_unfreeze(self, *arguments, **options):
        build(self, *arguments, **options)
        self.backbone.model.get_input_embeddings().requires_grad_(True)

    monkeypatch.setattr(SpeechLlmDecoder, "__init__", build_and_unfreeze)
    model = build_speech_llm()
    with pytest.raises(OptionError, match="that shall be frozen .* would learn: .*embed_tokens.weight"):
        larm_task.build_optimizers(model.args, model)


def test_a_tied_weight_named_by_its_second_name_is_not_frozen_by_espnet_and_refused():
    model = half_frozen().requires_grad_(True)
    model["second"].weight = model["first"].weight
    with pytest.raises(ValueError, match="would learn: second.weight. Name a tied weight by its first name"):
        check_frozen(model, [], ["second.weight"])


def test_a_name_to_freeze_that_is_no_parameters_is_refused():
    with pytest.raises(
        ValueError, match=r"freeze_param: fir names no parameter; allowed: first, second, and .* first."
    ):
        check_frozen(half_frozen(), [], ["first", "fir"])


def test_a_frozen_weight_in_an_optimiser_is_refused():
    model = half_frozen()
    check_frozen(model, [new_optimizer(model)], ["first"])
    with pytest.raises(ValueError, match="frozen weights are in the optimiser, .*: first.weight, first.bias"):
        check_frozen(model, [new_optimizer(model), torch.optim.SGD(model["first"].parameters(), lr=0.1)], [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.uint8])
def test_a_frozen_weight_that_changes_is_told_whatever_changed_it(dtype):
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(2, 3).to(dtype), requires_grad=False)
    model.scalar = torch.nn.Parameter(torch.zeros((), dtype=dtype), requires_grad=False)
    frozen = FrozenWeights(model)
    frozen.check(model)
    # Past the version counter of autograd, and by code that sets requires_grad too.
    model.weight.data[1, 2] += 1
    if dtype.is_floating_point:
        model.requires_grad_(True)
    with pytest.raises(RuntimeError, match="training has changed frozen weights: weight. "):
        frozen.check(model)


def test_weights_that_learn_are_not_watched():
    model = half_frozen()
    frozen = FrozenWeights(model)
    model["second"].weight.data += 1
    frozen.check(model)


@pytest.fixture
def train_llm(trainings, save_lm, tmp_path):
    """Trains a tiny frozen LM behind a LARM encoder; returns the folder and the exit status."""
    llm = save_lm(tmp_path / "llm")
    (tmp_path / "tokens.txt").write_text("<unk>\n<s>\n</s>\nA\nB\nC\nD\n")

    def train(name, *options, **more):
        chosen = ["--token_list", tmp_path / "tokens.txt", "--decoder", "speech_llm", "--decoder_conf", f"llm={llm}"]
        chosen += ["--decoder_conf", "projector_frames=2", "--model", "speech_llm", "--model_conf", "ctc_weight=0.3"]
        folder = tmp_path / name
        return folder, trainings.run(folder, *map(str, chosen), "--max_epoch", "2", *options, **more)

    return train


@pytest.mark.slow
def test_a_frozen_encoder_is_as_it_was_and_its_dropout_is_off(train_llm, trainings):
    states = []
    for rate in (0.0, 0.5):
        folder, status = train_llm(
            f"dropout{rate}", "--freeze_param", "encoder", "--encoder_conf", f"dropout_rate={rate}"
        )
        assert status == 0, trainings.log(folder)
        states.append([torch.load(folder / f"{epoch}epoch.pth", weights_only=False) for epoch in (1, 2)])
    (first, last), (_, with_dropout) = states
    moved = {name.partition(".")[0] for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"ctc", "decoder"}
    assert all(torch.equal(last[name], with_dropout[name]) for name in last)
    log = trainings.log(folder)
    assert re.search(r"What learns:\n +part +trainable +total +%\n +encoder +0 +[\d,]+ +0.0\n", log)
    started = json.loads((folder / JOURNAL).read_text().splitlines()[0])
    parts = {part["part"]: part for part in started["parameters"]}
    assert parts["encoder"]["trainable"] == parts["LM"]["trainable"] == 0 < parts["projector"]["trainable"]


@pytest.mark.slow
def test_a_misspelt_part_to_freeze_ends_the_program_with_a_sentence(train_llm, trainings):
    folder, status = train_llm("misspelt", "--freeze_param", "encodr")
    assert status == 1 and not folder.exists()
    assert "ERROR: freeze_param: encodr names no parameter; allowed: " in trainings.log(folder)
    assert "Traceback" not in trainings.log(folder)


@pytest.mark.slow
def test_a_frozen_weight_that_a_step_changes_stops_the_training_before_it_is_saved(train_llm, trainings):
    folder, status = train_llm("moved", fault={"at": "step", "nth": 3, "do": "move_lm"})
    assert status == 1
    assert "training has changed frozen weights: decoder.backbone.model.model.norm.weight. Some" in trainings.log(
        folder
    )
    assert (folder / "1epoch.pth").exists() and not (folder / "2epoch.pth").exists()


def test_frozen_parameters_do_not_move_by_weight_decay():
    model = half_frozen()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    assert leave_frozen_out(optimizer) == 12
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    # A gradient that something left behind.
    model["first"].weight.grad = torch.ones(3, 3)
    model["second"](torch.randn(2, 3)).sum().backward()
    optimizer.step()
    changed = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert changed == ["second.weight", "second.bias"]
    assert len(optimizer.state) == 2


def test_groups_without_trainable_parameters_go():
    model = half_frozen()
    optimizer = torch.optim.SGD(
        [{"params": model["first"].parameters()}, {"params": model["second"].parameters()}], lr=0.1
    )
    leave_frozen_out(optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_nothing_to_train_is_refused():
    model = half_frozen().requires_grad_(False)
    with pytest.raises(ValueError, match="freeze_param: all parameters of the model are frozen"):
        leave_frozen_out(torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("exclude_weight_decay", [False, True])
def test_task_builds_optimizers_without_frozen_parameters(larm_task, caplog, tmp_path, exclude_weight_decay):
    model = half_frozen()
    args = Namespace(
        optim="adamw",
        optim_conf={"lr": 0.1},
        scheduler=None,
        sharded_ddp=False,
        exclude_weight_decay=exclude_weight_decay,
        exclude_weight_decay_conf={},
        init_param=[],
        freeze_param=[],
        resume=False,
        output_dir=str(tmp_path),
    )
    with caplog.at_level(logging.INFO):
        (optimizer,) = larm_task.build_optimizers(args, model)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model["second"].parameters()}
    assert "12 frozen parameters are left out of the optimiser" in caplog.text
