"""The pooling that a YAML names."""

import pytest
import torch
from typeguard import TypeCheckError

from espnet_larm.pooling.affinity import affinity_pool, cosines
from espnet_larm.pooling.baselines import uniform_mean
from espnet_larm.pooling.options import OPTIONS, Pooling, retention_of

XS_PAD, LENS = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([20, 9])


def test_affinity_takes_its_options():
    pooled = Pooling(tau=0.2, window=2, max_group=3)(XS_PAD, LENS)
    assert torch.equal(pooled.groups, affinity_pool(XS_PAD, LENS, 0.2, 2, 3).groups)


def test_method_takes_its_retention():
    pooled = Pooling("stride", retention=0.3)(XS_PAD, LENS)
    assert torch.equal(pooled.tokens, uniform_mean(XS_PAD, LENS, 0.3).tokens)
    assert retention_of(pooled, LENS) == pytest.approx((6 + 3) / 29)


@pytest.mark.parametrize("method", OPTIONS)
def test_every_method_is_reached_and_has_a_neutral_setting(method):
    value, neutral = ({"tau": 0.2}, {"tau": 1.1}) if method == "affinity" else ({"retention": 0.5}, {"retention": 1})
    assert retention_of(Pooling(method, **value)(XS_PAD, LENS), LENS) < 1
    assert Pooling(method, **neutral)(XS_PAD, LENS).tokens is XS_PAD


@pytest.mark.parametrize("options", [{"tau": 0.9}, {"method": "a_tome", "retention": 0.5}])
def test_keys_are_compared_and_tokens_merged(options):
    keys = torch.randn(2, 20, 7)
    pooling = Pooling(**options)
    groups = pooling(keys, LENS).groups
    pooled = pooling(XS_PAD, LENS, keys)
    assert torch.equal(pooled.groups, groups)
    assert pooled.tokens.size(-1) == 4


@pytest.mark.parametrize("retention", [0.05, 0.29, 0.5, 0.8])
def test_affinity_with_a_retention_has_a_tau_for_each_utterance(retention):
    pooled = Pooling(retention=retention)(XS_PAD, LENS)
    assert torch.equal(pooled.lens, uniform_mean(XS_PAD, LENS, retention).lens)
    for row, length in enumerate(LENS.tolist()):
        rows, lens, kept = XS_PAD[row : row + 1], LENS[row : row + 1], int(pooled.lens[row])
        between = cosines(rows[:, :length]).flatten().sort().values
        # The cosine of the first that is joined.
        tau = float(between[kept - 1])
        assert torch.equal(affinity_pool(rows, lens, tau).groups[0], pooled.groups[row])


def test_stride_is_an_older_name_of_uniform_mean():
    assert torch.equal(
        Pooling("stride", retention=0.3)(XS_PAD, LENS).tokens,
        Pooling("uniform_mean", retention=0.3)(XS_PAD, LENS).tokens,
    )


def test_another_retention_leaves_the_pooling_as_it_is():
    pooling = Pooling("uniform_mean", retention=0.5, retention_sampling=[0.25, 1])
    assert pooling.at(0.25).retention == 0.25 and pooling.retention == 0.5
    assert pooling.at(1).is_off and not pooling.is_off


def test_retention_of_nothing_is_one():
    nothing = torch.tensor([0, 0])
    assert retention_of(Pooling(tau=0.5)(XS_PAD, nothing), nothing) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pooling: method affinity needs tau"),
        ({"method": "stride"}, "method stride needs retention"),
        ({"method": "mean", "tau": 0.5}, "method is mean; allowed: affinity, uniform_mean, stride"),
        ({"tau": -1.1}, r"tau is -1.1; allowed: -1 or more \(a cosine; above 1 pooling is off\)"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"tau": 0.5, "window": 0}, "window is 0; allowed: 1 or more"),
        ({"tau": 0.5, "max_group": 0}, "max_group is 0; allowed: 1 or more"),
        ({"tau": 0.5, "window": 4, "max_group": 3}, "window is 4, but a group has max_group = 3 tokens at most"),
        ({"tau": 0.5, "retention": 0.5}, "retention means nothing beside tau: 0.5, which leaves what the cosines say"),
        ({"retention": 0.5, "window": 2}, "window means nothing beside retention: 0.5"),
        ({"retention": 0.5, "max_group": 2}, "max_group means nothing beside retention: 0.5"),
        ({"tau": 0.5, "boundaries": "ctc"}, "tau means nothing beside boundaries: ctc, whose groups are the runs"),
        ({"window": 2, "boundaries": "ctc"}, "window means nothing beside boundaries: ctc"),
        ({"tau": 0.5, "boundaries": "words"}, "boundaries is words; allowed: cosine, ctc"),
        ({"tau": 0.5, "weight": "energy"}, "weight is energy; allowed: none, ctc, change"),
        ({"method": "stride", "retention": 0.5, "boundaries": "ctc"}, "boundaries means nothing to method stride"),
        ({"method": "uniform_drop", "retention": 0.5, "weight": "ctc"}, "weight means nothing to method uniform_drop"),
        ({"tau": 0.5, "retention_sampling": [0.5, 1]}, "retention_sampling needs retention, which validation"),
        ({"retention": 0.5, "retention_sampling": [0.5]}, r"is \[0.5\]; allowed: two different numbers or more"),
        ({"retention": 0.5, "retention_sampling": [0.5, 1.5]}, "retention_sampling has 1.5; allowed: numbers above 0"),
        ({"retention": 0.5, "retention_sampling": [0.5, True]}, "retention_sampling has True; allowed: numbers"),
        ({"method": "a_tome", "retention": 0.5, "tau": 0.5}, "tau means nothing to method a_tome"),
        ({"method": "stride", "retention": 0.5, "seed": 1}, "seed means nothing to method stride"),
        ({"method": "random_drop", "retention": 0.5, "seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"method": "stride", "retention": 0.0}, "retention is 0.0; allowed: above 0 to 1"),
        ({"method": "stride", "retention": 1.1}, "retention is 1.1; allowed: above 0 to 1"),
        ({"tau": 0.5, "window": 0, "where": "frontend_conf"}, "^frontend_conf: window is 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pooling(**options)


def test_wrong_type_is_refused():
    with pytest.raises(TypeCheckError):
        Pooling(tau="high")
