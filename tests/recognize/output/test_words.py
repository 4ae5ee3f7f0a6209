"""Words: which tokens make one, when they are, and CTM."""

import math

import pytest
import torch

from espnet_larm.recognize.output.words import FrameTimes, Word, format_ctm, group_tokens, has_words, make_words

TIMES = FrameTimes(0.01, 4)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["A", "B", "<space>", "C"], ["AB", "C"]),
        (["<space>", "A", "<space>", "<space>", "B", "<space>"], ["A", "B"]),
        (["\u2581HE", "LLO", "\u2581YOU"], ["\u2581HELLO", "\u2581YOU"]),
        (["LO", "\u2581", "YOU"], ["LO", "\u2581YOU"]),
        (["\u0120a", "b", "\u0120c"], ["\u0120ab", "\u0120c"]),
        (["<space>"], []),
        ([], []),
    ],
)
def test_words_begin_where_the_tokens_say(tokens, expected):
    assert ["".join(tokens[index] for index in group) for group in group_tokens(tokens, words=True)] == expected


def test_tokens_that_tell_no_words_are_words_themselves():
    assert [list(group) for group in group_tokens(["你", "好"], words=False)] == [[0], [1]]


def test_token_lists_tell_words_by_spaces_or_marks():
    assert has_words(["<blank>", "<space>", "A"]) and has_words(["<blank>", "\u2581THE"])
    assert not has_words(["<blank>", "<unk>", "你"])


def test_frames_of_a_convolutional_subsampling_start_a_quarter_after_their_number():
    # Output frame j of two unpadded 3-frame convolutions of stride 2 sees inputs 4 j to 4 j + 6: its middle is 4 j + 3.
    assert [TIMES.start_s(frame) for frame in (0, 1, 10)] == pytest.approx([0.01, 0.05, 0.41])
    assert FrameTimes(0.01, 1).start_s(0) == 0.0


@pytest.mark.parametrize(("kind", "factor"), [("conv", 2), ("conv", 4), ("conv", 8), ("linear", 1), ("linear", 2)])
def test_middle_of_a_frame_is_the_middle_of_what_it_sees(kind, factor):
    from espnet_larm.looped.subsampling import ConvSubsampling, LinearSubsampling

    module = LinearSubsampling(80, 4, factor) if kind == "linear" else ConvSubsampling(80, 4, factor, 2)
    xs = torch.rand(1, 100, 80, requires_grad=True)
    for parameter in module.parameters():
        parameter.data.abs_()  # no unit is cut off
    frames, _ = module(xs, torch.tensor([100]))
    frames[0, 3].sum().backward()
    seen = xs.grad[0].abs().sum(dim=1).nonzero().flatten()
    middle = (seen[0] + seen[-1]).item() / 2
    times = FrameTimes(1.0, factor, centre=module.centre)
    assert (times.start_s(3) + times.start_s(4)) / 2 == middle


def test_frames_that_were_merged_last_as_long_as_all_of_them():
    # Of ten frames of 1 s, merged to 0-3, 4, 5, 6-9, an encoder without subsampling: each is its group.
    times = FrameTimes(1.0, 2, (0, 4, 5, 6, 10))
    assert [times._replace(factor=1).start_s(frame) for frame in range(5)] == [0.0, 3.5, 4.5, 5.5, 9.5]
    # Subsampled by 2, its frame 1 begins at merged frame 2, and half of a group is half of its time.
    assert times.start_s(1) == pytest.approx((5 + 6) / 2 - 0.5)


def test_frames_alone_have_the_times_that_they_have_without_merging():
    alone = TIMES._replace(edges=tuple(range(101)))
    assert [alone.start_s(frame) for frame in range(25)] == pytest.approx([TIMES.start_s(frame) for frame in range(25)])


def test_words_have_the_times_of_their_first_and_last_token():
    tokens, spans = ["A", "B", "<space>", "C"], [(0, 1, -0.1), (3, 5, -0.3), (6, 7, 0.0), (9, 10, -1.0)]
    first, second = make_words(tokens, [3, 4, 2, 5], spans, TIMES, "".join, words=True)
    assert (first.text, first.token_ids) == ("AB", (3, 4))
    assert first[1:4] == pytest.approx((0.01, 0.21, math.exp(-0.2)))
    assert (second.text, second.token_ids) == ("C", (5,)) and second[1:3] == pytest.approx((0.37, 0.41))


def test_ctm_has_a_line_a_word():
    words = (Word("AB", 0.01, 0.21, 0.8187, (3, 4)), Word("C", 1.5, 1.54, 1.0, (5,)))
    assert format_ctm("u1", words) == "u1 1 0.01 0.20 AB 0.819\nu1 1 1.50 0.04 C 1.000\n"
    assert format_ctm("u1", ()) == ""
