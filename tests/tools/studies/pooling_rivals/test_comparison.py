"""Rows beside each other: differences on the same resamples, and what a table says of its folder."""

import pytest

from espnet_larm.calibrate.pooling_sweep import Cost, Outcome
from espnet_larm.calibrate.pooling_table import Reference, Rows, notes_of
from studies.pooling_rivals.comparison import Compared

REFERENCE = Reference({"u0": "A B", "u1": "A B"}, {})


def outcome(**texts):
    return Outcome(texts, 60, 300, {"input": (100, 60)}, 20.0)


def maker(others_pool=False):
    return Rows(REFERENCE, "input", others_pool, outcome(u0="A B", u1="A B"), Cost(80, 400))


# Of two utterances, one of four resamples draws the first twice, one the second twice: they bound 95 %.
@pytest.mark.parametrize(
    ("affinity", "stride", "points", "bounds"),
    [
        # Errors of 0 and 100 % beside 50 and 150 %: always 50 more, however far each is spread by itself.
        (("A B", ""), ("A", "X Y Z"), 50, (50, 50)),
        # 0 and 50 % beside 100 and 0 %.
        (("A B", "A"), ("", "A B"), 25, (-50, 100)),
    ],
)
def test_intervals_beside_the_rival_are_paired(affinity, stride, points, bounds):
    rows = maker()
    first = rows.first()
    affine = rows.row("affinity", 0.5, 0.7, outcome(u0=affinity[0], u1=affinity[1]))
    other = rows.row("stride", 0.5, None, outcome(u0=stride[0], u1=stride[1]))
    elsewhere = rows.row("stride", 0.4, None, outcome(u0=stride[0], u1=stride[1]))
    compared = Compared("dev", REFERENCE, [], [first, affine, other, elsewhere], "affinity")
    found, interval = compared.beside_rival(other)
    assert found == pytest.approx(points) and tuple(interval) == pytest.approx(bounds)
    assert compared.beside_rival(affine) is None and compared.beside_rival(elsewhere) is None


@pytest.mark.parametrize(("others_pool", "name"), [(False, "no pooling"), (True, "off at this site")])
def test_the_first_row_says_whether_another_place_pools(others_pool, name):
    assert maker(others_pool).first().name == name


def test_shares_are_of_what_no_place_pools():
    row = maker().row("stride", 0.6, None, outcome(u0="A B", u1="A B"))
    assert (row.retention, row.positions_share, row.flops_share) == (0.6, 0.75, 0.75)
    # 60 tokens of 20 seconds and 4 words.
    assert (row.hz, row.tokens_per_word) == (3.0, 15.0)


def test_utterances_that_pooling_makes_too_short_are_named_as_deletions():
    rows = maker()
    row = rows.row("affinity", 0.5, 0.7, outcome(u0="A B"))
    assert row.lost == ["u1"] and row.scores.total.error_percent == 50
    assert list(notes_of(REFERENCE, [], [rows.first(), row])) == [
        "intervals: 2 utterances, drawn with replacement",
        "affinity, tau 0.7: 1 utterances are too short once pooled, and their words count as deletions: u1",
    ]


def test_intervals_by_speaker_say_so_and_utterances_left_out_are_no_speakers():
    names = [f"u{index}" for index in range(5)]
    reference = Reference(dict.fromkeys(names, "A"), {name: f"s{name}" for name in names})
    assert next(notes_of(reference, [], [])) == "intervals: 5 speakers, drawn with replacement"
    rest = reference.without(["u0", "u1"])
    # Fewer than four speakers.
    assert list(notes_of(rest, ["u0", "u1"], [])) == [
        "intervals: 3 utterances, drawn with replacement",
        "left out of all rows, too short for the encoder: 2 utterances: u0, u1",
    ]


def test_nothing_can_be_scored_where_those_with_words_are_left_out():
    with pytest.raises(ValueError, match="all 1 utterances are empty, without 1 that are too short; WER needs words"):
        Reference({"u0": "A", "u1": ""}, {}).without(["u0"])
