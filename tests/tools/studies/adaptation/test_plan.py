"""Plans of a study: what is read, and what is refused."""

from pathlib import Path

import pytest
import yaml

from espnet_larm.adaptation.depth_upscaling import read_options
from espnet_larm.adaptation.llm_weights import METHODS
from espnet_larm.pooling.options import Pooling
from studies.adaptation.plan import Run, Schedule, read_plan

CONF = Path(__file__).parents[4] / "conf"
ROW = {"seeds": [0], "lrs": [0.1]}


@pytest.fixture
def read(tmp_path):
    """Reads a plan that is written first."""

    def read(**plan):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plan))
        return read_plan(path)

    return read


def test_a_row_has_what_all_share_and_its_own(read):
    plan = read(
        decoder_conf={"projector_frames": 2, "adaptation": "frozen"},
        schedule={"num_steps": 10, "num_points": 5, "warmup_steps": 1},
        rows={"a": {**ROW, "title": "A", "decoder_conf": {"adaptation": "full"}}, "b": {"seeds": [1, 2], "lr_of": "a"}},
    )
    first, second = plan.rows
    assert first.decoder_conf == {"projector_frames": 2, "adaptation": "full"}
    assert second.decoder_conf == {"projector_frames": 2, "adaptation": "frozen"}
    assert (first.title, second.title, plan.reference) == ("A", "b", "a")
    assert (second.seeds, second.lrs, second.lr_of) == ((1, 2), (), "a")
    assert plan.schedule == Schedule(num_steps=10, num_points=5, warmup_steps=1)
    assert plan.schedule.points == [2, 4, 6, 8, 10]
    assert Run("a", 0.0003, 2).name == "a_lr0.0003_seed2"


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/adaptation_*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_plans_of_the_recipes_are_read_and_their_rows_have_options_that_exist(path):
    plan = read_plan(path)
    assert plan.reference == "full" and plan.row("full").decoder_conf["adaptation"] == "full"
    for row in plan.rows:
        assert row.decoder_conf["adaptation"] in METHODS
        read_options(row.decoder_conf.get("depth_upscaling_conf") or {})
        for options in (row.decoder_conf.get("pooling") or {}).values():
            assert not Pooling(**options).is_off


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "rows. is missing"),
        ({"rows": {"a": ROW}, "steps": 3}, "unknown key steps; allowed: decoder_conf"),
        ({"rows": {"a": {"lrs": [1]}}}, "seeds is missing"),
        ({"rows": {"a": {**ROW, "seeds": [1, 1]}}}, "seeds is .1, 1.; allowed"),
        ({"rows": {"a": {"seeds": [0]}}}, "give lrs .a list. or lr_of"),
        ({"rows": {"a": {**ROW, "lr_of": "a"}}}, "give lrs .a list. or lr_of"),
        ({"rows": {"a": {**ROW, "lrs": ["x"]}}}, "lrs is .'x'.; allowed"),
        ({"rows": {"a": ROW, "b": {"seeds": [0], "lr_of": "c"}}}, "lr_of is c; allowed, since they have lrs: a"),
        ({"rows": {"a": ROW}, "reference": "b"}, "reference is b; allowed: a"),
        ({"rows": {"a": ROW}, "schedule": {"num_steps": 0}}, "num_steps is 0; allowed: 1 or more"),
        ({"rows": {"a": ROW}, "schedule": {"grad_clip": "x"}}, "grad_clip is x; allowed: a number"),
        ({"rows": {"a": ROW}, "schedule": {"num_steps": 3}}, "allowed: more steps than both"),
        ({"rows": {"a/b": ROW}}, "names folders"),
        ({"rows": {"a": ROW}, "begin_with": "x"}, "begin_with is x; allowed: a list"),
        ({"rows": {"a": ROW}, "augment": 1}, "augment is 1; allowed: true, false"),
    ],
)
def test_a_wrong_plan_is_refused(read, plan, message):
    with pytest.raises(ValueError, match=message):
        read(**plan)
