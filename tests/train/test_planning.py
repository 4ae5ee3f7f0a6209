"""What a training is said to take is what it takes."""

import argparse
import contextlib
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from espnet_larm.cli import plan as command
from espnet_larm.train.planning import step as step_module
from espnet_larm.train.planning.live import LiveTensors
from espnet_larm.train.planning.plan import Growth, batch_of, course_of
from espnet_larm.train.planning.shapes import ShapesOnly
from espnet_larm.train.planning.step import _COUNTED, Utterances, build, count_step, new_batch, time_steps

CONF = Path(__file__).parents[2] / "conf/tiny/train_larm.yaml"
TWO_SECONDS = Utterances(2, 2.0, 6, 16000)


@pytest.fixture
def trained(larm_task):
    """The tiny looped encoder, with 12 tokens."""
    return build(options(), "cpu")


def options(*others):
    ours = command.get_parser().parse_args(["--config", str(CONF), "--vocab_size", "12"])
    return command.training_options(ours, list(others))


def count(trained, number, accum_grad=1):
    return count_step(trained, TWO_SECONDS._replace(number=number), accum_grad)


def test_a_batch_takes_what_was_planned_from_smaller_ones(trained):
    count(trained, 1)
    small, large = count(trained, 2), count(trained, 4)
    growth = Growth(small, large)
    for number in (3, 7):
        step = count(trained, number)
        assert growth.peak(number) == pytest.approx(step.peak, rel=1e-3)
        assert growth.memory(number).activations == pytest.approx(step.activations, rel=1e-3)
        # Depth conditioning is computed once for all utterances: an hour of audio has none of it.
        forward, training = (flops * 2.0 * (number - 2) / 3600.0 for flops in growth.flops(2.0))
        assert step.forward_flops == pytest.approx(small.forward_flops + forward, rel=1e-6)
        assert step.flops == pytest.approx(small.flops + training, rel=1e-6)
    assert growth.peak(growth.most_within(growth.peak(7) + 1)) <= growth.peak(7) + 1
    assert growth.most_within(growth.peak(7) + 1) == 7 and growth.most_within(1000) == 0


def test_weights_gradients_and_state_are_those_of_the_model(trained):
    step = count(trained, 2)
    weights = sum(each.nbytes for each in (*trained.model.parameters(), *trained.model.buffers()))
    learned = sum(each.nbytes for each in trained.model.parameters() if each.grad is not None)
    assert sum(step.weights.values()) == weights
    assert sum(step.gradients.values()) == learned
    # Adam has two moments of each weight, and counts its steps.
    num_learned = sum(each.grad is not None for each in trained.model.parameters())
    assert sum(step.state.values()) == 2 * learned + 4 * num_learned
    assert step.peak > 4 * learned


def test_gradients_of_earlier_batches_are_there_with_accum_grad(trained):
    count(trained, 1)
    alone, among = count(trained, 2), count(trained, 2, accum_grad=2)
    assert min(among.history) >= sum(alone.gradients.values())
    assert alone.peak < among.peak <= alone.peak + sum(alone.gradients.values())


def test_flops_are_those_that_torch_counts_in_a_plain_step(trained):
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        trained.model(**new_batch(trained.model, TWO_SECONDS, "cpu"))[0].backward()
    assert count(trained, 2).flops == counter.get_total_flops() > 0


@pytest.mark.parametrize("words", [(), ("--use_amp", "true")], ids=["float32", "amp"])
def test_what_is_spared_counts_as_if_it_were_computed(larm_task, words, monkeypatch):
    trained = build(options(*words), "cpu")
    count(trained, 1)
    spared = count(trained, 2)
    monkeypatch.setattr(step_module, "ShapesOnly", contextlib.nullcontext)
    assert count(trained, 2) == spared


def test_attention_on_a_cpu_counts():
    parts = [torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3)]
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        result = torch.nn.functional.scaled_dot_product_attention(*parts)
        forward = counter.get_total_flops()
        result.sum().backward()
    # Two products of all pairs forward, five backward.
    assert (forward, counter.get_total_flops()) == (4 * 2 * 3 * 25 * 8, 14 * 2 * 3 * 25 * 8)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_backward_costs_it_twice(groups):
    signal = torch.randn(2, 6, 9, requires_grad=True)
    kernel = torch.randn(6, 6 // groups, 3, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=_COUNTED) as counter:
        result = torch.nn.functional.conv1d(signal, kernel, groups=groups)
        forward = counter.get_total_flops()
        result.sum().backward()
    assert forward == 2 * 2 * 7 * 3 * 6 * 6 // groups and counter.get_total_flops() == 3 * forward


def test_a_drawn_number_of_loops_is_the_most(larm_task):
    uniform = build(options("--encoder_conf", "loop_sampling=uniform"), "cpu")
    assert {uniform.model.encoder.sampling.draw() for _ in range(8)} == {4}
    assert count(uniform, 2).flops == count(build(options(), "cpu"), 2).flops


def test_nothing_is_left_on_a_model_that_was_counted(trained):
    count(trained, 2)
    assert not trained.model.encoder._forward_hooks and not trained.model.encoder._forward_pre_hooks


def test_the_history_has_a_number_an_operation():
    live = LiveTensors()
    with live:
        first = torch.zeros(4)
        second = first + 1
        del first
        third = second * 2
    assert live.history == [16, 32, 32] and live.peak == 32
    del second, third
    assert live.live.total() == 0


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numel", {"batch_bins": 300_000}),
        ("length", {"batch_bins": 200_000}),
        ("folded", {"batch_size": 20, "fold_length": [8000, 150]}),
        ("sorted", {"batch_size": 5}),
        ("unsorted", {"batch_size": 5}),
    ],
)
def test_batches_are_those_of_espnets_samplers(kind, values, tmp_path):
    from espnet2.samplers.build_batch_sampler import build_batch_sampler

    width = 30
    shapes = [f"u{index:03d} 32000\n" for index in range(100)], [f"u{index:03d} 6,{width}\n" for index in range(100)]
    files = [tmp_path / "speech_shape", tmp_path / "text_shape"]
    for path, lines in zip(files, shapes, strict=True):
        path.write_text("".join(lines))
    given = {"batch_size": 1, "batch_bins": 1, "fold_length": [], **values}
    sampler = build_batch_sampler(
        type=kind,
        batch_size=given["batch_size"],
        batch_bins=given["batch_bins"],
        shape_files=[str(path) for path in files[: 1 if kind in ("sorted", "unsorted") else 2]],
        fold_lengths=given["fold_length"],
    )
    args = argparse.Namespace(batch_type=kind, token_list=["t"] * width, ngpu=0, **given)
    assert batch_of(args, TWO_SECONDS) == len(next(iter(sampler)))


