"""The confusion model: its alignments, what it learns, what its drafts have, and its file."""

import itertools
import json

import numpy as np
import pytest

from espnet_larm.recipe.drafts.channel import (
    Channel,
    ConfusionModel,
    align_units,
    at_rate,
    join_units,
    learn,
    splitter,
    word_error_percent,
)

TEXTS = ["the cat sat on the mat", "a dog ate the hat", "that cat had a tan coat", "no"]


def learned(references=TEXTS, drafts=("the kat sat on th mat", "a dok ate the hat", "that kat had a tan koat", "no")):
    return learn([*map(list, references)], [*map(list, drafts)])


def channel(model=None, scale=1.0):
    return Channel(model or learned(), list, join_units, scale)


def least_cost(reference, draft, costs):
    """By trying all alignments."""
    if not len(reference) or not len(draft):
        return costs[reference, 0].sum() + costs[0, draft].sum()
    return min(
        least_cost(reference[1:], draft[1:], costs) + costs[reference[0], draft[0]],
        least_cost(reference[1:], draft, costs) + costs[reference[0], 0],
        least_cost(reference, draft[1:], costs) + costs[0, draft[0]],
    )


@pytest.mark.parametrize(("num_units", "num_drafted"), [(0, 0), (0, 3), (3, 0), (1, 4), (5, 4), (4, 5)])
def test_the_alignment_is_the_cheapest_and_holds_all_units(num_units, num_drafted):
    random = np.random.default_rng(num_units)
    costs = random.random((5, 5)) + 0.1
    reference, draft = random.integers(1, 5, num_units), random.integers(1, 5, num_drafted)
    found = align_units(reference, draft, costs)
    assert [pair.unit for pair in found if pair.unit] == reference.tolist()
    assert [pair.draft for pair in found if pair.draft] == draft.tolist()
    assert sum(costs[pair] for pair in found) == pytest.approx(least_cost(reference, draft, costs))


def test_what_is_often_taken_for_each_other_is_learned():
    model = learned()
    index = {unit: number for number, unit in enumerate(model.units)}
    assert model.counts[index["c"], index["k"]] == 3 and model.counts[index["e"], 0] == 1
    assert model.counts[index["g"], index["k"]] == 1
    assert model.counts[1:].sum() == sum(map(len, TEXTS))


def test_units_that_sound_alike_are_aligned_where_the_fewest_errors_would_say_otherwise():
    """`ab` as `xa`: plain distance may take b for a; where a is x always, a stands for x and b for a."""
    references, drafts = ["a"] * 30 + ["ab"], ["x"] * 30 + ["xa"]
    model = learn([*map(list, references)], [*map(list, drafts)])
    index = {unit: number for number, unit in enumerate(model.units)}
    assert model.counts[index["a"], index["x"]] == 31 and model.counts[index["b"], index["a"]] == 1


def test_drafts_have_the_rates_that_were_learned():
    """Texts of one unit, written wrong in 30 of 100."""
    random = np.random.default_rng(0)
    references = [["a"] * 10 for _ in range(400)]
    drafts = [["b" if random.random() < 0.3 else "a" for _ in row] for row in references]
    model = learn(references, drafts)
    written = Channel(model, str.split, " ".join)
    found = [written("a " * 10, np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean([text.split().count("b") / 10 for text in found]) == pytest.approx(0.3, abs=0.03)


def test_errors_come_in_bursts_where_they_did():
    random = np.random.default_rng(0)
    bursts = [(["a"] * 20, ["b"] * 5 + ["a"] * 15) if random.random() < 0.5 else (["a"] * 20,) * 2 for _ in range(300)]
    model = learn(*map(list, zip(*bursts, strict=True)))
    assert model.bursts[1] > 5 * model.bursts[0]
    written = Channel(model, str.split, " ".join)
    found = [written("a " * 20, random).split() for _ in range(300)]
    runs = sum([key for key, _ in itertools.groupby(text)].count("b") for text in found)
    # Single errors would make a run of 1.1; bursts of 5 were learned.
    assert sum(text.count("b") for text in found) / runs > 2


@pytest.mark.parametrize("wer", [5.0, 30.0, 70.0])
def test_a_chosen_error_rate_is_reached(wer):
    scaled = at_rate(channel(), TEXTS * 30, wer)
    assert word_error_percent(scaled, TEXTS * 30, seed=0) == pytest.approx(wer, abs=1.0)
    assert word_error_percent(scaled, TEXTS * 30, seed=1) == pytest.approx(wer, abs=6.0)


def test_without_odds_a_draft_is_its_text_and_of_the_same_seed_the_same():
    assert [channel(scale=0.0)(text, np.random.default_rng(0)) for text in TEXTS] == TEXTS
    one, other = (channel(scale=20.0)(TEXTS[0], np.random.default_rng(3)) for _ in range(2))
    assert one == other != TEXTS[0]


def test_units_that_were_not_learned_are_written_wrong_too():
    found = {channel(scale=50.0)("zzzzzz", np.random.default_rng(seed)) for seed in range(20)}
    assert len(found) > 1


def test_the_file_holds_the_model(tmp_path):
    model = learned()
    model.facts["wer_percent"] = 12.0
    model.save(tmp_path / "c.json")
    read = ConfusionModel.load(tmp_path / "c.json")
    assert read.units == model.units and (read.counts == model.counts).all() and read.bursts == model.bursts
    assert read.facts == model.facts and np.allclose(read.spread, model.spread, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="learn-confusions makes it"):
        ConfusionModel.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text(json.dumps({"units": ["a"]}))
    with pytest.raises(ValueError, match=r"is no file of learn-confusions \(KeyError"):
        ConfusionModel.load(tmp_path / "other.json")


def test_drafts_without_errors_and_rates_out_of_reach_are_refused():
    with pytest.raises(ValueError, match="2 drafts have no error to learn from"):
        learn([["a"], []], [["a"], []])
    with pytest.raises(ValueError, match=r"--wer_percent is 1e\+09; allowed: between 0.0 and"):
        at_rate(channel(), TEXTS, 1e9)


def test_pieces_are_those_of_a_sentencepiece_model(tmp_path):
    import sentencepiece

    (tmp_path / "text").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"), model_prefix=str(tmp_path / "bpe"), vocab_size=22, minloglevel=2
    )
    split = splitter(str(tmp_path / "bpe.model"))
    assert len(split(TEXTS[0])) < len(TEXTS[0]) and join_units(split(TEXTS[0])) == TEXTS[0]
    assert splitter(None)("ab c") == ["a", "b", " ", "c"]
    with pytest.raises(FileNotFoundError, match="--bpemodel .* is missing"):
        splitter(str(tmp_path / "none"))
