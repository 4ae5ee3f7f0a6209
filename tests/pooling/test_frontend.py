"""A front end whose frames are merged before the encoder."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import yaml

from espnet2.asr.frontend.default import DefaultFrontend

from espnet_larm.looped.encoder import LarmEncoder
from espnet_larm.pooling.affinity import affinity_pool, valid_mask
from espnet_larm.pooling.frontend import AffinityPoolingFrontend, collect_merges, pooled_by
from espnet_larm.pooling.options import Pooling

CONF = {"n_fft": 512, "win_length": 400, "hop_length": 160}


@pytest.fixture
def batch():
    """Noise whose loudness and colour change every 50 to 150 ms, (2, N); the shorter one is padded with zeros."""
    generator = np.random.default_rng(0)
    rows = []
    for num_samples in (32000, 20000):
        pieces, length = [], 0
        while length < num_samples:
            size = int(generator.integers(800, 2400))
            noise = np.convolve(generator.standard_normal(size), generator.standard_normal(8), "same")
            pieces.append(noise * generator.uniform(0.001, 0.3))
            length += size
        rows.append(torch.tensor(np.concatenate(pieces)[:num_samples], dtype=torch.float32))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([32000, 20000])


def build(**options):
    return AffinityPoolingFrontend(**{"frontend_conf": CONF, "fs": "16k", "tau": 0.9, "max_group": None, **options})


def test_tau_above_one_is_the_wrapped_front_end_bit_for_bit(batch):
    wanted = DefaultFrontend(fs="16k", **CONF)(*batch)
    found = build(tau=1.1)(*batch)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_frames_without_their_mean_are_compared_and_frames_are_merged(batch):
    xs_pad, lens = DefaultFrontend(fs="16k", **CONF)(*batch)
    pooled = build(max_group=4, min_frames_per_second=0.0).pool(*batch)
    for row, length in enumerate(lens.tolist()):
        frames = xs_pad[row : row + 1, :length]
        wanted = affinity_pool(frames, lens[row : row + 1], 0.9, 1, 4, keys=frames - frames.mean(dim=1))
        kept = int(wanted.lens)
        assert 0.3 * length < kept < 0.95 * length
        assert torch.equal(pooled.tokens[row, :kept], wanted.tokens[0])
        assert torch.equal(pooled.groups[row, :length], wanted.groups[0])


def test_what_is_not_centred_is_compared_as_it_is(batch):
    xs_pad, lens = DefaultFrontend(fs="16k", **CONF)(*batch)
    pooled = build(centered=False, min_frames_per_second=0.0, tau=0.99).pool(*batch)
    assert torch.equal(pooled.groups, affinity_pool(xs_pad, lens, 0.99).groups)


def test_what_lies_behind_an_utterance_changes_nothing(batch):
    # Not behind the last window: ESPnet's STFT reflects what follows there.
    xs_pad, lens = torch.randn(1, 50, 80), torch.tensor([40])
    front = build(max_group=3)
    front.frontend = Fake(xs_pad, lens)
    wanted = front.pool(*batch)
    front.frontend = Fake(torch.cat([xs_pad[:, :40], torch.full((1, 70, 80), float("nan"))], dim=1), lens)
    found = front.pool(*batch)
    assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.groups[:, :50], wanted.groups)


class Fake(torch.nn.Module):
    def __init__(self, xs_pad, lens):
        super().__init__()
        self.given = xs_pad, lens
        self.hop_length = 160

    def forward(self, xs, lens):
        return self.given


def test_frames_a_second_are_left_whatever_tau_is(batch):
    frontend = build(tau=-1.0, min_frames_per_second=30.0)
    with collect_merges() as merges:
        _, lens = frontend(*batch)
    # 201 and 126 frames of 10 ms.
    assert lens.tolist() == [61, 38]
    assert float(merges[0].retention) == pytest.approx((61 + 38) / (201 + 126))
    assert build(tau=-1.0, min_frames_per_second=0.0)(*batch)[1].tolist() == [1, 1]


def test_a_floor_that_leaves_all_frames_is_said(caplog):
    build(min_frames_per_second=99.0)
    build(min_frames_per_second=100.0, tau=1.1)
    assert caplog.text == ""
    build(min_frames_per_second=100.0)
    assert "min_frames_per_second is 100, and DefaultFrontend gives 100 frames a second: none are" in caplog.text


def test_frames_before_are_the_fewest_that_leave_enough():
    frontend = build(min_frames_per_second=30.0)
    before = frontend.frames_before(7)
    assert frontend.least_frames(torch.tensor([before - 1, before])).tolist() == [6, 7]
    assert build(min_frames_per_second=0.0).frames_before(7) is None
    assert build(min_frames_per_second=0.0, tau=1.1).frames_before(7) == 7


@pytest.mark.parametrize("factor", [2, 8])
def test_shortest_utterances_that_training_keeps_are_long_enough(factor):
    from espnet_larm.train.batches.short import fewest_of

    model = torch.nn.Module()
    model.frontend, model.preencoder = build(tau=-1.0, min_frames_per_second=20.0), None
    small = {"num_blocks": 1, "num_loops": 1, "checkpoint_period": 1, "subsampling_channels": 2}
    model.encoder = LarmEncoder(80, 8, 2, 8, subsampling_factor=factor, **small)
    fewest = fewest_of(model).samples
    xs_pad, lens = model.frontend(torch.randn(1, fewest), torch.tensor([fewest]))
    assert lens.tolist() == [model.encoder.min_input_length]
    assert model.encoder(xs_pad, lens)[1].tolist() == [1]
    assert int(model.frontend(torch.randn(1, fewest - 1), torch.tensor([fewest - 1]))[1]) < int(lens)
    model.frontend = build(min_frames_per_second=0.0)
    assert fewest_of(model) == (None, None)


def test_gradient_reaches_samples_through_means(batch):
    speech = batch[0].clone().requires_grad_()
    frontend = build(max_group=4)
    xs_pad, lens = frontend(speech, batch[1])
    xs_pad.masked_fill(~valid_mask(lens, xs_pad.size(1)).unsqueeze(-1), 0).sum().backward()
    assert bool(speech.grad[0].any())


def test_weights_have_the_names_that_they_have_without_pooling():
    wrapped = DefaultFrontend(fs="16k", **CONF)
    outer, plain = torch.nn.Module(), torch.nn.Module()
    outer.frontend, plain.frontend = build(), wrapped
    assert list(outer.state_dict()) == list(plain.state_dict())
    changed = {name: value + 1 for name, value in plain.state_dict().items()}
    outer.load_state_dict(changed, strict=True)
    assert changed and all(torch.equal(value, changed[name]) for name, value in outer.state_dict().items())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        outer.load_state_dict({**changed, "frontend.other": torch.zeros(1)})


def test_what_others_ask_of_a_front_end_is_the_wrapped_ones():
    frontend = build(frontend_conf={**CONF, "n_mels": 40})
    assert (frontend.output_size(), frontend.hop_length) == (40, 160)
    assert frontend.stft is frontend.frontend.stft


def test_other_front_ends_are_found_in_espnets_table(larm_task):
    options = {"frontend": "sliding_window", "fs": None, "frontend_conf": {"hop_length": 80, "win_length": 80}}
    speech = torch.randn(1, 1600, 1), torch.tensor([1600])
    frontend = build(**options, tau=1.1)
    assert frontend.stft is None and int(frontend(*speech)[1]) == 20
    with pytest.raises(
        ValueError, match=r"SlidingWindow gives frames of the shape \(1, 20, 1, 80\); allowed for pooling"
    ):
        build(**options)(*speech)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -2.0}, "frontend_conf: tau is -2.0; allowed: -1 or more"),
        ({"window": 0}, "frontend_conf: window is 0"),
        ({"window": 5, "max_group": 3}, "frontend_conf: window is 5, but a group has max_group = 3"),
        ({"min_frames_per_second": -1.0}, "frontend_conf: min_frames_per_second is -1.0; allowed: 0 or more"),
        ({"frontend": "defualt"}, r"frontend_conf: frontend is defualt. Did you mean default\? Allowed: .*sliding"),
        ({"frontend": "affinity_pooling"}, "frontend_conf: frontend is affinity_pooling"),
        ({"frontend_conf": {"n_mel": 3}}, r"n_mel of its own frontend_conf is not an option .* Did you mean n_mels\?"),
        ({"frontend_conf": {"n_mels": "many"}}, "its own frontend_conf has an option of another type"),
        ({"frontend_conf": {"fs": 8000}}, "fs is 16k, but frontend_conf in it says 8000; leave one of them out"),
    ],
)
def test_wrong_options_are_refused(larm_task, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_front_end_without_a_hop_has_no_floor(monkeypatch):
    monkeypatch.delattr(DefaultFrontend, "hop_length", raising=False)

    class WithoutHop(DefaultFrontend):
        def __init__(self, **conf):
            super().__init__(**conf)
            del self.hop_length

    monkeypatch.setattr("espnet_larm.pooling.frontend.DefaultFrontend", WithoutHop)
    with pytest.raises(ValueError, match="needs a front end with a hop_length, which WithoutHop has not; set it to 0"):
        build()
    assert build(min_frames_per_second=0.0).stft is not None


def test_tiny_yaml_trains_and_retention_is_told(larm_task, tiny_experiment, tmp_path):
    from pathlib import Path

    conf = Path(__file__).parents[2] / "conf/tiny/train_pooling.yaml"
    assert yaml.safe_load(conf.read_text())["frontend"] == "affinity_pooling"
    tokens = tiny_experiment.config.parent / "tokens.txt"
    options = ["--config", str(conf), "--token_list", str(tokens), "--token_type", "char"]
    args = larm_task.get_parser().parse_args([*options, "--output_dir", str(tmp_path)])
    model = larm_task.build_model(args)
    with collect_merges() as merges:
        loss, *_ = model(torch.randn(1, 8000), torch.tensor([8000]), torch.tensor([[2, 3]]), torch.tensor([2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert 0 < float(merges[0].retention) <= 1


def test_pooling_of_a_call_and_what_it_merged_are_this_threads_alone(batch):
    frontend = build(tau=-1.0, min_frames_per_second=0.0)
    with collect_merges() as merges, pooled_by(Pooling(tau=2.0)), ThreadPoolExecutor() as pool:
        assert frontend(*batch)[1].tolist() == [201, 126]
        assert pool.submit(frontend, *batch).result()[1].tolist() == [1, 1]
    assert [each.after.tolist() for each in merges] == [[201, 126]]
    assert frontend(*batch)[1].tolist() == [1, 1] and len(merges) == 1


def test_frames_that_change_count_for_more(batch):
    xs_pad, lens = DefaultFrontend(fs="16k", **CONF)(*batch)
    options = {"max_group": 4, "min_frames_per_second": 0.0}
    plain, weighted = build(**options).pool(*batch), build(**options, weight="change").pool(*batch)
    assert torch.equal(plain.groups, weighted.groups) and not torch.equal(plain.tokens, weighted.tokens)
    frames = xs_pad[0, : int(lens[0])] - xs_pad[0, : int(lens[0])].mean(dim=0)
    # The last group of several, so that all of its frames have one before them.
    number = int((weighted.groups[0].bincount() > 1).nonzero()[-1])
    group = (weighted.groups[0] == number).nonzero().flatten()
    weights = (frames[group] - frames[group - 1]).norm(dim=-1, keepdim=True)
    wanted = (weights * xs_pad[0, group]).sum(dim=0) / weights.sum()
    torch.testing.assert_close(weighted.tokens[0, number], wanted, rtol=1e-4, atol=1e-4)


def test_a_front_end_has_no_ctc_head():
    with pytest.raises(ValueError, match="frontend_conf: weight is ctc; allowed: none, change"):
        build(weight="ctc")
