"""What a CTC head recognises in tokens, and weighted means, each against its definition."""

import itertools

import pytest
import torch

from espnet_larm.pooling.affinity import merge
from espnet_larm.pooling.options import Pooling
from espnet_larm.pooling.weights import change_weights, path_of

# Rows of labels, 0 the blank, with NaN behind their lengths.
LABELS = [[0, 0, 3, 3, 0, 3, 2, 2, 0, 0, 0, 1], [1, 0, 0, 1, 1], [0, 0, 0], []]
LENS = torch.tensor([len(labels) for labels in LABELS])


@pytest.fixture
def posteriors():
    """Posteriors (4, 12, 4) whose greedy labels are LABELS, of different certainty."""
    generator = torch.Generator().manual_seed(2)
    found = torch.full((4, 12, 4), float("nan"))
    for row, labels in enumerate(LABELS):
        for frame, label in enumerate(labels):
            share = 0.5 + 0.4 * float(torch.rand((), generator=generator))
            found[row, frame] = (1 - share) / 3
            found[row, frame, label] = share
    return found


@pytest.fixture
def tokens():
    xs_pad = torch.randn(4, 12, 5, generator=torch.Generator().manual_seed(3))
    return xs_pad.masked_fill(torch.arange(12).view(1, 12, 1) >= LENS.view(4, 1, 1), float("nan"))


def runs_of(labels):
    """Groups of frames with equal labels, one behind the other."""
    frames = itertools.groupby(range(len(labels)), key=labels.__getitem__)
    return [list(group) for _, group in frames]


def groups_of(pooled, row):
    num_groups = int(pooled.lens[row])
    return [(pooled.groups[row] == number).nonzero().flatten().tolist() for number in range(num_groups)]


def test_groups_are_the_runs_of_the_path_and_a_blank_run_keeps_a_token(posteriors, tokens):
    pooled = Pooling(boundaries="ctc")(tokens, LENS, path=path_of(posteriors, LENS))
    assert [groups_of(pooled, row) for row in range(4)] == [runs_of(labels) for labels in LABELS]
    for row, labels in enumerate(LABELS):
        for number, group in enumerate(runs_of(labels)):
            torch.testing.assert_close(pooled.tokens[row, number], tokens[row, group].mean(0))


def test_runs_can_be_bounded(posteriors, tokens):
    pooled = Pooling(boundaries="ctc", max_group=2)(tokens, LENS, path=path_of(posteriors, LENS))
    assert groups_of(pooled, 0) == [[0, 1], [2, 3], [4], [5], [6, 7], [8, 9], [10], [11]]


@pytest.mark.parametrize("retention", [0.1, 0.4, 0.6, 0.9])
def test_a_retention_is_reached_by_joining_or_splitting_runs_where_cosines_say(posteriors, tokens, retention):
    pooling = Pooling(boundaries="ctc", retention=retention)
    pooled = pooling(tokens, LENS, path=path_of(posteriors, LENS))
    assert torch.equal(pooled.lens, Pooling("uniform_mean", retention=retention)(tokens, LENS).lens)
    for row, labels in enumerate(LABELS):
        starts = [group[0] for group in groups_of(pooled, row)]
        runs = {group[0] for group in runs_of(labels)}
        alike = [torch.cosine_similarity(tokens[row, t], tokens[row, t - 1], dim=0) for t in range(1, len(labels))]
        # Of the starts of runs first, and among those and the others by their cosines.
        order = sorted(range(1, len(labels)), key=lambda t: (t not in runs, float(alike[t - 1])))
        assert starts == sorted([0, *order][: len(starts)])


def test_means_are_weighted_by_all_but_the_blank_and_those_of_blanks_alone_are_plain(posteriors, tokens):
    pooled = Pooling("uniform_mean", retention=0.34, weight="ctc")(tokens, LENS, path=path_of(posteriors, LENS))
    plain = Pooling("uniform_mean", retention=0.34)(tokens, LENS)
    assert torch.equal(pooled.groups, plain.groups) and torch.equal(pooled.lens, plain.lens)
    some_are_blank = False
    for row, labels in enumerate(LABELS):
        for number, group in enumerate(groups_of(pooled, row)):
            if any(labels[frame] for frame in group):
                weights = 1 - posteriors[row, group, 0]
                wanted = (weights.unsqueeze(1) * tokens[row, group]).sum(0) / weights.sum()
                torch.testing.assert_close(pooled.tokens[row, number], wanted)
            else:
                some_are_blank |= len(group) > 1
                assert torch.equal(pooled.tokens[row, number], plain.tokens[row, number])
    assert some_are_blank


def test_change_is_the_distance_to_the_token_before():
    xs_pad = torch.tensor([[[0.0], [3.0], [4.0], [4.0], [9.0]]])
    assert change_weights(xs_pad).tolist() == [[3.0, 3.0, 1.0, 0.0, 5.0]]
    assert change_weights(xs_pad[:, :1]).tolist() == [[1.0]]
    pooled = Pooling("uniform_mean", retention=0.4, weight="change")(xs_pad, torch.tensor([5]))
    assert pooled.groups.tolist() == [[0, 0, 1, 1, 1]]
    torch.testing.assert_close(pooled.tokens.flatten(), torch.tensor([1.5, (4 + 45) / 6]))
    # Equal tokens have no change, and a plain mean.
    still = torch.ones(1, 4, 1)
    assert Pooling("uniform_mean", retention=0.5, weight="change")(still, torch.tensor([4])).tokens.eq(1).all()


