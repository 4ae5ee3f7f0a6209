"""Groups are split where they say least alike."""

import torch

from espnet_larm.pooling.affinity import affinity_pool, boundaries, keep_at_least, valid_mask

XS_PAD = torch.randn(3, 30, 3, generator=torch.Generator().manual_seed(0))
LENS = torch.tensor([30, 11, 0])


def test_a_floor_that_is_met_changes_nothing():
    starts = boundaries(XS_PAD, LENS, 0.5)
    assert torch.equal(keep_at_least(XS_PAD, LENS, starts, starts.sum(dim=1)), starts)


def test_the_floor_is_met_exactly_up_to_all_tokens():
    starts = boundaries(XS_PAD, LENS, -1.0)
    for least in (torch.tensor([2, 5, 0]), LENS):
        found = keep_at_least(XS_PAD, LENS, starts, least)
        assert found.sum(dim=1).tolist() == least.tolist()
        assert not found[~valid_mask(LENS, 30)].any()


def test_it_is_a_higher_tau_for_the_utterance():
    for tau in (0.2, 0.6, 0.9):
        wanted = boundaries(XS_PAD, LENS, tau)
        found = keep_at_least(XS_PAD, LENS, boundaries(XS_PAD, LENS, -0.5), wanted.sum(dim=1))
        assert torch.equal(found, wanted)


def test_padding_changes_nothing():
    padded = torch.cat([XS_PAD, torch.full((3, 4, 3), float("nan"))], dim=1)
    padded[1, 11:] = float("nan")
    least = torch.tensor([9, 6, 0])
    wanted = keep_at_least(XS_PAD[:, :30], LENS, boundaries(XS_PAD, LENS, 0.0, 2, 5), least)
    found = keep_at_least(padded, LENS, boundaries(padded, LENS, 0.0, 2, 5), least)
    assert torch.equal(found[:, :30], wanted)


def test_affinity_pooling_leaves_more_with_a_floor():
    assert affinity_pool(XS_PAD, LENS, -1.0).lens.tolist() == [1, 1, 0]