def test_batches_are_shared_among_processes_and_unknown_ones_are_refused():
    args = argparse.Namespace(batch_type="sorted", batch_size=9, ngpu=4, token_list=[])
    assert batch_of(args, TWO_SECONDS) == 2
    args.batch_type = "catbel"
    with pytest.raises(ValueError, match="batch_type is catbel, .* give --utterances"):
        batch_of(args, TWO_SECONDS)


def test_the_course_has_all_epochs():
    args = argparse.Namespace(num_iters_per_epoch=None, max_epoch=10, accum_grad=4, ngpu=2)
    course = course_of(args, Utterances(10, 18.0, 5, 16000), hours=100.0)
    assert course == (1000, 10, 2500, 1000.0)
    assert course.days(50.0) == pytest.approx(1000 * 3600 / 50 / 86400)
    args.num_iters_per_epoch = 50
    assert course_of(args, Utterances(10, 18.0, 5, 16000), hours=100.0).batches == 50


def test_steps_are_timed_and_change_the_weights(trained):
    before = trained.model.ctc.ctc_lo.weight.clone()
    assert time_steps(trained, TWO_SECONDS, 1) > 0
    assert not torch.equal(before, trained.model.ctc.ctc_lo.weight)


def test_a_transcript_has_the_lengths_of_an_lms_tokens_and_of_ctcs_own():
    ours = command.get_parser().parse_args(["--config", "x", "--seconds", "10"])
    args = argparse.Namespace(token_list=["t"] * 1000, frontend_conf=None)
    found = command.utterances_of(ours, args, argparse.Namespace(ctc_token_list=["c"] * 30))
    assert (found.text_len, found.ctc_text_len) == (40, 140)
    ours.tokens_per_second = 3.0
    assert command.utterances_of(ours, args, argparse.Namespace()) == (1, 10.0, 30, 16000, None)


def test_the_command_prints_a_plan(larm_task, capsys):
    words = ["--config", str(CONF), "--vocab_size", "12", "--hours", "1", "--seconds", "2", "--device", "cpu"]
    assert command.main([*words, "--gpu", "80GB", "--measure", "--accum_grad", "2"]) == 0
    said = capsys.readouterr().out
    assert "Memory of a step of 4 utterances of 2 s, 8 s of audio, 28 tokens each, computed in float32" in said
    assert "It fits into 67.1 GiB, 90% of 74.5 GiB" in said
    assert "Course: 2 epochs of 450 batches, 450 steps of accum_grad 2 on 1 process(es); 2 hours of audio" in said
    assert "Days: 0.0" in said
    assert command.main([*words, "--gpu", "0.0001GiB", "--tflops", "1e-6"]) == 0
    said = capsys.readouterr().out
    flops, hours = (
        float(re.search(word, said)[1]) for word in (r"training ([\d.]+) T", r"\(([\d.]+) hours\) at 1e-06")
    )
    # FLOPs are printed with two digits.
    assert hours == pytest.approx(2 * flops * 1e12 / 1e6 / 3600, rel=0.1)
    assert "It does not fit into" in said and "the most utterances that fit: 0" in said


def test_wrong_input_ends_with_a_sentence(larm_task, tmp_path, capsys):
    for size in ("80", "GB", "0GB", "-1GB"):
        with pytest.raises(SystemExit):
            command.get_parser().parse_args(["--config", "x", f"--gpu={size}"])
        assert "allowed: a size such as 80GB or 24GiB" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="name the YAML of a training"):
        command.main(["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="the number of tokens is not known: give --vocab_size"):
        command.main(["--config", str(CONF)])


def test_large_operations_are_not_computed():
    left, right = torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    signal, kernel = torch.ones(1, 2, 5, requires_grad=True), torch.ones(4, 2, 3)
    with ShapesOnly():
        product = left @ right
        filtered = torch.nn.functional.conv1d(signal, kernel)
        filtered.sum().backward()
        small = left + left
    assert product.shape == (2, 4) and product.dtype == torch.bfloat16 and not product.any()
    assert filtered.shape == (1, 4, 3) and not filtered.any() and signal.grad.shape == (1, 2, 5)
    assert torch.equal(small, 2 * left)