@pytest.mark.parametrize(
    "options",
    [
        {"boundaries": "ctc"},
        {"boundaries": "ctc", "retention": 0.5, "weight": "ctc"},
        {"tau": 0.1, "weight": "ctc"},
        {"tau": 0.1, "window": 2, "weight": "change"},
        {"retention": 0.4, "weight": "change"},
        {"method": "uniform_mean", "retention": 0.4, "weight": "ctc"},
        {"method": "a_tome", "retention": 0.4, "weight": "ctc"},
    ],
)
def test_a_batch_gives_what_its_utterances_give_alone(posteriors, tokens, options):
    pooling = Pooling(**options)
    together = pooling(tokens, LENS, path=path_of(posteriors, LENS))
    for row, length in enumerate(LENS.tolist()):
        rows, lens = slice(row, row + 1), LENS[row : row + 1]
        given = tokens[rows, :length], lens, None, path_of(posteriors[rows, :length], lens)
        alone, kept = pooling(*given), int(together.lens[row])
        assert int(alone.lens) == kept
        assert torch.equal(alone.tokens[0], together.tokens[row, :kept])
        assert torch.equal(alone.groups[0], together.groups[row, :length])
        assert together.groups[row, length:].eq(-1).all() and not together.tokens[row, kept:].any()


def test_equal_weights_are_none_and_a_token_alone_keeps_its_bits(tokens):
    starts = torch.zeros(4, 12, dtype=torch.bool)
    starts[:, [0, 3, 4]] = True
    plain = merge(tokens, LENS, starts)
    equal = merge(tokens, LENS, starts, torch.ones_like)
    assert torch.equal(equal.tokens, plain.tokens)
    twice = merge(tokens, LENS, starts, lambda groups: torch.full(groups.shape, 0.3))
    assert torch.equal(twice.tokens[0, 1], tokens[0, 3])
    torch.testing.assert_close(twice.tokens, plain.tokens)


def test_weights_that_are_no_numbers_or_zero_leave_the_plain_mean(tokens):
    starts = torch.zeros(4, 12, dtype=torch.bool)
    plain = merge(tokens, LENS, starts)
    for weight in (0.0, float("nan")):
        found = merge(tokens, LENS, starts, lambda groups, weight=weight: torch.full(groups.shape, weight))
        assert torch.equal(found.tokens, plain.tokens)


def test_gradients_go_to_tokens_by_their_weights(posteriors, tokens):
    tokens.requires_grad_()
    posteriors.requires_grad_()
    path = path_of(posteriors, LENS)
    Pooling("uniform_mean", retention=0.01, weight="ctc")(tokens, LENS, path=path).tokens.sum().backward()
    weights = 1 - posteriors.detach()[0, :, 0]
    torch.testing.assert_close(tokens.grad[0, :, 0], weights / weights.sum())
    assert not tokens.grad[1, 5:].any() and posteriors.grad is None


def test_a_token_of_several_frames_is_its_most_certain_label(posteriors):
    """Windows of two frames: 0 0 | 3 3 | 0 3 | 2 2 | 0 0 | 0 1."""
    path = path_of(posteriors, LENS, 2)
    assert path.speaks[0].tolist() == [False, True, True, True, False, True]
    frames = path_of(posteriors, LENS)
    # Two runs of one label with a blank between them stay two.
    assert path.runs[0].tolist() == frames.runs[0, [0, 2, 5, 6, 8, 11]].tolist()
    assert path.starts(torch.tensor([6, 3, 2, 0]))[0].all()
    # A window of a frame at the end: 1 0 | 0 1 | 1.
    assert path.runs[1, :3].tolist() == frames.runs[1, [0, 3, 4]].tolist()
    assert path.posteriors[0, 2] == frames.posteriors[0, 5] and not path.posteriors[3].any()


def test_a_path_is_pooled_as_its_tokens_are(posteriors, tokens):
    path = path_of(posteriors, LENS)
    pooled = Pooling("uniform_mean", retention=0.5)(tokens, LENS)
    left = path.pooled(pooled.groups, pooled.tokens.size(1))
    windows = path_of(posteriors, LENS, 2)
    assert torch.equal(left.runs[0], windows.runs[0]) and torch.equal(left.posteriors[0], windows.posteriors[0])
    dropped = Pooling("uniform_drop", retention=0.5)(tokens, LENS)
    left = path.pooled(dropped.groups, dropped.tokens.size(1))
    assert torch.equal(left.runs[0], path.runs[0, ::2])
    nothing = path.pooled(torch.full((4, 12), -1), 0)
    assert nothing.runs.shape == (4, 0)


def test_a_path_that_is_needed_must_be_given(tokens):
    with pytest.raises(ValueError, match="no path of CTC is given"):
        Pooling("uniform_mean", retention=0.5, weight="ctc")(tokens, LENS)
