"""Rules by which utterances leave: their numbers by hand, on padding, and where nothing is said."""

import math

import pytest
import torch

from espnet_larm.recognize.config import CONFIDENCE, DIVERGENCE, HALTING, LOOP_RULES, STATE, UNCHANGED
from espnet_larm.recognize.leaving.halting_head import HaltingHead
from espnet_larm.recognize.leaving.rules import RULES, Seen

LENS, VOCAB, SIZE = (9, 4, 1), 5, 3
WEIGHT = torch.tensor([0.3, -1.0, 0.5, 2.0, -0.2, 0.1], dtype=torch.float64)
ALL_RULES = {**RULES, HALTING: HaltingHead(WEIGHT, {2: -0.5}, 0.01, "").rule}


def seen(number: int, lens=LENS) -> Seen:
    """A checkpoint loop's, random, with garbage of posteriors behind the lengths."""
    generator = torch.Generator().manual_seed(number)
    hlens = torch.tensor(lens)
    logits = 3 * torch.randn(len(lens), max(lens), VOCAB, generator=generator)
    hs_pad = torch.randn(len(lens), max(lens), SIZE, generator=generator)
    mask = torch.arange(max(lens)) < hlens.unsqueeze(1)
    return Seen(logits.log_softmax(-1), hs_pad * mask.unsqueeze(-1), hlens, 0, 2)


def alone(each: Seen, row: int) -> Seen:
    length = int(each.hlens[row])
    of_one = (each.log_probs[row : row + 1, :length], each.hs_pad[row : row + 1, :length], each.hlens[row, None])
    return Seen(*of_one, 0, each.number)


def of_tokens(*rows: list[int], probability: float = 0.9) -> Seen:
    """Posteriors that give the best token of each frame one probability, and the others the rest."""
    hlens = torch.tensor([len(row) for row in rows])
    probs = torch.full((len(rows), max(map(len, rows)), VOCAB), (1 - probability) / (VOCAB - 1))
    for index, row in enumerate(rows):
        for frame, token in enumerate(row):
            probs[index, frame, token] = probability
    return Seen(probs.log(), torch.ones(len(rows), probs.size(1), SIZE), hlens, 0, 2)


@pytest.mark.parametrize("name", LOOP_RULES)
def test_numbers_of_a_batch_are_those_of_each_alone(name):
    rule = ALL_RULES[name]
    compared = [seen(number) for number in range(rule.num_compared)]
    together = rule.measure(compared)
    for row in range(len(LENS)):
        single = rule.measure([alone(each, row) for each in compared])
        torch.testing.assert_close(together[row], single[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOOP_RULES)
def test_numbers_of_who_stays_are_those_of_the_whole_batch(name):
    rule = ALL_RULES[name]
    compared = [seen(number) for number in range(rule.num_compared)]
    stays = torch.tensor([False, True, True])
    left = rule.measure([each.of(stays, 4) for each in compared])
    torch.testing.assert_close(left, rule.measure(compared)[stays], rtol=1e-6, atol=1e-7)


def test_a_hypothesis_counts_as_the_same_however_its_tokens_lie():
    before, now = of_tokens([1, 0, 1, 2], [1, 1, 2, 2]), of_tokens([1, 0, 1, 2], [1, 2, 0, 0])
    other = of_tokens([1, 1, 2, 2], [1, 2, 0, 0])
    assert RULES[UNCHANGED].measure([before, now]).tolist() == [0.0, 0.0]
    assert RULES[UNCHANGED].measure([before, other]).tolist() == [1.0, 0.0]


def test_divergence_is_over_frames_where_either_says_more_than_blank():
    before, now = of_tokens([0, 1, 0, 0], probability=0.9), of_tokens([0, 2, 3, 0], probability=0.9)
    rest = 0.1 / (VOCAB - 1)
    of_change = 0.9 * math.log(0.9 / rest) + rest * math.log(rest / 0.9)
    assert RULES[DIVERGENCE].measure([before, now]).item() == pytest.approx(of_change, rel=1e-5)
    assert RULES[DIVERGENCE].measure([now, now]).item() == 0.0


def test_confidence_is_over_frames_that_say_more_than_blank():
    sure, unsure = of_tokens([0, 1, 0], probability=0.9), of_tokens([0, 1, 0], probability=0.5)
    sure.log_probs[0, 0] = unsure.log_probs[0, 0]
    assert RULES[CONFIDENCE].measure([sure]).item() == pytest.approx(math.log(0.9), rel=1e-5)
    assert RULES[CONFIDENCE].measure([unsure]).item() == pytest.approx(math.log(0.5), rel=1e-5)


def test_where_nothing_is_said_all_frames_count():
    silent = of_tokens([0, 0], probability=0.8)
    assert RULES[CONFIDENCE].measure([silent]).item() == pytest.approx(math.log(0.8), rel=1e-5)
    assert RULES[DIVERGENCE].measure([of_tokens([0, 0]), silent]).item() > 0


def test_a_state_that_moves_on_evenly_has_no_second_difference():
    first, third = seen(0), seen(1)
    between = third._replace(hs_pad=(first.hs_pad + third.hs_pad) / 2)
    assert RULES[STATE].measure([first, between, third]).max() < 1e-6
    assert RULES[STATE].measure([first, first, third]).min() > 0.1


def test_a_rule_leaves_on_its_side_of_the_threshold_and_never_on_what_is_no_number():
    numbers = torch.tensor([0.1, 0.2, 0.3, math.nan])
    assert RULES[DIVERGENCE].says_leave(numbers, 0.2).tolist() == [True, True, False, False]
    assert RULES[CONFIDENCE].says_leave(numbers, 0.2).tolist() == [False, True, True, False]
