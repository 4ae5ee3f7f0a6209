"""A small draw of tools/wrong_values.py: wrong values are answered in a sentence."""

import random

import pytest
from wrong_values import DOORS, answer, made_doors


@pytest.fixture(scope="module")
def doors(larm_task):
    with made_doors() as doors:
        yield doors


@pytest.mark.parametrize("door", DOORS)
def test_wrong_values_are_named_or_do_no_harm(doors, door):
    generator = random.Random(20261129)  # no secret
    cases = [doors.draw(generator, [door]) for _ in range(20)]
    answers = {f"{case.door}: {case.what}": answer(case) for case in cases}
    assert {what: said for what, said in answers.items() if said not in ("named", "taken")} == {}
    assert "named" in answers.values()
