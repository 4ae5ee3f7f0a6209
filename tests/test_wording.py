"""Words that messages share."""

from espnet_larm.wording import name_some


def test_the_first_few_are_named_and_the_rest_counted():
    assert name_some(["a", "b", "c"], 3) == "a, b, c"
    assert name_some(["a", "b", "c", "d"], 2) == "a, b and 2 more"
