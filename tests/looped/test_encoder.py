"""LarmEncoder: equality with plain formulas, checkpoints, padding, gradients, options."""

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from espnet2.asr.ctc import CTC
from espnet2.torch_utils.initialize import initialize

from espnet_larm.looped.blocks import describe_frames
from espnet_larm.looped.encoder import LarmEncoder

NUM_FEATURES, SIZE, VOCAB = 20, 16, 11
LINEAR = {"subsampling": "linear", "subsampling_factor": 2}
LOOP_PARTS_OFF = {"clock": False, "film": False, "feedback": False, "skip": False}


def new_encoder(**options) -> LarmEncoder:
    torch.manual_seed(0)
    small = {
        "output_size": SIZE,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "num_loops": 4,
        "checkpoint_period": 2,
        "subsampling_channels": 4,
    }
    encoder = LarmEncoder(NUM_FEATURES, **{**small, **options})
    if encoder.interctc_use_conditioning:
        encoder.conditioning_layer = torch.nn.Linear(VOCAB, SIZE)
    return encoder


def randomise(module: torch.nn.Module) -> None:
    """Leave the start, where clock and FiLM are zero."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))


def batch(*lens: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return torch.randn(len(lens), max(lens), NUM_FEATURES), torch.tensor(lens)


def outputs(encoder: LarmEncoder, ctc: CTC | None = None, lens=(60, 33), loops=None) -> dict[int, torch.Tensor]:
    return {read.number: read.hs_pad for read in encoder.read_outs(*batch(*lens), ctc, loops)}


@pytest.fixture(scope="module")
def ctc() -> CTC:
    torch.manual_seed(3)
    return CTC(VOCAB, SIZE)


def front_end(encoder: LarmEncoder, lens=(60, 33)):
    start, hlens = encoder.subsampling(*batch(*lens))
    start = encoder.subsampling_norm(start)
    return start, describe_frames(hlens, start.size(1), encoder.head_size, start)


def without_padding(hs_pad: torch.Tensor, frames) -> torch.Tensor:
    return hs_pad.masked_fill(~frames.mask.unsqueeze(-1), 0.0)


def test_one_loop_is_the_plain_stack():
    encoder = new_encoder(num_loops=1, checkpoint_period=1).eval()
    start, frames = front_end(encoder)
    assert torch.equal(outputs(encoder)[1], without_padding(encoder.stacks[0](start, frames), frames))


def test_every_checkpoint_is_zero_behind_the_lengths_and_nowhere_else(ctc):
    (last, others), hlens, _ = new_encoder(checkpoint_period=1)(*batch(60, 33), ctc=ctc)
    assert hlens[1] < last.size(1) and [loop for loop, _ in others] == [1, 2, 3]
    for hs_pad in (last, *(hs_pad for _, hs_pad in others)):
        assert not hs_pad[1, hlens[1] :].any()
        assert hs_pad[0].all() and hs_pad[1, : hlens[1]].all()


def test_one_loop_has_the_parameters_of_a_stack_alone():
    names = {name.split(".")[0] for name, _ in new_encoder(num_loops=1, checkpoint_period=1).named_parameters()}
    assert names == {"subsampling", "subsampling_norm", "stacks"}


def test_naive_loop_is_the_stack_on_its_own_output():
    encoder = new_encoder(**LOOP_PARTS_OFF).eval()
    state, frames = front_end(encoder)
    for _ in range(4):
        state = encoder.stacks[0](state, frames)
    assert torch.equal(outputs(encoder)[4], without_padding(state, frames))


def test_clock_and_film_start_as_no_ops():
    naive = outputs(new_encoder(**LOOP_PARTS_OFF).eval())
    told = new_encoder(**{**LOOP_PARTS_OFF, "clock": True, "film": True}).eval()
    told.load_state_dict(new_encoder(**LOOP_PARTS_OFF).state_dict(), strict=False)
    assert torch.equal(outputs(told)[4], naive[4])


def test_all_parts_together_follow_the_paper(ctc):
    encoder = new_encoder().eval()
    randomise(encoder)
    start, frames = front_end(encoder)
    state = start
    for loop in range(1, 5):
        gamma, beta = encoder.film(loop)
        told = (1 + gamma) * (state + encoder.clock.table[loop % 2]) + beta
        output = encoder.stacks[0](told, frames)
        posteriors = ctc.ctc_lo(output).softmax(-1)
        feedback = encoder.conditioning_layer(posteriors) * frames.mask.unsqueeze(-1)
        delayed = torch.cat([torch.zeros_like(feedback[:, :1]), feedback[:, :-1]], dim=1)
        parts = encoder.state
        state = parts.output_scale * output + parts.skip_scale * start + parts.feedback_scale * delayed
    # Fused multiply-adds round differently from the formulas.
    torch.testing.assert_close(outputs(encoder, ctc)[4], without_padding(output, frames), rtol=1e-4, atol=1e-5)


def test_unshared_stacks_run_one_after_the_other():
    encoder = new_encoder(share_blocks=False, **LOOP_PARTS_OFF).eval()
    state, frames = front_end(encoder)
    for stack in encoder.stacks:
        state = stack(state, frames)
    assert len(encoder.stacks) == 4
    assert torch.equal(outputs(encoder)[4], without_padding(state, frames))


@pytest.mark.parametrize("block", ["transformer", "conformer"])
def test_batch_gives_what_each_utterance_gives_alone(block, ctc):
    encoder = new_encoder(block=block).eval()
    randomise(encoder)
    xs, ilens = batch(60, 33, 7)
    together = list(encoder.read_outs(xs, ilens, ctc))
    for row, ilen in enumerate(ilens):
        alone = encoder.read_outs(xs[row : row + 1, :ilen], ilen.unsqueeze(0), ctc)
        for read, one in zip(together, alone, strict=True):
            assert read.hlens[row] == one.hlens[0]
            # Kernels may sum in another order for another shape, loop after loop.
            torch.testing.assert_close(read.hs_pad[row, : one.hlens[0]], one.hs_pad[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("num_loops", "period", "expected"), [(4, 2, [2, 4]), (5, 2, [2, 4, 5]), (4, 1, [1, 2, 3, 4]), (3, 3, [3])]
)
def test_checkpoints_are_every_period_and_the_last_loop(num_loops, period, expected, ctc):
    encoder = new_encoder(num_loops=num_loops, checkpoint_period=period).eval()
    assert encoder.num_checkpoints == len(expected)
    assert list(outputs(encoder, ctc)) == expected


def test_fewer_loops_give_what_more_loops_pass_through(ctc):
    encoder = new_encoder().eval()
    few, many = outputs(encoder, ctc, loops=2), outputs(encoder, ctc, loops=8)
    assert list(many) == [2, 4, 6, 8]
    assert torch.equal(few[2], many[2])


def test_a_reader_that_stops_pays_for_no_further_loop(ctc):
    encoder, calls = new_encoder().eval(), []
    encoder.stacks[0].register_forward_hook(lambda *_: calls.append(1))
    next(encoder.read_outs(*batch(40), ctc))
    assert len(calls) == 2


def with_leaving(encoder: LarmEncoder, ctc: CTC, lens, masks: dict[int, list[bool]]) -> list:
    """Read-outs of a reader that sends masks back."""
    loops, read_outs, stays = encoder.read_outs(*batch(*lens), ctc), [], None
    while True:
        try:
            read_outs.append(loops.send(stays))
        except StopIteration:
            return read_outs
        mask = masks.get(read_outs[-1].number)
        stays = None if mask is None else torch.tensor(mask)


def test_who_stays_gets_what_a_whole_batch_gives(ctc):
    encoder = new_encoder(checkpoint_period=1, coda_blocks=1).eval()
    randomise(encoder)
    whole = outputs(encoder, ctc, (60, 33, 21, 47))
    masks = {1: [False, True, True, True], 2: [True, True, True], 3: [True, False, True]}
    found = with_leaving(encoder, ctc, (60, 33, 21, 47), masks)
    rows = [None if read.rows is None else read.rows.tolist() for read in found]
    assert rows == [None, [1, 2, 3], [1, 2, 3], [1, 3]]
    # Padding of those that left is cut.
    assert [read.hs_pad.size(1) for read in found] == [int(read.hlens.max()) for read in found] == [14, 11, 11, 11]
    for read in found[1:]:
        for row, hs, length in zip(read.rows.tolist(), read.hs_pad, read.hlens.tolist(), strict=True):
            torch.testing.assert_close(hs[:length], whole[read.number][row, :length], rtol=1e-4, atol=1e-5)
            assert not hs[length:].any()


def test_no_loop_is_run_once_all_have_left(ctc):
    encoder, calls = new_encoder().eval(), []
    encoder.stacks[0].register_forward_hook(lambda *_: calls.append(1))
    assert len(with_leaving(encoder, ctc, (40, 33), {2: [False, False]})) == 1 and len(calls) == 2


def test_a_reader_that_lets_all_stay_changes_no_bit(ctc):
    encoder = new_encoder().eval()
    found = with_leaving(encoder, ctc, (60, 33), {2: [True, True]})
    assert all(torch.equal(read.hs_pad, outputs(encoder, ctc)[read.number]) for read in found)


def test_gains_are_formed_in_float32(ctc):
    encoder = new_encoder().to(torch.bfloat16)
    torch.nn.init.constant_(encoder.film.out.bias, 0.003)
    gamma, _ = encoder.film(1)
    assert (1 + gamma != 1).all()
    outputs = list(encoder.eval().read_outs(batch(40)[0].bfloat16(), torch.tensor([40]), ctc.bfloat16()))
    ctc.float()
    assert all(read.hs_pad.dtype == torch.bfloat16 for read in outputs)


def test_forward_gives_espnet_the_other_checkpoints(ctc):
    encoder = new_encoder().eval()
    (last, others), hlens, states = encoder(*batch(60, 33), ctc=ctc)
    read = outputs(encoder, ctc)
    assert [loop for loop, _ in others] == [2]
    assert torch.equal(last, read[4]) and torch.equal(others[0][1], read[2])
    assert last.size(1) == hlens.max() and states is None


def test_forward_with_one_checkpoint_gives_a_tensor(ctc):
    assert torch.is_tensor(new_encoder(checkpoint_period=4).eval()(*batch(40), ctc=ctc)[0])


def test_loops_of_a_call_leave_training_and_other_threads_alone(ctc):
    encoder = new_encoder(dropout_rate=0.0)

    def num_outputs():
        output = encoder(*batch(40), ctc=ctc)[0]
        return 1 if torch.is_tensor(output) else 1 + len(output[1])

    with encoder.eval().looped(2), ThreadPoolExecutor() as pool:
        assert num_outputs() == 1 and pool.submit(num_outputs).result() == 2
        encoder.train()
        assert num_outputs() == 2
    assert encoder.eval() is encoder and num_outputs() == 2
    with pytest.raises(ValueError, match="num_loops is 3; allowed: 2, 4"), encoder.looped(3):
        pass


def test_loops_between_checkpoints_are_refused_with_the_allowed_ones():
    with pytest.raises(ValueError, match="num_loops is 3; allowed: 2, 4, 6, 8, ... .more than trained"):
        new_encoder().check_loops(3)


def test_more_loops_than_trained_are_allowed_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        new_encoder().check_loops(6)
    assert "6 loops are an extrapolation: the model was trained with 4" in caplog.text


@pytest.mark.parametrize(
    ("options", "why"),
    [({"share_blocks": False}, "blocks of its own"), ({"num_loops": 1, "checkpoint_period": 1}, "no loop to repeat")],
)
def test_more_loops_are_refused_where_nothing_can_be_repeated(options, why):
    with pytest.raises(ValueError, match=why):
        new_encoder(**options).check_loops(6)


def test_activation_checkpointing_computes_each_loop_twice(ctc):
    for activation_checkpointing, expected in ((False, 4), (True, 8)):
        encoder, calls = new_encoder(activation_checkpointing=activation_checkpointing).train(), []
        encoder.stacks[0].blocks[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        encoder(*batch(40, 21), ctc=ctc)[0][0].sum().backward()
        assert len(calls) == expected


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_activation_checkpointing_changes_no_gradient(dropout_rate, ctc):
    gradients = []
    for activation_checkpointing in (False, True):
        encoder = new_encoder(dropout_rate=dropout_rate, activation_checkpointing=activation_checkpointing).train()
        torch.manual_seed(5)
        (last, others), _, _ = encoder(*batch(40, 21), ctc=ctc)
        (last.square().sum() + others[0][1].square().sum()).backward()
        gradients.append([parameter.grad for parameter in encoder.parameters()])
    # The head's weights are used in each loop, and their gradients are summed in another order.
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block": "conformer"},
        {"share_blocks": False},
        {"num_loops": 1, "checkpoint_period": 1},
        {"skip": False},
        {"feedback": False},
        {"feedback_top_k": 3},
        {"clock": False, "film": False},
        {"prelude_blocks": 1, "coda_blocks": 2, "activation_checkpointing": True},
        {"subsampling": "linear", "subsampling_factor": 1},
    ],
)
def test_gradients_reach_every_parameter(options, ctc):
    encoder = new_encoder(**options)
    randomise(encoder)
    result = encoder(*batch(60, 33), ctc=ctc)[0]
    last, others = result if isinstance(result, tuple) else (result, [])
    sum((output**3).sum() for output in [last, *[other for _, other in others]]).backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_state_dict_round_trip_gives_the_same_output(ctc):
    trained, fresh = new_encoder().eval(), new_encoder().eval()
    randomise(trained)
    assert not torch.equal(outputs(fresh, ctc)[4], outputs(trained, ctc)[4])
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(outputs(fresh, ctc)[4], outputs(trained, ctc)[4])


@pytest.mark.parametrize("init", ["xavier_uniform", "kaiming_normal"])
def test_espnets_init_keeps_the_starts_of_the_loop_parts(init):
    encoder = new_encoder()
    initialize(encoder, init)
    assert not encoder.clock.table.any() and not encoder.film.out.weight.any()
    assert [encoder.state.output_scale.item(), encoder.state.feedback_scale.item()] == pytest.approx([1.0, 0.1])


def test_feedback_without_a_head_is_refused():
    with pytest.raises(ValueError, match="feedback needs the model's CTC head"):
        new_encoder()(*batch(40), ctc=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_loops": 0}, "num_loops is 0; allowed: 1 to 1000"),
        ({"checkpoint_period": 5}, "checkpoint_period is 5; allowed: 1 to num_loops, which is 4"),
        ({"output_size": 18}, "output_size is 18; allowed: a multiple of 2 x attention_heads = 4"),
        ({"subsampling_factor": 3}, "subsampling_factor is 3; allowed: 1, 2, 4, 8"),
        ({"block": "former"}, "block is former; allowed: transformer, conformer"),
        ({"feedback_shift": -1}, "feedback_shift is -1; allowed: 0 or more"),
        ({"feedback_top_k": 0}, "feedback_top_k is 0; allowed: 1 or more"),
        ({"cnn_module_kernel": 4}, "cnn_module_kernel is 4; allowed: odd, 1 or more"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0; allowed: 0 to below 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        new_encoder(**options)


def training_step(encoder, ctc, device, **autocast):
    """Loss, output and gradients of one batch, computed on a device."""
    encoder, ctc = encoder.to(device), ctc.to(device)
    xs, ilens = (part.to(device) for part in batch(60, 33))
    tokens, lens = torch.tensor([[2, 3, 4], [3, 2, 2]], device=device), torch.tensor([3, 2], device=device)
    with torch.autocast(device, **{"enabled": False, **autocast}):
        (last, others), hlens, _ = encoder(xs, ilens, ctc=ctc)
        loss = sum(ctc(hs, hlens, tokens, lens) for hs in (last, *(hs for _, hs in others)))
    loss.backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in encoder.named_parameters()}
    return loss.detach().cpu(), last.detach().cpu(), gradients


@pytest.mark.gpu
@pytest.mark.parametrize("block", ["transformer", "conformer"])
def test_a_gpu_gives_what_the_cpu_gives(block):
    encoder, ctc = new_encoder(block=block, dropout_rate=0.0), CTC(VOCAB, SIZE)
    randomise(encoder)
    on_cpu = training_step(copy.deepcopy(encoder), copy.deepcopy(ctc), "cpu")
    # Convolutions may otherwise round their inputs to 10 bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        on_gpu = training_step(encoder, ctc, "cuda")
    # Other kernels sum in another order, loop after loop.
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_step_under_bfloat16_autocast_is_finite_and_near_float32():
    encoder, ctc = new_encoder(dropout_rate=0.0), CTC(VOCAB, SIZE)
    randomise(encoder)
    exact, _, _ = training_step(copy.deepcopy(encoder), copy.deepcopy(ctc), "cuda")
    loss, _, gradients = training_step(encoder, ctc, "cuda", enabled=True, dtype=torch.bfloat16)
    assert loss.isfinite() and loss.item() == pytest.approx(exact.item(), rel=0.05)
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert [name for name, gradient in gradients.items() if not gradient.any()] == []


@pytest.mark.gpu
@pytest.mark.slow
# torch's compiler warns of itself: of its own deprecated parts, of float32 that could be faster.
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_stack_gives_what_the_plain_one_gives():
    encoder, ctc = new_encoder().to("cuda").eval(), CTC(VOCAB, SIZE).to("cuda")
    randomise(encoder)
    xs, ilens = (part.to("cuda") for part in batch(60, 33))
    with torch.no_grad():
        plain = [read.hs_pad for read in encoder.read_outs(xs, ilens, ctc)]
        encoder.stacks[0].compile()
        compiled = [read.hs_pad for read in encoder.read_outs(xs, ilens, ctc)]
    # Fused operations round less often.
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


def test_prelude_and_coda_stand_around_the_loop(ctc):
    around, loop = new_encoder(prelude_blocks=1, coda_blocks=1).eval(), new_encoder().eval()
    randomise(around)
    loop.load_state_dict({name: value for name, value in around.state_dict().items() if name in loop.state_dict()})
    start, frames = front_end(around)
    start = around.prelude(start, frames)
    # The loop's own state goes on, and is what the feedback says: the coda is for the head that reads it out.
    state = None
    for number in range(1, 5):
        state = loop._step(loop.stacks[0], number, state, start, frames, ctc)
        if number % 2 == 0:
            wanted = without_padding(around.coda(state, frames), frames)
            torch.testing.assert_close(outputs(around, ctc)[number], wanted)


@pytest.mark.parametrize("options", [{"prelude_blocks": 1, "coda_blocks": 1, "block": "conformer"}, LINEAR])
def test_further_parts_give_a_batch_what_each_utterance_gives_alone(options, ctc):
    encoder = new_encoder(**options).eval()
    randomise(encoder)
    xs_pad, lens = batch(60, 33)
    together = list(encoder.read_outs(xs_pad, lens, ctc))
    for read in encoder.read_outs(xs_pad[1:, :33], lens[1:], ctc):
        other = next(each for each in together if each.number == read.number)
        length = int(read.hlens)
        torch.testing.assert_close(other.hs_pad[1, :length], read.hs_pad[0], atol=1e-5, rtol=1e-4)


def test_one_to_one_needs_linear_subsampling():
    with pytest.raises(ValueError, match="subsampling_factor is 1; allowed: 2, 4, 8 with subsampling: conv, and 1"):
        new_encoder(subsampling_factor=1)


def skipping(encoder, ctc, skip_blank, lens=(60, 33)):
    reads = encoder.read_outs(*batch(*lens), ctc, None, skip_blank)
    return {read.number: read.hs_pad for read in reads}


def talkative_head() -> CTC:
    """A CTC head that says blank of some frames and not of others."""
    torch.manual_seed(3)
    head = CTC(VOCAB, SIZE)
    torch.nn.init.normal_(head.ctc_lo.weight, std=2.0)
    return head.eval()


@pytest.fixture(scope="module")
def talkative() -> CTC:
    """A head that is neither blank nor text alone."""
    return talkative_head()


def half_blank(encoder, ctc) -> float:
    """A probability of blank that half of the valid frames have at the first read-out, far from that of any."""
    first = next(encoder.read_outs(*batch(60, 33), ctc))
    mask = torch.arange(first.hs_pad.size(1)) < first.hlens.unsqueeze(1)
    blank = ctc.softmax(first.hs_pad).detach()[..., 0][mask].sort().values
    gaps = blank[1:] - blank[:-1]
    place = len(gaps) // 3 + int(gaps[len(gaps) // 3 : -len(gaps) // 3].argmax())
    return float(blank[place : place + 2].mean())


BLANK_KINDS = [{}, {"block": "conformer", "coda_blocks": 1, "prelude_blocks": 1}]


@pytest.mark.parametrize("options", BLANK_KINDS)
def test_frames_that_no_head_can_be_sure_of_are_all_fed_bit_for_bit(options, talkative):
    encoder = new_encoder(checkpoint_period=1, **options).eval()
    randomise(encoder)
    plain = outputs(encoder, talkative)
    for loop, hs_pad in skipping(encoder, talkative, 1.0).items():
        assert torch.equal(hs_pad, plain[loop])
    # A head whose probabilities stay below chooses every frame, and they are gathered.
    for loop, hs_pad in skipping(encoder, talkative, 1.0 - 1e-9).items():
        torch.testing.assert_close(hs_pad, plain[loop], rtol=1e-4, atol=1e-5)


def test_skipped_frames_keep_what_the_rest_of_a_block_gives_them(talkative):
    encoder = new_encoder(num_loops=2, checkpoint_period=1, **LOOP_PARTS_OFF).eval()
    randomise(encoder)
    start, frames = front_end(encoder)
    before = encoder.stacks[0](start, frames)
    skip_blank = half_blank(encoder, talkative)
    is_blank = talkative.softmax(before)[..., 0] > skip_blank
    assert 0 < int((is_blank & frames.mask).sum()) < int(frames.mask.sum())
    state = before
    for block in encoder.stacks[0].blocks:
        state = state + block.attention(block.norm_attention(state), frames)
        fed = state + block.feed_forward(block.norm_feed_forward(state))
        state = torch.where(is_blank.unsqueeze(-1), state, fed)
    wanted = without_padding(encoder.stacks[0].norm(state), frames)
    torch.testing.assert_close(skipping(encoder, talkative, skip_blank)[2], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", BLANK_KINDS)
def test_a_batch_that_skips_gives_what_each_utterance_gives_alone(options, talkative):
    encoder = new_encoder(**options).eval()
    randomise(encoder)
    skip_blank = half_blank(encoder, talkative)
    together = skipping(encoder, talkative, skip_blank)
    assert not torch.equal(together[4], outputs(encoder, talkative)[4])
    xs_pad, ilens = batch(60, 33)
    for row, length in enumerate(ilens.tolist()):
        one = (xs_pad[row : row + 1, :length], ilens[row : row + 1])
        alone = list(encoder.read_outs(*one, talkative, None, skip_blank))
        num_frames = alone[-1].hs_pad.size(1)
        torch.testing.assert_close(together[4][row, :num_frames], alone[-1].hs_pad[0], rtol=1e-4, atol=1e-5)


def test_who_stays_skips_the_same_frames_when_others_have_left(talkative):
    encoder = new_encoder().eval()
    randomise(encoder)
    skip_blank = half_blank(encoder, talkative)
    wanted = skipping(encoder, talkative, skip_blank)[4]
    reads = encoder.read_outs(*batch(60, 33), talkative, None, skip_blank)
    next(reads)
    left = reads.send(torch.tensor([False, True]))
    torch.testing.assert_close(left.hs_pad[0], wanted[1, : left.hs_pad.size(1)], rtol=1e-4, atol=1e-5)


def test_skipped_frames_cost_no_work_in_feed_forward_layers(talkative):
    from torch.utils.flop_counter import FlopCounterMode

    # The counter stumbles over parameters that a module returns.
    encoder, head = new_encoder().eval().requires_grad_(False), copy.deepcopy(talkative).requires_grad_(False)
    flops = []
    for skip_blank in (1.0, half_blank(encoder, head), -1.0):
        with FlopCounterMode(display=False) as counter:
            skipping(encoder, head, skip_blank)
        flops.append(counter.get_total_flops())
    frames = front_end(encoder)[1].mask.numel()
    # Loops 3 and 4 of 2 blocks have two products of 16 x 32 each; the head reads the first checkpoint once more.
    assert flops[0] - flops[2] == 2 * frames * SIZE * (2 * 2 * 2 * 32 - VOCAB)
    assert flops[2] < flops[1] < flops[0]
