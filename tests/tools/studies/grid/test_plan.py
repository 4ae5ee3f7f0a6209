"""Plans of a grid."""

import pytest

from studies.grid.plan import Run, merge, read_plan, runs_of


def test_rows_are_the_configuration_with_schedule_and_options(write_plan, tmp_path):
    plan = read_plan(write_plan(), tmp_path)
    assert plan.reference == "a" and [row.name for row in plan.rows] == ["a", "b"]
    assert plan.rows[0].config == {"encoder": "larm", "encoder_conf": {"clock": True, "num_loops": 6}, "max_epoch": 2}
    assert plan.rows[1].config["encoder_conf"] == {"clock": False, "num_loops": 6}


def test_a_row_without_title_has_its_name(write_plan, tmp_path):
    assert [row.title for row in read_plan(write_plan(), tmp_path).rows] == ["A", "b"]


def test_the_first_row_is_the_reference_by_default(write_plan, tmp_path):
    assert read_plan(write_plan(reference=None), tmp_path).reference == "a"


def test_names_that_yaml_takes_for_numbers_are_names(write_plan, tmp_path):
    plan = read_plan(write_plan(rows={6: {"seeds": [0]}, 12: {"seeds": [0]}}, reference=12), tmp_path)
    assert plan.reference == "12" and [row.name for row in plan.rows] == ["6", "12"]


def test_every_row_has_its_first_seed_before_any_its_second(write_plan, tmp_path):
    runs = runs_of(read_plan(write_plan(), tmp_path))
    assert runs == [Run("a", 0), Run("b", 0), Run("a", 1)] and runs[2].name == "a_seed1"


def test_options_are_merged_key_by_key():
    config = {"x_conf": {"one": 1, "two": 2}, "y": 3}
    assert merge(config, {"x_conf": {"two": 5}}) == {"x_conf": {"one": 1, "two": 5}, "y": 3}
    assert config["x_conf"] == {"one": 1, "two": 2}


def test_another_class_starts_with_an_empty_conf():
    config = {"encoder": "larm", "encoder_conf": {"clock": True}}
    assert merge(config, {"encoder": "e"}) == {"encoder": "e"}
    assert merge(config, {"encoder": "e", "encoder_conf": {"a": 1}}) == {"encoder": "e", "encoder_conf": {"a": 1}}


def test_the_same_class_named_again_keeps_its_conf():
    config = {"encoder": "larm", "encoder_conf": {"clock": True}}
    merged = merge(config, {"encoder": "larm", "encoder_conf": {"film": False}})
    assert merged["encoder_conf"] == {"clock": True, "film": False}


SEEDS = "seeds is .*; allowed: a list of different whole numbers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": None}, "`rows` is missing or empty"),
        ({"rows": {}}, "`rows` is missing or empty"),
        ({"config": None}, "config is missing"),
        ({"row": {}}, "unknown key row; allowed: config, schedule, reference, rows"),
        ({"reference": "c"}, "reference is c; allowed: a, b"),
        ({"schedule": [1]}, r"schedule is \[1\]; allowed: options with their values"),
        ({"rows": {"a": {}}}, "rows: a: seeds is missing"),
        ({"rows": {"a": None}}, "rows: a: seeds is missing"),
        ({"rows": {"a": 3}}, "rows: a is 3; allowed: title, seeds, options"),
        ({"rows": {"a": {"seeds": [0], "option": 1}}}, "unknown key option; allowed: title, seeds, options"),
        ({"rows": {"a": {"seeds": [0], "options": "x"}}}, "options is x; allowed: options with their values"),
        ({"rows": {"a/b": {"seeds": [0]}}}, "a/b names folders; allowed: letters, digits"),
        *(({"rows": {"a": {"seeds": seeds}}}, SEEDS) for seeds in (3, [], ["0"], [True], [0, 0])),
    ],
)
def test_a_wrong_plan_is_refused_with_what_is_allowed(write_plan, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_plan(write_plan(**changes), tmp_path)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "plan.yaml").write_text("rows: {a: [}")
    with pytest.raises(ValueError, match=r"plan\.yaml is no YAML"):
        read_plan(tmp_path / "plan.yaml", tmp_path)
